"""Softmax and the product of two activations, on tensors in the model's own layout, as tensor expressions."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import te, tirx
from tvm.ir import Expr

from .arithmetic import Output, finish, float32, int32, round_to_uint8


@dataclass(frozen=True)
class Softmax:
    """Softmax over the middle axis of (outer, size, inner)."""

    outer: int
    size: int
    inner: int
    inverse_scale: float
    output: Output

    @property
    def name(self) -> str:
        """Operator and shape."""
        return f"softmax_{self.outer}x{self.size}x{self.inner}"


def softmax(problem: Softmax) -> tvm.tirx.PrimFunc:
    """Arguments: x, table (256,) of float32, result. Blocks: "largest", "total" and "result".

    The sum runs from the first element to the last and is never vectorised along its own axis: its rounding is fixed.
    """
    x = te.placeholder((problem.outer, problem.size, problem.inner), "uint8", "x")
    table = te.placeholder((256,), "float32", "table")
    k, j = te.reduce_axis((0, problem.size), "k"), te.reduce_axis((0, problem.size), "j")
    ends = (problem.outer, problem.inner)
    largest = te.compute(ends, lambda o, i: te.max(x[o, k, i], axis=k), "largest")

    def exponential(o: Expr, a: Expr, i: Expr) -> Expr:
        return table[int32(largest[o, i]) - int32(x[o, a, i])]

    total = te.compute(ends, lambda o, i: te.sum(exponential(o, j, i), axis=j), "total")

    def result(o: Expr, a: Expr, i: Expr) -> Expr:
        scaled = exponential(o, a, i) / total[o, i] * float32(problem.inverse_scale)
        return scaled if problem.output.dtype == "float32" else round_to_uint8(scaled, problem.output)

    return te.create_prim_func([x, table, te.compute(x.shape, result, "result")])


@dataclass(frozen=True)
class Matmul:
    """Batched product of (batch, m, k) and (batch, k, n); a batch of 1 is repeated."""

    batch_a: int
    batch_b: int
    m: int
    k: int
    n: int
    a_zero_point: int
    b_zero_point: int
    output: Output

    @property
    def name(self) -> str:
        """Operator and shape."""
        return f"matmul_b{max(self.batch_a, self.batch_b)}m{self.m}k{self.k}n{self.n}"

    @property
    def macs(self) -> int:
        """Multiplications."""
        return max(self.batch_a, self.batch_b) * self.m * self.k * self.n


def matmul(problem: Matmul) -> tvm.tirx.PrimFunc:
    """Arguments: a, b, multiplier (1,), result. Blocks: "accumulate" and "result"."""
    a = te.placeholder((problem.batch_a, problem.m, problem.k), "uint8", "a")
    b = te.placeholder((problem.batch_b, problem.k, problem.n), "uint8", "b")
    multiplier = te.placeholder((1,), "float32", "multiplier")
    k = te.reduce_axis((0, problem.k), "k")
    zero = tirx.const(0, "int32")

    def product(i: Expr, y: Expr, x: Expr) -> Expr:
        left = int32(a[zero if problem.batch_a == 1 else i, y, k]) - problem.a_zero_point
        right = int32(b[zero if problem.batch_b == 1 else i, k, x]) - problem.b_zero_point
        return te.sum(left * right, axis=k)

    accumulate = te.compute((max(problem.batch_a, problem.batch_b), problem.m, problem.n), product, "accumulate")
    result = te.compute(accumulate.shape, lambda *i: finish(accumulate[i], multiplier[zero], problem.output), "result")
    return te.create_prim_func([a, b, multiplier, result])
