"""Scales and zero points: exact zero, finite scales, narrow types, channels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.quantization.parameters import (
    SMALLEST_SCALE,
    parameters_for_range,
    quantized_limits,
)

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.mark.parametrize(
    ("dtype", "bits", "symmetric", "expected"),
    [
        ("int8", 8, True, (-127, 127, 0)),
        ("int8", 8, False, (-128, 127, 0)),
        ("uint8", 8, True, (1, 255, 128)),
        ("uint8", 8, False, (0, 255, 128)),
        ("int8", 4, True, (-7, 7, 0)),
        ("int8", 2, False, (-2, 1, 0)),
        ("uint8", 4, False, (0, 15, 8)),
        ("uint8", 2, True, (1, 3, 2)),
    ],
)
def test_limits(dtype: str, bits: int, symmetric: bool, expected: tuple[int, int, int]) -> None:
    assert quantized_limits(dtype, bits, symmetric=symmetric) == expected


@pytest.mark.parametrize(
    ("low", "high", "symmetric", "dtype", "scale", "zero_point"),
    [
        (-1, 2, True, "int8", 2 / 127, 0),
        (-3, 2, True, "uint8", 3 / 127, 128),
        (0, 6, False, "uint8", 6 / 255, 0),
        (0, 6, False, "int8", 6 / 255, -128),
        (-1, 3, False, "uint8", 4 / 255, 64),
        (2, 6, False, "uint8", 6 / 255, 0),  # widened to contain 0
        (-6, -2, False, "uint8", 6 / 255, 255),
        (5, 5, False, "uint8", 5 / 255, 0),  # a constant
        (0, 0, False, "int8", 1, -128),  # nothing but zeros
        (0, 0, True, "uint8", 1, 128),
    ],
)
def test_scale_and_zero_point(
    low: float, high: float, symmetric: bool, dtype: str, scale: float, zero_point: int
) -> None:
    parameters = parameters_for_range(low, high, symmetric=symmetric, dtype=dtype)
    assert parameters.scale == np.float32(scale)
    assert parameters.zero_point == zero_point
    assert parameters.scale.dtype == np.float32
    assert parameters.zero_point.dtype == np.dtype(dtype)
    assert parameters.scale.shape == parameters.zero_point.shape == ()


@given(finite, finite, st.booleans(), st.sampled_from(["int8", "uint8"]), st.integers(2, 8))
def test_any_range_gives_a_normal_scale_and_an_exact_zero(
    one: float, other: float, symmetric: bool, dtype: str, bits: int
) -> None:
    low, high = sorted([one, other])
    parameters = parameters_for_range(low, high, symmetric=symmetric, dtype=dtype, bits=bits)
    assert np.isfinite(parameters.scale)
    assert parameters.scale >= np.float32(SMALLEST_SCALE)
    assert parameters.minimum <= int(parameters.zero_point) <= parameters.maximum
    zero = parameters.quantize(np.zeros(1, np.float32))
    assert parameters.dequantize(zero) == 0


@given(finite, finite, st.booleans(), st.sampled_from(["int8", "uint8"]), st.integers(2, 8))
def test_values_of_the_range_come_back_within_a_step(
    one: float, other: float, symmetric: bool, dtype: str, bits: int
) -> None:
    """Half a step of rounding, and half a step more at the ends, as the zero point is rounded as well."""
    low, high = sorted([one, other])
    parameters = parameters_for_range(low, high, symmetric=symmetric, dtype=dtype, bits=bits)
    inside = np.linspace(np.float64(low), np.float64(high), 50).astype(np.float32)
    stored = parameters.quantize(inside)
    assert stored.dtype == np.dtype(dtype)
    assert stored.min() >= parameters.minimum
    assert stored.max() <= parameters.maximum
    back = parameters.dequantize(stored).astype(np.float64)
    assert np.abs(back - inside.astype(np.float64)).max() <= 1.001 * float(parameters.scale)


def test_quantize_divides_and_rounds_half_to_even() -> None:
    parameters = parameters_for_range(-127, 127, symmetric=True, dtype="int8")
    values = np.array([0.5, 1.5, -0.5, -2.5, 200, -200, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(parameters.quantize(values), [0, 2, 0, -2, 127, -127, 127, -127])


def test_a_value_that_overflows_when_divided_saturates() -> None:
    parameters = parameters_for_range(0, 1e-30, symmetric=False, dtype="uint8")
    np.testing.assert_array_equal(parameters.quantize(np.array([3e38, -3e38], np.float32)), [255, 0])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_channels_have_their_own_scale(axis: int) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32) * np.array([1, 10, 0.1, 5], np.float32)
    weights = np.moveaxis(weights, -1, axis)
    others = tuple(i for i in range(3) if i != axis % 3)
    limits = np.abs(weights).max(axis=others)
    parameters = parameters_for_range(-limits, limits, symmetric=True, dtype="int8", axis=axis)
    np.testing.assert_array_equal(parameters.scale, (limits.astype(np.float64) / 127).astype(np.float32))
    stored = parameters.quantize(weights)
    np.testing.assert_array_equal(np.abs(stored).max(axis=others), 127)
    shape = [1, 1, 1]
    shape[axis] = 4
    error = np.abs(parameters.dequantize(stored) - weights)
    assert (error <= 0.501 * parameters.scale.reshape(shape)).all()


def test_a_dead_channel_takes_the_largest_scale_beside_it() -> None:
    """Its bias is stored in steps of this scale: 1 would be coarse, a tiny one would overflow."""
    parameters = parameters_for_range([-1, 0, -3], [2, 0, 1], symmetric=True, dtype="int8", axis=0)
    np.testing.assert_allclose(parameters.scale, [2 / 127, 3 / 127, 3 / 127], rtol=1e-6)
    parameters = parameters_for_range([0, 0], [0, 0], symmetric=True, dtype="int8", axis=0)
    np.testing.assert_array_equal(parameters.scale, [1, 1])


def test_no_channels() -> None:
    parameters = parameters_for_range(np.zeros(0), np.zeros(0), symmetric=True, dtype="int8", axis=0)
    assert parameters.scale.shape == (0,)


@pytest.mark.parametrize(
    ("low", "high", "options", "message"),
    [
        (0, np.nan, {}, "not finite"),
        (-np.inf, 0, {}, "not finite"),
        (1, -1, {}, "wrong way round"),
        (0, 1, {"dtype": "int16"}, "int16"),
        (0, 1, {"dtype": "float32"}, "float32"),
        (0, 1, {"bits": 1}, "1 bits"),
        (0, 1, {"bits": 9}, "9 bits"),
        ([0, 0], [1, 1], {}, "must be a number"),
        (0, 1, {"axis": 0}, "must be 1-d"),
    ],
)
def test_ranges_and_types_without_sense_are_refused(low: object, high: object, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parameters_for_range(low, high, **{"symmetric": True, "dtype": "int8", **options})
