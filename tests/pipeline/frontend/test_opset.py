"""Models of old operator sets mean what they meant when they were written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from pipeline.errors import UnsupportedOperatorError
from tests.pipeline.frontend.models import assert_same_answer, build, floats, load, node, run

FLOAT = TensorProto.FLOAT


def _resize(mode: str, scales: list[float], opset: int, shape: tuple[int, ...] = (1, 1, 10, 6)) -> ModelProto:
    """Resize-10, Upsample-9 or Upsample-7, whose scales are an attribute."""
    operator = "Resize" if opset == 10 else "Upsample"
    settings: dict[str, Any] = {"scales": [float(scale) for scale in scales]} if opset == 7 else {}
    inputs = "x" if opset == 7 else "x s"
    out = [int(np.float32(scale) * size) for scale, size in zip(scales, shape, strict=True)]
    constants = {} if opset == 7 else {"s": np.array(scales, np.float32)}
    nodes = [node(operator, inputs, "y", name="up", mode=mode, **settings)]
    return build(nodes, {"x": (FLOAT, shape)}, {"y": (FLOAT, out)}, constants, opset)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("scales", "opset"),
    [
        ([1, 1, 2, 3], 7),
        ([1, 1, 1.5, 2], 9),
        ([1, 1, 2, 3], 10),
        ([1, 1, 0.5, 1], 10),
        ([1, 1, 0.4, 0.5], 10),
        ([1, 1, 0.1, 1.5], 10),
    ],
    ids=str,
)
def test_resize_samples_as_before_opset_11(tmp_path, mode, scales, opset):
    """ONNX's converter leaves the defaults of Resize-11: half_pixel and round_prefer_floor."""
    model = _resize(mode, scales, opset)
    assert_same_answer(model, load(model, tmp_path), {"x": floats((1, 1, 10, 6))}, steps=1e-6)


def test_linear_resize_of_opset_10_by_hand(tmp_path):
    loaded = load(_resize("linear", [1, 1, 1, 2], 10, (1, 1, 1, 4)), tmp_path)
    (result,) = run(loaded, {"x": np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)})
    assert result.ravel().tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]


def test_nearest_resize_that_rounds_both_ways_is_refused(tmp_path):
    """Up on the axis that shrinks, down on the other: Resize-11 has one setting for both."""
    with pytest.raises(UnsupportedOperatorError, match=r"'up'.*rounds up on some axes and down on others"):
        load(_resize("nearest", [1, 1, 0.4, 2], 10), tmp_path)


def test_nearest_resize_with_scales_computed_from_the_shape(tmp_path):
    """``interpolate(x, size=(2, 4))`` as PyTorch wrote it: new sizes over old ones, known once the batch is."""
    nodes = [
        node("Shape", "x", "before"),
        node("Cast", "before", "sizes", to=FLOAT),
        node("Div", "after sizes", "s"),
        node("Resize", "x s", "y", mode="nearest"),
    ]
    after = {"after": np.array([1, 1, 2, 4], np.float32)}
    model = build(nodes, {"x": (FLOAT, ["N", 1, 5, 4])}, {"y": (FLOAT, ["N", 1, 2, 4])}, after, opset=10)
    assert_same_answer(model, load(model, tmp_path), {"x": floats((1, 1, 5, 4))})


def test_nearest_resize_with_scales_that_are_an_input_is_refused(tmp_path):
    nodes = [node("Resize", "x s", "y", name="up", mode="nearest")]
    model = build(nodes, {"x": (FLOAT, [1, 1, 4, 4]), "s": (FLOAT, [4])}, {"y": (FLOAT, [1, 1, 8, 8])}, opset=10)
    with pytest.raises(UnsupportedOperatorError, match=r"'up'.*computes its scales"):
        load(model, tmp_path)


@pytest.mark.parametrize("opset", [7, 12])
@pytest.mark.parametrize("settings", [{}, {"axis": 0}, {"axis": 1}, {"axis": 2}], ids=str)
def test_hardmax_before_opset_13_is_of_a_matrix(tmp_path, opset, settings: dict[str, Any]):
    """One element of all axes from the given one on; ONNX's converter keeps the axis, which now means one axis."""
    kind = {"x": (FLOAT, [2, 3, 4])}
    model = build([node("Hardmax", "x", "y", name="hard", **settings)], kind, {"y": (FLOAT, [2, 3, 4])}, opset=opset)
    assert_same_answer(model, load(model, tmp_path), {"x": floats((2, 3, 4))})
