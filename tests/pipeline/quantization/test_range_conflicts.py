"""Nodes that no scale of 8 bits serves stay float, and the user is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import pipeline
from tests.pipeline.frontend.models import constants
from tests.pipeline.quantization.networks import Net, batches, run, sqnr

LOWEST = np.finfo(np.float32).min


def _quantize(tmp_path: Path, net: Net, outputs: str = "y", rank: int = 4, **options: Any):
    """Both models, and what was said of nodes that stay float."""
    path = net.file(tmp_path, *outputs.split(), ranks=[rank] * len(outputs.split()))
    said: list[str] = []
    result = pipeline.quantize(path, batches(), output=tmp_path / "q.onnx", say=said.append, **options)
    return onnx.load(path), onnx.load(result), [text for text in said if "stays float" in text]


def _detector(size: float) -> Net:
    """Boxes of up to ``size`` pixels beside scores from 0 to 1."""
    net = Net().conv("x", "a").conv("a", "b", i=4).op("Sigmoid", "b", "scores").conv("a", "c", i=4)
    net.op("Sigmoid", "c", "s").constant("size", np.float32(size)).op("Mul", "s size", "boxes")
    return net.op("Concat", "boxes scores", "both", axis=1).op("Transpose", "both", "y", perm=[0, 2, 3, 1])


def test_boxes_and_scores_in_one_output(tmp_path):
    """All scores were 0: a step was larger than any of them."""
    before, after, said = _quantize(tmp_path, _detector(600.0))
    (feed,) = batches(1, seed=3)
    scores, quantised = (run(model, feed)[0][..., 4:] for model in (before, after))
    assert sqnr(scores, quantised) > 25
    assert len(said) == 1
    assert said[0].startswith("Concat 'both_node' stays float: it joins values up to")


def test_parts_of_like_size_share_a_scale(tmp_path):
    _, after, said = _quantize(tmp_path, _detector(4.0))
    assert not said
    assert "both_scale" in constants(after) or "y_scale" in constants(after)


def test_unlike_parts_that_a_layer_reads(tmp_path):
    """Inside the network an integer Concat is worth more than the small part's last bits."""
    net = _detector(600.0).conv("both", "z", i=8)
    _, _, said = _quantize(tmp_path, net, "z")
    assert not said


@pytest.mark.parametrize("value", [-40.0, LOWEST])
def test_padding_in_front_of_a_pool(tmp_path, value):
    """The lowest float32 stands for -infinity, and widened the range until everything else was 0."""
    net = Net().conv("x", "a").op("Relu", "a", "r").constant("fill", np.float32(value))
    net.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1])).op("Pad", "r pads fill", "p")
    net.op("MaxPool", "p", "m", kernel_shape=[3, 3]).conv("m", "y", i=4)
    before, after, said = _quantize(tmp_path, net)
    (feed,) = batches(1, seed=3)
    assert sqnr(run(before, feed)[0], run(after, feed)[0]) > 20
    assert [text.split(":")[0] for text in said] == (["Pad 'p_node' stays float"] if value == LOWEST else [])


def _attention(mask: float) -> Net:
    """Rows of 8 attend to rows in front of them."""
    net = Net().conv("x", "q").conv("x", "k").conv("x", "v").op("Transpose", "k", "t", perm=[0, 1, 3, 2])
    net.op("MatMul", "q t", "product").constant("mask", np.triu(np.full((8, 8), mask, np.float32), 1))
    net.op("Add", "product mask", "s").op("Identity", "s", "i").op("Softmax", "i", "p")
    return net.op("MatMul", "p v", "y")


@pytest.mark.parametrize("mask", [0.0, -1e4, LOWEST / 2, -np.inf])
def test_mask_of_an_attention(tmp_path, mask):
    """A mask took all levels for itself; with -infinity the model was refused."""
    before, after, said = _quantize(tmp_path, _attention(mask))
    (feed,) = batches(1, seed=3)
    assert sqnr(run(before, feed)[0], run(after, feed)[0]) > 20
    assert [text.split(":")[0] for text in said] == (["Softmax 'p_node' stays float"] if mask else [])


def test_infinity_elsewhere_is_an_error(tmp_path):
    net = _attention(-np.inf).op("Relu", "s", "z")
    with pytest.raises(pipeline.errors.ModelError, match="tensor 's', written by node 's_node'"):
        _quantize(tmp_path, net, "y z")


def test_overrides_decide(tmp_path):
    """A range that the user gives to a tensor is not argued with."""
    _, after, said = _quantize(tmp_path, _detector(600.0), overrides={"tensors": {"y": {"low": 0, "high": 700}}})
    assert not said
    assert constants(after)["y_scale"] == np.float32(700 / 255)
