"""From a compiled Relax executable to the one file that is deployed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

import pipeline
from pipeline.errors import CompileError
from pipeline.outputs import check_output, replacement
from pipeline.runtime.library import append_constants, append_manifest, read_manifest, sha256_of
from pipeline.runtime.manifest import Kernel, Manifest, Signature
from pipeline.targets import DeployTarget

if TYPE_CHECKING:
    from tvm.runtime import Executable


def package(
    executable: Executable,
    target: DeployTarget,
    signature: Signature,
    *,
    model_sha256: str,
    output: str | os.PathLike[str],
    model_file: str = "",
    integer_operators: int = 0,
    float_operators: int = 0,
    input_alignment: int = 64,
    options: Mapping[str, Any] | None = None,
    kernels: tuple[Kernel, ...] = (),
    tuned_kernels: int = 0,
    constants: Sequence[NDArray[Any]] = (),
) -> Path:
    """Write the library to ``output`` and return its path.

    It is made beside ``output`` and renamed at the end: either the whole file is there afterwards, or what was there
    before. ``executable`` is what ``tvm.compile`` gives for a module whose ``main`` takes ``signature.inputs`` and
    returns a tensor, or a tuple for several ``signature.outputs``. ``options`` are JSON values for the reader;
    ``kernels`` are what the profiler needs to know, the calls in the order of execution; ``tuned_kernels`` of
    them, equal ones counted once, have schedules that a search found. ``constants`` are what ``main`` takes after
    the inputs.

    Raises:
        CompileError: there is no linker, linking failed, or ``output`` cannot be written.
    """
    output = check_output(output, error=CompileError)
    linker = _find_linker()
    try:
        with replacement(output, ".so") as partial:
            _link(executable, partial, linker)
            stored = append_constants(partial, constants)
            manifest = Manifest(
                model_file=Path(model_file).name,
                model_sha256=model_sha256,
                target=target.name,
                cpu_features=target.cpu_features,
                inputs=signature.inputs,
                outputs=signature.outputs,
                octet_version=pipeline.__version__,
                tvm_version=version("apache-tvm"),
                tvm_ffi_version=version("apache-tvm-ffi"),
                integer_operators=integer_operators,
                float_operators=float_operators,
                library_sha256=sha256_of(partial),
                constants=stored,
                input_alignment=input_alignment,
                options=dict(options or {}),
                kernels=kernels,
                tuned_kernels=tuned_kernels,
            )
            append_manifest(partial, manifest)
            read_manifest(partial)
    except OSError as error:
        raise CompileError(f"cannot write {output}: {error.strerror or error}") from error
    return output


def _find_linker() -> str:
    from tvm.support.cc import get_cc

    named = get_cc()
    found = shutil.which(named) if named else None
    if not found:
        problem = f"{named!r}, which CXX or CC names, is not there" if named else "no C compiler found"
        raise CompileError(
            f"cannot link the library: {problem}; "
            "install gcc (`apt install gcc` or `dnf install gcc`), or name one in the environment variable CC"
        )
    return found


def _link(executable: Executable, path: Path, linker: str) -> None:
    try:
        executable.export_library(str(path), cc=linker)
    except RuntimeError as error:  # TVM's message holds the linker's whole output; its last line says what was wrong
        lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Command line")]
        raise CompileError(f"linking with {linker} failed: {lines[-1] if lines else error}") from error
