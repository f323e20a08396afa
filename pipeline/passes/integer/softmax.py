"""Softmax of a quantised activation -> ``octet.softmax``: integer in, float inside, quantised or float32 out."""

from __future__ import annotations

import numpy as np
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import op_name, static_shape
from pipeline.passes.integer.context import Context
from pipeline.passes.integer.target import Refusal, Target


def lower_softmax(context: Context, var: relax.Var, call: relax.Call, target: Target) -> relax.Expr | Refusal:
    """``octet.softmax``: its table holds exp(-s * d) for each distance d to the largest code."""
    activation = context.activation(call.args[0])
    if activation is None:
        return Refusal("input 0 is not quantised")
    inverse = target.multiplier(1.0)
    if isinstance(inverse, Refusal):
        return inverse
    x, quantization = activation
    table = np.exp(-quantization.scale * np.arange(256, dtype=np.float64)).astype(np.float32)
    result = operators.softmax(
        x,
        relax.const(table),
        axis=int(call.attrs.axis) % len(static_shape(call) or (1,)),
        inverse_scale=float(inverse),
        output=target.output,
    )
    context.report.lowered(var.name, op_name(call), "softmax of u8, float inside")
    return context.emit(result, var.name)
