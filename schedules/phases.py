"""An image cut into phases: what a strided window reads one after another, side by side.

Pixel (y, x) of the image with its padding belongs to the phase (y mod stride, x mod stride). Within a phase the pixels
that a place of the window meets at neighbouring results are neighbours, so that a row of them is one run of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as builder

from .compute.conv2d import Conv2d
from .rows import COPY_BYTES, fill, lanes, ramp, where


@dataclass(frozen=True)
class Phases:
    """The phases that a window reads: ``counts`` in each direction, each of ``rows`` x ``columns`` pixels."""

    strides: tuple[int, int]
    counts: tuple[int, int]
    rows: int
    columns: int

    @property
    def count(self) -> int:
        """Phases in all."""
        return self.counts[0] * self.counts[1]

    def position(self, y: Expr, x: Expr) -> Expr:
        """Of the image's pixel (y, x): its place among the pixels of all phases."""
        phase = y % self.strides[0] * self.counts[1] + x % self.strides[1]
        return (phase * self.rows + y // self.strides[0]) * self.columns + x // self.strides[1]


def phases_of(problem: Conv2d) -> Phases | None:
    """The phases of a strided convolution; None without strides, or where a pixel is less than a vector."""
    if problem.strides == (1, 1) or problem.x_channels % COPY_BYTES:
        return None
    top, left, bottom, right = problem.padding
    counts = [
        min(stride, (kernel - 1) * dilation + 1)
        for stride, kernel, dilation in zip(problem.strides, problem.kernel, problem.dilation, strict=True)
    ]
    return Phases(
        problem.strides,
        (counts[0], counts[1]),
        -(-(problem.h + top + bottom) // problem.strides[0]),
        -(-(problem.w + left + right) // problem.strides[1]),
    )


def in_phases(x: Any, problem: Conv2d, phases: Phases) -> Any:
    """A copy of ``x`` (N, H, W, C) with the zero point around it, as (N, phases * rows, columns, C)."""
    top, left, _, _ = problem.padding
    channels, rows = problem.x_channels, phases.count * phases.rows
    copy = builder.alloc_buffer((problem.n, rows, phases.columns, channels), "uint8")
    outside = tirx.const(problem.x_zero_point, "uint8")
    with builder.parallel(0, problem.n * rows) as at, builder.serial(0, phases.columns) as column:
        image, row = at // rows, at % rows
        phase = row // phases.rows
        y = row % phases.rows * phases.strides[0] + phase // phases.counts[1] - top
        x_column = column * phases.strides[1] + phase % phases.counts[1] - left
        inside = tirx.all(y >= 0, y < problem.h, x_column >= 0, x_column < problem.w)
        with where(inside):
            fill(copy, (image, row, column), 0, channels, lambda c, size: x[image, y, x_column, ramp(c, size)])
        with where(tirx.Not(inside)):
            fill(copy, (image, row, column), 0, channels, lambda _c, size: lanes(outside, size))
    return copy
