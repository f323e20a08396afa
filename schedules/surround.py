"""The image with its padding, for kernels that are built loop by loop."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as builder

from .compute.conv2d import Conv2d

COPY_BYTES = 64
"""Bytes of one vector move."""


def view(buffer: Any, shape: tuple[int, ...]) -> Any:
    """The same memory under another shape."""
    return builder.decl_buffer(shape, str(buffer.dtype), data=buffer.data)


def surrounded(x: Any, problem: Conv2d) -> tuple[Any, int]:
    """A copy of ``x`` with the zero point around it, as (N, rows, columns, channels), and its columns."""
    top, left, bottom, right = problem.padding
    rows, columns, channels = problem.h + top + bottom, problem.w + left + right, problem.x_channels
    copy = builder.alloc_buffer((problem.n, rows, columns * channels), "uint8")
    source = builder.decl_buffer((problem.n, problem.h, problem.w * channels), "uint8", data=x.data)
    outside = tirx.const(problem.x_zero_point, "uint8")
    with builder.parallel(0, problem.n * rows) as row:
        image, y = row // rows, row % rows
        inside = tirx.all(y >= top, y < top + problem.h)
        with builder.If(inside):
            with builder.Then():
                _fill(copy, (image, y), 0, left * channels, lambda _at, size: _lanes(outside, size))
                _fill(
                    copy,
                    (image, y),
                    left * channels,
                    problem.w * channels,
                    lambda at, size: source[image, y - top, _ramp(at, size)],
                )
                end = (left + problem.w) * channels
                _fill(copy, (image, y), end, right * channels, lambda _at, size: _lanes(outside, size))
            with builder.Else():
                _fill(copy, (image, y), 0, columns * channels, lambda _at, size: _lanes(outside, size))
    return copy, columns


def _lanes(value: Expr, size: int) -> Expr:
    return value if size == 1 else tirx.Broadcast(value, size)


def _ramp(start: Expr | int, size: int) -> Expr | int:
    return start if size == 1 else tirx.Ramp(start, 1, size)


def _fill(target: Any, row: tuple[Expr, ...], first: int, count: int, value: Any) -> None:
    """``target[row, first + i] = value(i)`` for ``count`` bytes, in vectors as long as they go."""
    start, size = 0, COPY_BYTES
    while start < count:
        while size > count - start:
            size //= 2
        moves = (count - start) // size
        with builder.serial(0, moves) as move:
            at = start + move * size
            builder.buffer_store(target, value(at, size), [*row, _ramp(first + at, size)])
        start += moves * size
