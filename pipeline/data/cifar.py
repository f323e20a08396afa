"""CIFAR-10 and CIFAR-100 in their binary version: records of one or two labels and 3x32x32 bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.data.inputs import Array
from pipeline.data.streams import ArrayStream, reading
from pipeline.errors import InputError

SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_PICKLE = b"\x80"


def cifar(path: Path) -> tuple[ArrayStream, Callable[[Array], tuple[Array, int]]]:
    """The records of a ``.bin`` file, and what takes one apart into image (3, 32, 32) and label (CIFAR-100: fine).

    Raises:
        InputError: the size is not that of whole records.
    """
    with reading(path):
        size = path.stat().st_size
    for labels in (1, 2):
        if size and size % (_PIXELS + labels) == 0:
            break
    else:
        raise InputError(
            f"{path} has {size} bytes, not a multiple of {_PIXELS + 1} (CIFAR-10) or {_PIXELS + 2} (CIFAR-100): "
            "cut short, or not of their binary version"
        )

    def open_file() -> IO[bytes]:
        return path.open("rb")

    def split(record: Array) -> tuple[Array, int]:
        return record[labels:].reshape(SHAPE), int(record[labels - 1])

    shape = (size // (_PIXELS + labels), _PIXELS + labels)
    return ArrayStream(path, "", open_file, 0, shape, np.dtype("u1")), split


def refuse_pickle(path: Path) -> None:
    """Raise InputError for a pickle, such as a batch of CIFAR-10's Python version: reading one can run any code."""
    with reading(path), path.open("rb") as file:
        start = file.read(2)
    if start[:1] == _PICKLE and start[1:] <= b"\x05":
        raise InputError(
            f"{path} is a pickle, and reading one can run any code: take the binary version of CIFAR "
            "(files data_batch_1.bin …), or save the arrays with np.savez"
        )
