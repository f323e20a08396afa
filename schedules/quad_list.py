"""Convolution with AVX2: ``vpmaddubsw`` on lists of quads of weights that cannot saturate.

A dot product of bytes with AVX2 takes three instructions for 32 products (``vpmaddubsw`` to 16 bits, ``vpmaddwd`` by 1
to 32 bits, ``vpaddd``), but its 16-bit sums saturate; with operands widened beforehand it takes four. Here the weights
are cut at compile time into quads whose sums fit, most of them in pairs that share the last two instructions, so that
32 products take about 2.7 (see :mod:`schedules.quad_packing`).

The kernel walks such a list for a block of 8 output channels: each entry says where in the window, relative to the
pixel, its four input channels are. A tile of neighbouring pixels stays in registers meanwhile. The activations are
copied to a panel first, with the padding around them and once more in each other order of neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as builder

from . import byte_epilogue
from .compute.conv2d import (
    Conv2d,
    channel_reach,
    channel_span,
    epilogue,
    epilogue_arguments,
    pack_channels,
    pack_weight,
    padded_channels,
)
from .intrinsics.x86 import DOT_PRODUCTS, DotProduct
from .quad_packing import ORDERS, QUAD_BYTES, make_lists
from .register_tile import divisors
from .rows import fill, lanes, ramp, view
from .template import Knobs, Template
from .threads import MIN_PARALLEL_MACS

QUADS = DOT_PRODUCTS["avxvnni"]
"""The shape of a quad: 8 output channels x 4 input channels."""

MAX_PIXELS = 10
"""Sums of a tile, of 16 registers; the others hold two vectors of weights, a broadcast, a product and ones."""

PIXELS = 8
"""From here on a tile gains nothing: loads of weights are hidden behind the arithmetic."""

PANEL_PIXELS = 28
"""Output pixels of a panel at least, so that passing all weights from the L2 cache for it is cheap."""

MIN_PANELS = 12
"""With fewer panels threads would wait for each other; then the image is copied first, and channels are shared out."""

THIRD_PLANE_PRODUCTS = 128
"""Products of an activation from which on a third order of the activations saves more than its copy costs."""

WHOLE = 0
"""Rows of a panel that holds all images."""


@dataclass(frozen=True)
class _Panel:
    """Where the kernel reads activations.

    Attributes:
        copied: whether they are copied; if not, the input itself serves.
        rows: output rows that one panel serves.
        input_rows, columns: rows and pixels of a row in the panel.
        row_step, column_step: rows and pixels from one output to the next.
        row_bytes, plane_bytes: of the panel.
    """

    copied: bool
    rows: int
    input_rows: int
    columns: int
    row_step: int
    column_step: int
    row_bytes: int
    plane_bytes: int


class QuadList(Template):
    """The template for AVX2, of all convolutions with weights of 8 bits but depthwise ones."""

    name = "quad-list"

    def supports(self, problem: Conv2d, dot: DotProduct) -> bool:
        return (
            dot.pairs_bytes
            and not problem.depthwise
            and problem.weight_dtype == "int8"
            and problem.x_channels % QUADS.depth == 0
            and channel_span(problem, QUADS).step % QUADS.depth == 0
            and channel_reach(problem, QUADS) <= problem.x_channels
        )

    def space(self, problem: Conv2d, dot: DotProduct) -> dict[str, tuple[int, ...]]:
        oh, ow = problem.output_size
        return {
            "pixels": tuple(range(1, min(ow, MAX_PIXELS) + 1)),
            "rows": (WHOLE, *divisors(oh, oh)),
            "planes": tuple(range(1, len(ORDERS) + 1)),
        }

    def default(self, problem: Conv2d, dot: DotProduct) -> Knobs:
        oh, ow = problem.output_size
        pixels = -(-ow // -(-ow // PIXELS))
        rows = next((r for r in divisors(oh, oh) if r * ow >= PANEL_PIXELS), oh)
        panels = problem.n * oh // rows
        planes = 3 if problem.oc // problem.groups * math.prod(problem.kernel) >= THIRD_PLANE_PRODUCTS else 2
        return {"pixels": pixels, "rows": rows if panels >= MIN_PANELS else WHOLE, "planes": planes}

    def build(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> tvm.tirx.PrimFunc:
        return conv2d(problem, knobs["pixels"], knobs["rows"], knobs["planes"])

    def constants(
        self, problem: Conv2d, dot: DotProduct, knobs: Knobs, arrays: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        weight, *vectors = arrays
        packed = pack_weight(weight, problem, QUADS)
        blocks, kh, kw, depth = packed.shape[:4]
        lists = make_lists(packed.reshape(blocks, kh * kw * depth, *packed.shape[4:]), knobs["planes"])
        panel = _panel(problem, knobs["rows"], knobs["planes"])
        row, column, quad = np.unravel_index(lists.source, (kh, kw, depth))
        span = channel_span(problem, QUADS)
        first = np.repeat([int(span.start(block)) for block in range(blocks)], np.diff(lists.starts[::2]))
        offsets = lists.plane * panel.plane_bytes + row * problem.dilation[0] * panel.row_bytes
        offsets += column * problem.dilation[1] * problem.x_channels + quad * QUADS.depth + first
        return [
            lists.weights,
            offsets.astype(np.int32),
            lists.starts,
            *(pack_channels(v, problem.oc) for v in vectors),
        ]


def _panel(problem: Conv2d, rows: int, planes: int) -> _Panel:
    oh, ow = problem.output_size
    (kh, kw), (sh, sw), (dh, dw) = problem.kernel, problem.strides, problem.dilation
    rows = rows or oh
    if planes == 1 and not any(problem.padding):
        row_bytes = problem.w * problem.x_channels
        return _Panel(False, rows, problem.h, problem.w, sh, sw, row_bytes, problem.n * problem.h * row_bytes)
    row_step, column_step = (1 if kh == 1 else sh), (1 if kw == 1 else sw)
    input_rows = (rows - 1) * row_step + (kh - 1) * dh + 1
    columns = (ow - 1) * column_step + (kw - 1) * dw + 1
    row_bytes = columns * problem.x_channels
    return _Panel(True, rows, input_rows, columns, row_step, column_step, row_bytes, input_rows * row_bytes)


def conv2d(problem: Conv2d, pixels: int, rows: int, planes: int) -> tvm.tirx.PrimFunc:
    """The scheduled convolution. Arguments: x, weights, offsets, starts (see ``quad_packing``), bias, multiplier,
    [window_sum, weight_zero_point], the stages' operands, result."""
    panel = _panel(problem, rows, planes)
    oh, ow = problem.output_size
    channels = padded_channels(problem.oc)
    blocks = channels // QUADS.lanes
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            quads = tirx.Var("quads", "int32")
            stored = builder.arg("x", T.Buffer((problem.n, problem.h, problem.w, problem.x_channels), "uint8"))
            weights = builder.arg("weights", T.Buffer((quads, QUAD_BYTES), "int8"))
            offsets = builder.arg("offsets", T.Buffer((quads,), "int32"))
            starts = builder.arg("starts", T.Buffer((2 * blocks + 1,), "int32"))
            extra = [builder.arg(name, T.Buffer(shape, dtype)) for name, shape, dtype in epilogue_arguments(problem)]
            result = builder.arg("result", T.Buffer((problem.n, oh, ow, channels), problem.result_dtype))
            builder.func_attr({"tirx.noalias": True})
            x = view(stored, (problem.n, problem.h, problem.w * problem.x_channels))
            loop = builder.parallel if problem.macs >= MIN_PARALLEL_MACS else builder.serial
            lists = weights, offsets, starts
            panel_shape = (planes, panel.input_rows, panel.row_bytes)
            if rows == WHOLE or not panel.copied:
                images = builder.alloc_buffer((problem.n, *panel_shape), "uint8") if panel.copied else x
                if panel.copied:
                    with loop(0, problem.n * panel.input_rows) as row:
                        image = row // panel.input_rows
                        _copy_row(
                            problem, panel, x, image, tirx.const(0, "int32"), row % panel.input_rows, images, (image,)
                        )
                flat = _flat(images)
            if rows == WHOLE:
                image_bytes = (planes if panel.copied else 1) * panel.input_rows * panel.row_bytes
                with loop(0, blocks) as block:
                    sums = builder.alloc_buffer((pixels * QUADS.lanes,), "int32", scope="local")
                    with builder.serial(0, problem.n) as image, builder.serial(0, oh) as y:
                        base = image * image_bytes + y * panel.row_step * panel.row_bytes
                        _row(problem, panel, pixels, flat, base, lists, sums, block, extra, result, image, y)
            else:
                with loop(0, problem.n * (oh // rows)) as part:
                    sums = builder.alloc_buffer((pixels * QUADS.lanes,), "int32", scope="local")
                    image, first = part // (oh // rows), part % (oh // rows) * rows
                    if panel.copied:
                        copy = builder.alloc_buffer(panel_shape, "uint8")
                        with builder.serial(0, panel.input_rows) as row:
                            _copy_row(problem, panel, x, image, first, row, copy, ())
                        flat = _flat(copy)
                    with builder.serial(0, blocks) as block, builder.serial(0, rows) as y:
                        if panel.copied:
                            base = y * panel.row_step * panel.row_bytes
                        else:
                            base = (image * problem.h + (first + y) * panel.row_step) * panel.row_bytes
                        _row(problem, panel, pixels, flat, base, lists, sums, block, extra, result, image, first + y)
        return ib.get()


def _flat(buffer: Any) -> Any:
    return view(buffer, (math.prod(int(d) for d in buffer.shape),))


def _copy_row(
    problem: Conv2d, panel: _Panel, x: Any, image: Expr, first: Expr, row: Expr, copy: Any, lead: tuple[Expr, ...]
) -> None:
    """Row ``row`` of the panel for the outputs from row ``first`` on, in every plane."""
    channels = problem.x_channels
    planes = int(copy.shape[len(lead)])
    top, left = problem.padding[:2]
    step = problem.strides[0]
    y = (first + row) * step - top if panel.row_step != step else first * step + row - top
    outside = tirx.const(problem.x_zero_point, "uint8")

    def pad(start: int, count: int) -> None:
        for plane in range(planes):
            fill(copy, (*lead, plane, row), start * channels, count * channels, lambda _at, size: lanes(outside, size))

    def move(target: Expr | int, source: Expr | int, count: int) -> None:
        start = 0
        for size in (QUAD_BYTES, QUAD_BYTES // 2, QUAD_BYTES // 4, QUADS.depth):
            moves = (count - start) // size
            with builder.serial(0, moves) as i:
                value = builder.bind(x[image, y, ramp(source + start + i * size, size)])
                at = ramp(target + start + i * size, size)
                for plane in range(planes):
                    builder.buffer_store(copy, _reordered(value, plane, size), [*lead, plane, row, at])
            start += moves * size

    with builder.If(tirx.all(y >= 0, y < problem.h)):
        with builder.Then():
            if panel.column_step == problem.strides[1]:
                inside = min(problem.w, panel.columns - left)
                pad(0, left)
                move(left * channels, 0, inside * channels)
                pad(left + inside, panel.columns - left - inside)
            else:
                with builder.serial(0, panel.columns) as column:
                    source = column * problem.strides[1] - left
                    with builder.If(tirx.all(source >= 0, source < problem.w)):
                        with builder.Then():
                            move(column * channels, source * channels, channels)
                        with builder.Else():
                            for plane in range(planes):
                                fill(
                                    copy,
                                    (*lead, plane, row),
                                    column * channels,
                                    channels,
                                    lambda _at, size: lanes(outside, size),
                                )
        with builder.Else():
            pad(0, panel.columns)


def _reordered(value: Expr, plane: int, size: int) -> Expr:
    """Each four neighbours of a vector in the order of ``plane``."""
    if plane == 0:
        return value
    return tirx.Shuffle(
        [value], [tirx.const(int(4 * quad + i), "int32") for quad in range(size // 4) for i in ORDERS[plane]]
    )


def _row(
    problem: Conv2d,
    panel: _Panel,
    pixels: int,
    activations: Any,
    base: Expr,
    lists: tuple[Any, Any, Any],
    sums: Any,
    block: Expr,
    extra: list[Any],
    result: Any,
    image: Expr,
    y: Expr,
) -> None:
    """A row of outputs of one block of channels, in tiles of ``pixels`` and the remainder."""
    ow = problem.output_size[1]
    full, remainder = divmod(ow, pixels)
    step = panel.column_step * problem.x_channels
    if full:
        with builder.serial(0, full) as tile:
            _tile(
                problem, step, pixels, activations, base, lists, sums, block, extra, result, (image, y, tile * pixels)
            )
    if remainder:
        start = tirx.const(full * pixels, "int32")
        _tile(problem, step, remainder, activations, base, lists, sums, block, extra, result, (image, y, start))


def _tile(
    problem: Conv2d,
    step: int,
    pixels: int,
    activations: Any,
    base: Expr,
    lists: tuple[Any, Any, Any],
    sums: Any,
    block: Expr,
    extra: list[Any],
    result: Any,
    at: tuple[Expr, Expr, Expr],
) -> None:
    weights, offsets, starts = lists
    image, y, column = at
    first = builder.bind(base + column * step)
    for p in range(pixels):
        builder.buffer_store(sums, tirx.Broadcast(tirx.const(0, "int32"), QUADS.lanes), [_lanes_of(p)])

    def accumulate(quad: Expr, together: int) -> None:
        taps = [builder.bind(weights[quad + i, tirx.Ramp(0, 1, QUAD_BYTES)]) for i in range(together)]
        places = [builder.bind(first + offsets[quad + i]) for i in range(together)]
        for p in range(pixels):
            products: Expr | None = None
            for tap, place in zip(taps, places, strict=True):
                four = tirx.reinterpret("int32", activations[tirx.Ramp(place + p * step, 1, QUADS.depth)])
                spread = tirx.reinterpret(f"uint8x{QUAD_BYTES}", tirx.Broadcast(four, QUADS.lanes))
                product = _call("llvm.x86.avx2.pmadd.ub.sw", "int16x16", spread, tap)
                products = product if products is None else products + product
            wide = _call("llvm.x86.avx2.pmadd.wd", "int32x8", products, tirx.Broadcast(tirx.const(1, "int16"), 16))
            builder.buffer_store(sums, sums[_lanes_of(p)] + wide, [_lanes_of(p)])

    with builder.serial(0, (starts[2 * block + 1] - starts[2 * block]) // 2) as pair:
        accumulate(starts[2 * block] + 2 * pair, 2)
    with builder.serial(0, starts[2 * block + 2] - starts[2 * block + 1]) as single:
        accumulate(starts[2 * block + 1] + single, 1)
    channel = block * QUADS.lanes
    if byte_epilogue.supports(problem):
        byte_epilogue.store(problem, extra, sums, pixels, at, channel, result)
        return
    for p in range(pixels):
        with builder.vectorized(0, QUADS.lanes) as lane:
            value = epilogue(problem, extra, sums[p * QUADS.lanes + lane], (image, y, column + p), channel + lane)
            builder.buffer_store(result, value, [image, y, column + p, channel + lane])


def _lanes_of(pixel: int) -> Expr:
    return tirx.Ramp(pixel * QUADS.lanes, 1, QUADS.lanes)


def _call(name: str, dtype: str, *args: Expr) -> Expr:
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *args, dtype=dtype)
