"""Scales of weights, grids that are there already, and biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.quantization.grid import common_step
from pipeline.quantization.weights import WeightSettings, quantize_bias, weight_parameters, with_room_for_bias


def _weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _f32(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32)


@pytest.mark.parametrize(
    ("granularity", "distinct"), [("per-channel", 8), ("per-group", 2), ("per-tensor", 1)], ids=str
)
def test_granularity(granularity, distinct):
    weight = _weight(8, 3, 3, 3)
    parameters = weight_parameters(weight, 0, 2, WeightSettings(8, granularity))
    assert np.unique(parameters.scale).size == distinct
    groups = weight.reshape(distinct, -1)
    np.testing.assert_allclose(np.unique(parameters.scale), np.unique(np.abs(groups).max(1) / 127), rtol=1e-6)


def test_channels_along_another_axis():
    weight = _weight(5, 7)
    parameters = weight_parameters(weight, 1, 1, WeightSettings(8, "per-channel"))
    assert parameters.axis == 1
    np.testing.assert_allclose(parameters.scale, np.abs(weight).max(0) / 127, rtol=1e-6)


def test_dead_channels():
    weight = _weight(4, 9)
    weight[1] = 0
    assert np.isfinite(weight_parameters(weight, 0, 1, WeightSettings(8, "per-channel")).scale).all()


@pytest.mark.parametrize("zero_point", [0, 90, 255])
@pytest.mark.parametrize("step", [1.7e-4, 0.031, 12.0])
def test_step_of_dequantised_weights(step, zero_point):
    codes = np.random.default_rng(1).integers(0, 256, (32, 16, 3, 3))
    weight = (codes - zero_point).astype(np.float32) * np.float32(step)
    found = common_step(weight)
    assert found == pytest.approx(step, rel=1e-5)


@pytest.mark.parametrize(
    "weight",
    [_weight(32, 16), np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32), _weight(3, 3)],
    ids=["random", "zeros", "ones", "few"],
)
def test_weights_on_no_grid(weight):
    assert common_step(weight) is None


def test_grid_that_a_channel_leaves():
    """Codes up to 200 steps from zero do not fit int8: that channel gets a scale of its own, the others the grid's."""
    codes = np.random.default_rng(2).integers(-100, 101, (8, 64))
    codes[3, 0] = 200
    weight = codes.astype(np.float32) * np.float32(0.01)
    scale = weight_parameters(weight, 0, 1, WeightSettings(8, "per-channel")).scale
    np.testing.assert_allclose(np.delete(scale, 3), 0.01, rtol=1e-6)
    assert scale[3] == pytest.approx(2 / 127)


def test_bias_is_the_nearest_step():
    codes, scale = quantize_bias(_f32([0.1, -3]), _f32(0.5), _f32([0.01, 0.02]))
    np.testing.assert_array_equal(codes, [20, -300])
    np.testing.assert_allclose(scale, [0.005, 0.01])


@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
def test_room_for_a_bias_beside_tiny_weights(granularity):
    weight = _weight(2, 9) * _f32([[1], [1e-12]])
    bias = _f32([0.5, 0.5])
    parameters = weight_parameters(weight, 0, 1, WeightSettings(8, granularity))
    roomy = with_room_for_bias(parameters, bias, 0.1)
    codes, scale = quantize_bias(bias, _f32(0.1), roomy.scale)
    np.testing.assert_allclose(codes * scale, bias, rtol=1e-3)
    assert np.abs(codes).max() <= 2**30
    assert roomy.scale.flat[0] == parameters.scale.flat[0], "ordinary channels keep their scale"
