"""Convolution on the matrix unit of x86 (AMX): 16 x 16 sums of 64 products an instruction.

A tile of sums covers up to 16 neighbouring output pixels and 16 output channels; two by two of them take the eight tile
registers together with two tiles of pixels and two of weights. The reduction runs over rows of the window: in the
stored layout the pixels and channels of one row lie side by side, so that a step takes 64 bytes whatever the number of
channels. The last step of a row starts 64 bytes before its end, with zero weights where it overlaps; the last tile of
an image row likewise computes some pixels twice. Where rows are short, tiles go on into the next one, and what they
compute of the padding between is dropped. Nothing is read or written outside.

The sums pass through a buffer in the L1 cache to the epilogue: that of :mod:`schedules.packed_epilogue` where it
applies, in pieces between the products of the next sums; else one on vectors of 16 channels, at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as builder

from .compute.conv2d import Conv2d, epilogue, epilogue_arguments, pack_channels, padded_channels
from .folded import folded
from .intrinsics.x86 import DotProduct
from .matrix_plan import (
    DEPTH,
    LANES,
    TILE_BYTES,
    TILE_ROWS,
    Plan,
    TilePixels,
    first_channel,
    in_slices,
    pack_weight,
    plan_of,
    tile_pixels,
    weight_bytes,
)
from .pending_epilogue import PendingEpilogue
from .phases import in_phases
from .prefetch import CACHE_LINE, prefetch
from .rows import flat, view, where
from .surround import surrounded
from .template import Knobs, Template

SUMS, PIXELS, LAST = 0, 4, 8
"""Tile registers: sums from 0, pixels from 4, weights up to 7."""

MIN_PIXELS = 8
"""With fewer output pixels, loading the weights costs more than the products: the vector unit does as well."""

L2_WEIGHT_BYTES, WEIGHTS_A_RESULT = 768 * 1024, 2
"""Weights up to this size stay in the L2 cache: all channels of a few pixels are computed before the next, so that the
result is written, and a residual read, in whole cache lines. Larger weights pass once, a slice at a time, and so do
those of more than twice the size of the result, where its cache lines count less than finding the weights in L1."""

L2_IMAGE_BYTES = 1024 * 1024
"""Of larger inputs, such as batches, a share stays in the L2 cache while all the weights pass."""

PREFETCH_BYTES = 16 * 1024
"""Weights come from beyond the L2 cache when a slice is first used; they are asked for this far ahead of their use."""

PIXEL_SHARES = 4
"""Parts into which the pixels are cut at least, for the threads to share."""

GROUPS_A_SHARE, OTHER_GROUPS_A_SHARE = 24, (8, 72)
"""Groups of tiles from which on there are more parts, by default and for the search. Each part fetches all the weights
from L2 again: 24 groups make networks 2 to 4 % faster than 4."""


class MatrixTile(Template):
    """The template for convolutions of at least some pixels on a CPU with AMX."""

    name = "matrix-tile"

    def supports(self, problem: Conv2d, dot: DotProduct) -> bool:
        oh, ow = problem.output_size
        return (
            dot.matrix_unit
            and problem.groups == 1
            and problem.weight_dtype == "int8"
            and problem.n * oh * ow >= MIN_PIXELS
        )

    def space(self, problem: Conv2d, dot: DotProduct) -> dict[str, tuple[int, ...]]:
        sizes = (GROUPS_A_SHARE, *OTHER_GROUPS_A_SHARE)
        return {"weights_first": (0, 1), "shares": tuple(sorted({_shares(problem, size) for size in sizes}))}

    def default(self, problem: Conv2d, dot: DotProduct) -> Knobs:
        largest = min(L2_WEIGHT_BYTES, WEIGHTS_A_RESULT * _result_bytes(problem))
        image = problem.n * problem.h * problem.w * problem.x_channels
        weights_first = int(weight_bytes(problem) > largest and image <= L2_IMAGE_BYTES)
        return {"weights_first": weights_first, "shares": _shares(problem, GROUPS_A_SHARE)}

    def build(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> tvm.tirx.PrimFunc:
        return conv2d(problem, weights_first=bool(knobs["weights_first"]), shares=knobs["shares"])

    def constants(
        self,
        problem: Conv2d,
        dot: DotProduct,
        knobs: Knobs,
        arrays: Sequence[np.ndarray],
    ) -> list[np.ndarray]:
        weight, *vectors = arrays
        plan = plan_of(problem)
        if plan.packed:
            return [pack_weight(weight, problem), *(in_slices(v, problem, plan) for v in vectors)]
        return [pack_weight(weight, problem), *(pack_channels(v, problem.oc) for v in vectors)]


def _shares(problem: Conv2d, groups_a_share: int) -> int:
    """Parts of the pixels."""
    groups = plan_of(problem).groups
    return min(groups, max(PIXEL_SHARES, groups // groups_a_share))


def _result_bytes(problem: Conv2d) -> int:
    """Elements of the result and of the stages' operands like it."""
    oh, ow = problem.output_size
    tensors = 1 + sum(stage.operand == "activation" for stage in problem.stages)
    return tensors * problem.n * oh * ow * padded_channels(problem.oc)


def conv2d(problem: Conv2d, *, weights_first: bool, shares: int) -> tvm.tirx.PrimFunc:
    """The scheduled convolution; arguments as for ``compute.conv2d.conv2d``, the weight packed as above."""
    plan = plan_of(problem)
    oh, ow = problem.output_size
    channels = padded_channels(problem.oc)
    arguments = epilogue_arguments(problem)
    if plan.packed:
        arguments[:2] = [(name, (plan.slices * plan.channels,), dtype) for name, _, dtype in arguments[:2]]
    quads = plan.step_bytes // DEPTH
    weight_shape = (plan.slices, plan.runs[0] * plan.runs[1], plan.steps, plan.channel_tiles, quads, LANES, DEPTH)
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            x = builder.arg("x", T.Buffer((problem.n, problem.h, problem.w, problem.x_channels), "uint8"))
            weight = builder.arg("weight", T.Buffer(weight_shape, "int8"))
            extra = [builder.arg(name, T.Buffer(shape, dtype)) for name, shape, dtype in arguments]
            result = builder.arg("result", T.Buffer((problem.n, oh, ow, channels), problem.result_dtype))
            builder.func_attr({"tirx.noalias": True})
            buffers = *_image(x, problem, plan), weight, _row_of_pixels(extra), _row_of_pixels([result])[0]
            _tiles(problem, plan, weights_first, shares, *buffers)
        return ib.get()


def _image(x: Any, problem: Conv2d, plan: Plan) -> tuple[Any, int]:
    """The image as the plan wants it, and its columns."""
    if plan.phases:
        return in_phases(x, problem, plan.phases), plan.phases.columns
    if plan.fold > 1:
        return folded(x, problem, plan.fold)
    return surrounded(x, problem) if any(problem.padding) else (x, problem.w)


def _row_of_pixels(buffers: list[Any]) -> list[Any]:
    """(N, H, W, C) buffers as (1, 1, N * H * W, C); others as they are."""
    views = []
    for buffer in buffers:
        shape = [int(d) for d in buffer.shape]
        if len(shape) == 4:
            buffer = view(buffer, (1, 1, shape[0] * shape[1] * shape[2], shape[3]))
        views.append(buffer)
    return views


def _intrinsic(name: str, *args: Any) -> None:
    builder.evaluate(T.call_llvm_intrin(T.llvm_lookup_intrinsic_id(f"llvm.x86.{name}"), *args, dtype="void"))


def _tile(index: int) -> Expr:
    return tirx.const(index, "int8")


def _configure(plan: Plan) -> None:
    """Give each tile register its rows and bytes a row, as the 64-byte palette of LDTILECFG."""
    palette = np.zeros(TILE_BYTES, np.uint8)
    palette[0] = 1
    shapes = {SUMS + i: (plan.pixels, TILE_BYTES) for i in range(plan.pixel_tiles * plan.channel_tiles)}
    shapes |= {PIXELS + i: (plan.pixels, plan.step_bytes) for i in range(plan.pixel_tiles)}
    shapes |= {LAST - 1 - j: (plan.step_bytes // DEPTH, TILE_BYTES) for j in range(plan.channel_tiles)}
    for tile, (rows, row_bytes) in shapes.items():
        palette[16 + 2 * tile] = row_bytes
        palette[48 + tile] = rows
    config = builder.alloc_buffer((8,), "int64", scope="local", align=TILE_BYTES)
    for i, word in enumerate(palette.view(np.int64)):
        builder.buffer_store(config, tirx.const(int(word), "int64"), [i])
    _intrinsic("ldtilecfg", T.address_of(config[0]))


def _tiles(
    problem: Conv2d,
    plan: Plan,
    weights_first: bool,
    shares: int,
    image: Any,
    image_width: int,
    weight: Any,
    extra: list[Any],
    result: Any,
) -> None:
    groups = plan.groups
    outer, inner = (plan.slices, shares) if weights_first else (shares, plan.slices)
    with builder.parallel(0, outer) as i:
        _configure(plan)
        slots = plan.pixel_tiles * plan.channel_tiles
        shape = ((2 if plan.packed else 1) * slots, TILE_ROWS, LANES)
        sums = builder.alloc_buffer(shape, "int32", align=TILE_BYTES)
        pending = PendingEpilogue(problem, plan, image_width, sums, extra, result) if plan.packed else None
        with builder.serial(0, inner) as j:
            part, share = (i, j) if weights_first else (j, i)
            first, end = share * groups // shares, (share + 1) * groups // shares
            with builder.serial(0, end - first) as step:
                group = first + step
                tiles = tile_pixels(problem, plan, image_width, group)
                starts = [tile.image for tile in tiles]
                ahead = _NextSlice(plan, weight, part, group) if weights_first else _SameSlice(plan, weight, part, step)
                _accumulate(problem, plan, image, image_width, weight, starts, part, ahead, extra[0], pending)
                first_slot = pending.free_slot() if pending else 0
                for slot in range(slots):
                    address = T.address_of(sums[first_slot + slot, 0, 0])
                    _intrinsic("tilestored64", _tile(SUMS + slot), address, tirx.const(TILE_BYTES, "int64"))
                if pending:
                    pending.complete()
                    pending.set(part, group)
                for k, tile in enumerate([] if pending else tiles):
                    for b in range(plan.channel_tiles):
                        slot = k * plan.channel_tiles + b
                        channel = first_channel(problem, plan, part) + b * LANES
                        _epilogue(problem, plan, sums, slot, tile, channel, extra, result)
        if pending:
            pending.finish()
        _intrinsic("tilerelease")


class _SameSlice:
    """Asks for weights :data:`PREFETCH_BYTES` ahead, while the first group of some pixels goes through a slice."""

    def __init__(self, plan: Plan, weight: Any, part: Expr, step: Expr) -> None:
        self._plan, self._weight, self._part, self._first = plan, flat(weight), part, step == 0

    def prefetch(self, done: Expr) -> None:
        """After ``done`` steps of the group."""
        step_bytes = self._plan.channels * self._plan.step_bytes
        start = (self._part * self._plan.all_steps + done) * step_bytes + PREFETCH_BYTES
        with where(self._first), builder.unroll(0, -(-step_bytes // CACHE_LINE)) as line:
            prefetch(self._weight[start + line * CACHE_LINE])


class _NextSlice:
    """Asks for the weights of the next slice, an equal share of them in every step of all groups of this one.

    They come from beyond the L2 cache, more slowly than the products of a single group could take them.
    """

    def __init__(self, plan: Plan, weight: Any, part: Expr, group: Expr) -> None:
        self._plan, self._weight, self._part, self._group = plan, flat(weight), part, group

    def prefetch(self, done: Expr) -> None:
        """After ``done`` steps of the group."""
        plan = self._plan
        slice_bytes = plan.all_steps * plan.channels * plan.step_bytes
        lines = -(-slice_bytes // CACHE_LINE)
        share = -(-lines // (plan.groups * plan.all_steps))
        first = (self._group * plan.all_steps + done) * share
        start = (self._part + 1) * slice_bytes + first * CACHE_LINE
        with where(first < lines), builder.unroll(0, share) as line:
            prefetch(self._weight[start + line * CACHE_LINE])


def _accumulate(
    problem: Conv2d,
    plan: Plan,
    image: Any,
    image_width: int,
    weight: Any,
    starts: list[Expr],
    part: Expr,
    ahead: _NextSlice | _SameSlice,
    bias: Any,
    pending: PendingEpilogue | None,
) -> None:
    """The sums of a group of tiles; between the products, pieces of the epilogue of the ``pending`` one, and the
    prefetching of the weights that come ``ahead``.

    For the packed epilogue the sums start from the bias: 16 rows that are all the same, one behind the other with a
    distance of zero.
    """
    flat_image = flat(image)
    step_pixels = 1 if plan.phases else problem.strides[1]
    stride = tirx.const(step_pixels * plan.pixel_bytes, "int64")
    for i in range(plan.pixel_tiles):
        for j in range(plan.channel_tiles):
            accumulator = _tile(SUMS + i * plan.channel_tiles + j)
            if pending:
                address = T.address_of(bias[part * plan.channels + j * LANES])
                _intrinsic("tileloadd64", accumulator, address, tirx.const(0, "int64"))
            else:
                _intrinsic("tilezero", accumulator)
    with (
        builder.serial(0, plan.runs[0]) as kh,
        builder.serial(0, plan.runs[1]) as kw,
        builder.serial(0, plan.steps) as step,
    ):
        y, x = kh * problem.dilation[0], kw * problem.dilation[1]
        window = (plan.phases.position(y, x) if plan.phases else y * image_width + x) * plan.pixel_bytes
        inside = tirx.min(step * plan.step_bytes, plan.run_bytes - plan.step_bytes)
        done = (kh * plan.runs[1] + kw) * plan.steps + step
        for j in range(plan.channel_tiles):
            address = T.address_of(weight[part, kh * plan.runs[1] + kw, step, j, 0, 0, 0])
            _intrinsic("tileloadd64", _tile(LAST - 1 - j), address, tirx.const(LANES * DEPTH, "int64"))
        for i, start in enumerate(starts):
            address = T.address_of(flat_image[start * plan.pixel_bytes + window + inside])
            _intrinsic("tileloadd64", _tile(PIXELS + i), address, stride)
            for j in range(plan.channel_tiles):
                accumulator = _tile(SUMS + i * plan.channel_tiles + j)
                _intrinsic("tdpbusd", accumulator, _tile(PIXELS + i), _tile(LAST - 1 - j))
            if pending:
                pending.advance(done, i)
        ahead.prefetch(done)


def _epilogue(
    problem: Conv2d, plan: Plan, sums: Any, slot: int, tile: TilePixels, channel: Expr, extra: list[Any], result: Any
) -> None:
    zero = tirx.const(0, "int32")
    with builder.serial(0, plan.pixels) as row:
        pixel, inside = tile.in_result(row)
        with where(inside), builder.vectorized(0, LANES) as lane:
            value = epilogue(problem, extra, sums[slot, row, lane], (zero, zero, pixel), channel + lane)
            builder.buffer_store(result, value, [0, 0, pixel, channel + lane])
