"""The end of a convolution with AVX2, four pixels x 8 channels at a time: results of 8 bits by saturating packs.

The bits are those of ``compute.conv2d.epilogue``: there a product is clamped and then rounded, one vector at a time;
here it is rounded, and the packs from 32 to 16 and to 8 bits clamp four vectors at once. Both round half to even.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as builder

from .compute.arithmetic import Output
from .compute.conv2d import Conv2d
from .compute.stages import Add

LANES, GROUP = 8, 4
"""Channels of a vector of sums; pixels whose results fill a vector of bytes."""

LARGEST = 2.0**30
"""Products are cut here, so that the conversion to int32 cannot wrap; the packs saturate to 0..255."""


def supports(problem: Conv2d) -> bool:
    """Whether the results are bytes, after a residual addition at most."""
    return (
        problem.output.dtype == "uint8"
        and not problem.window_sum
        and (not problem.stages or (len(problem.stages) == 1 and isinstance(problem.stages[0], Add)))
    )


def store(
    problem: Conv2d, extra: list[Any], sums: Any, pixels: int, at: tuple[Expr, Expr, Expr], channel: Expr, result: Any
) -> None:
    """Write ``pixels`` x 8 results, the first pixel ``at`` (image, row, column).

    ``sums`` (pixels * 8 int32) include the bias: they started from it.
    """
    image, row, column = at
    _bias, multiplier, *operands = extra
    lanes = tirx.Ramp(channel, 1, LANES)
    for first in range(0, pixels, GROUP):
        group = range(first, min(first + GROUP, pixels))
        totals = [sums[tirx.Ramp(p * LANES, 1, LANES)] for p in group]
        scaled = [total.astype(f"float32x{LANES}") * multiplier[lanes] for total in totals]
        value = builder.bind(
            _packed([tirx.min(v, _broadcast(LARGEST, "float32", LANES)) for v in scaled], problem.output)
        )
        if problem.stages:
            others = [operands[0][image, row, column + p, lanes] for p in group]
            value = builder.bind(_added(problem, value, others))
        order = [16 * half + 4 * i + j for i in range(GROUP) for half in range(2) for j in range(4)]
        pixelwise = builder.bind(_shuffled([value], order))
        for i, p in enumerate(group):
            eight = _shuffled([pixelwise], [LANES * i + j for j in range(LANES)])
            builder.buffer_store(result, eight, [image, row, column + p, lanes])


def _added(problem: Conv2d, value: Expr, others: list[Expr]) -> Expr:
    """The packed sums with ``others`` (8 bytes a pixel), from the packed results of the convolution itself."""
    stage = problem.stages[0]
    assert isinstance(stage, Add)
    offset = -stage.zero_point * stage.coefficient - stage.other_zero_point * stage.other_coefficient
    scaled = []
    for i, other in enumerate(others):
        twice = tirx.reinterpret("uint8x32", tirx.Broadcast(tirx.reinterpret("int64", other), 4))
        left, left_offset = _product(value, 4 * i, stage.coefficient)
        right, right_offset = _product(twice, 0, stage.other_coefficient, 4)
        total = left + right + _broadcast(offset + left_offset + right_offset, "int32", LANES)
        scaled.append(total.astype(f"float32x{LANES}") * _broadcast(stage.multiplier, "float32", LANES))
    if 2**8 * (abs(stage.coefficient) + abs(stage.other_coefficient)) * stage.multiplier > LARGEST:
        scaled = [tirx.min(v, _broadcast(LARGEST, "float32", LANES)) for v in scaled]
    return _packed(scaled, stage.output)


def _product(value: Expr, first: int, coefficient: int, step: int = 0) -> tuple[Expr, int]:
    """A coefficient of up to 23 bits times bytes ``first`` to ``first + 4`` of the lower half of ``value``, and those
    ``step`` further on of the upper half, short of the constant that comes with it.

    ``b * c`` is ``b * (c % 256) + (b - 128) * 256 * (c // 256)``, one ``vpmaddwd``, and ``c // 256 * 2**15``.
    """
    low, high = coefficient % 256, coefficient // 256
    order = []
    for half in range(2):
        for j in range(first + half * (16 + step), first + half * (16 + step) + 4):
            order += [j, 32, 32, j]
    spread = tirx.reinterpret("int32x8", _shuffled([value, _broadcast(0, "uint8", 32)], order))
    words = tirx.reinterpret("int16x16", spread ^ _broadcast(-(2**31), "int32", LANES))
    factors = tirx.reinterpret("int16x16", _broadcast(low + 2**16 * high, "int32", LANES))
    return _call("llvm.x86.avx2.pmadd.wd", f"int32x{LANES}", words, factors), high * 2**15


def _packed(scaled: list[Expr], output: Output) -> Expr:
    """Up to four vectors of float32, rounded, to one of bytes: in each half of it, the halves of the vectors side by
    side."""
    rounded = [builder.bind(_to_int32(v)) for v in scaled]
    vectors = [*rounded, *[rounded[-1]] * (GROUP - len(rounded))]
    words = []
    for pair in (vectors[:2], vectors[2:]):
        packed = _call("llvm.x86.avx2.packssdw", "int16x16", *pair)
        if output.zero_point:
            packed = _call("llvm.sadd.sat", "int16x16", packed, _broadcast(output.zero_point, "int16", 16))
        words.append(packed)
    value = tirx.reinterpret("uint8x32", _call("llvm.x86.avx2.packuswb", "int8x32", *words))
    if output.qmin > 0:
        value = tirx.max(value, _broadcast(output.qmin, "uint8", 32))
    if output.qmax < 255:
        value = tirx.min(value, _broadcast(output.qmax, "uint8", 32))
    return value


def _shuffled(vectors: list[Expr], order: list[int]) -> Expr:
    return tirx.Shuffle(vectors, [tirx.const(i, "int32") for i in order])


def _broadcast(value: float, dtype: str, lanes: int) -> Expr:
    return tirx.Broadcast(tirx.const(value, dtype), lanes)


def _call(name: str, dtype: str, *args: Expr) -> Expr:
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *args, dtype=dtype)


def _to_int32(value: Expr) -> Expr:
    return _call("llvm.x86.avx.cvt.ps2dq.256", f"int32x{LANES}", value)
