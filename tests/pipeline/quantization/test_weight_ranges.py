"""Ranges of narrow weights: the search against a literal one, what it gains, and what it must leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import pipeline
from pipeline.errors import InputError
from pipeline.quantization.options import make_options
from pipeline.quantization.weight_ranges import search_ranges, searched_ranges
from tests.pipeline.frontend.models import constants
from tests.pipeline.quantization.networks import Net, batches, placed, run, sqnr


def _steps(rows: int, entries: int, largest: int, seed: int = 0) -> np.ndarray:
    """Weights over the scale with which the largest of a row is ``largest``."""
    weight = np.random.default_rng(seed).standard_t(4, (rows, entries))
    return weight / np.abs(weight).max(axis=1, keepdims=True) * largest


def _moments(groups: int, entries: int, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(groups, 200, entries)) * np.linspace(0.1, 3, entries)
    x[..., 1:] += x[..., :-1]
    return np.einsum("gnk,gnl->gkl", x, x) / 200


def _literal(steps: np.ndarray, largest: int, moments: np.ndarray) -> tuple[np.ndarray, float]:
    """One set of filters with one matrix each: every range, the best scale of its codes, and the squared error."""
    least, found = np.inf, (steps, 1.0)
    for part in np.linspace(1.0, 0.2, 41):
        codes = np.clip(np.rint(steps / part), -largest, largest)
        alike = power = size = 0.0
        for w, q, m in zip(steps, codes, moments, strict=True):
            alike, power, size = alike + w @ m @ q, power + q @ m @ q, size + w @ m @ w
        scale = alike / power
        error = sum((w - scale * q) @ m @ (w - scale * q) for w, q, m in zip(steps, codes, moments, strict=True))
        if error < least * (1 - 1e-7):
            least, found = error, (codes, np.sqrt(size / power))
    return found


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("groups", [0, 1, 3, 12], ids=["weights", "one matrix", "groups", "depthwise"])
@pytest.mark.parametrize("sets", [12, 3, 1], ids=["per channel", "per group", "per tensor"])
def test_search_against_a_literal_one(bits, groups, sets):
    largest = 2 ** (bits - 1) - 1
    steps = _steps(12, 9, largest)
    moments = _moments(groups, 9) if groups else None
    codes, factor = search_ranges(steps, largest, sets, moments)
    each = np.repeat(moments, 12 // groups, axis=0) if moments is not None else np.broadcast_to(np.eye(9), (12, 9, 9))
    for rows in np.split(np.arange(12), sets):
        expected, scale = _literal(steps[rows], largest, each[rows])
        np.testing.assert_array_equal(codes[rows], expected)
        np.testing.assert_allclose(factor[rows], scale, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_filters_keep_their_size(bits):
    """Scales of the least error make every filter smaller, which adds up from layer to layer."""
    largest = 2 ** (bits - 1) - 1
    steps, moments = _steps(16, 27, largest), _moments(1, 27)
    codes, factor = search_ranges(steps, largest, 16, moments)
    restored = codes * factor[:, None]
    power = [np.einsum("rk,kl,rl->r", rows, moments[0], rows) for rows in (steps, restored)]
    np.testing.assert_allclose(power[0], power[1], rtol=1e-4)


def test_dead_filters_stay_as_they_are():
    codes, factor = search_ranges(np.zeros((3, 5)), 7, 3, np.zeros((1, 5, 5)))
    np.testing.assert_array_equal(codes, 0)
    np.testing.assert_array_equal(factor, 1)


def _network() -> Net:
    net = Net().conv("x", "a", 8).op("Relu", "a", "ar").conv("ar", "b", 8, 1, group=8).op("Relu", "b", "br")
    net.conv("br", "c", 8, 8, k=1).op("Add", "c ar", "s").op("Relu", "s", "sr").conv("sr", "d", 8, 8)
    net.op("GlobalAveragePool", "d", "m").op("Flatten", "m", "f").gemm("f", "y", 8, 5)
    for name in list(net.constants):
        if name.startswith("w_"):  # heavy tails, as trained weights have
            net.constants[name] = (net.constants[name] * np.abs(net.constants[name])).astype(np.float32)
    return net


def _quality(tmp_path: Any, weight_range: str, **options: Any) -> float:
    path = _network().file(tmp_path, "y", ranks=(2,))
    data = batches(4, (16, 3, 8, 8))
    output = pipeline.quantize(path, data, output=tmp_path / "q.onnx", weight_range=weight_range, **options)
    (feed,) = batches(1, (64, 3, 8, 8), 9)
    return sqnr(run(onnx.load(path), feed)[0], run(onnx.load(output), feed)[0])


@pytest.mark.parametrize("weights", ["per-channel", "per-tensor"])
def test_output_is_ahead_of_minmax(tmp_path, weights):
    """On other images than those of the calibration."""
    found = {name: _quality(tmp_path, name, weight_bits=3, weights=weights) for name in ("minmax", "output")}
    assert found["output"] > found["minmax"] + 1


def test_default_follows_bits_and_data(tmp_path):
    path = _network().file(tmp_path, "y", ranks=(2,))
    _, placement = placed(path)
    narrow_b = {"layers": {"b_node": {"weight_bits": 4}, "c_node": {"weight_bits": 4, "weight_scale": 0.1}}}
    options = make_options(narrow_b)
    assert searched_ranges(placement, options, has_data=True) == {"b_node": "output"}
    assert searched_ranges(placement, options, has_data=False) == {"b_node": "mse"}
    everywhere = searched_ranges(placement, make_options(None, weight_range="mse"), has_data=True)
    assert everywhere == dict.fromkeys(placement.candidates, "mse")
    assert searched_ranges(placement, make_options(None, weight_bits=4, weight_range="minmax"), has_data=True) == {}


def test_weights_on_a_grid_stay_exact(tmp_path):
    """A dequantised 4-bit model must come back as it was, whatever the range is chosen by."""
    net = Net().conv("x", "y", 8)
    codes = np.random.default_rng(0).integers(-7, 8, net.constants["w_y"].shape)
    codes.reshape(8, -1)[:, 0] = 7
    net.constants["w_y"] = codes.astype(np.float32) * np.float32(0.03)
    path = net.file(tmp_path, "y")
    output = pipeline.quantize(path, batches(), output=tmp_path / "q.onnx", weight_bits=4)
    np.testing.assert_array_equal(constants(onnx.load(output))["w_y_quantized"], codes)


def test_large_bias_keeps_its_room(tmp_path):
    net = Net().conv("x", "y", 3)
    net.constants["w_y"][1] *= 1e-9
    net.constants["b_y"][:] = (2.5, 3.5, 0.1)
    path = net.file(tmp_path, "y")
    output = pipeline.quantize(path, batches(), output=tmp_path / "q.onnx", weight_bits=4, outputs="float")
    (feed,) = batches(1)
    np.testing.assert_allclose(run(onnx.load(output), feed)[0][:, 1], 3.5, rtol=1e-5)


def test_output_needs_data(tmp_path):
    path = Net().conv("x", "y").file(tmp_path, "y")
    stated = {"tensors": {name: {"low": -1, "high": 1} for name in ("x", "y")}}
    with pytest.raises(InputError, match="no calibration data"):
        pipeline.quantize(path, None, output=tmp_path / "q.onnx", overrides=stated, weight_range="output")
    pipeline.quantize(path, None, output=tmp_path / "q.onnx", overrides=stated, weight_bits=4)
