"""MNIST's idx files, gzipped or not."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import IO, cast

import numpy as np

from pipeline.data.streams import ArrayStream, reading
from pipeline.errors import InputError

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


def is_idx(path: Path) -> bool:
    """Whether the file's name is that of an idx file, such as ``t10k-images-idx3-ubyte.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith((".idx", "-ubyte")) or "-idx" in name


def idx(path: Path) -> ArrayStream:
    """The array of an idx file.

    Raises:
        InputError: the file is damaged, or of another format.
    """
    with reading(path), path.open("rb") as start:
        zipped = start.read(2) == _GZIP

    def open_file() -> IO[bytes]:
        return cast("IO[bytes]", gzip.open(path, "rb")) if zipped else path.open("rb")

    with reading(path), open_file() as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or not 1 <= magic[3] <= 8:
            raise InputError(f"{path} is not an idx file")
        sizes = file.read(4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise InputError(f"{path} is cut short")
    shape = tuple(int(side) for side in np.frombuffer(sizes, ">u4"))
    dtype = np.dtype(_DTYPES[magic[2]])
    if not zipped and path.stat().st_size < 4 + len(sizes) + math.prod(shape) * dtype.itemsize:
        raise InputError(f"{path} is cut short")
    return ArrayStream(path, "", open_file, 4 + len(sizes), shape, dtype)


def labels_beside(path: Path) -> Path | None:
    """The file of the labels of ``path``, a file of images, if it is where MNIST has it."""
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    return beside if beside != path and beside.is_file() else None
