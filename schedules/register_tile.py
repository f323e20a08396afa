"""Convolutions as register tiles, whatever the width of the vectors.

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

from .compute.conv2d import (
    Conv2d,
    channel_span,
    conv2d,
    needs_surround,
    pack_channels,
    pack_weight,
    padded_channels,
)
from .copies import parallel, schedule_copies
from .intrinsics.x86 import DotProduct
from .template import Knobs, Template

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


class RegisterTile(Template):
    """The template that computes every convolution; depthwise ones have better."""

    name = "register-tile"

    def supports(self, problem: Conv2d, dot: DotProduct) -> bool:
        return not problem.depthwise

    def space(self, problem: Conv2d, dot: DotProduct) -> dict[str, tuple[int, ...]]:
        width = min(problem.output_size[1], MAX_TILE_PIXELS)
        return {
            "pixels": tuple(range(1, width + 1)),
            "blocks": tuple(divisors(padded_channels(problem.oc) // dot.lanes, MAX_TILE_BLOCKS)),
            "weights_first": (0, 1),
        }

    def admits(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> bool:
        return knobs["pixels"] * knobs["blocks"] <= ACCUMULATORS[dot.registers]

    def default(self, problem: Conv2d, dot: DotProduct) -> Knobs:
        tile = choose_tile(problem, dot)
        weights_first = weight_bytes(problem, dot) > L2_WEIGHT_BYTES
        return {"pixels": tile.pixels, "blocks": tile.blocks, "weights_first": int(weights_first)}

    def build(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> tvm.tirx.PrimFunc:
        tile = tile_of(problem, knobs["pixels"], knobs["blocks"])
        return schedule_conv2d(problem, dot, tile, weights_first=bool(knobs["weights_first"])).mod["main"]

    def constants(
        self,
        problem: Conv2d,
        dot: DotProduct,
        knobs: Knobs,
        arrays: Sequence[np.ndarray],
    ) -> list[np.ndarray]:
        weight, *vectors = arrays
        return [pack_weight(weight, problem, dot), *(pack_channels(v, problem.oc) for v in vectors)]


@dataclass(frozen=True)
class Tile:
    """A register tile, and the number of output columns it computes when it does not divide the width."""

    pixels: int
    blocks: int
    columns: int


def tile_of(problem: Conv2d, pixels: int, blocks: int) -> Tile:
    """A tile, whose columns are the width rounded up."""
    return Tile(pixels, blocks, -(-problem.output_size[1] // pixels) * pixels)


def divisors(value: int, limit: int) -> list[int]:
    """All divisors of ``value`` up to ``limit``."""
    return [d for d in range(1, min(value, limit) + 1) if value % d == 0]


def choose_tile(problem: Conv2d, dot: DotProduct) -> Tile:
    """The tile with the least estimated cycles.

    A width without a good divisor may be computed with up to ``pixels - 1`` columns more, which are cropped.
    """
    width = problem.output_size[1]
    candidates = [
        tile_of(problem, pixels, blocks)
        for pixels in range(1, min(width, MAX_TILE_PIXELS) + 1)
        for blocks in divisors(padded_channels(problem.oc) // dot.lanes, MAX_TILE_BLOCKS)
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


def schedule_conv2d(problem: Conv2d, dot: DotProduct, tile: Tile, *, weights_first: bool) -> Schedule:
    """The convolution, tensorised with ``dot``.

    ``weights_first``: the whole image passes for each slice of the weights, instead of all weights for each image row.
    """
    s = Schedule(conv2d(problem, dot, tile.columns))
    accumulate, result = s.get_sblock("accumulate"), s.get_sblock("result")
    n, h, w, c = s.get_loops(result)
    c_block, lane = s.split(c, [None, dot.lanes])
    w_tile, pixel = s.split(w, [None, tile.pixels])
    c_tile, block = s.split(c_block, [None, tile.blocks])
    outer = (n, c_tile, h) if weights_first else (n, h, c_tile)
    s.reorder(*outer, w_tile, pixel, block, lane)
    s.set_scope(accumulate, 0, "local")
    s.compute_at(accumulate, w_tile, preserve_unit_loops=True)
    pixel_in, block_in, lane_in, kh, kw, ko, _ki = s.get_loops(accumulate)[-7:]
    s.reorder(kh, kw, ko, pixel_in, block_in, lane_in)
    parallel(s, s.fuse(*outer), problem)
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
    schedule_copies(s, problem, needs_surround(problem, dot, _columns_read(problem, tile)), dot.lanes * dot.depth)
    return s


def weight_bytes(problem: Conv2d, dot: DotProduct) -> int:
    """Of the packed weights."""
    taps = channel_span(problem, dot).size * math.prod(problem.kernel)
    return padded_channels(problem.oc) * taps * np.dtype(dot.weight_dtype).itemsize


def _columns_read(problem: Conv2d, tile: Tile) -> int:
    return (tile.columns - 1) * problem.strides[1] + (problem.kernel[1] - 1) * problem.dilation[1] + 1
