"""Depthwise convolution with AVX512-VNNI: 64 channels at once, up to four rows of the window in one instruction.

``vpdpbusd`` adds four products to each of 16 sums. Here the four are the rows of one column of the window, for the same
channel: the bytes of four image rows are interleaved with the byte and word unpack instructions, whose result serves
every output that the column belongs to. The unpacks work within 128-bit quarters, so that sum ``4 q + e`` of vector
``v`` belongs to byte ``16 q + 4 v + e`` of 64; weights, biases and multipliers are packed in that order, and the
saturating packs of the epilogue, which work within quarters too, bring the result back into order.

Where 32 or 16 channels are left, the 64 bytes are those of two or four neighbouring outputs. Nothing is copied: tiles
at the ends of a row know which columns are outside, and rows at the top and at the bottom choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from .template import Knobs, Template
from .threads import MIN_PARALLEL_MACS
from .vectors import LANES, broadcast, cut, llvm_call, round_to_int32, shuffle

BLOCK, VECTORS, ROWS = 64, 4, 4
"""Bytes of a step; its vectors of sums; rows of the window in one dot product."""

MAX_KERNEL_ROWS = ROWS
"""Taller windows would need a second interleaving."""

MAX_COLUMNS = 6
"""Steps side by side in a tile: 24 of the 32 registers hold their sums."""

UNROLLED_TILES = 3
"""Tiles of a row, at most, that have no loop: each knows its columns and which are outside."""

LOOP_COLUMNS, UNROLLED_COLUMNS = {1: 4, 2: 2}, {1: 5, 2: 3}
"""By the horizontal stride (that of 2 or more): steps of a tile in a loop, and at most in one of the unrolled. With a
stride the tile reads twice as many columns for them, which need registers as well."""

PARTIAL_COLUMNS = 2
"""Steps of a tile where some are of several pixels each: every one of those is put together from pieces."""

_BYTE = np.array([16 * q + 4 * v + e for v in range(VECTORS) for q in range(4) for e in range(4)])
"""Byte, of a step, of each sum in the order of the vectors."""


@dataclass(frozen=True)
class _Group:
    """Some channels of :attr:`outputs` neighbouring pixels, which fill a step. All groups but the first are alone."""

    start: int
    channels: int
    blocks: int = 1

    @property
    def outputs(self) -> int:
        return BLOCK // self.channels


def _groups(channels: int) -> list[_Group]:
    """Blocks of 64 channels, and what is left; 48 channels more than a block's are a block that starts early."""
    blocks, rest = divmod(channels, BLOCK)
    groups = [_Group(0, BLOCK, blocks)] if blocks else []
    if blocks and rest > BLOCK // 2:
        return [*groups, _Group(channels - BLOCK, BLOCK)]
    sizes = [size for size in (BLOCK // 2, BLOCK // 4) if rest & size]
    return groups + [_Group(channels - rest % (2 * size), size) for size in sizes]


class InterleavedDepthwise(Template):
    """The template for depthwise convolutions of bytes."""

    name = "interleaved-depthwise"

    def supports(self, problem: Conv2d, dot: DotProduct) -> bool:
        return (
            dot.interleaves
            and problem.depthwise
            and problem.weight_dtype == "int8"
            and problem.kernel[0] <= MAX_KERNEL_ROWS
            and problem.output.dtype == "uint8"
            and not problem.window_sum
            and not problem.stages
            and problem.output_size[1] >= max(group.outputs for group in _groups(padded_channels(problem.oc)))
        )

    def space(self, problem: Conv2d, dot: DotProduct) -> dict[str, tuple[int, ...]]:
        return {"columns": tuple(range(1, min(MAX_COLUMNS, problem.output_size[1]) + 1))}

    def default(self, problem: Conv2d, dot: DotProduct) -> Knobs:
        width, stride = problem.output_size[1], min(problem.strides[1], 2)
        if any(group.outputs > 1 for group in _groups(padded_channels(problem.oc))):
            return {"columns": min(PARTIAL_COLUMNS, width)}
        even = -(-width // UNROLLED_TILES)
        return {"columns": even if even <= UNROLLED_COLUMNS[stride] else LOOP_COLUMNS[stride]}

    def build(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> tvm.tirx.PrimFunc:
        return depthwise_conv2d(problem, knobs["columns"])

    def constants(
        self, problem: Conv2d, dot: DotProduct, knobs: Knobs, arrays: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        weight, *vectors = arrays
        return [_pack_weight(weight, problem), *(_pack_channels(v, problem) for v in vectors)]


def _channel_order(channels: int) -> np.ndarray:
    """(blocks, 64): the channel of each sum."""
    return np.array(
        [
            group.start + block * BLOCK + _BYTE % group.channels
            for group in _groups(channels)
            for block in range(group.blocks)
        ]
    )


def _pack_weight(weight: np.ndarray, problem: Conv2d) -> np.ndarray:
    """(C, 1, KH, KW) int8 to (blocks, KW, vectors, lanes, rows), zero for rows that the window lacks."""
    channels = padded_channels(problem.oc)
    taps = np.zeros((channels, ROWS, problem.kernel[1]), np.int8)
    taps[: problem.oc, : problem.kernel[0]] = weight[:, 0]
    ordered = taps[_channel_order(channels)].reshape(-1, VECTORS, LANES, ROWS, problem.kernel[1])
    return np.ascontiguousarray(ordered.transpose(0, 4, 1, 2, 3))


def _pack_channels(values: np.ndarray, problem: Conv2d) -> np.ndarray:
    """(C,) to (blocks, vectors, lanes)."""
    channels = padded_channels(problem.oc)
    padded = np.pad(values, (0, channels - len(values)))
    return np.ascontiguousarray(padded[_channel_order(channels)].reshape(-1, VECTORS, LANES))


def depthwise_conv2d(problem: Conv2d, columns: int) -> tvm.tirx.PrimFunc:
    """The convolution in tiles of ``columns`` steps. Arguments: x, weight, bias, multiplier (all packed), result."""
    oh, ow = problem.output_size
    channels = padded_channels(problem.oc)
    groups = _groups(channels)
    blocks = sum(group.blocks for group in groups)
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            x = builder.arg("x", T.Buffer((problem.n, problem.h, problem.w, channels), "uint8"))
            weight = builder.arg("weight", T.Buffer((blocks, problem.kernel[1], VECTORS, LANES, ROWS), "int8"))
            bias = builder.arg("bias", T.Buffer((blocks, VECTORS, LANES), "int32"))
            multiplier = builder.arg("multiplier", T.Buffer((blocks, VECTORS, LANES), "float32"))
            result = builder.arg("result", T.Buffer((problem.n, oh, ow, channels), "uint8"))
            builder.func_attr({"tirx.noalias": True})
            kernel = _Kernel(
                problem,
                view(x, (problem.n * problem.h * problem.w * channels,)),
                weight,
                bias,
                multiplier,
                view(result, (problem.n * oh * ow * channels,)),
            )
            loop = builder.parallel if problem.macs >= MIN_PARALLEL_MACS else builder.serial
            with loop(0, problem.n * oh) as row:
                first = 0
                for group in groups:
                    with builder.serial(0, group.blocks) as block:
                        kernel.row(group, row, first + block, group.start + block * BLOCK, columns)
                    first += group.blocks
        return ib.get()


@dataclass(frozen=True)
class _Kernel:
    """The buffers of the function, image and result as bytes."""

    problem: Conv2d
    image: Any
    weight: Any
    bias: Any
    multiplier: Any
    result: Any

    def row(self, group: _Group, row: Expr, block: Expr, channel: Expr, columns: int) -> None:
        """One row of the result: the channels from ``channel`` on."""
        p = self.problem
        (kh, _), (top, _, bottom, _) = p.kernel, p.padding
        oh = p.output_size[0]
        source = row % oh * p.strides[0] - top
        if not top and not bottom:
            self._tiles(group, row, source, block, channel, columns, at_edge=False)
            return
        with builder.If(tirx.all(source >= 0, source + (kh - 1) * p.dilation[0] < p.h)):
            with builder.Then():
                self._tiles(group, row, source, block, channel, columns, at_edge=False)
            with builder.Else():
                self._tiles(group, row, source, block, channel, columns, at_edge=True)

    def _tiles(
        self, group: _Group, row: Expr, source: Expr, block: Expr, channel: Expr, columns: int, *, at_edge: bool
    ) -> None:
        """The row in tiles; those at its ends are unrolled. The last one starts early where they do not divide it."""
        ow = self.problem.output_size[1]
        steps = max(1, min(columns, ow // group.outputs))
        outputs = steps * group.outputs
        tiles = -(-ow // outputs)
        inside = [i for i in range(tiles - 1) if self._is_inside(i * outputs, outputs)]
        for i in range(tiles):
            column: Expr | int = min(i * outputs, ow - outputs)
            if i in inside:
                if i == inside[0]:
                    with builder.serial(0, len(inside)) as later:
                        tile = _Tile(self, group, row, source, block, channel, (later + i) * outputs, steps, at_edge)
                        tile.compute()
            else:
                _Tile(self, group, row, source, block, channel, column, steps, at_edge).compute()

    def _is_inside(self, column: int, outputs: int) -> bool:
        """Whether a tile reads no column that the image lacks."""
        p = self.problem
        first = column * p.strides[1] - p.padding[1]
        return first >= 0 and first + (outputs - 1) * p.strides[1] + (p.kernel[1] - 1) * p.dilation[1] < p.w


@dataclass(frozen=True)
class _Tile:
    """``steps`` steps side by side, of a row of the result from ``column`` on; ``source`` is their first image row."""

    kernel: _Kernel
    group: _Group
    row: Expr
    source: Expr
    block: Expr
    channel: Expr
    column: Expr | int
    steps: int
    at_edge: bool

    def compute(self) -> None:
        """From the image to the result."""
        sums = builder.alloc_buffer((self.steps * VECTORS, LANES), "int32", scope="local", align=BLOCK)
        self._accumulate(sums)
        for step in range(self.steps):
            self._store(step, self._requantised(sums, step))

    def _accumulate(self, sums: Any) -> None:
        """Bias plus products; each column of the image is interleaved once for all outputs that read it."""
        p, lanes = self.kernel.problem, tirx.Ramp(0, 1, LANES)
        for v in range(VECTORS):
            start = builder.bind(self.kernel.bias[self.block, v, lanes])
            for step in range(self.steps):
                builder.buffer_store(sums, start, [step * VECTORS + v, lanes])
        for offset, readers in self._columns():
            rows = [builder.bind(self._pixels(r, offset)) for r in range(p.kernel[0])]
            for v, quads in enumerate(_interleaved(rows)):
                for step, k in readers:
                    at = [step * VECTORS + v, lanes]
                    factor = self.kernel.weight[self.block, k, v, 0, tirx.Ramp(0, 1, LANES * ROWS)]
                    product = llvm_call(
                        "x86.avx512.vpdpbusd.512", f"int32x{LANES}", sums[step * VECTORS + v, lanes], quads, factor
                    )
                    builder.buffer_store(sums, product, at)

    def _columns(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Columns of the image, counted from the tile's first, with the steps and columns of the window that use it."""
        p = self.kernel.problem
        stride = p.strides[1] * self.group.outputs
        for offset in range((self.steps - 1) * stride + (p.kernel[1] - 1) * p.dilation[1] + 1):
            readers = [
                (step, k)
                for step in range(self.steps)
                for k in range(p.kernel[1])
                if step * stride + k * p.dilation[1] == offset
            ]
            if readers:
                yield offset, readers

    def _pixels(self, r: int, offset: int) -> Expr:
        """The 64 bytes that a step reads of row ``r`` of the window, from a column on."""
        p, size = self.kernel.problem, self.group.channels
        stride = p.strides[1]
        if stride == 1 and size == p.x_channels and self._column_exists(offset, self.group.outputs):
            return self._bytes(r, offset, BLOCK)
        parts = [
            self._bytes(r, offset + i * stride, size)
            if self._column_exists(offset + i * stride, 1)
            else broadcast(p.x_zero_point, "uint8", size)
            for i in range(self.group.outputs)
        ]
        return parts[0] if len(parts) == 1 else shuffle(parts, list(range(BLOCK)))

    def _column_exists(self, offset: int, count: int) -> bool:
        """Whether the image has the columns; where the tile's first one is not known, it has all of them."""
        if not isinstance(self.column, int):
            return True
        p = self.kernel.problem
        first = self.column * p.strides[1] - p.padding[1] + offset
        return first >= 0 and first + count <= p.w

    def _bytes(self, r: int, offset: int, count: int) -> Expr:
        p = self.kernel.problem
        y = self.source + r * p.dilation[0]
        inside = tirx.all(y >= 0, y < p.h)
        if self.at_edge:
            y = tirx.max(tirx.min(y, p.h - 1), 0)
        pixel = (self.row // p.output_size[0] * p.h + y) * p.w + self.column * p.strides[1] - p.padding[1] + offset
        value = self.kernel.image[tirx.Ramp(pixel * p.x_channels + self.channel, 1, count)]
        return tirx.Select(inside, value, broadcast(p.x_zero_point, "uint8", count)) if self.at_edge else value

    def _requantised(self, sums: Any, step: int) -> Expr:
        """``clamp(round_half_even(sum * M) + zp)``, where the packs saturate."""
        p, lanes = self.kernel.problem, tirx.Ramp(0, 1, LANES)
        words = []
        for pair in range(VECTORS // 2):
            halves = []
            for v in (2 * pair, 2 * pair + 1):
                multiplier = self.kernel.multiplier[self.block, v, lanes]
                scaled = sums[step * VECTORS + v, lanes].astype(f"float32x{LANES}") * multiplier
                halves.append(round_to_int32(scaled if p.below_one else cut(scaled)))
            packed = llvm_call("x86.avx512.packssdw.512", "int16x32", *halves)
            if p.output.zero_point:
                packed = llvm_call("sadd.sat", "int16x32", packed, broadcast(p.output.zero_point, "int16", 32))
            words.append(packed)
        value = tirx.reinterpret(f"uint8x{BLOCK}", llvm_call("x86.avx512.packuswb.512", f"int8x{BLOCK}", *words))
        if p.output.qmin > 0:
            value = tirx.max(value, broadcast(p.output.qmin, "uint8", BLOCK))
        if p.output.qmax < 255:
            value = tirx.min(value, broadcast(p.output.qmax, "uint8", BLOCK))
        return builder.bind(value)

    def _store(self, step: int, value: Expr) -> None:
        """The results of a step: in one piece where they are neighbours."""
        p, size = self.kernel.problem, self.group.channels
        pixel = self.row * p.output_size[1] + self.column + step * self.group.outputs
        if size == p.x_channels or size == BLOCK:
            builder.buffer_store(self.kernel.result, value, [tirx.Ramp(pixel * p.x_channels + self.channel, 1, BLOCK)])
            return
        for i in range(self.group.outputs):
            part = shuffle([value], list(range(i * size, (i + 1) * size)))
            at = tirx.Ramp((pixel + i) * p.x_channels + self.channel, 1, size)
            builder.buffer_store(self.kernel.result, part, [at])


def _unpack(a: Expr, b: Expr, size: int, high: bool) -> Expr:
    """Interleave elements of ``size`` bytes of the low or high halves of each 128-bit quarter."""
    order = []
    for quarter in range(4):
        for i in range(8 // size):
            start = 16 * quarter + 8 * high + i * size
            order += [*range(start, start + size), *range(BLOCK + start, BLOCK + start + size)]
    return shuffle([a, b], order)


def _interleaved(rows: list[Expr]) -> list[Expr]:
    """Four vectors, each with the bytes of up to four ``rows`` for a quarter of the 64 bytes."""
    zero = broadcast(0, "uint8", BLOCK)
    a, b, c, d = [*rows, *[zero] * (ROWS - len(rows))]
    result = []
    for high in (False, True):
        upper = builder.bind(_unpack(a, b, 1, high))
        lower = builder.bind(_unpack(c, d, 1, high))
        result += [builder.bind(_unpack(upper, lower, 2, half)) for half in (False, True)]
    return result
