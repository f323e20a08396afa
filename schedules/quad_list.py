"""Convolution with AVX2: ``vpmaddubsw`` on lists of quads of weights that cannot saturate.

A dot product of bytes with AVX2 takes three instructions for 32 products (``vpmaddubsw`` to 16 bits, ``vpmaddwd`` by 1
to 32 bits, ``vpaddd``), but its 16-bit sums saturate; with operands widened beforehand it takes four. Here the weights
are cut at compile time into quads whose sums fit, most of them in pairs that share the last two instructions, so that
32 products take about 2.7; the few that do not fit are widened (see :mod:`schedules.quad_packing`).

The kernel walks such a list for a block of 8 output channels: each entry says where in the window, relative to the
pixel, its input channels are. A tile of neighbouring pixels stays in registers meanwhile. The activations are copied
to a panel first, with the padding around them: as bytes in each order of neighbours, and widened to words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from .quad_panel import WHOLE, Panel, alloc_copies, copy_row, panel_of
from .register_tile import divisors
from .rows import view
from .template import Knobs, Template
from .threads import MIN_PARALLEL_MACS

QUADS = DOT_PRODUCTS["avxvnni"]
"""The shape of a quad: 8 output channels x 4 input channels."""

LISTS = 3
"""Lists of a block: pairs of quads, single quads, words."""

MAX_PIXELS = 10
"""Sums of a tile, of 16 registers; the others hold two vectors of weights, a broadcast, a product and ones."""

PIXELS = 8
"""From here on a tile gains nothing: loads of weights are hidden behind the arithmetic."""

PANEL_BYTES = 24 * 1024
"""Of a panel that stays in the L1 cache while all channels of the result pass, besides weights and results."""

MIN_COLUMNS = 6
"""Pixels of the panel of a 1x1 convolution at least, of however many channels."""

PANEL_PIXELS = 28
"""Output pixels of any other panel at least, so that passing all weights from the L2 cache for it is cheap."""

MAX_ROWS, LARGE_PANEL = 8, 1.3
"""Output rows of a panel at most: more save hardly any copying of the rows that neighbouring panels share. That a panel
is larger than the L1 cache costs as much as copying it 1.3 times."""

MIN_TASKS = 12
"""With fewer tasks threads would wait for each other."""

L2_WEIGHTS = 5 * 2**18
"""Larger weights are passed once, for all images together, unless the panel of those is larger still."""

THIRD_PLANE_PRODUCTS = 128
"""Products of an activation from which on a third order of the activations saves more than its copy costs."""


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
        outputs = problem.n * oh * ow
        blocks = padded_channels(problem.oc) // QUADS.lanes
        return {
            "pixels": tuple(range(1, min(outputs, MAX_PIXELS) + 1)),
            "columns": tuple(divisors(outputs, outputs)) if _is_pointwise(problem) else (ow,),
            "rows": (WHOLE, *divisors(outputs, outputs)),
            "groups": tuple(divisors(blocks, blocks)),
            "planes": tuple(range(1, len(ORDERS) + 1)),
        }

    def admits(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> bool:
        if knobs["rows"] == WHOLE:
            return knobs["groups"] == 1
        return _folded(problem, knobs["columns"]).output_size[0] % knobs["rows"] == 0

    def default(self, problem: Conv2d, dot: DotProduct) -> Knobs:
        products = problem.oc // problem.groups * math.prod(problem.kernel)
        planes = 3 if products >= THIRD_PLANE_PRODUCTS else 2
        columns = _choose_columns(problem, planes) if _is_pointwise(problem) else problem.output_size[1]
        rows = _choose_rows(_folded(problem, columns), planes)
        groups = 1
        if rows != WHOLE:
            blocks = padded_channels(problem.oc) // QUADS.lanes
            parts = problem.n * math.prod(problem.output_size) // (rows * columns)
            groups = next((g for g in divisors(blocks, blocks) if parts * g >= MIN_TASKS), blocks)
        return {"pixels": _even(columns), "columns": columns, "rows": rows, "groups": groups, "planes": planes}

    def build(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> tvm.tirx.PrimFunc:
        return conv2d(problem, knobs["pixels"], knobs["columns"], knobs["rows"], knobs["groups"], knobs["planes"])

    def constants(
        self, problem: Conv2d, dot: DotProduct, knobs: Knobs, arrays: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        weight, *vectors = arrays
        packed = pack_weight(weight, problem, QUADS)
        blocks, kh, kw, depth = packed.shape[:4]
        lists = make_lists(packed.reshape(blocks, kh * kw * depth, *packed.shape[4:]), knobs["planes"])
        panel = panel_of(_folded(problem, knobs["columns"]), knobs["rows"])
        row, column, channel = np.unravel_index(lists.channel, (kh, kw, depth * QUADS.depth))
        span = channel_span(problem, QUADS)
        first = np.repeat([int(span.start(block)) for block in range(blocks)], np.diff(lists.starts[::LISTS]))
        offsets = lists.plane * panel.elements + row * problem.dilation[0] * panel.row_elements
        offsets += column * problem.dilation[1] * problem.x_channels + channel + first
        return [
            lists.weights,
            offsets.astype(np.int32),
            lists.starts,
            *(pack_channels(v, problem.oc) for v in vectors),
        ]


def _even(columns: int) -> int:
    """Pixels of the fewest tiles that make up a row, as even as can be."""
    return -(-columns // -(-columns // PIXELS))


def _choose_columns(problem: Conv2d, planes: int) -> int:
    """Pixels of the panels of a convolution of 1x1."""
    outputs = problem.n * math.prod(problem.output_size)
    most = max(2 * outputs // MIN_TASKS, MIN_COLUMNS)
    wide = [c for c in divisors(outputs, outputs) if c >= MIN_COLUMNS] or [outputs]
    enough = [c for c in wide if c <= most] or wide[:1]
    fitting = [c for c in enough if c * problem.x_channels * (planes + 2) <= PANEL_BYTES] or enough[:1]
    return min(fitting, key=lambda c: (-(-c // PIXELS) / c, -c))


def _choose_rows(problem: Conv2d, planes: int) -> int:
    """Output rows of a panel."""
    oh, ow = problem.output_size
    weights = problem.oc * problem.ic // problem.groups * math.prod(problem.kernel)
    if weights > L2_WEIGHTS and _panel_bytes(panel_of(problem, WHOLE), planes) < weights:
        return WHOLE
    if problem.kernel == (1, 1):
        return 1
    allowed = [r for r in divisors(oh, MAX_ROWS) if problem.n * oh // r >= MIN_TASKS and r * ow >= PANEL_PIXELS]

    def copying(rows: int) -> float:
        panel = panel_of(problem, rows)
        return panel.input_rows / rows * (LARGE_PANEL if _panel_bytes(panel, planes) > PANEL_BYTES else 1)

    return min(allowed, key=copying, default=WHOLE)


def _panel_bytes(panel: Panel, planes: int) -> int:
    """Of the planes, and of the words."""
    return panel.elements * (planes + 2)


def _is_pointwise(problem: Conv2d) -> bool:
    return problem.kernel == problem.strides == (1, 1) and not any(problem.padding)


def _folded(problem: Conv2d, columns: int) -> Conv2d:
    """The same convolution with rows of ``columns`` outputs."""
    oh, ow = problem.output_size
    if columns == ow:
        return problem
    return replace(problem, n=1, h=problem.n * oh * ow // columns, w=columns)


def conv2d(problem: Conv2d, pixels: int, columns: int, rows: int, groups: int, planes: int) -> tvm.tirx.PrimFunc:
    """The scheduled convolution. Arguments: x, weights, offsets, starts (see ``quad_packing``), bias, multiplier,
    [window_sum, weight_zero_point], the stages' operands, result."""
    given, problem = problem, _folded(problem, columns)
    panel = panel_of(problem, rows)
    oh, ow = problem.output_size
    channels = padded_channels(problem.oc)
    blocks = channels // QUADS.lanes
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            entries = tirx.Var("entries", "int32")
            stored = builder.arg("x", T.Buffer((given.n, given.h, given.w, given.x_channels), "uint8"))
            weights = builder.arg("weights", T.Buffer((entries, QUAD_BYTES), "int8"))
            offsets = builder.arg("offsets", T.Buffer((entries,), "int32"))
            starts = builder.arg("starts", T.Buffer((LISTS * blocks + 1,), "int32"))
            extra = [builder.arg(name, T.Buffer(shape, dtype)) for name, shape, dtype in epilogue_arguments(given)]
            result = builder.arg("result", T.Buffer((given.n, *given.output_size, channels), given.result_dtype))
            builder.func_attr({"tirx.noalias": True})
            extra = [
                view(buffer, shape) for buffer, (_, shape, _) in zip(extra, epilogue_arguments(problem), strict=True)
            ]
            result = view(result, (problem.n, oh, ow, channels))
            x = view(stored, (problem.n, problem.h, problem.w * problem.x_channels))
            loop = builder.parallel if problem.macs >= MIN_PARALLEL_MACS else builder.serial
            lists = weights, offsets, starts
            image_rows = panel.input_rows * panel.row_elements
            if rows == WHOLE:
                copies = alloc_copies(panel, planes)
                with loop(0, problem.n * panel.input_rows) as row:
                    image = row // panel.input_rows
                    copy_row(problem, panel, x, image, tirx.const(0, "int32"), row % panel.input_rows, copies, row)
                with loop(0, blocks) as block:
                    sums = builder.alloc_buffer((pixels * QUADS.lanes,), "int32", scope="local")
                    with builder.serial(0, problem.n) as image, builder.serial(0, oh) as y:
                        base = image * image_rows + y * panel.row_step * panel.row_elements
                        _row(problem, panel, pixels, copies, base, lists, sums, block, extra, result, image, y)
            else:
                with loop(0, problem.n * (oh // rows) * groups) as task:
                    sums = builder.alloc_buffer((pixels * QUADS.lanes,), "int32", scope="local")
                    copies = alloc_copies(panel, planes)
                    part = task // groups
                    image, first = part // (oh // rows), part % (oh // rows) * rows
                    with builder.serial(0, panel.input_rows) as row:
                        copy_row(problem, panel, x, image, first, row, copies, row)
                    with builder.serial(0, rows) as y, builder.serial(0, blocks // groups) as member:
                        block = task % groups * (blocks // groups) + member
                        base = y * panel.row_step * panel.row_elements
                        _row(problem, panel, pixels, copies, base, lists, sums, block, extra, result, image, first + y)
        return ib.get()


def _row(
    problem: Conv2d,
    panel: Panel,
    pixels: int,
    copies: tuple[Any, Any],
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
            _tile(problem, step, pixels, copies, base, lists, sums, block, extra, result, (image, y, tile * pixels))
    if remainder:
        start = tirx.const(full * pixels, "int32")
        _tile(problem, step, remainder, copies, base, lists, sums, block, extra, result, (image, y, start))


def _tile(
    problem: Conv2d,
    step: int,
    pixels: int,
    copies: tuple[Any, Any],
    base: Expr,
    lists: tuple[Any, Any, Any],
    sums: Any,
    block: Expr,
    extra: list[Any],
    result: Any,
    at: tuple[Expr, Expr, Expr],
) -> None:
    weights, offsets, starts = lists
    planes, words = copies
    image, y, column = at
    first = builder.bind(base + column * step)
    channel = block * QUADS.lanes
    start = tirx.Broadcast(tirx.const(0, "int32"), QUADS.lanes)
    if byte_epilogue.supports(problem):
        start = builder.bind(extra[0][tirx.Ramp(channel, 1, QUADS.lanes)])
    for p in range(pixels):
        builder.buffer_store(sums, start, [_lanes_of(p)])

    def accumulate(
        entry: Expr, count: int, products: Callable[[Expr, Expr], Expr], finish: Callable[[Expr], Expr]
    ) -> None:
        taps = [builder.bind(weights[entry + i, tirx.Ramp(0, 1, QUAD_BYTES)]) for i in range(count)]
        places = [builder.bind(first + offsets[entry + i]) for i in range(count)]
        for p in range(pixels):
            total = products(places[0] + p * step, taps[0])
            for place, tap in zip(places[1:], taps[1:], strict=True):
                total = total + products(place + p * step, tap)
            builder.buffer_store(sums, sums[_lanes_of(p)] + finish(total), [_lanes_of(p)])

    def of_bytes(place: Expr, tap: Expr) -> Expr:
        spread = _spread(planes[tirx.Ramp(place, 1, QUADS.depth)], "uint8x32")
        return _call("llvm.x86.avx2.pmadd.ub.sw", "int16x16", spread, tap)

    def of_words(place: Expr, tap: Expr) -> Expr:
        spread = _spread(words[tirx.Ramp(place, 1, QUADS.depth // 2)], "int16x16")
        return _call("llvm.x86.avx2.pmadd.wd", "int32x8", spread, tirx.reinterpret("int16x16", tap))

    def widened(total: Expr) -> Expr:
        return _call("llvm.x86.avx2.pmadd.wd", "int32x8", total, tirx.Broadcast(tirx.const(1, "int16"), 16))

    # In 64 bits, as addresses are: the loops would widen 32 in every turn.
    pairs, singles, wide, end = [builder.bind(starts[LISTS * block + i].astype("int64")) for i in range(LISTS + 1)]
    with builder.serial(0, (singles - pairs) // 2) as i:
        accumulate(pairs + 2 * i, 2, of_bytes, widened)
    with builder.serial(0, wide - singles) as i:
        accumulate(singles + i, 1, of_bytes, widened)
    with builder.serial(0, (end - wide) // 2) as i:
        accumulate(wide + 2 * i, 2, of_words, lambda total: total)
    if byte_epilogue.supports(problem):
        byte_epilogue.store(problem, extra, sums, pixels, at, channel, result)
        return
    for p in range(pixels):
        with builder.vectorized(0, QUADS.lanes) as lane:
            value = epilogue(problem, extra, sums[p * QUADS.lanes + lane], (image, y, column + p), channel + lane)
            builder.buffer_store(result, value, [image, y, column + p, channel + lane])


def _spread(group: Expr, dtype: str) -> Expr:
    """32 bits of activations for all 8 output channels."""
    return tirx.reinterpret(dtype, tirx.Broadcast(tirx.reinterpret("int32", group), QUADS.lanes))


def _lanes_of(pixel: int) -> Expr:
    return tirx.Ramp(pixel * QUADS.lanes, 1, QUADS.lanes)


def _call(name: str, dtype: str, *args: Expr) -> Expr:
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *args, dtype=dtype)
