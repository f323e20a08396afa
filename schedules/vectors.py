"""Expressions of vector instructions, for kernels that are built loop by loop."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from .rows import lanes

LANES = 16
"""Elements of 32 bits in a vector of 512 bits."""

QUARTERS, QUARTER_BYTES = 4, 16
"""The packs and unpacks work within the 128-bit quarters of a vector."""

_TO_NEAREST, _EVERY_LANE = 8, -1


def broadcast(value: float, dtype: str, size: int) -> Expr:
    """A constant in every lane."""
    return lanes(tirx.const(value, dtype), size)


def llvm_call(name: str, dtype: str, *args: Expr) -> Expr:
    """A call of the LLVM intrinsic ``llvm.<name>`` that has no effect but its result."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(f"llvm.{name}"), *args, dtype=dtype)


def round_to_int32(value: Expr) -> Expr:
    """16 float32, half to even whatever MXCSR says: the instruction carries the mode. Out of range: -2**31."""
    undefined, every_lane = broadcast(0, "int32", LANES), tirx.const(_EVERY_LANE, "int16")
    nearest = tirx.const(_TO_NEAREST, "int32")
    return llvm_call("x86.avx512.mask.cvtps2dq.512", f"int32x{LANES}", value, undefined, every_lane, nearest)


def unpack(a: Expr, b: Expr, element_bytes: int, size: int, high: bool) -> Expr:
    """Interleave ``size`` bytes at a time of the low or high halves of each quarter; an element has ``element_bytes``.

    The result has the dtype of ``a``.
    """
    order: list[int] = []
    elements = QUARTERS * QUARTER_BYTES // element_bytes
    for quarter in range(QUARTERS):
        for i in range(QUARTER_BYTES // 2 // size):
            start = (QUARTER_BYTES * quarter + QUARTER_BYTES // 2 * high + i * size) // element_bytes
            run = range(start, start + size // element_bytes)
            order += [*run, *(elements + at for at in run)]
    return shuffle([a, b], order)


def shuffle(vectors: list[Expr], order: list[int]) -> Expr:
    """The elements ``order`` of the ``vectors`` one after another."""
    return tirx.Shuffle(vectors, [tirx.const(i, "int32") for i in order])
