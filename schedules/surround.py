"""The image with its padding, for kernels that are built loop by loop."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as builder

from .compute.conv2d import Conv2d
from .rows import fill, lanes, ramp


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
                fill(copy, (image, y), 0, left * channels, lambda _at, size: lanes(outside, size))
                fill(
                    copy,
                    (image, y),
                    left * channels,
                    problem.w * channels,
                    lambda at, size: source[image, y - top, ramp(at, size)],
                )
                end = (left + problem.w) * channels
                fill(copy, (image, y), end, right * channels, lambda _at, size: lanes(outside, size))
            with builder.Else():
                fill(copy, (image, y), 0, columns * channels, lambda _at, size: lanes(outside, size))
    return copy, columns
