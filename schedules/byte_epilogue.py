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
    """Write ``pixels`` x 8 results from ``sums`` (pixels * 8 int32), the first pixel ``at`` (image, row, column)."""
    image, row, column = at
    bias, multiplier, *operands = extra
    lanes = tirx.Ramp(channel, 1, LANES)
    for first in range(0, pixels, GROUP):
        group = range(first, min(first + GROUP, pixels))
        rounded = []
        for p in group:
            total = sums[tirx.Ramp(p * LANES, 1, LANES)] + bias[lanes]
            scaled = total.astype(f"float32x{LANES}") * multiplier[lanes]
            if problem.stages:
                scaled = _added(problem, scaled, operands[0][image, row, column + p, lanes])
            rounded.append(builder.bind(_to_int32(tirx.min(scaled, _broadcast(LARGEST, "float32", LANES)))))
        output = problem.stages[-1].output if problem.stages else problem.output
        value = builder.bind(_packed(rounded, output))
        for i, p in enumerate(group):
            low = [4 * i + j for j in range(4)]
            order = [tirx.const(j, "int32") for j in (*low, *(GROUP * 4 + j for j in low))]
            builder.buffer_store(result, tirx.Shuffle([value], order), [image, row, column + p, lanes])


def _added(problem: Conv2d, scaled: Expr, other: Expr) -> Expr:
    """The residual sum times its multiplier, from the product that the convolution itself rounds and clamps."""
    stage, output = problem.stages[0], problem.output
    assert isinstance(stage, Add)
    low, high = output.qmin - output.zero_point, output.qmax - output.zero_point
    clamped = tirx.max(tirx.min(scaled, _broadcast(high, "float32", LANES)), _broadcast(low, "float32", LANES))
    offset = (output.zero_point - stage.zero_point) * stage.coefficient
    offset -= stage.other_zero_point * stage.other_coefficient
    left = _to_int32(clamped) * _broadcast(stage.coefficient, "int32", LANES)
    right = other.astype(f"int32x{LANES}") * _broadcast(stage.other_coefficient, "int32", LANES)
    total = left + right + _broadcast(offset, "int32", LANES)
    return total.astype(f"float32x{LANES}") * _broadcast(stage.multiplier, "float32", LANES)


def _packed(rounded: list[Expr], output: Output) -> Expr:
    """Up to four vectors of int32 to one of bytes: in each half of it, the halves of the vectors side by side."""
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


def _broadcast(value: float, dtype: str, lanes: int) -> Expr:
    return tirx.Broadcast(tirx.const(value, dtype), lanes)


def _call(name: str, dtype: str, *args: Expr) -> Expr:
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *args, dtype=dtype)


def _to_int32(value: Expr) -> Expr:
    return _call("llvm.x86.avx.cvt.ps2dq.256", f"int32x{LANES}", value)
