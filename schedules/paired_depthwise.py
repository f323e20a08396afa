"""Depthwise convolution with 256-bit vectors: 8 channels at once, two rows of the window in one instruction.

``vpmaddwd`` adds two products to each of 8 sums. Here the two are neighbouring rows of one column of the window, for
the same channel: their bytes are interleaved and widened to 16 bits, where no sum of products can overflow, and serve
every output that the column belongs to. The last of an odd number of rows is paired with zeros.
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

from . import byte_epilogue
from .compute.conv2d import Conv2d, pack_channels, padded_channels
from .intrinsics.x86 import DotProduct
from .rows import view
from .surround import surrounded
from .template import Knobs, Template
from .threads import MIN_PARALLEL_MACS

LANES = byte_epilogue.LANES

MAX_TILE_COLUMNS = 8
"""Output columns of a tile: 8 of the 16 registers hold their sums, six the weights of a window of 3x3."""


class PairedDepthwise(Template):
    """The template for depthwise convolutions with bytes as results on a CPU with 256-bit vectors."""

    name = "paired-depthwise"

    def supports(self, problem: Conv2d, dot: DotProduct) -> bool:
        return dot.lanes == LANES and problem.depthwise and byte_epilogue.supports(problem) and not problem.stages

    def space(self, problem: Conv2d, dot: DotProduct) -> dict[str, tuple[int, ...]]:
        return {"columns": tuple(range(1, min(MAX_TILE_COLUMNS, problem.output_size[1]) + 1))}

    def default(self, problem: Conv2d, dot: DotProduct) -> Knobs:
        width = problem.output_size[1]
        return {"columns": -(-width // -(-width // MAX_TILE_COLUMNS))}

    def build(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> tvm.tirx.PrimFunc:
        return depthwise_conv2d(problem, knobs["columns"])

    def constants(
        self, problem: Conv2d, dot: DotProduct, knobs: Knobs, arrays: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        weight, *vectors = arrays
        return [_pack_weight(weight, problem), *(pack_channels(v, problem.oc) for v in vectors)]


def _row_pairs(problem: Conv2d) -> int:
    return -(-problem.kernel[0] // 2)


def _pack_weight(weight: np.ndarray, problem: Conv2d) -> np.ndarray:
    """(C, 1, KH, KW) to (blocks, KW, row pairs, lanes * 2) int16, zero for the row that the window lacks."""
    kh, kw = problem.kernel
    taps = np.zeros((padded_channels(problem.oc), 2 * _row_pairs(problem), kw), np.int16)
    taps[: problem.oc, :kh] = weight[:, 0]
    split = taps.reshape(-1, LANES, _row_pairs(problem), 2, kw)
    return np.ascontiguousarray(split.transpose(0, 4, 2, 1, 3)).reshape(-1, kw, _row_pairs(problem), 2 * LANES)


def depthwise_conv2d(problem: Conv2d, tile: int) -> tvm.tirx.PrimFunc:
    """The convolution in tiles of ``tile`` columns. Arguments: x, weight (packed), bias, multiplier, result."""
    oh, ow = problem.output_size
    channels = padded_channels(problem.oc)
    blocks = channels // LANES
    weight_shape = (blocks, problem.kernel[1], _row_pairs(problem), 2 * LANES)
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            x = builder.arg("x", T.Buffer((problem.n, problem.h, problem.w, channels), "uint8"))
            weight = builder.arg("weight", T.Buffer(weight_shape, "int16"))
            bias = builder.arg("bias", T.Buffer((channels,), "int32"))
            multiplier = builder.arg("multiplier", T.Buffer((channels,), "float32"))
            result = builder.arg("result", T.Buffer((problem.n, oh, ow, channels), "uint8"))
            builder.func_attr({"tirx.noalias": True})
            image, width = surrounded(x, problem) if any(problem.padding) else (x, problem.w)
            rows = problem.h + problem.padding[0] + problem.padding[2]
            pixels = view(image, (problem.n * rows * width, channels))
            loop = builder.parallel if problem.macs >= MIN_PARALLEL_MACS else builder.serial
            with loop(0, problem.n * oh) as row:
                sums = builder.alloc_buffer((tile * LANES,), "int32", scope="local")
                first_row = row // oh * rows + row % oh * problem.strides[0]
                with builder.serial(0, blocks) as block, builder.serial(0, -(-ow // tile)) as step:
                    column = tirx.min(step * tile, ow - tile)
                    first = first_row * width + column * problem.strides[1]
                    _accumulate(problem, tile, pixels, first, width, weight, bias, block, sums)
                    at = row // oh, row % oh, column
                    byte_epilogue.store(problem, [bias, multiplier], sums, tile, at, block * LANES, result)
        return ib.get()


def _accumulate(
    problem: Conv2d,
    tile: int,
    pixels: Any,
    first: Expr,
    width: int,
    weight: Any,
    bias: Any,
    block: Expr,
    sums: Any,
) -> None:
    """The sums of ``tile`` columns; each column of the image is interleaved once for all outputs that read it."""
    (kh, kw), (_, sw), (dh, dw) = problem.kernel, problem.strides, problem.dilation
    start = builder.bind(bias[tirx.Ramp(block * LANES, 1, LANES)])
    for o in range(tile):
        builder.buffer_store(sums, start, [tirx.Ramp(o * LANES, 1, LANES)])
    for offset in range((tile - 1) * sw + (kw - 1) * dw + 1):
        readers = [(o, k) for o in range(tile) for k in range(kw) if o * sw + k * dw == offset]
        if not readers:
            continue
        for pair in range(_row_pairs(problem)):
            rows = [first + offset + r * dh * width for r in range(2 * pair, min(2 * pair + 2, kh))]
            words = _words(pixels, rows, block * LANES)
            for o, k in readers:
                at = tirx.Ramp(o * LANES, 1, LANES)
                tap = weight[block, k, pair, tirx.Ramp(0, 1, 2 * LANES)]
                product = _call("llvm.x86.avx2.pmadd.wd", f"int32x{LANES}", words, tap)
                builder.buffer_store(sums, sums[at] + product, [at])


def _words(pixels: Any, rows: list[Expr], channel: Expr) -> Expr:
    """A vector of 8 x 2 words: one or two rows of the same channel side by side."""
    loaded = [builder.bind(pixels[row, tirx.Ramp(channel, 1, LANES)]) for row in rows]
    if len(rows) == 1:
        return builder.bind(tirx.reinterpret(f"int16x{2 * LANES}", loaded[0].astype(f"int32x{LANES}")))
    order = [tirx.const(i, "int32") for c in range(LANES) for i in (c, LANES + c)]
    return builder.bind(tirx.Shuffle(loaded, order).astype(f"int16x{2 * LANES}"))


def _call(name: str, dtype: str, *args: Expr) -> Expr:
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *args, dtype=dtype)
