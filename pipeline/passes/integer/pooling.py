"""Averages over windows and over axes.

1. avg_pool2d and avg_pool1d -> ``octet.avg_pool2d``: padding counts or not as count_include_pad says, what ceil_mode
   adds beyond it never does.
2. mean over any axes -> ``octet.avg_pool2d`` of one window, axes other than the last two of four being brought there.

Does not lower averages with dilation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import op_name, static_shape
from pipeline.passes.integer.context import Context
from pipeline.passes.integer.linear import INT32, U8_MAX
from pipeline.passes.integer.target import Refusal, Target
from pipeline.passes.integer.windows import Window, as_image, as_shape_of, window_of


def _extents(window: Window, axis: int, include_padding: bool) -> NDArray[np.int64]:
    """Number of positions along ``axis`` that each window counts."""
    size, before, after = window.size[axis], window.declared[axis], window.declared[axis + 2]
    start = np.arange(window.windows[axis]) * window.strides[axis] - before
    end = start + window.kernel[axis]
    first, last = (-before, size + after) if include_padding else (0, size)
    return np.minimum(end, last) - np.maximum(start, first)


def lower_avg_pool(context: Context, var: relax.Var, call: relax.Call, target: Target) -> relax.Expr | Refusal:
    """``octet.avg_pool2d`` for an average pool."""
    activation = context.activation(call.args[0])
    window = window_of(call, call.attrs.pool_size)
    if activation is None:
        return Refusal("input 0 is not quantised")
    if window is None or window.dilation != (1, 1):
        return Refusal("its shape is not known, its layout is not channels first, or it has dilation")
    x, quantization = activation
    include = bool(call.attrs.count_include_pad)
    counts = np.outer(_extents(window, 0, include), _extents(window, 1, include))
    if counts.size == 0 or counts.min() < 1:
        return Refusal("a window lies in the padding entirely")
    multiplier = target.multiplier(quantization.scale / counts)
    if isinstance(multiplier, Refusal):
        return multiplier
    result = operators.avg_pool2d(
        context.emit(as_image(x), f"{var.name}_image"),
        relax.const(multiplier),
        kernel=window.kernel,
        strides=window.strides,
        padding=window.padding,
        x_zero_point=quantization.zero_point,
        output=target.output,
    )
    context.report.lowered(var.name, op_name(call), "average pool of u8")
    return context.emit(as_shape_of(context.emit(result, var.name), call), var.name)


def lower_mean(context: Context, var: relax.Var, call: relax.Call, target: Target) -> relax.Expr | Refusal:
    """``octet.avg_pool2d`` with one window for a mean over axes."""
    activation = context.activation(call.args[0])
    shape = static_shape(call.args[0])
    if activation is None or shape is None:
        return Refusal("input 0 is not quantised")
    x, quantization = activation
    axes = [a % len(shape) for a in (range(len(shape)) if call.attrs.axis is None else map(int, call.attrs.axis))]
    count = int(np.prod([shape[a] for a in axes]))
    if count == 0 or count * U8_MAX > INT32.max:
        return Refusal("it averages no element, or more than int32 can sum")
    multiplier = target.multiplier(np.array([[quantization.scale / count]]))
    if isinstance(multiplier, Refusal):
        return multiplier
    image = _reduced_axes_last(context, x, shape, axes, var.name)
    kernel = (static_shape(image) or ())[2:]
    result = operators.avg_pool2d(
        image,
        relax.const(multiplier),
        kernel=kernel,
        strides=(1, 1),
        padding=(0, 0, 0, 0),
        x_zero_point=quantization.zero_point,
        output=target.output,
    )
    context.report.lowered(var.name, op_name(call), "average of u8")
    return context.emit(as_shape_of(context.emit(result, var.name), call), var.name)


def _reduced_axes_last(
    context: Context, x: relax.Expr, shape: tuple[int, ...], axes: list[int], name: str
) -> relax.Expr:
    """``x`` as (N, C, H, W) whose last two axes hold the axes that are averaged."""
    if len(shape) == 4 and sorted(axes) == [2, 3]:
        return x
    kept = [a for a in range(len(shape)) if a not in axes]
    order = kept + sorted(axes)
    if order != list(range(len(shape))):
        x = context.emit(relax.op.permute_dims(x, order), f"{name}_image")
    rows = int(np.prod([shape[a] for a in kept]))
    count = int(np.prod([shape[a] for a in axes]))
    return context.emit(relax.op.reshape(x, (1, rows, 1, count)), f"{name}_image")
