"""What candidates are run on: weights and activations of a problem, made up."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.compute.conv2d import Conv2d, epilogue_arguments

Array = NDArray[Any]

WEIGHT_DEVIATION = 32.0
"""Of the codes of a typical filter, whose largest is near 127."""


class Fill(Enum):
    """Which values the data has."""

    TYPICAL = "typical"
    """Weights as networks have them, which is what data-dependent packing shall see."""
    RANDOM = "random"
    """Every code as likely as the next."""
    EXTREME = "extreme"
    """The largest and the smallest code only, where an intermediate would overflow or saturate."""


def activations(random: np.random.Generator, problem: Conv2d, fill: Fill) -> Array:
    """The input, what the padding of its channels holds included."""
    shape = (problem.n, problem.h, problem.w, problem.x_channels)
    return _codes(random, shape, "uint8", fill)


def model_arrays(random: np.random.Generator, problem: Conv2d, fill: Fill) -> list[Array]:
    """Weight, bias, multiplier and, with a window sum, weight zero points: most results are within the output's range.

    The standard deviation of a sum of K products of uniform codes is 74 * 74 * sqrt(K).
    """
    shape = (problem.oc, problem.ic // problem.groups, *problem.kernel)
    if fill is Fill.TYPICAL:
        codes = np.round(random.normal(0, WEIGHT_DEVIATION, shape))
        weight = np.clip(codes, -127, 127).astype(problem.weight_dtype)
    else:
        weight = _codes(random, shape, problem.weight_dtype, fill)
    spread = 74 * 74 * np.sqrt(weight[0].size)
    bias = np.round(random.normal(0, spread / 2, problem.oc)).astype(np.int32)
    multiplier = (random.uniform(30, 90, problem.oc) / spread).astype(np.float32)
    arrays = [weight, bias, multiplier]
    if problem.window_sum:
        arrays.append(random.integers(-3, 4, problem.oc).astype(np.int32))
    return arrays


def operands(random: np.random.Generator, problem: Conv2d, fill: Fill) -> list[Array]:
    """What the epilogue reads besides constants: a window sum and the operands of the stages."""
    found: list[Array] = []
    for name, shape, dtype in epilogue_arguments(problem)[2:]:
        if name == "window_sum":
            taps = problem.ic // problem.groups * problem.kernel[0] * problem.kernel[1]
            found.append(random.integers(0, 255 * taps + 1, shape).astype(np.int32))
        elif name != "weight_zero_point":
            found.append(_codes(random, shape, dtype, fill))
    return found


def _codes(random: np.random.Generator, shape: tuple[int, ...], dtype: str, fill: Fill) -> Array:
    """Integers of the dtype; int16 weights are int8 ones without their zero point."""
    low, high = (-255, 255) if dtype == "int16" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    if fill is Fill.EXTREME:
        return random.choice(np.array([low, high, high], dtype), shape)
    return random.integers(low, high + 1, shape).astype(dtype)
