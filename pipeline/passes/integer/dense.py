"""Matrix products.

1. matmul of a quantised activation with a quantised constant (K, N), with or without the bias that is added behind it,
   -> ``octet.dense``; a factor that Gemm's alpha multiplies the activation by joins its scale.
2. matmul of two quantised tensors of two or more axes with one scale each -> ``octet.matmul``.

Does not lower a weight with one scale for each input, nor vectors times vectors.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import numpy_of, op_name, static_shape
from pipeline.passes.integer.context import Context
from pipeline.passes.integer.linear import INT32, U8_MAX, Bias, linear, no_bias
from pipeline.passes.integer.quantization import ENCODABLE, Quantization, QuantizedConstant
from pipeline.passes.integer.target import Refusal, Target

MATMUL = "relax.matmul"


def _scaled_activation(context: Context, expr: relax.Expr) -> tuple[relax.Expr, Quantization] | None:
    """A quantised activation, or one times a positive number."""
    product = context.definition(expr)
    if op_name(product) == "relax.multiply":
        factor = numpy_of(product.args[1])
        inner = context.activation(product.args[0])
        if inner is not None and factor is not None and factor.size == 1 and factor.item() > 0:
            return inner[0], replace(inner[1], scale=inner[1].scale * float(factor.item()))
    return context.activation(expr)


def lower_matmul(
    context: Context, var: relax.Var, call: relax.Call, target: Target, bias: Bias | None = None
) -> relax.Expr | Refusal:
    """``octet.dense`` or ``octet.matmul`` for the matmul ``call``, whose result (with the bias) was called ``var``."""
    weight = context.quantized_constant(call.args[1])
    if weight is not None and weight.codes.ndim == 2 and str(weight.codes.dtype) in ENCODABLE:
        return _dense(context, var, call, weight, target, bias)
    if bias is not None:
        return Refusal("a bias behind a product of two activations has no integer form")
    return _product(context, var, call, target)


def _dense(
    context: Context, var: relax.Var, call: relax.Call, weight: QuantizedConstant, target: Target, bias: Bias | None
) -> relax.Expr | Refusal:
    activation = _scaled_activation(context, call.args[0])
    if activation is None:
        return Refusal("input 0 is not quantised")
    if weight.axis == 0:
        return Refusal("the weights have one scale for each input, not for each output")
    x, quantization = activation
    rows = np.ascontiguousarray(weight.codes.T)
    weight = replace(weight, codes=rows, axis=None if weight.axis is None else 0)
    numbers = linear(
        weight,
        no_bias(rows.shape[0]) if bias is None else bias,
        x_scale=quantization.scale,
        x_zero_point=quantization.zero_point,
        y_scale=target.scale,
    )
    if isinstance(numbers, Refusal):
        return numbers
    multiplier = target.multiplier(numbers.scale)
    if isinstance(multiplier, Refusal):
        return multiplier
    sums = None
    if numbers.weight_zero_point is not None:
        ones = operators.dense(
            x,
            relax.const(np.ones((1, rows.shape[1]), np.int8)),
            relax.const(np.zeros(1, np.int32)),
            relax.const(np.ones(1, np.float32)),
            x_zero_point=quantization.zero_point,
            output=operators.Output(dtype="int32"),
        )
        sums = context.emit(ones, f"{var.name}_window_sum")
    result = operators.dense(
        x,
        relax.const(numbers.weight),
        relax.const(numbers.bias),
        relax.const(multiplier),
        x_zero_point=quantization.zero_point,
        output=target.output,
        window_sum=sums,
        weight_zero_point=None if sums is None else relax.const(numbers.weight_zero_point),
    )
    scales = "a channel" if weight.scale.size > 1 else "a tensor"
    context.report.lowered(var.name, op_name(call), f"dense u8 x s8, one scale {scales}")
    return context.emit(result, var.name)


def _product(context: Context, var: relax.Var, call: relax.Call, target: Target) -> relax.Expr | Refusal:
    a, b = context.activation(call.args[0]), context.activation(call.args[1])
    for position, side in enumerate((a, b)):
        if side is None:
            return Refusal(f"input {position} is not quantised with one scale for the tensor")
    assert a is not None
    assert b is not None
    depth, ranks = (static_shape(a[0]) or (0,))[-1], [len(static_shape(x) or ()) for x in (a[0], b[0])]
    if min(ranks) < 2:
        return Refusal("a product with a vector has no integer form")
    if depth * U8_MAX**2 > INT32.max:
        return Refusal("a sum of products may leave int32")
    multiplier = target.multiplier(np.array([a[1].scale * b[1].scale]))
    if isinstance(multiplier, Refusal):
        return multiplier
    result = operators.matmul(
        a[0],
        b[0],
        relax.const(multiplier),
        a_zero_point=a[1].zero_point,
        b_zero_point=b[1].zero_point,
        output=target.output,
    )
    context.report.lowered(var.name, op_name(call), "matmul u8 x u8")
    return context.emit(result, var.name)
