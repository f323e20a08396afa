"""Freezing dynamic dimensions."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from pipeline.errors import ModelError
from tests.pipeline.frontend.models import build, floats, load, node, op_types, qdq_model, run

FLOAT = TensorProto.FLOAT


def _shape(value) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 1), ({"batch": 5}, 5), ({"shapes": {"x": (7, 4)}}, 7), ({"batch": 2, "shapes": {"x": (3, 4)}}, 3)],
    ids=["default", "batch", "shape", "shape wins"],
)
def test_batch(tmp_path, options, expected):
    loaded = load(qdq_model(), tmp_path, **options)
    assert _shape(loaded.graph.input[0]) == _shape(loaded.graph.output[0]) == [expected, 4]
    assert all(_shape(value) == [expected, 4] for value in loaded.graph.value_info)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "1 or more"),
        ({"shapes": {"x": (1, 2, 3)}}, "3 sizes"),
        ({"shapes": {"x": (1, 5)}}, "fixed to 4"),
        ({"shapes": {"x": (0, 4)}}, "makes no sense"),
        ({"shapes": {"nope": (1, 4)}}, "no input of the model; its inputs are 'x'"),
    ],
    ids=["batch 0", "rank", "fixed", "zero", "name"],
)
def test_bad_request(tmp_path, options, message):
    with pytest.raises(ModelError, match=message):
        load(qdq_model(), tmp_path, **options)


def test_batch_against_a_fixed_batch(tmp_path):
    model = build([node("Relu", "x", "y")], {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 4])})
    with pytest.raises(ModelError, match="fixed to 1 in the file, not 8"):
        load(model, tmp_path, batch=8)


def test_open_dimension_names_the_option(tmp_path):
    model = build([node("Relu", "x", "y")], {"x": (FLOAT, ["N", 3, "H", "W"])}, {"y": (FLOAT, ["N", 3, "H", "W"])})
    with pytest.raises(ModelError, match=r"--shape x=1,3,\?,\?"):
        load(model, tmp_path)
    assert _shape(load(model, tmp_path, shapes={"x": (2, 3, 8, 9)}).graph.output[0]) == [2, 3, 8, 9]


def _two_inputs() -> ModelProto:
    kind = (FLOAT, ["N", "L"])
    return build([node("Add", "a b", "y")], {"a": kind, "b": kind}, {"y": kind})


def test_a_symbol_is_the_same_everywhere(tmp_path):
    loaded = load(_two_inputs(), tmp_path, shapes={"a": (2, 6)}, batch=2)
    assert [_shape(i) for i in loaded.graph.input] == [[2, 6], [2, 6]]


def test_a_symbol_cannot_be_two_sizes(tmp_path):
    with pytest.raises(ModelError, match="'L'"):
        load(_two_inputs(), tmp_path, shapes={"a": (1, 6), "b": (1, 7)})


def test_stale_value_info_does_not_contradict_the_new_batch(tmp_path):
    """Exporters leave shapes for symbols in value_info; they must not survive."""
    model = build([node("Relu", "x", "a"), node("Neg", "a", "y")], {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])})
    model.graph.value_info.add(name="a").type.CopyFrom(model.graph.input[0].type)
    assert _shape(load(model, tmp_path, batch=6).graph.value_info[0]) == [6, 4]


def test_shape_computed_in_the_graph(tmp_path):
    """PyTorch's x.view(x.size(0), -1): Shape → Gather → Unsqueeze → Concat → Reshape."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "n", axis=0),
        node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 rest", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    model = build(nodes, {"x": (FLOAT, ["N", 3, 2])}, {"y": (FLOAT, ["N", "M"])}, constants)
    loaded = load(model, tmp_path, batch=4)
    assert op_types(loaded) == ["Reshape"]
    assert _shape(loaded.graph.output[0]) == [4, 6]
    x = floats((4, 3, 2))
    np.testing.assert_array_equal(run(loaded, {"x": x})[0], x.reshape(4, 6))


def test_data_dependent_shape_names_the_node(tmp_path):
    nodes = [node("Reshape", "x target", "y", name="view")]
    model = build(nodes, {"x": (FLOAT, [4, 3]), "target": (TensorProto.INT64, [2])}, {"y": (FLOAT, ["A", "B"])})
    with pytest.raises(ModelError, match="'view'"):
        load(model, tmp_path)


def test_output_without_elements(tmp_path):
    """It was said to have no static shape."""
    nodes = [node("Slice", "x one one", "y")]
    model = build(nodes, {"x": (FLOAT, [4, 3])}, {"y": (FLOAT, [0, 3])}, {"one": np.array([1])})
    with pytest.raises(ModelError, match=r"output 'y' has no elements: its shape is \[0, 3\]"):
        load(model, tmp_path)


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 12, 13, 17, 21])
def test_opsets(tmp_path, opset):
    """Old models are converted: Softmax flattened, Squeeze had its axes as an attribute before 13."""
    squeeze = node("Squeeze", "r", "q", axes=[2]) if opset < 13 else node("Squeeze", "r axes", "q")
    nodes = [node("Relu", "x", "r"), squeeze, node("Softmax", "q", "y", axis=1)]
    constants = {} if opset < 13 else {"axes": np.array([2])}
    model = build(nodes, {"x": (FLOAT, ["N", 5, 1])}, {"y": (FLOAT, ["N", 5])}, constants, opset)
    x = floats((2, 5, 1))
    relu = np.maximum(x[..., 0], 0)
    expected = np.exp(relu) / np.exp(relu).sum(axis=1, keepdims=True)
    loaded = load(model, tmp_path, batch=2)
    np.testing.assert_allclose(run(loaded, {"x": x})[0], expected, rtol=1e-5)
    assert [i.name for i in loaded.graph.input] == ["x"]
    assert [o.name for o in loaded.graph.output] == ["y"]


def test_initializers_listed_as_inputs(tmp_path):
    """IR version 3 lists weights among the inputs; they are no inputs of the compiled model."""
    model = build(
        [node("Add", "x w", "y")], {"x": (FLOAT, ["N", 4]), "w": (FLOAT, [4])}, {"y": (FLOAT, ["N", 4])},
        {"w": np.ones(4, np.float32)}, opset=9,
    )  # fmt: skip
    model.ir_version = 3
    loaded = load(model, tmp_path)
    assert [i.name for i in loaded.graph.input] == ["x"]
