"""Equalisation, bias correction, adaptive rounding, sensitivity and mixed precision."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import onnx
import pytest

import pipeline
from pipeline.errors import InputError
from pipeline.quantization import CalibrationTable, mixed_precision, sensitivity
from pipeline.quantization.equalization import equalize
from pipeline.quantization.model import load_float_graph
from pipeline.quantization.rounding import improve_rounding
from pipeline.quantization.windows import filter_inputs
from tests.pipeline.frontend.models import constants
from tests.pipeline.quantization.networks import Net, batches, placed, run, sqnr


def _chain(uneven: bool = False) -> Net:
    """Convolution, depthwise, grouped, 1x1 and a classifier, with ReLU and pools between."""
    net = Net().conv("x", "a", 8).op("Relu", "a", "ar").conv("ar", "b", 8, 1, group=8, bias=False)
    net.op("LeakyRelu", "b", "br").conv("br", "c", 12, 4, group=2).op("MaxPool", "c", "p", kernel_shape=[2, 2])
    net.conv("p", "d", 6, 12, k=1).op("Relu", "d", "dr").op("GlobalAveragePool", "dr", "m").op("Flatten", "m", "f")
    net.gemm("f", "y", 6, 5)
    if uneven:
        for name in ("w_a", "w_b", "w_c", "w_d"):
            shape = [-1] + [1] * (net.constants[name].ndim - 1)
            net.constants[name] *= (
                (4.0 ** net.rng.uniform(-1.5, 1.5, len(net.constants[name]))).astype(np.float32).reshape(shape)
            )
    return net


def _spread(graph: Any) -> float:
    """Largest over smallest channel, summed over the convolutions."""
    weights = [graph.constant(n.inputs[1]) for n in graph.nodes if n.op_type == "Conv"]
    largest = [np.abs(w).reshape(len(w), -1).max(axis=1) for w in weights]
    return float(sum(channel.max() / channel.min() for channel in largest))


def test_equalisation_keeps_the_numbers(tmp_path):
    """Groups, depthwise layers and the axes of fully connected weights: each has another order of channels."""
    net = _chain(uneven=True)
    graph, _ = load_float_graph(net.file(tmp_path, "y", ranks=(2,)))
    before = _spread(graph)
    assert equalize(graph) == 4
    assert _spread(graph) < 0.5 * before
    (feed,) = batches(1)
    reference = run(net.model("y", ranks=(2,)), feed)[0]
    np.testing.assert_allclose(
        run(graph.to_model(), feed)[0], reference, rtol=1e-4, atol=1e-4 * np.abs(reference).max()
    )


@pytest.mark.parametrize("between", ["Clip", "Sigmoid", "second reader"])
def test_equalisation_stops_at_what_is_not_homogeneous(tmp_path, between):
    net = Net().conv("x", "a").constant("low", np.float32(0)).constant("high", np.float32(6))
    net.op("Relu" if between == "second reader" else between, "a low high" if between == "Clip" else "a", "r")
    net.conv("r", "y", i=4).op("Relu", "r", "z")
    outputs = ("y", "z") if between == "second reader" else ("y",)
    graph, _ = load_float_graph(net.file(tmp_path, *outputs, ranks=(4,) * len(outputs)))
    assert equalize(graph) == 0


def _gain(tmp_path: Any, **options: Any) -> tuple[float, float]:
    said: list[str] = []
    path = _chain(uneven="equalize" in options).file(tmp_path, "y", ranks=(2,))
    pipeline.quantize(path, batches(8), output=tmp_path / "q.onnx", say=said.append, **options)
    numbers = re.findall(r"(-?[\d.]+) dB (?:before|after)", said[0])
    return float(numbers[0]), float(numbers[1])


def test_bias_correction_says_what_it_gains(tmp_path):
    before, after = _gain(tmp_path, weight_bits=4, bias_correction=True)
    assert after > before + 1


def test_adaptive_rounding_says_what_it_gains(tmp_path):
    before, after = _gain(tmp_path, weight_bits=4, bias_correction=False, rounding="adaround")
    assert after > before + 3


def test_equalisation_says_what_it_gains(tmp_path):
    before, after = _gain(tmp_path, weights="per-tensor", bias_correction=False, equalize=True)
    assert after > before + 2


def test_equalisation_leaves_dead_channels_alone(tmp_path):
    """A channel with weights of 1e-11 and a bias, scaled up to the others, would drown them all."""
    net = Net().conv("x", "a", 8).op("Relu", "a", "r").conv("r", "y", 4, 8)
    net.constants["w_a"][2] *= 1e-11
    net.constants["b_a"][:] = 0.5
    graph, _ = load_float_graph(net.file(tmp_path, "y"))
    equalize(graph)
    weight, bias = graph.constant("w_a"), graph.constant("b_a")
    assert weight is not None
    assert bias is not None
    np.testing.assert_array_equal(weight[2], net.constants["w_a"][2])
    assert np.abs(bias).max() <= 0.5 * (1 + 1e-6)


def test_rounding_against_all_choices():
    """Small enough to try them all: single changes come near the best, and never make a row worse."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))
        moments, steps = x.T @ x, rng.uniform(-6, 6, (3, 6))

        def error(codes: np.ndarray, steps: np.ndarray = steps, moments: np.ndarray = moments) -> np.ndarray:
            return np.einsum("rk,kl,rl->r", codes - steps, moments, codes - steps)

        choices = np.array(list(itertools.product((0, 1), repeat=6)))
        best = np.min([error(np.floor(steps) + choice) for choice in choices], axis=0)
        nearest = np.rint(steps).astype(np.int64)
        found = improve_rounding(steps, nearest, moments, (-7, 7))
        assert (error(found) <= error(nearest) + 1e-9).all()
        assert np.isin(found - np.floor(steps), (0, 1)).all()
        assert error(found).sum() < 3 * best.sum()


def test_rounding_stays_in_the_type():
    steps = np.array([[-9.0, 7.4, 8.6]])
    found = improve_rounding(steps, np.array([[-7, 7, 7]]), np.eye(3), (-7, 7))
    assert (np.abs(found) <= 7).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"pads": [1, 1, 1, 1]},
        {"pads": [0, 1, 2, 0], "strides": [2, 1]},
        {"dilations": [2, 1]},
        {"group": 3},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    ],
    ids=str,
)
def test_windows_are_what_the_convolution_sees(tmp_path, settings):
    """Weights times windows must be the convolution's result, for paddings, strides, dilations and groups."""
    net = Net(("N", 3, 9, 8)).constant(
        "w", np.random.default_rng(0).normal(size=(6, 3 // settings.get("group", 1), 3, 2))
    )
    net.op("Conv", "x w", "y", **settings)
    path = net.file(tmp_path, "y")
    _, placement = placed(path)
    (feed,) = batches(1, (1, 3, 9, 8))
    (layer,) = placement.layers
    windows = filter_inputs(layer, net.constants["w"].shape, feed["x"])
    groups = windows.shape[0]
    weight = net.constants["w"].reshape(groups, 6 // groups, -1)
    result = np.einsum("gpk,gok->gop", windows, weight).reshape(6, -1)
    expected = run(onnx.load(path), feed)[0][0].reshape(6, -1)
    assert windows.shape[1] == expected.shape[1]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


ONE_NARROW_LAYER: dict[str, Any] = {"overrides": {"layers": {"b_node": {"weight_bits": 2}}}}


def _three_layers(tmp_path: Any) -> Any:
    net = Net().conv("x", "a", 8).op("Relu", "a", "ar").conv("ar", "b", 8, 8).op("Relu", "b", "br")
    return net.conv("br", "y", 4, 8).file(tmp_path, "y")


def _metric(path: Any) -> Any:
    """SQNR against the float model, at most 60."""
    (feed,) = batches(1, (4, 3, 8, 8), 9)
    reference = run(onnx.load(path), feed)[0]
    return lambda file: min(sqnr(reference, run(onnx.load(file), feed)[0]), 60.0)


def test_sensitivity_finds_the_layer(tmp_path):
    path = _three_layers(tmp_path)
    ranking = sensitivity(path, batches(), metric=_metric(path), **ONE_NARROW_LAYER)
    assert ranking[0].name == "b_node"
    assert ranking[0].drop == max(cost.drop or 0 for cost in ranking)
    assert ranking[0].sqnr == min(cost.sqnr for cost in ranking) < 15
    assert {cost.name for cost in ranking} == {"a_node", "b_node", "y_node"}
    assert [cost.drop for cost in sensitivity(path, batches(2))] == [None] * 3


def test_sensitivity_of_a_table(tmp_path):
    """It took no table, though it has the arguments of ``quantize``: here one layer's weights get a single step."""
    table = CalibrationTable(weights={"a_node": (100.0,), "b_node": (1.0,), "y_node": (100.0,)})
    ranking = sensitivity(_three_layers(tmp_path), batches(2), table=table, bias_correction=False)
    assert ranking[0].name == "b_node"
    assert ranking[0].sqnr < 15 < ranking[1].sqnr


def test_mixed_precision_keeps_that_layer_only(tmp_path):
    path = _three_layers(tmp_path)
    budget = {"metric": _metric(path), "max_drop": 35.0}
    result = mixed_precision(path, batches(), output=tmp_path / "q.onnx", **budget, **ONE_NARROW_LAYER)
    assert result.float_metric == 60
    assert result.quantized_metric < 15
    assert result.metric > 25
    assert result.kept_float == ["b_node"]
    assert _metric(path)(result.path) == result.metric
    assert "w_b" in constants(onnx.load(result.path)), "in float32"


@pytest.mark.parametrize("sensitivity", [False, True])
def test_mixed_precision_within_budget_keeps_nothing(tmp_path, sensitivity):
    """It ranked the layers only where some had to be kept, and gains and doubts were never said."""
    path, said = _three_layers(tmp_path), list[str]()
    budget = {"metric": _metric(path), "max_drop": 60, "sensitivity": sensitivity}
    result = mixed_precision(path, batches(), output=tmp_path / "q.onnx", say=said.append, **budget)
    assert result.kept_float == []
    assert len(result.ranking) == 3 * sensitivity
    assert [line.split(":")[0] for line in said] == ["bias correction", "warning"]


def test_mixed_precision_that_cannot_be(tmp_path):
    net = Net().conv("x", "a").op("Add", "a x1", "y").constant("x1", np.ones((1, 4, 8, 8)))
    path = net.conv("y", "z", i=4).op("Add", "z a", "out").file(tmp_path, "out")
    with pytest.raises(InputError, match="with all 2 layers in float"):
        mixed_precision(path, batches(), output=tmp_path / "q.onnx", metric=_metric(path), max_drop=1)
    with pytest.raises(InputError, match="max_drop -1"):
        mixed_precision(path, batches(), output=tmp_path / "q.onnx", metric=_metric(path), max_drop=-1)
    assert not (tmp_path / "q.onnx").exists()
