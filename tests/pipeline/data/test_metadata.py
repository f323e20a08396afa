"""What a model file says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pipeline
from pipeline.data import METADATA_KEY, InputSpec, Preprocessing, describe_model, store_preprocessing
from pipeline.data.metadata import model_files
from pipeline.errors import InputError, ModelError, OctetError

RECIPE = Preprocessing((6, 8), 6, "centre", (0.0,) * 3, (1.0,) * 3, 1.0, "nchw", "bgr")


@pytest.fixture
def model(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 6, 8]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 6, 8])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, {"source": "here"})
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_inputs_without_weights(model):
    """Old files list weights among the inputs."""
    assert describe_model(model).inputs == (InputSpec("x", (None, 3, 6, 8), "float32"),)
    assert describe_model(model).preprocessing is None


@pytest.fixture
def weights_apart(model):
    """The same model with its weights in another file."""
    loaded, path = onnx.load(model), model.with_name("apart.onnx")
    (weights,) = loaded.graph.initializer
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights), "w"))  # onnx moves raw data only
    onnx.save(loaded, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_files_of_a_model(model, weights_apart, tmp_path):
    assert model_files(model) == [model]
    assert model_files(weights_apart) == [weights_apart, tmp_path / "weights.bin"]
    assert model_files(tmp_path / "missing.onnx") == [tmp_path / "missing.onnx"]


@pytest.mark.parametrize("verb", [pipeline.compile, pipeline.quantize], ids=lambda verb: verb.__name__)
def test_output_over_the_weights(weights_apart, verb):
    """The weights of the user's own model were replaced by what was made of it."""
    weights = weights_apart.with_name("weights.bin")
    before = weights.read_bytes()
    more: dict[str, Any] = {"data": []} if verb is pipeline.quantize else {"target": "llvm"}
    with pytest.raises(OctetError, match=r"the same file is read or written too, as .*weights\.bin"):
        verb(weights_apart, output=weights, **more)
    assert weights.read_bytes() == before


@pytest.mark.parametrize("size", [-1, 0])
def test_open_batch_written_as_a_number(model, size):
    """It was a fixed batch of -1 or 0, which no data fits."""
    loaded = onnx.load(model)
    loaded.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(loaded, model)
    assert describe_model(model).inputs[0].shape == (None, 3, 6, 8)


def test_recipe_is_kept_from_file_to_library(model, tmp_path):
    """Stored once, replaced by a second, and in the library as well; other metadata stays."""
    store_preprocessing(model, Preprocessing((1, 1), 1, "squash", (0.0,), (1.0,), 1.0, "nhwc", "rgb"))
    store_preprocessing(model, RECIPE)
    assert describe_model(model).preprocessing == RECIPE
    assert sorted(entry.key for entry in onnx.load(model).metadata_props) == [METADATA_KEY, "source"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    library = pipeline.compile(model, output=tmp_path / "m.so")
    assert describe_model(library).preprocessing == RECIPE
    assert describe_model(library).inputs == (InputSpec("x", (1, 3, 6, 8), "float32"),)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([1, 3, 12, 12], replace(RECIPE, size=(12, 12), resize=12)),
        ([1, 3, 6, 8], RECIPE),
        ([1, 1, 12, 12], RECIPE),
        ([1, 3], RECIPE),
    ],
    ids=str,
)
def test_recipe_in_a_library_is_for_the_size_compiled_for(tmp_path, shape, expected):
    """The library used to have the recipe of the size quantised for, which it then refused itself.

    A recipe of another kind of input is kept, and refused when an image comes: the defaults may be wrong as well.
    """
    open_shape = ["N", *"ABC"[: len(shape) - 1]]
    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, open_shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", kinds[:1], kinds[1:])
    path = tmp_path / "open.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    store_preprocessing(path, RECIPE)
    library = pipeline.compile(path, output=tmp_path / "open.so", shapes={"x": shape})
    assert describe_model(library).preprocessing == expected


def test_bad_recipe_in_a_file(model, tmp_path):
    loaded = onnx.load(model)
    helper.set_model_props(loaded, {METADATA_KEY: "{}"})
    onnx.save(loaded, model)
    with pytest.raises(ModelError, match=r"metadata 'octet.preprocessing' makes no sense"):
        describe_model(model)
    with pytest.raises(ModelError, match="makes no sense"):
        pipeline.compile(model, output=tmp_path / "m.so")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x08"], ids=["empty", "text", "no graph"])
def test_no_model(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"m.onnx"):
        describe_model(tmp_path / "m.onnx")


def test_missing_model(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        describe_model(tmp_path / "none.onnx")
