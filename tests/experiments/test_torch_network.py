"""The zoo's networks in PyTorch compute what their ONNX files say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from experiments.onnx_builder import GraphBuilder
from experiments.torch_network import UnsupportedOperatorError, torch_network

torch = pytest.importorskip("torch")


def _network(path: Path, activation: str = "relu6") -> Path:
    """Every operator of the zoo once: both paddings, groups, ceil, two readers, two inputs."""
    g = GraphBuilder("every-operator", size=19)
    x = g.conv(g.input, 8, 3, stride=2, pad=1, activation=activation)
    x = g.max_pool(x, 3, 2, ceil=True)
    y = g.conv(x, 8, 3, pad=1, groups=8)
    x = g.concat(g.add(x, y), g.conv(y, 4, 1, activation=None))
    onnx.save(g.finish(g.linear(g.flatten(g.global_average_pool(x)), 12, 5)), path)
    return path


def test_outputs_are_those_of_onnxruntime(tmp_path: Path) -> None:
    path = _network(tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((3, 3, 19, 19), np.float32)
    (expected,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": x})
    with torch.inference_mode():
        actual = torch_network(path)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_other_operators_are_named(tmp_path: Path) -> None:
    """An operator passed over would make PyTorch faster than it is."""
    model = onnx.load(_network(tmp_path / "m.onnx", activation="relu"))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Softplus"
    onnx.save(model, tmp_path / "s.onnx")
    with pytest.raises(UnsupportedOperatorError, match="Softplus"):
        torch_network(tmp_path / "s.onnx")
