"""Moving bytes of rows, for kernels that are built loop by loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as builder

COPY_BYTES = 64
"""Bytes of one vector move."""


def view(buffer: Any, shape: tuple[int, ...]) -> Any:
    """The same memory under another shape."""
    return builder.decl_buffer(shape, str(buffer.dtype), data=buffer.data)


def flat(buffer: Any) -> Any:
    """All elements of a buffer in one row."""
    return view(buffer, (math.prod(int(d) for d in buffer.shape),))


def lanes(value: Expr, size: int) -> Expr:
    """``value`` in every lane of a vector."""
    return value if size == 1 else tirx.Broadcast(value, size)


def ramp(start: Expr | int, size: int) -> Expr | int:
    """The index of a vector of neighbours."""
    return start if size == 1 else tirx.Ramp(start, 1, size)


@contextmanager
def where(condition: Expr | None) -> Iterator[None]:
    """The statements inside run where ``condition`` holds; always where there is none."""
    if condition is None:
        yield
    else:
        with builder.If(condition), builder.Then():
            yield


def fill(target: Any, row: tuple[Expr, ...], first: int, count: int, value: Callable[[Expr, int], Expr]) -> None:
    """``target[row, first + i] = value(i)`` for ``count`` bytes, in vectors as long as they go."""
    start, size = 0, COPY_BYTES
    while start < count:
        while size > count - start:
            size //= 2
        moves = (count - start) // size
        with builder.serial(0, moves) as move:
            at = start + move * size
            builder.buffer_store(target, value(at, size), [*row, ramp(first + at, size)])
        start += moves * size
