"""Convolutions of quantised activations with quantised constant weights.

1. conv2d and conv1d, any groups, stride, padding and dilation, with or without the bias that is added behind them
   -> ``octet.conv2d``.
2. Zero points of weights as :mod:`.linear` says; a grouped convolution that needs the sum over its windows becomes one
   without groups, whose other weights stand for zero.
3. A padding with zeros in front joins the convolution's own.

Does not lower transposed or 3-D convolutions, nor weights that are computed at run time.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import op_name, static_shape
from pipeline.passes.integer.context import Context
from pipeline.passes.integer.linear import INT8, Bias, linear, no_bias
from pipeline.passes.integer.quantization import ENCODABLE, QuantizedConstant
from pipeline.passes.integer.target import Refusal, Target
from pipeline.passes.integer.windows import Window, as_image, as_shape_of, window_of

CONVOLUTIONS = frozenset({"relax.nn.conv1d", "relax.nn.conv2d"})


def _differences_fit(weight: QuantizedConstant) -> bool:
    difference = weight.codes.astype(np.int64) - weight.along_axis(weight.zero_point)
    return difference.size == 0 or bool(difference.min() >= INT8.min and difference.max() <= INT8.max)


def _without_groups(weight: QuantizedConstant, groups: int) -> QuantizedConstant:
    """The weights of a convolution with one group: between groups they hold their zero point."""
    o, cg, kh, kw = weight.codes.shape
    zero_point = np.broadcast_to(weight.zero_point, (o,)).astype(weight.codes.dtype)
    codes = np.broadcast_to(zero_point[:, None, None, None], (o, cg * groups, kh, kw)).copy()
    for group in range(groups):
        rows = slice(group * (o // groups), (group + 1) * (o // groups))
        codes[rows, group * cg : (group + 1) * cg] = weight.codes[rows]
    return replace(weight, codes=codes)


def _join_padding(
    context: Context, x: relax.Expr, zero_point: int, padding: tuple[int, ...]
) -> tuple[relax.Expr, list[int]]:
    """The tensor in front of a padding of height and width with ``zero_point``, and both paddings together."""
    pad = context.definition(x)
    if op_name(pad) != "relax.nn.pad" or len(static_shape(x) or ()) != 4:
        return x, list(padding)
    widths = [int(w) for w in pad.attrs.pad_width]
    if any(widths[:4]) or min(widths) < 0 or float(pad.attrs.pad_value) != zero_point:
        return x, list(padding)
    more = (widths[4], widths[6], widths[5], widths[7])
    return pad.args[0], [p + m for p, m in zip(padding, more, strict=True)]


def _weights_text(groups: int, channels: int, weight: QuantizedConstant, stored: tvm.ir.GenericConst) -> str:
    kind = "depthwise " if groups == channels and groups > 1 else f"{groups} groups " if groups > 1 else ""
    signed = "s16" if str(stored.ty.dtype) == "int16" else "s8"
    return f"{kind}u8 x {signed}, one scale {'a channel' if weight.scale.size > 1 else 'a tensor'}"


def lower_convolution(
    context: Context, var: relax.Var, call: relax.Call, target: Target, bias: Bias | None = None
) -> relax.Expr | Refusal:
    """``octet.conv2d`` for the convolution ``call``, whose result (with the bias) was called ``var``."""
    activation = context.activation(call.args[0])
    weight = context.quantized_constant(call.args[1])
    window = window_of(call, (static_shape(call.args[1]) or ())[2:])
    if activation is None:
        return Refusal("input 0 is not quantised")
    if weight is None or str(weight.codes.dtype) not in ENCODABLE or weight.axis not in (None, 0):
        return Refusal("the weights are not int8 or uint8 constants with one scale a tensor or an output channel")
    if window is None:
        return Refusal("its shape is not known or its layout is not channels first")
    x, quantization = activation
    o, cg = weight.codes.shape[:2]
    groups = int(call.attrs.groups)
    weight = replace(weight, codes=weight.codes.reshape(o, cg, *window.kernel))
    depthwise = groups > 1 and groups == cg * groups == o
    if groups > 1 and not depthwise and not _differences_fit(weight):
        weight, groups = _without_groups(weight, groups), 1
    numbers = linear(
        weight,
        no_bias(o) if bias is None else bias,
        x_scale=quantization.scale,
        x_zero_point=quantization.zero_point,
        y_scale=target.scale,
        allow_int16=depthwise,
    )
    if isinstance(numbers, Refusal):
        return numbers
    multiplier = target.multiplier(numbers.scale)
    if isinstance(multiplier, Refusal):
        return multiplier
    x, padding = _join_padding(context, x, quantization.zero_point, window.padding)
    x = context.emit(as_image(x), f"{var.name}_image")
    sums = None
    if numbers.weight_zero_point is not None:
        sums = _window_sum(context, x, window, padding, quantization.zero_point, f"{var.name}_window_sum")
    stored = relax.const(numbers.weight)
    result = operators.conv2d(
        x,
        stored,
        relax.const(numbers.bias),
        relax.const(multiplier),
        strides=window.strides,
        padding=padding,
        dilation=window.dilation,
        groups=groups,
        x_zero_point=quantization.zero_point,
        output=target.output,
        window_sum=sums,
        weight_zero_point=None if sums is None else relax.const(numbers.weight_zero_point),
    )
    context.report.lowered(var.name, op_name(call), _weights_text(groups, o, weight, stored))
    return context.emit(as_shape_of(context.emit(result, var.name), call), var.name)


def _window_sum(
    context: Context, x: relax.Expr, window: Window, padding: list[int], zero_point: int, name: str
) -> relax.Expr:
    """The sum of ``x`` over all channels of each window, as the convolution with a filter of ones."""
    channels = (static_shape(x) or ())[1]
    ones = operators.conv2d(
        x,
        relax.const(np.ones((1, channels, *window.kernel), np.int8)),
        relax.const(np.zeros(1, np.int32)),
        relax.const(np.ones(1, np.float32)),
        strides=window.strides,
        padding=padding,
        dilation=window.dilation,
        groups=1,
        x_zero_point=zero_point,
        output=operators.Output(dtype="int32"),
    )
    return context.emit(ones, name)
