"""From a range of real numbers to the scale and zero point of an 8-bit type, and from values to integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import InputError

MIN_BITS, MAX_BITS = 2, 8

SMALLEST_SCALE = 2.0**-60
"""Smaller scales are raised to this one, so that the product of two scales is still a normal float32."""


@dataclass(frozen=True, eq=False)
class QuantizationParameters:
    """``real = scale * (stored - zero_point)``, for a whole tensor or for each channel along ``axis``.

    ``scale`` is float32 and ``zero_point`` has the type ``dtype``; both are 0-d, or 1-d with one entry a channel.
    Stored values lie in ``minimum``..``maximum``, which is narrower than ``dtype`` below 8 bits and, for symmetric
    parameters, at 8 bits as well (-127..127).
    """

    scale: np.ndarray
    zero_point: np.ndarray
    dtype: np.dtype[Any]
    axis: int | None
    minimum: int
    maximum: int

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """``clamp(round_half_even(values / scale) + zero_point)``, divided in float32 as ONNX's QuantizeLinear does."""
        scale, zero_point = self._broadcast(values.ndim)
        with np.errstate(over="ignore"):  # an overflow becomes inf, which the clamp handles
            steps = np.rint(np.asarray(values, np.float32) / scale)
        return np.clip(steps + zero_point.astype(np.float32), self.minimum, self.maximum).astype(self.dtype)

    def dequantize(self, stored: np.ndarray) -> np.ndarray:
        """The float32 values that ``stored`` stands for."""
        scale, zero_point = self._broadcast(stored.ndim)
        return (stored.astype(np.int32) - zero_point.astype(np.int32)).astype(np.float32) * scale

    def _broadcast(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point in a shape that broadcasts against a tensor of ``rank`` dimensions."""
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * rank
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


def quantized_limits(dtype: Any, bits: int = 8, *, symmetric: bool) -> tuple[int, int, int]:
    """``(minimum, maximum, middle)``: the integers that ``bits`` bits of int8 or uint8 use.

    Symmetric types leave the lowest value out, so that there are as many steps below the middle as above it.
    """
    name = np.dtype(dtype).name
    if name not in ("int8", "uint8"):
        raise InputError(f"cannot quantise to {name}: choose int8 or uint8")
    if not MIN_BITS <= bits <= MAX_BITS:
        raise InputError(f"cannot quantise to {bits} bits: choose {MIN_BITS} to {MAX_BITS}")
    middle = 0 if name == "int8" else 1 << (bits - 1)
    half = 1 << (bits - 1)
    return middle - half + int(symmetric), middle + half - 1, middle


def parameters_for_range(
    low: Any, high: Any, *, symmetric: bool, dtype: Any, bits: int = 8, axis: int | None = None
) -> QuantizationParameters:
    """Scale and zero point with which ``bits`` bits of ``dtype`` (int8 or uint8) span ``low``..``high``.

    ``low`` and ``high`` are numbers, or 1-d arrays with one entry a channel along ``axis``. The range is first
    widened to contain 0, which is thereby exact. Symmetric: ``scale = max(|low|, |high|) / (2**(bits-1) - 1)`` with the
    zero point in the middle of the type. Asymmetric: ``scale = (high - low) / (2**bits - 1)``, zero point at
    ``minimum - low / scale``, rounded. The scale is always finite, positive and not denormal: an empty range (a dead
    channel, a tensor of zeros) takes the largest scale among the other channels, or 1 if there is none.

    Raises InputError if the range is not finite, or the wrong way round.
    """
    minimum, maximum, middle = quantized_limits(dtype, bits, symmetric=symmetric)
    low, high = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    if low.ndim != (axis is not None):
        needed = "a number" if axis is None else "1-d, with one entry a channel"
        raise InputError(f"the range has shape {low.shape}, but with axis={axis} each end must be {needed}")
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError("the range to quantise is not finite: look for NaN or infinity in the values")
    if (low > high).any():
        raise InputError(f"the range to quantise is the wrong way round: {low} to {high}")
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)

    if symmetric:
        width, steps = np.maximum(-low, high), maximum - middle
    else:
        width, steps = high - low, maximum - minimum
    empty = width == 0
    scale = np.clip(width / steps, SMALLEST_SCALE, np.finfo(np.float32).max).astype(np.float32)
    scale = np.where(empty, np.max(scale, where=~empty, initial=0) or 1, scale).astype(np.float32)
    if symmetric:
        zero_point = np.full(scale.shape, middle, dtype)
    else:
        zero_point = np.asarray(np.clip(np.rint(minimum - low / scale.astype(np.float64)), minimum, maximum), dtype)
    return QuantizationParameters(scale, zero_point, np.dtype(dtype), axis, minimum, maximum)
