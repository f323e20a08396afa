"""Convolution with AVX512-VNNI: sums of a few pixels by 32 channels stay in registers up to the packed epilogue.

A tile has up to fourteen neighbouring pixels of an output row, or some whole rows, of one or two slices of 32 channels.
A step of the reduction loads two vectors of weights a slice, broadcasts four input channels a pixel and multiplies each
pair of them. Where the width is no multiple of the tile, the last tile of a row starts early and computes some pixels
twice; nothing is copied or cropped. The sums start from the bias and go through :mod:`schedules.packed_epilogue`.

A short reduction is unrolled: all weights of a slice stay in registers while a strip of pixels passes.
"""

from __future__ import annotations

import itertools
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

from . import packed_epilogue
from .compute.conv2d import Conv2d, epilogue_arguments, padded_channels
from .compute.stages import Add
from .intrinsics.x86 import DotProduct
from .packed_epilogue import CHANNEL_ORDER, CHANNELS, PackedEpilogue
from .prefetch import CACHE_LINE, prefetch
from .rows import flat, view
from .surround import surrounded
from .template import Knobs, Template
from .threads import MIN_PARALLEL_MACS
from .vectors import LANES, llvm_call

DEPTH, VECTORS = 4, CHANNELS // LANES
"""Input channels of a product; vectors of sums a pixel."""

MIN_PIXELS, MAX_PIXELS = packed_epilogue.PIXELS, {1: 14, 2: 6}
"""Of a tile: the epilogue takes two at a time; at most, by slices: sums, two weights a slice and a broadcast stay in
the 32 registers."""

LATENCY_CYCLES, STEP_CYCLES, TILE_CYCLES, EPILOGUE_CYCLES = 5.0, 1.0, 20.0, 6.0
"""What a step takes at least, what its loop costs, what a tile costs besides, and the epilogue of a pixel's slice."""

ADD_CYCLES, ADD_PIXELS, SPILL_CYCLES = 11.0, 12, 3.0
"""What a residual addition costs besides, by pixel and slice; in tiles of up to 12 pixels its constants find registers,
in larger ones LLVM moves vectors to the stack and back."""

MAX_RESIDENT_STEPS, RESIDENT_PIXELS, STRIP_PIXELS = 9, 4, 128
"""Steps whose weights stay in registers, with the sums and the epilogue's constants; pixels of such a tile, enough not
to wait for a product; pixels, at most, that pass one slice after the other and stay in the L1 cache."""

L2_WEIGHT_BYTES = 1024 * 1024
"""Up to here the weights stay in the L2 cache, and all channels of a tile of pixels are computed before the next: the
pixels stay in L1, results are written and residuals read in whole cache lines. Larger weights pass once."""


class PackedTile(Template):
    """The template for convolutions whose result is bytes, on a CPU with AVX512-VNNI."""

    name = "packed-tile"

    def supports(self, problem: Conv2d, dot: DotProduct) -> bool:
        return (
            dot.interleaves
            and problem.groups == 1
            and problem.weight_dtype == "int8"
            and packed_epilogue.supports(problem)
            and _row_pixels(problem) >= MIN_PIXELS
        )

    def space(self, problem: Conv2d, dot: DotProduct) -> dict[str, tuple[int, ...]]:
        width, height = _row_pixels(problem), 1 if _is_flat(problem) else problem.output_size[0]
        whole_rows = [rows * width for rows in range(2, min(MAX_PIXELS[1] // width, height) + 1)]
        return {
            "pixels": (*range(MIN_PIXELS, min(MAX_PIXELS[1], width) + 1), *whole_rows),
            "slices": (1,) if _slices(problem) % 2 else (1, 2),
            "weights_first": (0, 1),
            "resident": (0, 1) if _steps(problem) <= MAX_RESIDENT_STEPS and width >= RESIDENT_PIXELS else (0,),
        }

    def admits(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> bool:
        if knobs["resident"]:
            return (knobs["pixels"], knobs["slices"], knobs["weights_first"]) == (RESIDENT_PIXELS, 1, 0)
        return knobs["pixels"] <= MAX_PIXELS[knobs["slices"]]

    def default(self, problem: Conv2d, dot: DotProduct) -> Knobs:
        space = self.space(problem, dot)
        if 1 in space["resident"]:
            return {"pixels": RESIDENT_PIXELS, "slices": 1, "weights_first": 0, "resident": 1}
        tiles = [(p, s) for p in space["pixels"] for s in space["slices"] if p <= MAX_PIXELS[s]]
        pixels, slices = min(tiles, key=lambda tile: _estimate_cycles(problem, *tile))
        weight_bytes = _slices(problem) * CHANNELS * math.prod(problem.kernel) * problem.x_channels
        weights_first = int(weight_bytes > L2_WEIGHT_BYTES)
        return {"pixels": pixels, "slices": slices, "weights_first": weights_first, "resident": 0}

    def build(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> tvm.tirx.PrimFunc:
        tile = knobs["pixels"], knobs["slices"]
        return conv2d(problem, *tile, weights_first=bool(knobs["weights_first"]), resident=bool(knobs["resident"]))

    def constants(
        self, problem: Conv2d, dot: DotProduct, knobs: Knobs, arrays: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        weight, *vectors = arrays
        return [_pack_weight(weight, problem), *(_in_slices(v, problem) for v in vectors)]


def _is_flat(problem: Conv2d) -> bool:
    """Whether all images together are one row of pixels."""
    return problem.kernel == (1, 1) and problem.strides == (1, 1) and not any(problem.padding)


def _row_pixels(problem: Conv2d) -> int:
    oh, ow = problem.output_size
    return problem.n * oh * ow if _is_flat(problem) else ow


def _tiles_an_image(problem: Conv2d, pixels: int) -> int:
    """Of all images together where they are flat."""
    width, height = _row_pixels(problem), 1 if _is_flat(problem) else problem.output_size[0]
    return -(-height // (pixels // width)) if pixels > width else height * -(-width // pixels)


def _slices(problem: Conv2d) -> int:
    return -(-padded_channels(problem.oc) // CHANNELS)


def _quads(problem: Conv2d) -> int:
    """Products of a pixel of the window."""
    return -(-problem.ic // DEPTH)


def _steps(problem: Conv2d) -> int:
    """Of the reduction."""
    return math.prod(problem.kernel) * _quads(problem)


def _estimate_cycles(problem: Conv2d, pixels: int, slices: int) -> float:
    """Cycles of an image and 32 channels."""
    step = (max(pixels * slices * VECTORS / 2, LATENCY_CYCLES) + STEP_CYCLES) / slices
    epilogue = EPILOGUE_CYCLES
    if any(isinstance(stage, Add) for stage in problem.stages):
        epilogue += ADD_CYCLES + SPILL_CYCLES * (pixels * slices > ADD_PIXELS)
    tile = _steps(problem) * step + TILE_CYCLES / slices + epilogue * 2 * -(-pixels // 2)
    return _tiles_an_image(problem, pixels) * tile


def _in_slices(values: np.ndarray, problem: Conv2d) -> np.ndarray:
    """(C, ...) to (slices * 32, ...), the channels in the epilogue's order; the last slice starts early."""
    channels = padded_channels(problem.oc)
    padded = np.pad(values, [(0, channels - len(values)), *[(0, 0)] * (values.ndim - 1)])
    starts = [min(part * CHANNELS, channels - CHANNELS) for part in range(_slices(problem))]
    return np.concatenate([padded[start + CHANNEL_ORDER] for start in starts])


def _pack_weight(weight: np.ndarray, problem: Conv2d) -> np.ndarray:
    """(O, C, KH, KW) to (slices, KH, KW, channels / 4, 2, 16, 4), in the order in which the kernel reads."""
    filters = _in_slices(weight, problem)
    dense = np.zeros((len(filters), *problem.kernel, _quads(problem) * DEPTH), np.int8)
    dense[:, :, :, : problem.ic] = filters.transpose(0, 2, 3, 1)
    split = dense.reshape(_slices(problem), VECTORS, LANES, *problem.kernel, _quads(problem), DEPTH)
    return np.ascontiguousarray(split.transpose(0, 3, 4, 5, 1, 2, 6))


def conv2d(
    problem: Conv2d, pixels: int, slices_a_tile: int, *, weights_first: bool, resident: bool
) -> tvm.tirx.PrimFunc:
    """The scheduled convolution; arguments as for ``compute.conv2d.conv2d``, the constants packed as above."""
    oh, ow = problem.output_size
    channels, slices = padded_channels(problem.oc), _slices(problem)
    arguments = epilogue_arguments(problem)
    arguments[:2] = [(name, (slices * CHANNELS,), dtype) for name, _, dtype in arguments[:2]]
    weight_shape = (slices, *problem.kernel, _quads(problem), VECTORS, LANES, DEPTH)
    tiles = (1 if _is_flat(problem) else problem.n) * _tiles_an_image(problem, pixels)
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            x = builder.arg("x", T.Buffer((problem.n, problem.h, problem.w, problem.x_channels), "uint8"))
            weight = builder.arg("weight", T.Buffer(weight_shape, "int8"))
            extra = [builder.arg(name, T.Buffer(shape, dtype)) for name, shape, dtype in arguments]
            result = builder.arg("result", T.Buffer((problem.n, oh, ow, channels), problem.result_dtype))
            builder.func_attr({"tirx.noalias": True})
            image, image_width = surrounded(x, problem) if any(problem.padding) else (x, problem.w)
            rows = (1, 1, problem.n * oh * ow, channels)
            bias, multiplier, *residual = [view(b, rows) if len(b.shape) == 4 else b for b in extra]
            parts = slices // slices_a_tile
            strip = _strip_tiles(problem, pixels, tiles) if resident else 1
            strips = -(-tiles // strip)
            outer, inner = (parts, strips) if weights_first else (strips, parts)
            loop = builder.parallel if problem.macs >= MIN_PARALLEL_MACS else builder.serial
            with loop(0, outer) as i, builder.serial(0, inner) as j, builder.serial(0, strip) as in_strip:
                part, tile = (i, j * strip + in_strip) if weights_first else (j, i * strip + in_strip)
                source, target = _tile_start(problem, image_width, tile, pixels)
                sums = builder.alloc_buffer((slices_a_tile * VECTORS, pixels, LANES), "int32", scope="local")
                own = [part * slices_a_tile + s for s in range(slices_a_tile)]
                tile_of_sums = _Tile(problem, pixels, own, flat(image), image_width, weight, sums)
                tile_of_sums.start(bias)
                if resident:
                    tile_of_sums.multiply_unrolled(source)
                else:
                    tile_of_sums.multiply(source)
                for s, index in enumerate(own):
                    channel = index * CHANNELS
                    if channels % CHANNELS:
                        channel = tirx.min(channel, channels - CHANNELS)
                    epilogue = PackedEpilogue(problem, index, channel, multiplier, view(result, rows), *residual)
                    for pair in range(-(-pixels // packed_epilogue.PIXELS)):
                        row = min(pair * packed_epilogue.PIXELS, pixels - packed_epilogue.PIXELS)
                        results = [(target + row + i, None) for i in range(packed_epilogue.PIXELS)]
                        epilogue.store_pair(sums, s * VECTORS, tirx.const(row, "int32"), results)
        return ib.get()


def _tile_start(problem: Conv2d, image_width: int, tile: Expr, pixels: int) -> tuple[Expr, Expr]:
    """Of a tile's first pixel: the position in the (surrounded) image's pixels, and in the result's."""
    width = _row_pixels(problem)
    if _is_flat(problem):
        start = tirx.min(tile * pixels, width - pixels)
        return start, start
    height, (top, _, bottom, _) = problem.output_size[0], problem.padding
    tiles = _tiles_an_image(problem, pixels)
    image, tile = tile // tiles, tile % tiles
    if pixels > width:
        row, column = tirx.min(tile * (pixels // width), height - pixels // width), tirx.const(0, "int32")
    else:
        tiles_a_row = -(-width // pixels)
        row, column = tile // tiles_a_row, tirx.min(tile % tiles_a_row * pixels, width - pixels)
    image_row = image * (problem.h + top + bottom) + row * problem.strides[0]
    return image_row * image_width + column * problem.strides[1], (image * height + row) * width + column


def _strip_tiles(problem: Conv2d, pixels: int, tiles: int) -> int:
    """Tiles of a strip: a row of the result, or equal parts where all rows are one."""
    if not _is_flat(problem):
        return -(-_row_pixels(problem) // pixels)
    strips = -(-tiles * pixels // STRIP_PIXELS)
    return -(-tiles // strips)


@dataclass(frozen=True)
class _Tile:
    """The sums of a tile.

    Attributes:
        problem, pixels: what is computed; pixels of the tile.
        slices: of channels.
        image, image_width: all bytes of the (surrounded) image; pixels a row.
        weight: as packed.
        sums: (slices * 2, pixels, 16).
    """

    problem: Conv2d
    pixels: int
    slices: list[Expr]
    image: Any
    image_width: int
    weight: Any
    sums: Any

    def start(self, bias: Any) -> None:
        """The sums are the bias."""
        for slot, (index, vector) in enumerate(itertools.product(self.slices, range(VECTORS))):
            start = builder.bind(bias[tirx.Ramp(index * CHANNELS + vector * LANES, 1, LANES)])
            for pixel in range(self.pixels):
                builder.buffer_store(self.sums, start, [slot, pixel, tirx.Ramp(0, 1, LANES)])

    def multiply(self, source: Expr) -> None:
        """Add the products of the window at pixel ``source`` and those beside it, in a loop over the reduction."""
        with (
            builder.serial(0, self.problem.kernel[0]) as kh,
            builder.serial(0, self.problem.kernel[1]) as kw,
            builder.serial(0, _quads(self.problem)) as quad,
        ):
            self._prefetch(kh, kw, quad)
            self._step(builder.bind(self._first_byte(source, kh, kw, quad)), kh, kw, quad)

    def multiply_unrolled(self, source: Expr) -> None:
        """The same without a loop; LLVM loads the weights, the same for all tiles, before a strip."""
        first = builder.bind(source * self.problem.x_channels)
        for kh, kw, quad in itertools.product(*map(range, self.problem.kernel), range(_quads(self.problem))):
            self._step(first + self._first_byte(0, kh, kw, quad), kh, kw, quad)

    def _prefetch(self, kh: Expr, kw: Expr, quad: Expr) -> None:
        """Ask for what the next tile's slices read in this step; after the last ones, the next layer's weights."""
        weight, ahead = flat(self.weight), len(self.slices) * _steps(self.problem)
        step = (kh * self.problem.kernel[1] + kw) * _quads(self.problem) + quad
        for index, vector in itertools.product(self.slices, range(VECTORS)):
            at = (index * _steps(self.problem) + ahead + step) * VECTORS + vector
            prefetch(weight[at * CACHE_LINE])

    def _step(self, first: Expr, kh: Any, kw: Any, quad: Any) -> None:
        """The products of four input channels, which start at byte ``first`` for the first pixel."""
        lanes = tirx.Ramp(0, 1, LANES)
        factors = [
            builder.bind(self.weight[index, kh, kw, quad, vector, 0, tirx.Ramp(0, 1, LANES * DEPTH)])
            for index, vector in itertools.product(self.slices, range(VECTORS))
        ]
        for pixel, offset in enumerate(self._pixel_offsets()):
            four = tirx.reinterpret("int32", self.image[tirx.Ramp(first + offset, 1, DEPTH)])
            operand = builder.bind(tirx.reinterpret(f"uint8x{LANES * DEPTH}", tirx.Broadcast(four, LANES)))
            for slot, factor in enumerate(factors):
                sums = self.sums[slot, pixel, lanes]
                total = llvm_call("x86.avx512.vpdpbusd.512", f"int32x{LANES}", sums, operand, factor)
                builder.buffer_store(self.sums, total, [slot, pixel, lanes])

    def _first_byte(self, source: Any, kh: Any, kw: Any, quad: Any) -> Any:
        """Of four channels, where the window of the pixel ``source`` begins there."""
        problem = self.problem
        window = kh * (problem.dilation[0] * self.image_width) + kw * problem.dilation[1]
        return (source + window) * problem.x_channels + quad * DEPTH

    def _pixel_offsets(self) -> list[int]:
        """Bytes from the first pixel of the tile to each, in the image."""
        width, (sh, sw) = _row_pixels(self.problem), self.problem.strides
        pixels = [p // width * sh * self.image_width + p % width * sw for p in range(self.pixels)]
        return [pixel * self.problem.x_channels for pixel in pixels]
