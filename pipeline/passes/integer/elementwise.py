"""Sums, differences and products of two quantised activations (or of one and a constant with one scale).

1. add and subtract -> ``octet.add``.
2. multiply -> ``octet.multiply``.

Does not lower sums of more than two tensors with nothing quantised between, nor divisions.
"""

from __future__ import annotations

from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import op_name
from pipeline.passes.integer.context import Context
from pipeline.passes.integer.quantization import Quantization
from pipeline.passes.integer.target import Refusal, Target

SMALLEST_RATIO = 2.0**-100
LARGEST_RATIO = 2.0**100
"""Between the two every coefficient and multiplier is an ordinary float32."""

Pair = tuple[tuple[relax.Expr, Quantization], tuple[relax.Expr, Quantization]]


def _operands(context: Context, call: relax.Call) -> Pair | Refusal:
    a, b = context.activation(call.args[0]), context.activation(call.args[1])
    if a is None or b is None:
        return Refusal(f"input {0 if a is None else 1} is not quantised")
    return a, b


def lower_add(context: Context, var: relax.Var, call: relax.Call, target: Target) -> relax.Expr | Refusal:
    """``octet.add`` for an addition or a subtraction whose result is quantised."""
    pair = _operands(context, call)
    if isinstance(pair, Refusal):
        return pair
    if target.scale is None:
        return Refusal("its result is not quantised")
    (a, qa), (b, qb) = pair
    ratios = qa.scale / target.scale, qb.scale / target.scale
    if not SMALLEST_RATIO <= max(ratios) <= LARGEST_RATIO:
        return Refusal("its scales are too far apart")
    result = operators.add(
        a,
        b,
        a_ratio=ratios[0],
        b_ratio=-ratios[1] if op_name(call) == "relax.subtract" else ratios[1],
        a_zero_point=qa.zero_point,
        b_zero_point=qb.zero_point,
        output=target.output,
    )
    context.report.lowered(var.name, op_name(call), "add u8 + u8")
    return context.emit(result, var.name)


def lower_multiply(context: Context, var: relax.Var, call: relax.Call, target: Target) -> relax.Expr | Refusal:
    """``octet.multiply`` for a product whose result is quantised."""
    pair = _operands(context, call)
    if isinstance(pair, Refusal):
        return pair
    if target.scale is None:
        return Refusal("its result is not quantised")
    (a, qa), (b, qb) = pair
    multiplier = target.multiplier(qa.scale * qb.scale)
    if isinstance(multiplier, Refusal):
        return multiplier
    result = operators.multiply(
        a,
        b,
        multiplier=float(multiplier),
        a_zero_point=qa.zero_point,
        b_zero_point=qb.zero_point,
        output=target.output,
    )
    context.report.lowered(var.name, op_name(call), "multiply u8 x u8")
    return context.emit(result, var.name)
