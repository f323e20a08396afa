"""The manifest: what a compiled library is, as JSON inside the file, read and checked before any of its code runs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import LibraryError

FORMAT = 3
"""Version of the manifest and of the trailer that holds it. A reader refuses every other."""

DTYPES = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
)
MAX_TENSORS, MAX_RANK, MAX_ELEMENTS = 4096, 32, 2**40
MAX_KERNELS, MAX_COUNT = 65536, 2**62
MAX_SCALE = float(np.finfo(np.float32).max)

CONSTANT_ALIGNMENT = 64
"""Bytes, in the file and in memory: a cache line, which kernels assume."""


@dataclass(frozen=True)
class Quantization:
    """``real = scale * (stored - zero_point)``, the same for the whole tensor."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: its name, fixed shape, numpy dtype name and, if it holds quantised data, how."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None

    def __str__(self) -> str:
        text = f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"
        if self.quantization:
            text += f", scale {self.quantization.scale:g}, zero point {self.quantization.zero_point}"
        return text


@dataclass(frozen=True)
class Signature:
    """What a compiled model takes and gives, in the order of its ``main`` function."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class ConstantInfo:
    """One constant that the library keeps apart from its code: where in the file it begins, and what it is."""

    offset: int
    """In bytes, a multiple of :data:`CONSTANT_ALIGNMENT`."""
    shape: tuple[int, ...]
    dtype: str

    @property
    def end(self) -> int:
        """Offset of the first byte after it."""
        return self.offset + math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Kernel:
    """One call of a kernel, as the model has it: what it has to do, not what padded channels add to that."""

    name: str
    node: str
    """The ONNX node whose result it gives; the nodes between that and the kernel's inputs are fused into it."""
    macs: int
    """Multiply-accumulates."""
    weight_bytes: int
    """Size of the constants that it reads, as they are packed."""
    read_bytes: int
    """Size of the activations that it reads."""
    written_bytes: int
    images: int = 1
    """How often it runs, once an image; the counts above are of one time."""
    steps: tuple[Kernel, ...] = ()
    """The kernels that it calls for each image, in their order."""


@dataclass(frozen=True)
class Manifest:
    """Everything there is to know of a library without running it."""

    model_file: str
    """Name, without folders, of the ONNX file it was compiled from."""
    model_sha256: str
    target: str
    cpu_features: tuple[str, ...]
    """What the CPU must have, by the names of ``/proc/cpuinfo``."""
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    octet_version: str
    tvm_version: str
    tvm_ffi_version: str
    integer_operators: int
    float_operators: int
    library_sha256: str
    """Of the ELF part of the file and the constants, that is of all that comes before the manifest."""
    constants: tuple[ConstantInfo, ...] = ()
    """The last arguments of its code, in their order and in that of the file."""
    input_alignment: int = 64
    """In bytes: what the code may assume of the address of its inputs. The runtime copies an input that has less."""
    options: dict[str, Any] = field(default_factory=dict)
    """How it was compiled: JSON values by option name."""
    kernels: tuple[Kernel, ...] = ()
    """Its calls of kernels, in the order of execution."""
    tuned_kernels: int = 0
    """Different kernels among them whose schedules come from the records of a search."""

    def to_json(self) -> str:
        """One line of JSON, its keys in a fixed order."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read and check a manifest.

        Raises:
            LibraryError: it is not JSON, is of another format, or a field is missing, unknown or out of range.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LibraryError(
                f"the manifest is not JSON ({error}); the file is damaged, compile the model again"
            ) from None
        if not isinstance(data, dict):
            raise _fail("it is not a JSON object")
        found = data.pop("format", None)
        if found != FORMAT:
            raise LibraryError(
                f"the library has format {found!r} and this runtime reads format {FORMAT}; "
                "compile the model again, or install the version of Octet that compiled it"
            )
        _check_keys(data, cls.__dataclass_fields__.keys(), "manifest")
        return cls(
            model_file=_string(data, "model_file"),
            model_sha256=_sha256(data, "model_sha256"),
            target=_string(data, "target"),
            cpu_features=tuple(_string({"cpu_features": name}, "cpu_features") for name in _list(data, "cpu_features")),
            inputs=_tensors(data, "inputs"),
            outputs=_tensors(data, "outputs"),
            octet_version=_string(data, "octet_version"),
            tvm_version=_string(data, "tvm_version"),
            tvm_ffi_version=_string(data, "tvm_ffi_version"),
            integer_operators=_integer(data, "integer_operators", 0, 2**31),
            float_operators=_integer(data, "float_operators", 0, 2**31),
            library_sha256=_sha256(data, "library_sha256"),
            constants=_constants(data),
            input_alignment=_integer(data, "input_alignment", 1, 4096),
            options=_object(data, "options"),
            kernels=tuple(
                _kernel(entry, f"kernels[{i}]") for i, entry in enumerate(_list(data, "kernels", MAX_KERNELS))
            ),
            tuned_kernels=_integer(data, "tuned_kernels", 0, MAX_KERNELS),
        )


def _fail(what: str) -> LibraryError:
    return LibraryError(f"the manifest is not valid: {what}; the file is damaged, compile the model again")


def _check_keys(data: dict[str, Any], expected: Any, where: str) -> None:
    missing, unknown = set(expected) - set(data), set(data) - set(expected)
    if missing or unknown:
        words = [f"without {', '.join(sorted(missing))}"] if missing else []
        words += [f"with unknown {', '.join(sorted(unknown))}"] if unknown else []
        raise _fail(f"{where} {' and '.join(words)}")


def _string(data: dict[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str):
        raise _fail(f"{key} is {value!r:.80}, not text")
    return value


def _sha256(data: dict[str, Any], key: str) -> str:
    value = _string(data, key)
    if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise _fail(f"{key} is not 64 hexadecimal digits")
    return value


def _integer(data: dict[str, Any], key: str, low: int, high: int) -> int:
    value = data[key]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _fail(f"{key} is {value!r:.80}, not an integer from {low} to {high}")
    return value


def _list(data: dict[str, Any], key: str, most: int = MAX_TENSORS) -> list[Any]:
    value = data[key]
    if not isinstance(value, list) or len(value) > most:
        raise _fail(f"{key} is not a list of at most {most}")
    return value


def _object(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data[key]
    if not isinstance(value, dict):
        raise _fail(f"{key} is not an object")
    return value


def _tensors(data: dict[str, Any], key: str) -> tuple[TensorInfo, ...]:
    tensors = tuple(_tensor(entry, f"{key}[{i}]") for i, entry in enumerate(_list(data, key)))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise _fail(f"two {key} have the same name")
    return tensors


def _tensor(data: Any, where: str) -> TensorInfo:
    if not isinstance(data, dict):
        raise _fail(f"{where} is not an object")
    _check_keys(data, TensorInfo.__dataclass_fields__.keys(), where)
    shape, dtype = _shape(data, where), _dtype(data, where)
    return TensorInfo(_string(data, "name"), shape, dtype, _quantization(data["quantization"], where))


def _shape(data: dict[str, Any], where: str) -> tuple[int, ...]:
    sizes = _list(data, "shape")
    if len(sizes) > MAX_RANK:
        raise _fail(f"{where} has {len(sizes)} dimensions; {MAX_RANK} is the most")
    shape = tuple(_integer({f"{where}.shape": size}, f"{where}.shape", 0, MAX_ELEMENTS) for size in sizes)
    if math.prod(shape) > MAX_ELEMENTS:
        raise _fail(f"{where} has more than {MAX_ELEMENTS} elements")
    return shape


def _dtype(data: dict[str, Any], where: str) -> str:
    dtype = _string(data, "dtype")
    if dtype not in DTYPES:
        raise _fail(f"{where} has the unknown dtype {dtype!r:.40}")
    return dtype


def _constants(data: dict[str, Any]) -> tuple[ConstantInfo, ...]:
    found: list[ConstantInfo] = []
    for i, entry in enumerate(_list(data, "constants")):
        where = f"constants[{i}]"
        if not isinstance(entry, dict):
            raise _fail(f"{where} is not an object")
        _check_keys(entry, ConstantInfo.__dataclass_fields__.keys(), where)
        first = found[-1].end if found else 0
        offset = _integer(entry, "offset", first, MAX_ELEMENTS)
        if offset % CONSTANT_ALIGNMENT:
            raise _fail(f"{where} begins at {offset}, no multiple of {CONSTANT_ALIGNMENT}")
        found.append(ConstantInfo(offset, _shape(entry, where), _dtype(entry, where)))
    return tuple(found)


def _kernel(data: Any, where: str, is_step: bool = False) -> Kernel:
    if not isinstance(data, dict):
        raise _fail(f"{where} is not an object")
    _check_keys(data, Kernel.__dataclass_fields__.keys(), where)
    steps = _list(data, "steps", MAX_KERNELS)
    if steps and is_step:
        raise _fail(f"{where} is a step and has steps")
    return Kernel(
        name=_string(data, "name"),
        node=_string(data, "node"),
        macs=_integer(data, "macs", 0, MAX_COUNT),
        weight_bytes=_integer(data, "weight_bytes", 0, MAX_COUNT),
        read_bytes=_integer(data, "read_bytes", 0, MAX_COUNT),
        written_bytes=_integer(data, "written_bytes", 0, MAX_COUNT),
        images=_integer(data, "images", 1, MAX_ELEMENTS),
        steps=tuple(_kernel(entry, f"{where}.steps[{i}]", is_step=True) for i, entry in enumerate(steps)),
    )


def _quantization(data: Any, where: str) -> Quantization | None:
    if data is None:
        return None
    if not isinstance(data, dict):
        raise _fail(f"{where}.quantization is neither an object nor null")
    _check_keys(data, Quantization.__dataclass_fields__.keys(), f"{where}.quantization")
    scale = data["scale"]
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not 0 < scale <= MAX_SCALE:
        raise _fail(f"{where}.quantization.scale is {scale!r:.40}, not a positive number")
    return Quantization(float(scale), _integer(data, "zero_point", -(2**31), 2**31 - 1))
