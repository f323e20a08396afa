"""Weights as integers: which scale each channel gets, and the codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.quantization.grid import common_step
from pipeline.quantization.parameters import QuantizationParameters, parameters_for_range

LARGEST_BIAS = 2.0**30
"""In steps of the accumulator. Leaves room for the sum of products in int32."""


@dataclass(frozen=True)
class WeightSettings:
    """How one layer's weights are quantised."""

    bits: int
    granularity: str


def weight_parameters(weight: np.ndarray, axis: int, groups: int, settings: WeightSettings) -> QuantizationParameters:
    """Symmetric int8 parameters of float32 weights: a scale for each channel along ``axis``, or a single one.

    The range goes to the largest magnitude. "per-group" gives all channels of one of the convolution's ``groups`` the
    same scale. Weights that lie on a grid already (:mod:`.grid`) keep it wherever the bits suffice.
    """
    rows = weight_sets(weight, axis, groups, settings.granularity)
    high = np.abs(rows).max(axis=1).astype(np.float64)
    step = common_step(weight)
    if step is not None:
        exact = step * ((1 << (settings.bits - 1)) - 1)
        high = np.where(high <= exact * (1 + 1e-5), exact, high)
    if settings.granularity == "per-tensor":
        return parameters_for_range(-high[0], high[0], symmetric=True, dtype=np.int8, bits=settings.bits)
    high = np.repeat(high, weight.shape[axis] // len(rows))
    return parameters_for_range(-high, high, symmetric=True, dtype=np.int8, bits=settings.bits, axis=axis)


def weight_sets(weight: np.ndarray, axis: int, groups: int, granularity: str) -> np.ndarray:
    """The weights that share a scale, (sets, entries), in the order of the channels along ``axis``."""
    channels = weight.shape[axis]
    grouped = groups if groups > 0 and channels % groups == 0 else 1
    sets = {"per-channel": channels, "per-group": grouped, "per-tensor": 1}[granularity]
    return np.moveaxis(weight, axis, 0).reshape(sets, -1)


def with_room_for_bias(parameters: QuantizationParameters, bias: np.ndarray, x_scale: float) -> QuantizationParameters:
    """The parameters with such scales that no bias, in steps of ``x_scale * scale``, leaves int32.

    Only channels whose weights are tiny beside their bias change. ``bias``: (O,).
    """
    least = np.abs(bias.astype(np.float64)) / (x_scale * LARGEST_BIAS)
    if parameters.axis is None:
        least = least.max(initial=0.0)
    elif parameters.scale.shape != least.shape:
        return parameters
    scale = np.maximum(parameters.scale, least).astype(np.float32)
    return QuantizationParameters(
        scale, parameters.zero_point, parameters.dtype, parameters.axis, parameters.minimum, parameters.maximum
    )


def quantize_bias(bias: np.ndarray, x_scale: np.ndarray, w_scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int32 codes, float32 scale ``x_scale * w_scale``), each of shape (O,) or, the scale, scalar."""
    scale = (np.float64(x_scale) * w_scale.astype(np.float64)).astype(np.float32)
    limits = np.iinfo(np.int32)
    codes = np.clip(np.rint(bias.astype(np.float64) / scale.astype(np.float64)), limits.min, limits.max)
    return codes.astype(np.int32), scale
