"""Chains of element-wise stages, and the two ends of the integer graph, as tensor expressions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import te, tirx
from tvm.ir import Expr

from .arithmetic import Output, float32, int32, round_to_uint8
from .stages import Stage, apply_stages


def _reader(tensor: te.Tensor, index: Sequence[Expr]) -> Expr:
    """``tensor`` at ``index`` with numpy's broadcasting."""
    own = index[len(index) - len(tensor.shape) :]
    return tensor[tuple(tirx.const(0, "int32") if int(d) == 1 else i for d, i in zip(tensor.shape, own, strict=True))]


def _shape_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


@dataclass(frozen=True)
class Elementwise:
    """``stages`` on a uint8 tensor of ``shapes[0]``; the other shapes are those of the stages' activations."""

    shapes: tuple[tuple[int, ...], ...]
    out_shape: tuple[int, ...]
    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        """Stages and shape."""
        return "_".join(type(s).__name__.lower() for s in self.stages) + "_" + _shape_text(self.out_shape)

    @property
    def broadcasts(self) -> bool:
        """Whether an operand is repeated along an axis."""
        return any(math.prod(s) != math.prod(self.out_shape) for s in self.shapes)


def elementwise(problem: Elementwise) -> tvm.tirx.PrimFunc:
    """Arguments: x, the stages' operands in order, result. One block, "result".

    Without broadcasting the tensors are seen as vectors, so that no axis is too short for the machine's.
    """
    flat = not problem.broadcasts
    shapes = [(math.prod(s),) if flat else s for s in problem.shapes]
    out_shape = (math.prod(problem.out_shape),) if flat else problem.out_shape
    x = te.placeholder(shapes[0], "uint8", "x")
    remaining = iter(shapes[1:])
    operands = [
        te.placeholder(next(remaining) if s.operand == "activation" else (256,), "uint8", f"operand{i}")
        for i, s in enumerate(problem.stages)
        if s.operand != "none"
    ]
    tables = [s.operand == "table" for s in problem.stages if s.operand != "none"]

    def result(*index: Expr) -> Expr:
        readers = [
            (lambda i, t=t: t[i]) if table else (lambda _i, t=t: _reader(t, index))
            for t, table in zip(operands, tables, strict=True)
        ]
        return apply_stages(problem.stages, _reader(x, index), readers)

    return te.create_prim_func([x, *operands, te.compute(out_shape, result, "result")])


@dataclass(frozen=True)
class Quantize:
    """float32 to uint8, in the order of the input."""

    shape: tuple[int, ...]
    scale: float
    zero_point: int

    @property
    def name(self) -> str:
        """Operator and shape."""
        return f"quantize_{_shape_text(self.shape)}"


def quantized(value: Expr, scale: float, zero_point: int) -> Expr:
    """QuantizeLinear of one element: it divides, as ONNX says."""
    return round_to_uint8(value / float32(scale), Output(zero_point=zero_point))


def quantize(problem: Quantize) -> tvm.tirx.PrimFunc:
    """Arguments: x, result. One block, "result"."""
    x = te.placeholder((math.prod(problem.shape),), "float32", "x")
    return te.create_prim_func(
        [x, te.compute(x.shape, lambda i: quantized(x[i], problem.scale, problem.zero_point), "result")]
    )


@dataclass(frozen=True)
class Dequantize:
    """uint8 to float32, in the order of the input."""

    shape: tuple[int, ...]
    scale: float
    zero_point: int

    @property
    def name(self) -> str:
        """Operator and shape."""
        return f"dequantize_{_shape_text(self.shape)}"


def dequantized(value: Expr, scale: float, zero_point: int) -> Expr:
    """DequantizeLinear of one element."""
    return (int32(value) - zero_point).astype("float32") * float32(scale)


def dequantize(problem: Dequantize) -> tvm.tirx.PrimFunc:
    """Arguments: x, result. One block, "result"."""
    x = te.placeholder((math.prod(problem.shape),), "uint8", "x")
    return te.create_prim_func(
        [x, te.compute(x.shape, lambda i: dequantized(x[i], problem.scale, problem.zero_point), "result")]
    )


@dataclass(frozen=True)
class Reencode:
    """int8 to uint8 or back: 128 is added or subtracted."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def name(self) -> str:
        """Operator and shape."""
        return f"reencode_{self.dtype}_{_shape_text(self.shape)}"


def reencode(problem: Reencode) -> tvm.tirx.PrimFunc:
    """Arguments: x, result. One block, "result"."""
    source, shift = ("int8", 128) if problem.dtype == "uint8" else ("uint8", -128)
    x = te.placeholder((math.prod(problem.shape),), source, "x")
    result = te.compute(x.shape, lambda i: (int32(x[i]) + shift).astype(problem.dtype), "result")
    return te.create_prim_func([x, result])
