"""Arrays in files, read one sample after the other: memory does not grow with the number of samples."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.data.inputs import Array
from pipeline.errors import InputError

MAX_SAMPLE_BYTES = 1 << 30
"""A few kilobytes of compressed file may claim any amount."""
_SKIP_BYTES = 1 << 20
_READ_ERRORS = (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error, NotImplementedError)


@dataclass(frozen=True)
class ArrayStream:
    """An array in a file, its first dimension the sample. Nothing is read before :meth:`read`."""

    path: Path
    name: str
    """Which array of the file, for messages and look-ups; empty if it is the only one."""
    open: Callable[[], IO[bytes]]
    """Gives a new stream of the (decompressed) file."""
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool = False

    def __post_init__(self) -> None:
        if not self.shape:
            raise InputError(f"{self} is a single number; its first dimension must be the sample")
        if self.dtype.hasobject or self.dtype.kind not in "biuf":
            raise InputError(f"{self} holds {self.dtype}, not numbers")
        if self.sample_bytes > MAX_SAMPLE_BYTES:
            raise InputError(f"{self} has samples of {self.sample_bytes} bytes; {MAX_SAMPLE_BYTES} is the most")

    def __str__(self) -> str:
        return f"{self.path}[{self.name}]" if self.name else str(self.path)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def sample_bytes(self) -> int:
        """Size of one sample in the file."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, indices: Sequence[int]) -> Iterator[Array]:
        """The samples of ``indices``, which ascend.

        Raises:
            InputError: the file is damaged or cut short.
        """
        if self.fortran:
            yield from (np.ascontiguousarray(sample) for sample in self._whole()[list(indices)])
            return
        with reading(self.path), self.open() as stream:
            _skip(stream, self.offset)
            position = 0
            for index in indices:
                _skip(stream, (index - position) * self.sample_bytes)
                data = stream.read(self.sample_bytes)
                if len(data) < self.sample_bytes:
                    raise InputError(f"{self} is cut short: sample {index} of {len(self)} is missing")
                position = index + 1
                yield np.frombuffer(data, self.dtype).reshape(self.shape[1:])

    def all(self) -> Array:
        """The whole array, for the small ones such as labels."""
        return np.stack(list(self.read(range(len(self))))) if len(self) else np.empty(self.shape, self.dtype)

    def _whole(self) -> Array:
        # In column-major order one sample is spread over the whole file.
        with reading(self.path), self.open() as stream:
            _skip(stream, self.offset)
            size = math.prod(self.shape) * self.dtype.itemsize
            if size > MAX_SAMPLE_BYTES:
                raise InputError(f"{self} is in Fortran order and too large for that; save np.ascontiguousarray(x)")
            data = stream.read(size)
        if len(data) < size:
            raise InputError(f"{self} is cut short")
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F")


def npy(path: Path) -> ArrayStream:
    """The array of a ``.npy`` file."""

    def open_file() -> IO[bytes]:
        return path.open("rb")

    return _with_header(path, "", open_file)


def npz(path: Path) -> dict[str, ArrayStream | None]:
    """The arrays of a ``.npz`` file by name, in the file's order; None for those that are not numbers."""
    with reading(path), zipfile.ZipFile(path) as archive:
        members = [entry.filename for entry in archive.infolist() if entry.filename.endswith(".npy")]
    if not members:
        raise InputError(f"{path} holds no arrays; write the file with np.savez")
    streams: dict[str, ArrayStream | None] = {}
    for member in members:

        def open_member(member: str = member) -> IO[bytes]:
            return zipfile.ZipFile(path).open(member)

        with reading(path), open_member() as stream:
            _, _, dtype = _header(stream)
        name = member.removesuffix(".npy")
        streams[name] = _with_header(path, name, open_member) if dtype.kind in "biuf" else None
    return streams


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what goes wrong in reading ``path`` into an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except _READ_ERRORS as error:
        if isinstance(error, OSError) and error.strerror:
            problem = error.strerror
        else:
            problem = str(error).splitlines()[0] if str(error) else "damaged or cut short"
        raise InputError(f"cannot read {path}: {problem}") from None


def _with_header(path: Path, name: str, open_stream: Callable[[], IO[bytes]]) -> ArrayStream:
    with reading(path), open_stream() as stream:
        shape, fortran, dtype = _header(stream)
        offset = stream.tell()
    return ArrayStream(path, name, open_stream, offset, shape, dtype, fortran and len(shape) > 1)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which can run code when read; save arrays of numbers")
    return shape, fortran, dtype


def _skip(stream: IO[bytes], count: int) -> None:
    if count and stream.seekable() and not isinstance(stream, zipfile.ZipExtFile):
        stream.seek(count, 1)
        return
    while count > 0:
        data = stream.read(min(count, _SKIP_BYTES))
        if not data:
            return  # the read that follows finds that the file is short
        count -= len(data)
