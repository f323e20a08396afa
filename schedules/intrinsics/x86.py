"""Dot products of x86: one instruction, or a pair, that multiplies a few input channels into a vector of accumulators.

TVM's stock intrinsics are not used: they match scope "global", whose register tiles become memory, the VNNI one does
not build with LLVM 22, and the AVX-512 one saturates. None of these saturates: ``vpdpbusd`` adds exactly, and
``pmaddwd`` works on operands that were widened to 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T


@dataclass(frozen=True)
class DotProduct:
    """A dot product of ``depth`` input channels into ``lanes`` int32 accumulators.

    Attributes:
        intrinsic: the name under which the tensor intrinsic is registered.
        lanes: output channels a vector.
        depth: input channels an instruction.
        x_dtype, weight_dtype: operand dtypes; int16 activations are widened before the inner loop.
        registers: vector registers of the instruction set.
        cycles: of one dot product where nothing else limits.
        matrix_unit: whether the CPU also has AMX, for the convolutions that it suits.
        interleaves: whether it has AVX512-BW and VNNI, for the depthwise convolutions that those suit.
        pairs_bytes: whether its convolutions use ``vpmaddubsw`` of 256 bits, where the weights allow it.
    """

    intrinsic: str
    lanes: int
    depth: int
    x_dtype: str
    weight_dtype: str
    registers: int
    cycles: float
    matrix_unit: bool = False
    interleaves: bool = False
    pairs_bytes: bool = False


def _vnni(lanes: int, llvm_name: str):  # type: ignore[no-untyped-def]
    accumulator, weights, activations = f"int32x{lanes}", f"int8x{4 * lanes}", f"uint8x{4 * lanes}"

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    @T.prim_func(s_tir=True)
    def implementation(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            C[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(llvm_name),
                C.vload([0], dtype=accumulator),
                T.reinterpret(
                    T.broadcast(T.reinterpret(A.vload([0], "uint8x4"), dtype="int32"), lanes), dtype=activations
                ),
                B.vload([0, 0], dtype=weights),
                dtype=accumulator,
            )

    return description, implementation


def _multiply_add_pairs(lanes: int, llvm_name: str):  # type: ignore[no-untyped-def]
    accumulator, pairs = f"int32x{lanes}", f"int16x{2 * lanes}"

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((2,), "int16", offset_factor=1),
        B: T.Buffer((lanes, 2), "int16", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:2], B[0:lanes, 0:2])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 2):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    @T.prim_func(s_tir=True)
    def implementation(
        A: T.Buffer((2,), "int16", offset_factor=1),
        B: T.Buffer((lanes, 2), "int16", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:2], B[0:lanes, 0:2])
            T.writes(C[0:lanes])
            C[T.ramp(T.int32(0), 1, lanes)] = C.vload([0], dtype=accumulator) + T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(llvm_name),
                T.reinterpret(T.broadcast(T.reinterpret(A.vload([0], "int16x2"), dtype="int32"), lanes), dtype=pairs),
                B.vload([0, 0], dtype=pairs),
                dtype=accumulator,
            )

    return description, implementation


def _register(name: str, make: Callable[..., Any], lanes: int, llvm_name: str) -> str:
    TensorIntrin.register(name, *make(lanes, llvm_name))
    return name


DOT_PRODUCTS = {
    "amx": DotProduct(
        "octet.dot_16x4_u8s8s32_avx512vnni", 16, 4, "uint8", "int8", 32, 0.5,
        matrix_unit=True, interleaves=True,
    ),
    "avx512vnni": DotProduct(
        _register("octet.dot_16x4_u8s8s32_avx512vnni", _vnni, 16, "llvm.x86.avx512.vpdpbusd.512"),
        16, 4, "uint8", "int8", 32, 0.5, interleaves=True,
    ),
    "avxvnni": DotProduct(
        _register("octet.dot_8x4_u8s8s32_avxvnni", _vnni, 8, "llvm.x86.avx512.vpdpbusd.256"),
        8, 4, "uint8", "int8", 16, 0.5,
    ),
    "avx2": DotProduct(
        _register("octet.dot_8x2_s16s16s32_avx2", _multiply_add_pairs, 8, "llvm.x86.avx2.pmadd.wd"),
        8, 2, "int16", "int16", 16, 0.8, pairs_bytes=True,
    ),
    "sse2": DotProduct(
        _register("octet.dot_4x2_s16s16s32_sse2", _multiply_add_pairs, 4, "llvm.x86.sse2.pmadd.wd"),
        4, 2, "int16", "int16", 16, 0.8,
    ),
}  # fmt: skip
