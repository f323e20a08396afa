"""A loaded library, ready to be called."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm_ffi

from pipeline.errors import LibraryError
from pipeline.runtime import cpu, threads, tvm_runtime
from pipeline.runtime.arguments import by_position, checked
from pipeline.runtime.constants import read_constants
from pipeline.runtime.library import read_manifest
from pipeline.runtime.manifest import Manifest, TensorInfo
from pipeline.runtime.timing import Timing, measure

Array = npt.NDArray[Any]

STEP_CLOCK = "octet_step_clock"
"""The function of a library by which :meth:`Model.time_steps` works."""


def load(path: str | os.PathLike[str], threads: int | None = None) -> Model:
    """Load the library that ``octet compile`` wrote to ``path``.

    **A library is a program: loading it runs its code with your rights. Load only files you trust.** What is checked
    here finds damaged files and wrong machines; it cannot tell a good program from a bad one.

    ``threads``: how many threads a call runs on; by default this machine's physical cores. Where several models are
    to run on different numbers of threads, load them all before the first call.

    Raises:
        LibraryError: the file is missing, damaged or not Octet's, this CPU lacks something that its code needs, it was
            compiled with another version of TVM, or TVM's runtime is not installed.
        InputError: ``threads`` makes no sense.
    """
    return load_several(path, threads, 1)[0]


def load_several(path: str | os.PathLike[str], threads: int | None, count: int) -> list[Model]:
    """``count`` models of one library, as :func:`load` gives one; its constants are in memory once."""
    path = Path(path)
    manifest = read_manifest(path)
    _check_cpu(path, manifest)
    tvm_runtime.check_versions(manifest)
    machines = tvm_runtime.load_virtual_machines(path, read_constants(path, manifest.constants), count)
    return [Model(machine, manifest, threads) for machine in machines]


def _check_cpu(path: Path, manifest: Manifest) -> None:
    missing = cpu.missing_features(manifest.cpu_features)
    if missing:
        raise LibraryError(
            f"{path} was compiled for {manifest.target} and needs {', '.join(missing)}; this CPU lacks it; "
            "recompile the model here with --target native, or with --target llvm for any 64-bit x86 CPU"
        )
    if cpu.TILES in manifest.cpu_features and not cpu.request_tiles():
        raise LibraryError(
            f"{path} was compiled for {manifest.target} and needs AMX, which this CPU has but Linux keeps from this "
            "process (Linux 5.16 or later is needed, and no seccomp filter on arch_prctl); "
            "recompile the model with --target llvm-avx512-vnni"
        )


_models: weakref.WeakSet[Model] = weakref.WeakSet()


def _forked() -> None:
    """In the child, where no other thread lives on to end its call."""
    for model in _models:
        model._interrupted |= model._lock.locked()
        model._lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)


class Model:
    """A compiled network: call it with its inputs. May be called from several threads, which then take turns."""

    def __init__(self, machine: Any, manifest: Manifest, threads_wanted: int | None = None) -> None:
        self.manifest = manifest
        self.threads = threads.reserve(threads_wanted)
        """How many threads a call runs on."""
        self._machine = machine
        self._main = machine["main"]
        self._staging: dict[str, Array] = {}
        self._lock = threading.Lock()
        self._interrupted = False
        """Whether a call was under way in another thread when this process was forked."""
        _models.add(self)

    @property
    def inputs(self) -> list[TensorInfo]:
        """What a call takes."""
        return list(self.manifest.inputs)

    @property
    def outputs(self) -> list[TensorInfo]:
        """What a call gives."""
        return list(self.manifest.outputs)

    def __call__(self, *values: Any) -> Any:
        """Run the network once.

        ``values``: one for each input in order, or a single dict by input name; each a numpy array or anything with
        DLPack in host memory, of exactly the shape and dtype that :attr:`inputs` says. An array that is contiguous and
        aligned (see ``manifest.input_alignment``) goes in without a copy.

        Returns the output as a new numpy array, or a dict by output name where there are several.

        Raises:
            InputError: a value is missing, too many, or of the wrong type, shape or dtype.
            LibraryError: this process was forked in the middle of a call.
        """
        arrays = [
            checked(value, info)
            for value, info in zip(by_position(values, self.manifest.inputs), self.manifest.inputs, strict=True)
        ]
        if self._interrupted:
            raise LibraryError(
                "a call of this model was under way in another thread when this process was forked, and its memory is "
                "as that call left it; load the model again in the child process"
            )
        with self._lock:  # the virtual machine keeps its registers to itself: two calls at once would mix them up
            results = threads.run(self.threads, lambda: self._run(arrays))
        if len(results) == 1:
            return results[0]
        return {info.name: array for info, array in zip(self.manifest.outputs, results, strict=True)}

    def time(
        self,
        *values: Any,
        warmup: float = 0.5,
        seconds: float = 2.0,
        repeat: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Timing:
        """Time calls with ``values`` (as for a call; none: random data, the same each time).

        Calls for ``warmup`` seconds without counting, then for ``seconds`` seconds, or ``repeat`` times if given.
        ``progress`` hears between calls, some times a second, how much is done (0 to 1).

        Raises:
            InputError: as for a call, or a duration or number makes no sense.
        """
        if not values:
            values = (self.random_inputs(),)
        shape = self.manifest.inputs[0].shape if self.manifest.inputs else ()
        batch = shape[0] if len(shape) > 1 else 1
        return measure(
            lambda: self(*values),
            warmup=warmup,
            seconds=seconds,
            repeat=repeat,
            batch=max(1, batch),
            threads=self.threads,
            progress=progress,
        )

    def random_inputs(self, seed: int = 0) -> dict[str, Array]:
        """Data that fits :attr:`inputs`: integers from 0 to 100, or normal floats; the same for the same ``seed``."""
        rng = np.random.default_rng(seed)
        inputs = {}
        for info in self.manifest.inputs:
            array = aligned_empty(info, self.manifest.input_alignment)
            if np.dtype(info.dtype).kind == "f":
                array[...] = rng.standard_normal(info.shape, dtype="float32")
            else:
                array[...] = rng.integers(0, 2 if info.dtype == "bool" else 101, info.shape)
            inputs[info.name] = array
        return inputs

    def instrument(self, function: Any) -> None:
        """From now on, call ``function`` before and after each call of the virtual machine.

        It gets the function called, its name, whether it is before, the result and the arguments; it may be a Python
        or a TVM function, which takes the place of the one given before. For profilers: every call waits for it.
        """
        self._machine["set_instrument"](function)

    def time_steps(self, stamps: npt.NDArray[np.int64] | None) -> None:
        """From now on, write the time into ``stamps`` before each step of each image and after the last; None: no more.

        ``stamps``, of shape (images, steps + 1, 2), takes seconds and nanoseconds. It is for libraries whose manifest
        has a kernel with steps, holds for all models of :func:`load_several`, and must live until it is replaced.
        """
        (library,) = self._machine.imports
        library[STEP_CLOCK](0 if stamps is None else stamps.ctypes.data)

    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        tensors = [self._tensor(array, info) for array, info in zip(arrays, self.manifest.inputs, strict=True)]
        result = self._main(*tensors)
        outputs = [result] if isinstance(result, tvm_ffi.Tensor) else list(result)
        if len(outputs) != len(self.manifest.outputs):
            raise LibraryError(
                f"the library gave {len(outputs)} outputs and its manifest promises {len(self.manifest.outputs)}; "
                "compile the model again"
            )
        # A copy: what the machine gives may be one of its inputs or its constants.
        return [np.from_dlpack(output).copy() for output in outputs]

    def _tensor(self, array: Array, info: TensorInfo) -> tvm_ffi.Tensor:
        """``array`` itself if the code can read it in place, else a copy in a buffer that the model keeps."""
        if array.flags.c_contiguous and array.flags.writeable:
            tensor = tvm_ffi.from_dlpack(array)
            if tensor.data_ptr() % self.manifest.input_alignment == 0:
                return tensor
        if info.name not in self._staging:
            self._staging[info.name] = aligned_empty(info, self.manifest.input_alignment)
        np.copyto(self._staging[info.name], array)
        return tvm_ffi.from_dlpack(self._staging[info.name])


def aligned_empty(info: TensorInfo, alignment: int) -> Array:
    """An array for ``info``, not initialised, at an address that ``alignment`` divides."""
    dtype = np.dtype(info.dtype)
    size = int(np.prod(info.shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(size + alignment, np.uint8)
    start = -buffer.ctypes.data % alignment
    return buffer[start : start + size].view(dtype).reshape(info.shape)
