"""TVM's runtime library, without TVM's compiler."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import secrets
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tvm_ffi

from pipeline.errors import LibraryError
from pipeline.runtime.manifest import Manifest

ENVIRONMENT = "OCTET_TVM_RUNTIME"
SPIN_VARIABLE, SPIN_COUNT = "TVM_THREAD_POOL_SPIN_COUNT", "2000"
"""How often a worker without work gives way to others before it sleeps: with TVM's 300,000 for a tenth of a second of
an idle machine. Where other programs want the CPU each time may take milliseconds, and no process ends before."""

_NAME, _EXTRA = "libtvm_runtime.so", "libtvm_runtime_extra.so"
_PACKAGES = {"TVM": "apache-tvm", "tvm-ffi": "apache-tvm-ffi"}


def find() -> Path:
    """Where ``libtvm_runtime.so`` is: what ``OCTET_TVM_RUNTIME`` names (file or folder), or in the apache-tvm package.

    Raises:
        LibraryError: it is in neither place.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        path = Path(named)
        path = path / _NAME if path.is_dir() else path
        if not path.is_file():
            raise LibraryError(f"{ENVIRONMENT} is {named!r}, where there is no {_NAME}; correct it or unset it")
        return path
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        path = Path(str(importlib.metadata.distribution("apache-tvm").locate_file(f"tvm/lib/{_NAME}")))
        if path.is_file():
            return path
    raise LibraryError(
        f"TVM's runtime {_NAME} was not found; run `pip install apache-tvm`, "
        f"or let {ENVIRONMENT} name the file or its folder"
    )


@cache
def start() -> None:
    """Load the runtime into this process, once.

    Raises:
        LibraryError: it is missing or cannot be loaded.
    """
    path = find()
    os.environ.setdefault(SPIN_VARIABLE, SPIN_COUNT)
    try:
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        if (extra := path.with_name(_EXTRA)).is_file():  # the functions behind sort, argsort and top-k
            ctypes.CDLL(str(extra), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise LibraryError(f"cannot load TVM's runtime {path}: {error}") from None


def check_versions(manifest: Manifest) -> None:
    """Refuse a library compiled with another release of TVM than the one installed (post-releases are alike).

    Raises:
        LibraryError: the releases differ.
    """
    for name, wanted in (("TVM", manifest.tvm_version), ("tvm-ffi", manifest.tvm_ffi_version)):
        package = _PACKAGES[name]
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # a runtime that OCTET_TVM_RUNTIME names comes without
        if found.split(".")[:3] != wanted.split(".")[:3]:
            raise LibraryError(
                f"the library was compiled with {name} {wanted} and {found} is installed; "
                f"compile the model again, or `pip install {package}=={wanted}`"
            )


def load_virtual_machines(path: Path, constants: Sequence[npt.NDArray[Any]] = (), count: int = 1) -> list[Any]:
    """``count`` started virtual machines (``tvm_ffi.Module``) of the library at ``path``, which share ``constants``.

    These become the last arguments of ``main``, which then takes the model's inputs.

    From here on its code runs.

    Raises:
        LibraryError: the operating system or TVM refuses the file.
    """
    start()
    try:
        # dlopen goes by name: a file compiled again under the name of a loaded library would give the old code.
        with tempfile.TemporaryDirectory(prefix="octet-") as folder:
            link = Path(folder) / f"{secrets.token_hex(8)}.so"
            link.symlink_to(path.resolve())
            library = tvm_ffi.load_module(str(link))
            machines = [library["vm_load_executable"]() for _ in range(count)]
        cpu, device, pooled_allocator = 1, 0, 2
        for machine in machines:
            machine["vm_initialization"](cpu, device, pooled_allocator)
            machine["save_function"]("main", "main", True, *map(tvm_ffi.from_dlpack, constants))
    except (RuntimeError, AttributeError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise LibraryError(f"cannot load {path}: {lines[0]}") from error
    return machines
