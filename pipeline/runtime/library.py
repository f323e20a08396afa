"""The library file: an ELF shared library, constants, the manifest (JSON), its length (8 bytes, little-endian), a magic
word.

The loader of the operating system ignores what follows the ELF part, so one file carries all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import LibraryError
from pipeline.runtime.manifest import CONSTANT_ALIGNMENT, ConstantInfo, Manifest

MAGIC = b"OCTETLIB"
_ELF = b"\x7fELF"
_TAIL = 8 + len(MAGIC)
_MAX_MANIFEST = 16 << 20
_CHUNK = 1 << 20


def append_constants(path: Path, arrays: Sequence[npt.NDArray[Any]]) -> tuple[ConstantInfo, ...]:
    """Write ``arrays`` (C order) after the ELF library at ``path``; returns where they are, for the manifest."""
    found = []
    with path.open("ab") as file:
        for array in arrays:
            file.write(bytes(-file.tell() % CONSTANT_ALIGNMENT))
            found.append(ConstantInfo(file.tell(), array.shape, array.dtype.name))
            file.write(np.ascontiguousarray(array).data)
    return tuple(found)


def append_manifest(path: Path, manifest: Manifest) -> None:
    """Turn the ELF library at ``path``, with its constants, into an Octet library, and see that it is on the disk."""
    text = manifest.to_json().encode()
    with path.open("ab") as file:
        file.write(text + len(text).to_bytes(8, "little") + MAGIC)
        file.flush()
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """SHA-256 of a whole file, as hexadecimal digits."""
    with path.open("rb") as file:
        return _sha256(file, os.fstat(file.fileno()).st_size)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the library at ``path``, once the file has proved whole. Runs none of its code.

    Raises:
        LibraryError: there is no such file, it is not an Octet library, or it was cut short or altered.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except OSError as error:
        raise LibraryError(f"cannot read {path}: {error.strerror or error}") from None


def _read(file: BinaryIO, path: Path) -> Manifest:
    size = os.fstat(file.fileno()).st_size
    is_elf = file.read(len(_ELF)) == _ELF
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    if not is_elf or tail[8:] != MAGIC:
        if size == 0:
            what = "it is empty"
        elif is_elf:
            what = "it is a shared library without Octet's manifest at its end: cut short, or made by another program"
        else:
            what = "it is not a shared library for Linux"
        raise LibraryError(f"{path} is not an Octet library: {what}; make one with `octet compile`")
    length = int.from_bytes(tail[:8], "little")
    library_size = size - _TAIL - length
    if length > _MAX_MANIFEST or library_size < len(_ELF):
        raise LibraryError(f"{path} is damaged: its manifest cannot be {length} bytes long; compile the model again")
    file.seek(library_size)
    try:
        manifest = Manifest.from_json(file.read(length))
    except LibraryError as error:
        raise LibraryError(f"{path}: {error}") from None
    if _sha256(file, library_size) != manifest.library_sha256:
        raise LibraryError(f"{path} is damaged: its code is not what the manifest says; compile the model again")
    if manifest.constants and manifest.constants[-1].end > library_size:
        raise LibraryError(f"{path} is damaged: it ends before its constants do; compile the model again")
    return manifest


def _sha256(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0:
        chunk = file.read(min(_CHUNK, size))
        if not chunk:
            break
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()
