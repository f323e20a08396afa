"""The constants of a library in memory: once, and in huge pages where Linux gives them."""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import LibraryError
from pipeline.runtime.manifest import ConstantInfo

_HUGE_PAGE = 2 << 20


def read_constants(path: Path, constants: tuple[ConstantInfo, ...]) -> list[npt.NDArray[Any]]:
    """The arrays that the library at ``path`` keeps for its code, in the order of ``constants``.

    Raises:
        LibraryError: the file cannot be read, or ends before they do.
    """
    if not constants:
        return []
    start = constants[0].offset
    size = constants[-1].end - start
    memory = _allocate(size)
    try:
        with path.open("rb") as file:
            file.seek(start)
            read = file.readinto(memory.data)
    except OSError as error:
        raise LibraryError(f"cannot read {path}: {error.strerror or error}") from None
    if read != size:
        raise LibraryError(f"{path} is damaged: it ends within its constants; compile the model again")
    return [memory[info.offset - start : info.end - start].view(info.dtype).reshape(info.shape) for info in constants]


def _allocate(size: int) -> npt.NDArray[np.uint8]:
    """``size`` bytes that begin at a huge page. Reading weights through small pages costs about 1 % of ResNet-50."""
    memory = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % _HUGE_PAGE
    # Whole huge pages only: part of one would take memory that nobody uses.
    if huge := size // _HUGE_PAGE * _HUGE_PAGE:
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE, start, huge)
    return whole[start : start + size]
