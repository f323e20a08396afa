"""Expressions of vector instructions, for kernels that are built loop by loop."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from .rows import lanes

LANES = 16
"""Elements of 32 bits in a vector of 512 bits."""

QUARTERS, QUARTER_WORDS = 4, 8
"""The packs and unpacks work within the 128-bit quarters of a vector."""

LARGEST = 2.0**30
"""Products are cut here where the conversion to int32 might wrap; the packs after it saturate at less."""

_TO_NEAREST, _EVERY_LANE = 8, -1


def broadcast(value: float, dtype: str, size: int) -> Expr:
    """A constant in every lane."""
    return lanes(tirx.const(value, dtype), size)


def llvm_call(name: str, dtype: str, *args: Expr) -> Expr:
    """A call of the LLVM intrinsic ``llvm.<name>`` that has no effect but its result."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(f"llvm.{name}"), *args, dtype=dtype)


def cut(value: Expr) -> Expr:
    """16 float32, at most :data:`LARGEST`. NaN stays NaN in this order of operands, and is rounded to the lowest."""
    return tirx.min(broadcast(LARGEST, "float32", LANES), value)


def round_to_int32(value: Expr) -> Expr:
    """16 float32, half to even whatever MXCSR says: the instruction carries the mode. Out of range: -2**31."""
    undefined, every_lane = broadcast(0, "int32", LANES), tirx.const(_EVERY_LANE, "int16")
    nearest = tirx.const(_TO_NEAREST, "int32")
    return llvm_call("x86.avx512.mask.cvtps2dq.512", f"int32x{LANES}", value, undefined, every_lane, nearest)


def unpack_words(low: Expr, high: Expr, upper_halves: bool) -> Expr:
    """Pairs ``[low[i], high[i]]`` of 16-bit words, from the lower or the upper halves of each quarter."""
    words, in_quarter = QUARTERS * QUARTER_WORDS, QUARTER_WORDS // 2
    order: list[int] = []
    for quarter in range(QUARTERS):
        start = QUARTER_WORDS * quarter + in_quarter * upper_halves
        for at in range(start, start + in_quarter):
            order += [at, words + at]
    return shuffle([low, high], order)


def shuffle(vectors: list[Expr], order: list[int]) -> Expr:
    """The elements ``order`` of the ``vectors`` one after another."""
    return tirx.Shuffle(vectors, [tirx.const(i, "int32") for i in order])
