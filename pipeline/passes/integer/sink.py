"""Move DequantizeLinear behind the operators that act on codes as they act on values: ``op(DQ(x)) -> DQ(op(x))``.

1. Data movement of one tensor, max pools and the largest or smallest along an axis.
2. Concat and stack of tensors that share one scale and zero point.
3. Padding with a number that has a code of its own.
4. Split: each of its results is dequantised.
5. relu and clip whose bounds have codes of their own, as ``octet.requantize`` that only clamps.
6. argmax and argmin, which give the same indices.
7. Data movement of a quantised constant: carried out at once, one scale a channel included.

Leaves concat of different scales, which needs the scale of the QuantizeLinear behind it: see :mod:`.islands`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, Rewriter, op_name, static_shape
from pipeline.passes.integer.clamp import Interval, clamp_of
from pipeline.passes.integer.data_movement import MANY_TENSORS, is_movement, move, moved_tensors
from pipeline.passes.integer.quantization import (
    Quantization,
    QuantizedConstant,
    code_of,
    constant_operand,
    exact_code_of,
    uint8_source,
)

_INDICES = frozenset({"relax.argmax", "relax.argmin"})


def _moved_constant(call: relax.Call, constant: QuantizedConstant) -> relax.Expr | None:
    """The DequantizeLinear of a constant that has been transposed or reshaped; None where a channel would be split."""
    shape = static_shape(call)
    if shape is None:
        return None
    axis = constant.axis
    if op_name(call) == "relax.permute_dims":
        order = list(range(constant.codes.ndim))[::-1] if call.attrs.axes is None else [int(a) for a in call.attrs.axes]
        codes = np.transpose(constant.codes, order)
        axis = None if axis is None else order.index(axis)
    elif op_name(call) in ("relax.reshape", "relax.expand_dims", "relax.squeeze"):
        codes = constant.codes.reshape(shape)
        axis = None if axis is None else _axis_after_reshape(constant.codes.shape, shape, axis)
        if axis is None and constant.axis is not None:
            return None
    else:
        return None
    return _dequantized_constant(np.ascontiguousarray(codes), constant, axis)


def _axis_after_reshape(before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    """Where axis ``axis`` is after a reshape that keeps it whole."""
    outer = int(np.prod(before[:axis]))
    for position, size in enumerate(after):
        if size == before[axis] and int(np.prod(after[:position])) == outer:
            return position
    return None


def _dequantized_constant(codes: NDArray[Any], constant: QuantizedConstant, axis: int | None) -> relax.Expr:
    scale = constant.scale.astype(np.float32)
    zero_point = constant.zero_point.astype(codes.dtype)
    if axis is None:
        scale, zero_point = scale.reshape(()), zero_point.reshape(())
    return relax.op.dequantize(
        relax.const(codes), relax.const(scale), relax.const(zero_point), axis=-1 if axis is None else axis
    )


class _Sinker:
    def __init__(self, module: tvm.IRModule) -> None:
        self.rewriter = Rewriter(Graph(module))

    def source(self, expr: relax.Expr) -> tuple[relax.Expr, Quantization] | None:
        """The uint8 tensor that ``expr`` is the DequantizeLinear of."""
        return uint8_source(self.rewriter.definition(expr))

    def visit(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        """Dispatch to the rewrites listed above."""
        name = op_name(value)
        if is_movement(value):
            return self.movement(var, value)
        if name in _INDICES:
            source = self.source(value.args[0])
            return value if source is None else relax.Call(value.op, [source[0]], value.attrs)
        interval = clamp_of(value, self.rewriter.definition)
        return value if interval is None else self.clamp(var, value, interval)

    def movement(self, var: relax.Var, value: relax.Call) -> relax.Expr:
        """Rewrites 1 to 4 and 7."""
        tensors = moved_tensors(value)
        if op_name(value) not in MANY_TENSORS:
            constant = constant_operand(self.rewriter.definition(tensors[0]))
            if constant is not None:
                moved_constant = _moved_constant(value, constant)
                return value if moved_constant is None else moved_constant
        sources = [self.source(x) for x in tensors]
        known = [s for s in sources if s is not None]
        if not known or len(known) != len(sources) or any(q != known[0][1] for _, q in known):
            return value
        quantization = known[0][1]
        if op_name(value) == "relax.nn.pad" and exact_code_of(float(value.attrs.pad_value), quantization) is None:
            return value
        emit: Callable[[relax.Expr, str], relax.Expr] = self.rewriter.emit
        moved = move(emit, value, [x for x, _ in known], lambda fill: code_of(fill, quantization), var.name)
        if not isinstance(moved.ty, relax.TupleType):
            return self.value_of(moved, quantization, var.name)
        fields = [emit(relax.TupleGetItem(moved, i), var.name) for i in range(len(moved.ty.fields))]
        return relax.Tuple([self.value_of(f, quantization, var.name) for f in fields])

    def value_of(self, codes: relax.Expr, quantization: Quantization, name: str) -> relax.Expr:
        """The DequantizeLinear of ``codes``, which keep the name of the operator that gave them."""
        scale = relax.const(np.float32(quantization.scale))
        zero_point = relax.const(np.array(quantization.zero_point, np.uint8))
        return self.rewriter.emit(relax.op.dequantize(codes, scale, zero_point, axis=-1), f"{name}_value")

    def clamp(self, var: relax.Var, value: relax.Call, interval: Interval) -> relax.Expr:
        """Rewrite 5."""
        source = self.source(interval.operand)
        if source is None or static_shape(interval.operand) != static_shape(value):
            return value
        x, quantization = source
        codes = []
        for bound, end in ((interval.low, 0), (interval.high, 255)):
            last = np.float32(end - quantization.zero_point) * np.float32(quantization.scale)
            outside = bound <= last if end == 0 else bound >= last
            codes.append(end if outside else exact_code_of(bound, quantization))
        low, high = codes
        if low is None or high is None or low > high:
            return value
        output = operators.Output(zero_point=quantization.zero_point, qmin=low, qmax=high)
        clamped = operators.requantize(x, multiplier=1.0, x_zero_point=quantization.zero_point, output=output)
        return self.value_of(self.rewriter.emit(clamped, var.name), quantization, var.name)


def sink_dequantize(module: tvm.IRModule) -> tvm.IRModule:
    """Apply the rewrites above to ``main``."""
    sinker = _Sinker(module)
    return sinker.rewriter.run(sinker.visit)
