"""Weights, bias and scale of a convolution or a fully connected layer, as integers.

With x and w the codes, zx and zw their zero points, the sum of ``(x - zx) * (w - zw)`` is computed as

1. ``sum x * (w - zw)  -  zx * sum (w - zw)`` where w - zw fits int8 (or the kernel takes int16): the second term is a
   constant and goes into the bias;
2. ``sum x * w'  -  zx * sum w'  -  zw' * sum x  +  K * zx * zw'`` otherwise, where w' = w - 128 and zw' = zw - 128 for
   uint8 weights (w and zw for int8 ones): ``sum x`` is one more output, of a filter of ones.

Outside the image x reads zx, so the formulas hold for padded windows as they stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.passes.integer.quantization import INT8_TO_UINT8, QuantizedConstant
from pipeline.passes.integer.target import Refusal

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

INT32 = np.iinfo(np.int32)
INT8 = np.iinfo(np.int8)
U8_MAX = 255

SAME_SCALE = 1e-6
"""Relative difference up to which the scale of an int32 bias counts as that of the accumulator."""

CONSTANT_CHANNEL_STEPS = 2.0**20
"""Accumulator steps that the bias of a channel without weights is given: as exact as float32."""

NEGLIGIBLE = 2.0**-10
"""Weights whose largest possible sum is below this part of an output step are zero where the bias needs the range."""


@dataclass(frozen=True)
class Linear:
    """Operands of ``octet.conv2d`` or ``octet.dense``.

    Args:
        weight: int8 or int16, output channel first.
        bias: int32 (O,).
        scale: what one step of the accumulator stands for, (O,).
        weight_zero_point: int32 (O,) where the sum over each window is needed.
    """

    weight: NDArray[Any]
    bias: NDArray[np.int32]
    scale: Floats
    weight_zero_point: NDArray[np.int32] | None = None


@dataclass(frozen=True)
class Bias:
    """The bias of a layer: ``value`` in real numbers, and the integers and scale of a quantised one. All (O,)."""

    value: Floats
    codes: Integers | None = None
    scale: Floats | None = None


def no_bias(channels: int) -> Bias:
    """Zeros."""
    return Bias(np.zeros(channels))


def quantized_bias(constant: QuantizedConstant, channels: int) -> Bias:
    """The bias that a DequantizeLinear gives."""
    codes = np.broadcast_to(constant.codes.astype(np.int64).reshape(-1), (channels,))
    shape = (channels,)
    scale = np.broadcast_to(constant.scale, shape)
    zero_point = np.broadcast_to(constant.zero_point, shape)
    return Bias((codes - zero_point) * scale, codes - zero_point, scale)


def _bias_steps(bias: Bias, scale: Floats) -> Floats:
    """The bias in steps of the accumulator, as whole numbers: the model's own integers where the scales agree."""
    with np.errstate(all="ignore"):
        steps = np.rint(bias.value / scale)
    steps = np.where(bias.value == 0, 0.0, steps)
    if bias.codes is not None and bias.scale is not None:
        agree = np.abs(bias.scale - scale) <= SAME_SCALE * scale
        steps = np.where(agree, bias.codes, steps)
    return steps


def _per_channel(weight: QuantizedConstant) -> tuple[Integers, Floats, Integers]:
    """Codes with the output channel first, and scale and zero point of each channel."""
    codes = weight.codes.astype(np.int64)
    shape = (codes.shape[0],)
    return codes, np.broadcast_to(weight.scale, shape).copy(), np.broadcast_to(weight.zero_point, shape).copy()


def linear(
    weight: QuantizedConstant,
    bias: Bias,
    *,
    x_scale: float,
    x_zero_point: int,
    y_scale: float | None,
    allow_int16: bool = False,
) -> Linear | Refusal:
    """The integers of a layer whose ``weight`` has the output channel first, with at most one scale a channel.

    Args:
        y_scale: step of the quantised output, if there is one.
        allow_int16: whether the kernel takes int16 weights.
    """
    codes, w_scale, zero_point = _per_channel(weight)
    rows = codes.reshape(codes.shape[0], -1)
    difference = rows - zero_point[:, None]
    scale = x_scale * w_scale
    dead = (difference == 0).all(axis=1) | (scale == 0)
    steps = _bias_steps(bias, scale)
    too_large = ~(np.abs(steps) <= INT32.max)
    if y_scale is not None:
        dead |= too_large & (np.abs(difference).sum(axis=1) * U8_MAX * scale < NEGLIGIBLE * y_scale)
    adrift = dead & (too_large | (scale == 0) | (steps == 0))
    scale = np.where(adrift, np.abs(bias.value) / CONSTANT_CHANNEL_STEPS, scale)
    scale = np.where(scale == 0, 1.0, scale)
    steps = np.where(adrift, np.sign(bias.value) * CONSTANT_CHANNEL_STEPS, steps)
    if not (np.abs(steps) <= INT32.max).all():
        channel = int(np.argmax(~(np.abs(steps) <= INT32.max)))
        return Refusal(f"the bias of channel {channel} does not fit int32 at the scale of the accumulator")
    return _encoded(codes.shape, rows, zero_point, dead, steps.astype(np.int64), scale, x_zero_point, allow_int16)


def _encoded(
    shape: tuple[int, ...],
    rows: Integers,
    zero_point: Integers,
    dead: NDArray[np.bool_],
    steps: Integers,
    scale: Floats,
    x_zero_point: int,
    allow_int16: bool,
) -> Linear | Refusal:
    """Choose formula 1 or 2 for the (O, K) codes ``rows``, and check that no sum can leave int32."""
    difference = np.where(dead[:, None], 0, rows - zero_point[:, None])
    fits = difference.size == 0 or (difference.min() >= INT8.min and difference.max() <= INT8.max)
    if fits or allow_int16:
        bias = steps - x_zero_point * difference.sum(axis=1)
        if not _in_range(difference, bias):
            return Refusal("a sum of products may leave int32")
        stored = difference.reshape(shape).astype(np.int8 if fits else np.int16)
        return Linear(stored, bias.astype(np.int32), scale)
    shift = INT8_TO_UINT8 if rows.max() > INT8.max or zero_point.max() > INT8.max else 0
    small, zero = rows - shift, zero_point - shift
    small = np.where(dead[:, None], zero[:, None], small)
    bias = steps - x_zero_point * small.sum(axis=1) + rows.shape[1] * x_zero_point * zero
    largest_sum = U8_MAX * rows.shape[1]
    margin = int(np.abs(zero).max()) * largest_sum
    if not _in_range(small, bias, margin):
        return Refusal("a sum of products may leave int32")
    return Linear(small.reshape(shape).astype(np.int8), bias.astype(np.int32), scale, zero.astype(np.int32))


def _in_range(weight: Integers, bias: Integers, margin: int = 0) -> bool:
    """Whether bias plus any part of the sum over uint8 x stays in int32 with ``margin`` to spare."""
    high = U8_MAX * np.maximum(weight, 0).sum(axis=1)
    low = U8_MAX * np.minimum(weight, 0).sum(axis=1)
    largest = max(np.abs(bias).max(initial=0), high.max(initial=0), -low.min(initial=0))
    largest = max(largest, (bias + high).max(initial=0), -(bias + low).min(initial=0))
    return int(largest) + margin <= INT32.max
