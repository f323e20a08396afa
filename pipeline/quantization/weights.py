"""Weights as integers: which scale each channel gets, and the codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import InputError
from pipeline.quantization.grid import common_step
from pipeline.quantization.parameters import QuantizationParameters, parameters_for_range

LARGEST_BIAS = 2.0**30
"""In steps of the accumulator. Leaves room for the sum of products in int32."""

_MSE_STEPS = 80
_MSE_SMALLEST = 0.2


@dataclass(frozen=True)
class WeightSettings:
    """How one layer's weights are quantised."""

    bits: int
    granularity: str
    range: str | None = None
    """"minmax" or "mse"; None chooses: minmax where 8 bits resolve the largest weight well enough, else mse."""

    @property
    def uses_mse(self) -> bool:
        return self.range == "mse" or (self.range is None and self.bits < 8)


def weight_parameters(weight: np.ndarray, axis: int, groups: int, settings: WeightSettings) -> QuantizationParameters:
    """Symmetric int8 parameters of float32 weights: a scale for each channel along ``axis``, or a single one.

    "per-group" gives all channels of one of the convolution's ``groups`` the same scale. Raises InputError where a
    weight is NaN or infinite. Weights that lie on a grid already (:mod:`.grid`) keep it wherever the bits suffice.
    """
    if not np.isfinite(weight).all():
        raise InputError("its weights hold NaN or infinity: export the model again.")
    channels = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    if settings.granularity == "per-tensor":
        rows = channels.reshape(1, -1)
    elif settings.granularity == "per-group":
        rows = channels.reshape(_row_groups(len(channels), groups), -1)
    else:
        rows = channels
    high = np.abs(rows).max(axis=1).astype(np.float64)
    if settings.uses_mse:
        high = _least_squares(rows, high, settings.bits)
    step = common_step(weight)
    if step is not None:
        exact = step * ((1 << (settings.bits - 1)) - 1)
        high = np.where(np.abs(rows).max(axis=1) <= exact * (1 + 1e-5), exact, high)
    if settings.granularity == "per-tensor":
        return parameters_for_range(-high[0], high[0], symmetric=True, dtype=np.int8, bits=settings.bits)
    high = np.repeat(high, len(channels) // len(rows))
    return parameters_for_range(-high, high, symmetric=True, dtype=np.int8, bits=settings.bits, axis=axis)


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


def _row_groups(channels: int, groups: int) -> int:
    return groups if groups > 0 and channels % groups == 0 else 1


def _least_squares(rows: np.ndarray, high: np.ndarray, bits: int) -> np.ndarray:
    """For each row the largest value, of a grid below ``high``, whose rounding and clipping errs least (R,)."""
    half = (1 << (bits - 1)) - 1
    best, least = high.copy(), np.full(len(rows), np.inf)
    values = rows.astype(np.float32)
    for part in np.linspace(1.0, _MSE_SMALLEST, _MSE_STEPS):
        scale = np.maximum(high * part / half, np.finfo(np.float32).tiny).astype(np.float32)[:, None]
        error = np.square(np.clip(np.rint(values / scale), -half, half) * scale - values).sum(axis=1, dtype=np.float64)
        better = error < least
        best[better], least[better] = (high * part)[better], error[better]
    return best
