"""Depthwise convolution with AVX512-VNNI: 64 channels at once, up to four rows of the window in one instruction.

``vpdpbusd`` adds four products to each of 16 sums. Here the four are the rows of one column of the window, for the same
channel: the bytes of four image rows are interleaved with the byte and word unpack instructions, whose result serves
every output that the column belongs to. The unpacks work within 128-bit quarters, so that sum ``4 q + e`` of vector
``v`` belongs to channel ``16 q + 4 v + e`` of 64; weights, biases and multipliers are packed in that order, and the
saturating packs of the epilogue, which work within quarters too, bring the result back into order.
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

from .compute.conv2d import Conv2d, padded_channels
from .intrinsics.x86 import DotProduct
from .rows import view
from .surround import surrounded
from .template import Knobs, Template
from .threads import MIN_PARALLEL_MACS

BLOCK, VECTORS, LANES, ROWS = 64, 4, 16, 4
"""Channels of a step; its vectors of sums; sums of a vector; rows of the window in one dot product."""

MAX_KERNEL_ROWS = ROWS
"""Taller windows would need a second interleaving."""

TILE_COLUMNS, MAX_TILE_COLUMNS = 4, 6
"""Output columns of a tile: at 4, 16 of the 32 registers hold their sums, at 6, 24."""

LARGEST = 2.0**30
"""Sums times multiplier are cut here, so that the conversion to int32 cannot wrap; the packs saturate to 0..255."""

_CHANNEL = np.array([16 * q + 4 * v + e for v in range(VECTORS) for q in range(4) for e in range(4)])
"""Channel, within a block, of each sum in the order of the vectors."""


MAX_WASTE, MAX_WASTE_LARGE, LARGE_IMAGE = 1.2, 1.34, 1024
"""Channels computed by channels wanted, up to which this beats 16 channels at a time; and the same for results of at
least 1024 pixels, where the start of each row counts less."""


class InterleavedDepthwise(Template):
    """The template for depthwise convolutions of 64 channels and more."""

    name = "interleaved-depthwise"

    def supports(self, problem: Conv2d, dot: DotProduct) -> bool:
        channels = padded_channels(problem.oc)
        waste = -(-channels // BLOCK) * BLOCK / channels
        oh, ow = problem.output_size
        return (
            dot.interleaves
            and problem.depthwise
            and waste <= (MAX_WASTE_LARGE if oh * ow >= LARGE_IMAGE else MAX_WASTE)
            and problem.weight_dtype == "int8"
            and channels >= BLOCK
            and problem.kernel[0] <= MAX_KERNEL_ROWS
            and problem.output.dtype == "uint8"
            and not problem.window_sum
            and not problem.stages
        )

    def space(self, problem: Conv2d, dot: DotProduct) -> dict[str, tuple[int, ...]]:
        return {"columns": tuple(range(1, min(MAX_TILE_COLUMNS, problem.output_size[1]) + 1))}

    def default(self, problem: Conv2d, dot: DotProduct) -> Knobs:
        return {"columns": min(TILE_COLUMNS, problem.output_size[1])}

    def build(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> tvm.tirx.PrimFunc:
        return depthwise_conv2d(problem, knobs["columns"])

    def constants(
        self,
        problem: Conv2d,
        dot: DotProduct,
        knobs: Knobs,
        arrays: Sequence[np.ndarray],
    ) -> list[np.ndarray]:
        weight, *vectors = arrays
        return [_pack_weight(weight, problem), *(_pack_channels(v, problem) for v in vectors)]


def _block_starts(channels: int) -> list[int]:
    """First channels of the blocks; the last one starts early where the channels are no multiple of a block."""
    return [min(start, channels - BLOCK) for start in range(0, channels, BLOCK)]


def _pack_weight(weight: np.ndarray, problem: Conv2d) -> np.ndarray:
    """(C, 1, KH, KW) int8 to (blocks, KW, vectors, lanes, rows), zero for rows that the window lacks."""
    channels = padded_channels(problem.oc)
    taps = np.zeros((channels, ROWS, problem.kernel[1]), np.int8)
    taps[: problem.oc, : problem.kernel[0]] = weight[:, 0]
    blocks = np.stack([taps[start + _CHANNEL] for start in _block_starts(channels)])
    ordered = blocks.reshape(len(blocks), VECTORS, LANES, ROWS, problem.kernel[1])
    return np.ascontiguousarray(ordered.transpose(0, 4, 1, 2, 3))


def _pack_channels(values: np.ndarray, problem: Conv2d) -> np.ndarray:
    """(C,) to (blocks, vectors, lanes)."""
    channels = padded_channels(problem.oc)
    padded = np.pad(values, (0, channels - len(values)))
    blocks = np.stack([padded[start + _CHANNEL] for start in _block_starts(channels)])
    return np.ascontiguousarray(blocks.reshape(-1, VECTORS, LANES))


def depthwise_conv2d(problem: Conv2d, tile: int) -> tvm.tirx.PrimFunc:
    """The convolution in tiles of ``tile`` columns. Arguments: x, weight, bias, multiplier (all packed), result."""
    oh, ow = problem.output_size
    channels = padded_channels(problem.oc)
    blocks = len(_block_starts(channels))
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            x = builder.arg("x", T.Buffer((problem.n, problem.h, problem.w, channels), "uint8"))
            weight = builder.arg("weight", T.Buffer((blocks, problem.kernel[1], VECTORS, LANES, ROWS), "int8"))
            bias = builder.arg("bias", T.Buffer((blocks, VECTORS, LANES), "int32"))
            multiplier = builder.arg("multiplier", T.Buffer((blocks, VECTORS, LANES), "float32"))
            result = builder.arg("result", T.Buffer((problem.n, oh, ow, channels), "uint8"))
            builder.func_attr({"tirx.noalias": True})
            image, width = surrounded(x, problem) if any(problem.padding) else (x, problem.w)
            rows = problem.h + problem.padding[0] + problem.padding[2]
            pixels = view(image, (problem.n * rows * width, channels))
            out = view(result, (problem.n * oh * ow, channels))
            loop = builder.parallel if problem.macs >= MIN_PARALLEL_MACS else builder.serial
            with loop(0, problem.n * oh) as row, builder.serial(0, blocks) as block:
                first_row = row // oh * rows + row % oh * problem.strides[0]
                channel = tirx.min(block * BLOCK, channels - BLOCK)
                with builder.serial(0, -(-ow // tile)) as step:
                    column = tirx.min(step * tile, ow - tile)
                    sums = builder.alloc_buffer((tile * BLOCK,), "int32", scope="local", align=BLOCK)
                    _accumulate(problem, tile, pixels, first_row * width, column, width, channel, weight, block, sums)
                    _requantise(problem, tile, sums, bias, multiplier, block, out, row * ow + column, channel)
        return ib.get()


def _accumulate(
    problem: Conv2d,
    tile: int,
    pixels: Any,
    first_pixel: Expr,
    column: Expr,
    width: int,
    channel: Expr,
    weight: Any,
    block: Expr,
    sums: Any,
) -> None:
    """The sums of ``tile`` columns; each column of the image is interleaved once for all outputs that read it."""
    (kh, kw), (_, sw), (dh, dw) = problem.kernel, problem.strides, problem.dilation
    for i in range(tile * VECTORS):
        builder.buffer_store(sums, tirx.Broadcast(tirx.const(0, "int32"), LANES), [tirx.Ramp(i * LANES, 1, LANES)])
    for offset in range((tile - 1) * sw + (kw - 1) * dw + 1):
        readers = [(o, k) for o in range(tile) for k in range(kw) if o * sw + k * dw == offset]
        if not readers:
            continue
        base = first_pixel + column * sw + offset
        rows = [builder.bind(pixels[base + r * dh * width, tirx.Ramp(channel, 1, BLOCK)]) for r in range(kh)]
        for v, quads in enumerate(_interleaved(rows)):
            for o, k in readers:
                at = tirx.Ramp((o * VECTORS + v) * LANES, 1, LANES)
                product = T.call_llvm_pure_intrin(
                    T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"),
                    sums[at],
                    quads,
                    weight[block, k, v, 0, tirx.Ramp(0, 1, BLOCK)],
                    dtype=f"int32x{LANES}",
                )
                builder.buffer_store(sums, product, [at])


def _unpack(a: Expr, b: Expr, size: int, high: bool) -> Expr:
    """Interleave elements of ``size`` bytes of the low or high halves of each 128-bit quarter."""
    order = []
    for quarter in range(4):
        for i in range(8 // size):
            start = 16 * quarter + 8 * high + i * size
            order += [*range(start, start + size), *range(BLOCK + start, BLOCK + start + size)]
    return tirx.Shuffle([a, b], [tirx.const(i, "int32") for i in order])


def _interleaved(rows: list[Expr]) -> list[Expr]:
    """Four vectors, each with the bytes of up to four ``rows`` for 16 channels."""
    zero = tirx.Broadcast(tirx.const(0, "uint8"), BLOCK)
    a, b, c, d = [*rows, *[zero] * (ROWS - len(rows))]
    result = []
    for high in (False, True):
        upper = builder.bind(_unpack(a, b, 1, high))
        lower = builder.bind(_unpack(c, d, 1, high))
        result += [builder.bind(_unpack(upper, lower, 2, half)) for half in (False, True)]
    return result


def _requantise(
    problem: Conv2d,
    tile: int,
    sums: Any,
    bias: Any,
    multiplier: Any,
    block: Expr,
    out: Any,
    pixel: Expr,
    channel: Expr,
) -> None:
    """``clamp(round_half_even(sum * M) + zp)``: the packs saturate, and the conversion rounds as the CPU is set to."""
    lanes = tirx.Ramp(0, 1, LANES)
    for o in range(tile):
        words = []
        for pair in range(VECTORS // 2):
            halves = []
            for v in (2 * pair, 2 * pair + 1):
                total = sums[tirx.Ramp((o * VECTORS + v) * LANES, 1, LANES)] + bias[block, v, lanes]
                scaled = total.astype(f"float32x{LANES}") * multiplier[block, v, lanes]
                halves.append(_to_int32(tirx.min(scaled, _broadcast(LARGEST, "float32", LANES))))
            packed = _call("llvm.x86.avx512.packssdw.512", "int16x32", *halves)
            zero_point = _broadcast(problem.output.zero_point, "int16", 2 * LANES)
            words.append(_call("llvm.sadd.sat", "int16x32", packed, zero_point))
        value = tirx.reinterpret(f"uint8x{BLOCK}", _call("llvm.x86.avx512.packuswb.512", f"int8x{BLOCK}", *words))
        if problem.output.qmin > 0:
            value = tirx.max(value, _broadcast(problem.output.qmin, "uint8", BLOCK))
        if problem.output.qmax < 255:
            value = tirx.min(value, _broadcast(problem.output.qmax, "uint8", BLOCK))
        builder.buffer_store(out, value, [pixel + o, tirx.Ramp(channel, 1, BLOCK)])


def _broadcast(value: float, dtype: str, lanes: int) -> Expr:
    return tirx.Broadcast(tirx.const(value, dtype), lanes)


def _call(name: str, dtype: str, *args: Expr) -> Expr:
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *args, dtype=dtype)


def _to_int32(value: Expr) -> Expr:
    """Round half to even, whatever MXCSR says: the instruction carries the mode."""
    undefined = _broadcast(0, "int32", LANES)
    every_lane, nearest = tirx.const(-1, "int16"), tirx.const(8, "int32")
    return _call("llvm.x86.avx512.mask.cvtps2dq.512", f"int32x{LANES}", value, undefined, every_lane, nearest)
