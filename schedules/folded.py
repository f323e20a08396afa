"""An image of few channels with rows folded together: what a step of a strided window reads, side by side.

The matrix unit takes 64 bytes a step, and a row of a 7x7 window over 4 channels has 28. With strides of two rows,
windows begin at even rows; two rows stored as one of 8 channels make it 56 bytes for both.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as builder

from .compute.conv2d import Conv2d
from .rows import fill, lanes, ramp
from .vectors import shuffle

PIXEL_BYTES = 4
FOLDS = 2, 4
"""Rows that a shuffle of bytes puts together."""

FEWER_STEPS = 0.6
"""The copy takes time: 4 steps for 7 pay, 2 for 3 or 9 for 11 do not."""


def folded_rows(problem: Conv2d, step_bytes: int) -> int:
    """How many rows of ``problem``'s image to fold, so that far fewer steps of ``step_bytes`` make a window; or 1."""
    rows, (kh, kw) = problem.strides[0], problem.kernel
    if rows not in FOLDS or problem.x_channels != PIXEL_BYTES or problem.dilation != (1, 1):
        return 1
    folded = -(-kh // rows) * -(-kw * rows * PIXEL_BYTES // step_bytes)
    return rows if folded < FEWER_STEPS * kh * -(-kw * PIXEL_BYTES // step_bytes) else 1


def folded(x: Any, problem: Conv2d, rows: int) -> tuple[Any, int]:
    """A copy of ``x`` with the zero point around it, as (N, H / rows, columns, rows * channels), and its columns."""
    top, left, bottom, right = problem.padding
    columns, height = problem.w + left + right, -(-(problem.h + top + bottom) // rows)
    bytes_ = rows * PIXEL_BYTES
    copy = builder.alloc_buffer((problem.n, height, columns * bytes_), "uint8")
    source = builder.decl_buffer((problem.n, problem.h, problem.w * PIXEL_BYTES), "uint8", data=x.data)
    outside = tirx.const(problem.x_zero_point, "uint8")
    with builder.parallel(0, problem.n * height) as at:
        image, row = at // height, at % height

        def pixels(start: Expr, size: int) -> Expr:
            vectors = []
            for i in range(rows):
                y = row * rows + i - top
                inside = tirx.all(y >= 0, y < problem.h)
                index = ramp(tirx.floordiv(start, rows), size // rows)
                value = source[image, tirx.max(tirx.min(y, problem.h - 1), 0), index]
                vectors.append(builder.bind(tirx.Select(inside, value, lanes(outside, size // rows))))
            order = [
                row_ * (size // rows) + pixel * PIXEL_BYTES + channel
                for pixel in range(size // bytes_)
                for row_ in range(rows)
                for channel in range(PIXEL_BYTES)
            ]
            return shuffle(vectors, order)

        fill(copy, (image, row), 0, left * bytes_, lambda _at, size: lanes(outside, size))
        fill(copy, (image, row), left * bytes_, problem.w * bytes_, pixels)
        fill(copy, (image, row), (left + problem.w) * bytes_, right * bytes_, lambda _at, size: lanes(outside, size))
    return copy, columns
