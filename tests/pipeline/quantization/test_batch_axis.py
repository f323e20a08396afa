"""What the first axis of a model's inputs means."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import pipeline
from pipeline.quantization.batch_axis import samples_are_independent
from tests.pipeline.frontend.models import build, node
from tests.pipeline.quantization.networks import Net, batches, run, save, sqnr


def _points() -> onnx.ModelProto:
    """A set of points, an open number of them, and one result."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(3, 32)), "v": rng.normal(size=(32, 5)), "axis": np.array([0])}
    nodes = [
        node("MatMul", "x w", "h", name="first"),
        node("Relu", "h", "r", name="relu"),
        node("ReduceSum", "r axis", "s", name="sum", keepdims=1),
        node("MatMul", "s v", "y", name="last"),
    ]
    constants = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in weights.items()}
    return build(nodes, {"x": (TensorProto.FLOAT, ["P", 3])}, {"y": (TensorProto.FLOAT, [1, 5])}, constants)


def _inner_batch(size: int) -> Net:
    """A batch written into a Reshape."""
    net = Net().conv("x", "a").constant("shape", np.array([size, -1])).op("Reshape", "a shape", "f")
    return net.gemm("f", "y", 256, 5)


@pytest.mark.parametrize(
    ("model", "shape", "independent"),
    [
        (Net().conv("x", "y").model("y"), (4, 3, 8, 8), True),
        (Net().conv("x", "y").model("y"), (1, 3, 8, 8), True),
        (_points(), (100, 3), False),
        (_inner_batch(4).model("y", ranks=(2,)), (4, 3, 8, 8), False),
    ],
    ids=["images", "one image", "points", "batch of 4 inside"],
)
def test_samples_are_independent(model, shape, independent):
    (feed,) = batches(1, shape)
    assert samples_are_independent(model, feed) == independent


def test_points_are_not_cut_into_batches(tmp_path):
    """Calibration cut them into runs of 64, whose sums are much smaller than that of all."""
    data = batches(4, (1000, 3))
    said: list[str] = []
    model = _points()
    result = pipeline.quantize(save(model, tmp_path), data, output=tmp_path / "q.onnx", say=said.append)
    assert sqnr(run(model, data[0])[0], run(onnx.load(result), data[0])[0]) > 30
    assert any(text.startswith("batches are run whole") for text in said)


def test_batch_written_into_the_model(tmp_path):
    """It was run with one sample, which it refuses."""
    model, data = _inner_batch(4).model("y", ranks=(2,)), batches(4, (4, 3, 8, 8))
    result = pipeline.quantize(save(model, tmp_path), data, output=tmp_path / "q.onnx")
    assert sqnr(run(model, data[0])[0], run(onnx.load(result), data[0])[0]) > 25
