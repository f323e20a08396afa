"""Schedules of the convolutions on x86, whatever the width of its vectors.

A register tile of ``pixels`` neighbouring outputs x ``blocks`` vectors of output channels stays in registers during the
whole reduction; each step loads ``blocks`` weight vectors, broadcasts one group of input channels a pixel, and issues
``pixels * blocks`` dot products. Weights that fit the L2 cache stay there while the
image passes row by row; of larger ones a slice stays, and the image passes for each slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm.s_tir import Schedule

from . import amx, depthwise
from .compute.conv2d import (
    Conv2d,
    channel_span,
    conv2d,
    depthwise_conv2d,
    needs_surround,
    pack_channels,
    pack_depthwise_weight,
    pack_weight,
    padded_channels,
)
from .intrinsics.x86 import DotProduct
from .threads import MIN_PARALLEL_MACS

ACCUMULATORS = {32: 28, 16: 12}
"""Registers of the tile by registers of the instruction set; the others hold weights and a broadcast."""

LATENCY_CYCLES = 5.0
"""A tile with fewer dot products than fill this many cycles waits for its own results."""

L1_BYTES = 40 * 1024
"""What stays of the weights in the L1 cache from one tile to the next, of 48 KiB on recent cores."""

L2_WEIGHT_BYTES = 768 * 1024
"""Up to here the weights stay in the L2 cache, and all channels of an image row are computed before the next row: the
result is written, and a residual read, in whole cache lines. Larger weights pass once, a slice at a time."""

STEP_CYCLES, LOAD_CYCLES, L2_VECTOR_CYCLES, TILE_CYCLES = 1.0, 0.15, 0.4, 12.0
"""What a step of the reduction costs besides its dot products: the loop, a load (mostly hidden), and, for each weight
vector, coming from L2 instead of L1; and what a tile costs besides its steps. Fitted to the shapes of ResNet-50."""

COPY_BYTES_PER_CYCLE = 16
"""Of the copies around a convolution whose width no tile divides."""

MAX_TILE_PIXELS, MAX_TILE_BLOCKS = 14, 8
"""Bounds of the tiles that are considered."""

DEPTHWISE_TILE = 8
"""Output columns of a depthwise tile: their inputs overlap, and 8 sums and 10 inputs fit 32 registers."""


def convolution(problem: Conv2d, dot: DotProduct) -> tvm.tirx.PrimFunc:
    """The scheduled kernel of a convolution or fully connected layer; see ``compute.conv2d`` for its arguments."""
    if dot.matrix_unit and amx.supports(problem):
        return amx.conv2d(problem)
    if dot.interleaves and depthwise.supports(problem):
        return depthwise.depthwise_conv2d(problem)
    schedule = schedule_depthwise_conv2d if problem.depthwise else schedule_conv2d
    return schedule(problem, dot).mod["main"]


def convolution_constants(problem: Conv2d, dot: DotProduct, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(weight, bias, multiplier[, weight zero points]) of the model, packed as :func:`convolution` wants them."""
    weight, *vectors = arrays
    if dot.interleaves and depthwise.supports(problem):
        return [depthwise.pack_weight(weight, problem), *(depthwise.pack_channels(v, problem) for v in vectors)]
    if dot.matrix_unit and amx.supports(problem):
        packed = amx.pack_weight(weight, problem)
    elif problem.depthwise:
        packed = pack_depthwise_weight(weight, problem)
    else:
        packed = pack_weight(weight, problem, dot)
    return [packed, *(pack_channels(v, problem.oc) for v in vectors)]


@dataclass(frozen=True)
class Tile:
    """A register tile, and the number of output columns it computes when it does not divide the width."""

    pixels: int
    blocks: int
    columns: int


def _divisors(value: int, limit: int) -> list[int]:
    return [d for d in range(1, min(value, limit) + 1) if value % d == 0]


def choose_tile(problem: Conv2d, dot: DotProduct) -> Tile:
    """The tile with the least estimated cycles.

    A width without a good divisor may be computed with up to ``pixels - 1`` columns more, which are cropped.
    """
    width = problem.output_size[1]
    candidates = [
        Tile(pixels, blocks, -(-width // pixels) * pixels)
        for pixels in range(1, min(width, MAX_TILE_PIXELS) + 1)
        for blocks in _divisors(padded_channels(problem.oc) // dot.lanes, MAX_TILE_BLOCKS)
        if pixels * blocks <= ACCUMULATORS[dot.registers]
    ]
    return min(candidates, key=lambda tile: estimate_cycles(problem, dot, tile))


def estimate_cycles(problem: Conv2d, dot: DotProduct, tile: Tile) -> float:
    """Cycles of the convolution on one core, as far as they depend on the tile."""
    accumulators = tile.pixels * tile.blocks
    loads = tile.pixels + tile.blocks
    if accumulators + tile.blocks + 1 > dot.registers:  # no register for a broadcast: it is loaded for every product
        loads = accumulators + tile.blocks
    step = max(accumulators * dot.cycles, loads / 2, LATENCY_CYCLES) + STEP_CYCLES + LOAD_CYCLES * loads
    reduction = channel_span(problem, dot).size * math.prod(problem.kernel)
    if tile.blocks * dot.lanes * reduction * np.dtype(dot.weight_dtype).itemsize > L1_BYTES:
        step += L2_VECTOR_CYCLES * tile.blocks
    rows, width = problem.n * problem.output_size[0], problem.output_size[1]
    tiles = rows * tile.columns * padded_channels(problem.oc) // (accumulators * dot.lanes)
    copied = 0
    if tile.columns != width:
        copied += rows * (width + tile.columns) * padded_channels(problem.oc)
        if not needs_surround(problem, dot, _columns_read(problem, Tile(1, 1, width))):
            copied += 2 * problem.n * problem.h * problem.w * problem.x_channels
    return tiles * (reduction / dot.depth * step + TILE_CYCLES) + copied / COPY_BYTES_PER_CYCLE


def schedule_conv2d(problem: Conv2d, dot: DotProduct, tile: Tile | None = None) -> Schedule:
    """The convolution, tensorised with ``dot``; ``tile`` defaults to :func:`choose_tile`."""
    tile = tile or choose_tile(problem, dot)
    s = Schedule(conv2d(problem, dot, tile.columns))
    accumulate, result = s.get_sblock("accumulate"), s.get_sblock("result")
    n, h, w, c = s.get_loops(result)
    c_block, lane = s.split(c, [None, dot.lanes])
    w_tile, pixel = s.split(w, [None, tile.pixels])
    c_tile, block = s.split(c_block, [None, tile.blocks])
    outer = (n, c_tile, h) if _weight_bytes(problem, dot) > L2_WEIGHT_BYTES else (n, h, c_tile)
    s.reorder(*outer, w_tile, pixel, block, lane)
    s.set_scope(accumulate, 0, "local")
    s.compute_at(accumulate, w_tile, preserve_unit_loops=True)
    pixel_in, block_in, lane_in, kh, kw, ko, _ki = s.get_loops(accumulate)[-7:]
    s.reorder(kh, kw, ko, pixel_in, block_in, lane_in)
    _parallel(s, s.fuse(*outer), problem)
    init = s.decompose_reduction(accumulate, kh)
    s.tensorize(lane_in, dot.intrinsic)
    s.unroll(pixel_in)
    s.unroll(block_in)
    init_pixel, init_block, init_lane = s.get_loops(init)[-3:]
    s.vectorize(init_lane)
    s.unroll(init_block)
    s.unroll(init_pixel)
    s.vectorize(lane)
    s.unroll(block)
    s.unroll(pixel)
    _schedule_copies(s, problem, needs_surround(problem, dot, _columns_read(problem, tile)), dot.lanes * dot.depth)
    return s


def schedule_depthwise_conv2d(problem: Conv2d, dot: DotProduct) -> Schedule:
    """The depthwise convolution: one vector of channels, a few columns, the window unrolled.

    LLVM turns the 32-bit product of two widened narrow numbers into a 16-bit multiply-add, so no intrinsic is needed.
    """
    s = Schedule(depthwise_conv2d(problem))
    accumulate, result = s.get_sblock("accumulate"), s.get_sblock("result")
    n, h, w, c = s.get_loops(result)
    c_block, lane = s.split(c, [None, dot.lanes])
    pixels = max(_divisors(problem.output_size[1], DEPTHWISE_TILE))
    w_tile, pixel = s.split(w, [None, pixels])
    s.reorder(n, h, c_block, w_tile, pixel, lane)
    s.set_scope(accumulate, 0, "local")
    s.compute_at(accumulate, w_tile, preserve_unit_loops=True)
    pixel_in, lane_in, kh, kw = s.get_loops(accumulate)[-4:]
    s.reorder(kh, kw, pixel_in, lane_in)
    rows = s.fuse(n, h)
    _parallel(s, rows, problem)
    s.vectorize(lane_in)
    init = s.decompose_reduction(accumulate, kh)
    s.unroll(pixel_in)
    s.unroll(kw)
    s.unroll(kh)
    s.unroll(s.get_loops(init)[-2])
    s.vectorize(lane)
    s.unroll(pixel)
    _schedule_copies(s, problem, any(problem.padding), dot.lanes)
    return s


def _weight_bytes(problem: Conv2d, dot: DotProduct) -> int:
    taps = channel_span(problem, dot).size * math.prod(problem.kernel)
    return padded_channels(problem.oc) * taps * np.dtype(dot.weight_dtype).itemsize


def _columns_read(problem: Conv2d, tile: Tile) -> int:
    return (tile.columns - 1) * problem.strides[1] + (problem.kernel[1] - 1) * problem.dilation[1] + 1


def _parallel(s: Schedule, loop: tvm.s_tir.schedule.LoopRV, problem: Conv2d) -> None:
    if problem.macs >= MIN_PARALLEL_MACS:
        s.parallel(loop)


def _schedule_copies(s: Schedule, problem: Conv2d, surrounded: bool, vector: int) -> None:
    """The copies before and after: rows in parallel, channels in vectors."""
    names = ["surrounded"] if surrounded else []
    if any(s.get(block).name_hint == "cropped" for block in s.get_child_blocks(s.get_sblock("root"))):
        names.append("cropped")
    for name in names:
        n, h, _, c = s.get_loops(s.get_sblock(name))
        channels = int(s.get(c).extent)
        widest = max(_divisors(channels, vector))
        s.vectorize(s.split(c, [None, widest])[1])
        _parallel(s, s.fuse(n, h), problem)
