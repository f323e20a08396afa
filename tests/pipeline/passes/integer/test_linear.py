"""The zero-point algebra of layers, against the definition in int64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.passes.integer.linear import Bias, Linear, linear, no_bias
from pipeline.passes.integer.quantization import QuantizedConstant
from pipeline.passes.integer.target import Refusal

Array = NDArray[Any]


def _weight(codes: Array, zero_point: Any = 0, scale: Any = 0.5) -> QuantizedConstant:
    rows = codes.shape[0]
    per_channel = np.ndim(zero_point) > 0 or np.ndim(scale) > 0
    size = rows if per_channel else 1
    return QuantizedConstant(
        codes,
        np.broadcast_to(np.asarray(scale, np.float64), (size,)),
        np.broadcast_to(np.asarray(zero_point, np.int64), (size,)),
        0 if per_channel else None,
    )


def _accumulated(numbers: Linear, x: Array) -> Array:
    """What the kernels accumulate: (O, K) weights times (K, N) codes."""
    v = numbers.weight.astype(np.int64) @ x.astype(np.int64) + numbers.bias.astype(np.int64)[:, None]
    if numbers.weight_zero_point is not None:
        v = v - numbers.weight_zero_point.astype(np.int64)[:, None] * x.astype(np.int64).sum(axis=0)
    return v


@pytest.mark.parametrize(
    ("dtype", "zero_point", "x_zero_point"),
    [
        *itertools.product(["uint8"], [0, 1, 127, 128, 255], [0, 128, 255]),
        *itertools.product(["int8"], [-128, -1, 0, 127], [0, 128, 255]),
    ],
)
@pytest.mark.parametrize("allow_int16", [False, True])
def test_sum_of_differences(dtype: str, zero_point: int, x_zero_point: int, allow_int16: bool) -> None:
    """Guards both formulas at the ends of every range: sum of (x - zx) * (w - zw), exactly."""
    rng = np.random.default_rng(0)
    limits = np.iinfo(dtype)
    w = rng.choice([limits.min, limits.max, 0, 1, limits.max // 2], (5, 40)).astype(dtype)
    x = rng.choice([0, 1, 127, 128, 255], (40, 30)).astype(np.uint8)
    numbers = linear(
        _weight(w, zero_point),
        no_bias(5),
        x_scale=0.1,
        x_zero_point=x_zero_point,
        y_scale=None,
        allow_int16=allow_int16,
    )
    assert isinstance(numbers, Linear)
    expected = (w.astype(np.int64) - zero_point) @ (x.astype(np.int64) - x_zero_point)
    np.testing.assert_array_equal(_accumulated(numbers, x), expected)
    fits_int8 = zero_point == (0 if dtype == "int8" else 128)
    assert (numbers.weight_zero_point is None) == (fits_int8 or allow_int16)
    assert numbers.weight.dtype == (np.int16 if allow_int16 and not fits_int8 else np.int8)


def test_zero_point_of_each_channel() -> None:
    """Guards per-channel zero points, one channel of which is dead."""
    rng = np.random.default_rng(0)
    zero_points = np.array([0, 255, 7, 128])
    w = rng.integers(0, 256, (4, 20)).astype(np.uint8)
    w[1] = 255
    x = rng.integers(0, 256, (20, 9)).astype(np.uint8)
    numbers = linear(_weight(w, zero_points), no_bias(4), x_scale=0.1, x_zero_point=77, y_scale=None)
    assert isinstance(numbers, Linear)
    expected = (w.astype(np.int64) - zero_points[:, None]) @ (x.astype(np.int64) - 77)
    np.testing.assert_array_equal(_accumulated(numbers, x), expected)


def test_bias_at_the_scale_of_the_accumulator_is_taken_as_it_is() -> None:
    """Guards the integers of a quantised bias, whose scale is the product but for float32 rounding."""
    codes = np.array([123456789, -5, 0])
    bias = Bias(codes * 0.05, codes, np.full(3, 0.05 * (1 + 3e-7)))
    numbers = linear(_weight(np.ones((3, 4), np.int8)), bias, x_scale=0.1, x_zero_point=0, y_scale=None)
    assert isinstance(numbers, Linear)
    np.testing.assert_array_equal(numbers.bias, codes)


def test_bias_at_another_scale_is_rounded_to_even() -> None:
    """Guards a bias that is float or has a scale of its own."""
    bias = Bias(np.array([2.5, 3.5, -2.5]) * 0.0625)
    numbers = linear(_weight(np.ones((3, 4), np.int8)), bias, x_scale=0.125, x_zero_point=0, y_scale=None)
    assert isinstance(numbers, Linear)
    np.testing.assert_array_equal(numbers.bias, [2, 4, -2])


@pytest.mark.parametrize("rows", [8421, 8422, 70000])
def test_sums_that_may_leave_int32_are_refused(rows: int) -> None:
    """Guards the accumulator: 255 * 127 * K must stay below 2**31, with the bias that is added to it."""
    w = np.full((1, rows), 127, np.int8)
    numbers = linear(_weight(w), Bias(np.array([0.0])), x_scale=0.1, x_zero_point=0, y_scale=None)
    assert isinstance(numbers, Linear) == (255 * 127 * rows < 2**31)
    at_the_edge = Bias(np.array([0.05 * (2**31 - 1 - 255 * 127 * 10)]))
    small = linear(_weight(w[:, :11]), at_the_edge, x_scale=0.1, x_zero_point=0, y_scale=None)
    assert isinstance(small, Refusal)
