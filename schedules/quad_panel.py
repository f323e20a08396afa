"""The panel of activations that a tile of quads reads: with the padding around them, in every order, and as words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as builder

from .compute.conv2d import Conv2d
from .quad_packing import ORDERS, QUAD_BYTES
from .rows import lanes, ramp

QUAD_DEPTH = 4
"""Neighbouring activations of which a plane holds one order."""

WHOLE = 0
"""Rows of a panel that holds all images: it is copied first, and then blocks of channels are shared out to threads."""


@dataclass(frozen=True)
class Panel:
    """The copy of the activations: ``planes`` orders of bytes, and words.

    Attributes:
        rows: output rows that it serves.
        input_rows, columns: rows and pixels of a row in it.
        row_step, column_step: rows and pixels from one output to the next.
        row_elements: activations of a row.
        images: that it holds.
    """

    rows: int
    input_rows: int
    columns: int
    row_step: int
    column_step: int
    row_elements: int
    images: int

    @property
    def elements(self) -> int:
        """Activations of a plane."""
        return self.images * self.input_rows * self.row_elements


def panel_of(problem: Conv2d, rows: int) -> Panel:
    """The panel for ``rows`` output rows, or :data:`WHOLE`."""
    oh, ow = problem.output_size
    (kh, kw), (sh, sw), (dh, dw) = problem.kernel, problem.strides, problem.dilation
    row_step, column_step = (1 if kh == 1 else sh), (1 if kw == 1 else sw)
    input_rows = ((rows or oh) - 1) * row_step + (kh - 1) * dh + 1
    columns = (ow - 1) * column_step + (kw - 1) * dw + 1
    images = problem.n if rows == WHOLE else 1
    return Panel(rows or oh, input_rows, columns, row_step, column_step, columns * problem.x_channels, images)


def alloc_copies(panel: Panel, planes: int) -> tuple[Any, Any]:
    """The planes of bytes, one after the other, and the words."""
    return (
        builder.alloc_buffer((planes * panel.elements,), "uint8"),
        builder.alloc_buffer((panel.elements,), "uint16"),
    )


def copy_row(
    problem: Conv2d,
    panel: Panel,
    x: Any,
    image: Expr,
    first: Expr,
    row: Expr,
    copies: tuple[Any, Any],
    copied_row: Expr,
) -> None:
    """Row ``row`` of the panel for the outputs from row ``first`` on, to row ``copied_row`` of every copy."""
    channels = problem.x_channels
    top, left = problem.padding[:2]
    step = problem.strides[0]
    y = (first + row) * step - top if panel.row_step != step else first * step + row - top
    outside = tirx.const(problem.x_zero_point, "uint8")
    begin = copied_row * panel.row_elements

    def pad(start: Expr | int, count: int) -> None:
        _pieces(count, lambda at, size: _store(panel, copies, begin + start + at, lanes(outside, size), size))

    def move(target: Expr | int, source: Expr | int, count: int) -> None:
        def piece(at: Expr, size: int) -> None:
            value = builder.bind(x[image, y, ramp(source + at, size)])
            _store(panel, copies, begin + target + at, value, size)

        _pieces(count, piece)

    with builder.If(tirx.all(y >= 0, y < problem.h)):
        with builder.Then():
            if panel.column_step == problem.strides[1]:
                inside = min(problem.w, panel.columns - left)
                pad(0, left * channels)
                move(left * channels, 0, inside * channels)
                pad((left + inside) * channels, (panel.columns - left - inside) * channels)
            else:
                with builder.serial(0, panel.columns) as column:
                    source = column * problem.strides[1] - left
                    with builder.If(tirx.all(source >= 0, source < problem.w)):
                        with builder.Then():
                            move(column * channels, source * channels, channels)
                        with builder.Else():
                            pad(column * channels, channels)
        with builder.Else():
            pad(0, panel.row_elements)


def _pieces(count: int, piece: Callable[[Expr, int], None]) -> None:
    """Call ``piece(start, size)`` for vectors of 32, 16, 8 and 4 elements that make up ``count``."""
    start = 0
    for size in (QUAD_BYTES, QUAD_BYTES // 2, QUAD_BYTES // 4, QUAD_DEPTH):
        pieces = (count - start) // size
        with builder.serial(0, pieces) as i:
            piece(start + i * size, size)
        start += pieces * size


def _store(panel: Panel, copies: tuple[Any, Any], at: Expr, value: Expr, size: int) -> None:
    """``value`` to every plane of bytes, and to the words."""
    planes, words = copies
    for plane in range(int(planes.shape[0]) // panel.elements):
        builder.buffer_store(planes, _reordered(value, plane, size), [ramp(at + plane * panel.elements, size)])
    builder.buffer_store(words, value.astype(f"uint16x{size}"), [ramp(at, size)])


def _reordered(value: Expr, plane: int, size: int) -> Expr:
    """Each four neighbours of a vector in the order of ``plane``."""
    if plane == 0:
        return value
    return tirx.Shuffle(
        [value], [tirx.const(int(4 * quad + i), "int32") for quad in range(size // 4) for i in ORDERS[plane]]
    )
