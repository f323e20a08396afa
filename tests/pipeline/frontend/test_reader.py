"""Files that must be refused with a ModelError, and nothing else."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx.numpy_helper
import pytest
from onnx import ModelProto, TensorProto, helper

from pipeline.errors import ModelError, UnsupportedOperatorError
from pipeline.frontend import Limits, load_model
from tests.pipeline.frontend.models import build, load, node, qdq_model, save

FLOAT = TensorProto.FLOAT


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load_model(tmp_path / "no.onnx")


def test_folder(tmp_path):
    with pytest.raises(ModelError, match="is a folder"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x89PNG\r\n\x1a\n" * 50, b"hello, this is text\n" * 20, b"\x00" * 100, b"\xff" * 100, os.urandom(500)],
    ids=["empty", "png", "text", "zeros", "ones", "random"],
)
def test_not_onnx(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError):
        load_model(path)


def test_truncated_at_every_length(tmp_path):
    """Protobuf takes a file cut between two fields for a valid one."""
    data = qdq_model().SerializeToString()
    path = tmp_path / "model.onnx"
    refused = 0
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            load_model(path)
        except ModelError:
            refused += 1
    # Only a cut after the graph, in the version numbers behind it, can leave a complete model.
    assert refused >= len(data) - 20


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, length = bytearray(), len(data)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + data


def test_names_that_are_no_text(tmp_path):
    """Found by flipping bits: such a name passes the checker and fails when the model is written again."""
    path = tmp_path / "model.onnx"
    path.write_bytes(qdq_model().SerializeToString().replace(b"dequant", b"dequ\xde\xfft"))
    with pytest.raises(ModelError, match="UTF-8"):
        load_model(path)


@pytest.mark.parametrize("levels", [30, 5000])
def test_deep_nesting_does_not_exhaust_the_stack(tmp_path, levels):
    """A few kilobytes of If inside If must not end in a RecursionError; protobuf itself stops at 100 messages."""
    graph = qdq_model().graph.SerializeToString()
    for _ in range(levels):
        attribute = _field(1, b"then_branch") + _field(6, graph) + bytes([20 << 3, 5])
        graph = _field(1, _field(1, b"x") + _field(2, b"y") + _field(4, b"If") + _field(5, attribute)) + _field(2, b"g")
    model = qdq_model()
    model.ClearField("graph")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString() + _field(7, graph))
    with pytest.raises(ModelError):
        load_model(path)


@pytest.mark.parametrize(
    ("limits", "message"),
    [(Limits(max_file_bytes=100), "bytes"), (Limits(max_nodes=1), "nodes"), (Limits(max_tensor_elements=3), "cap")],
    ids=["bytes", "nodes", "elements"],
)
def test_caps(tmp_path, limits, message):
    with pytest.raises(ModelError, match=message):
        load(qdq_model(), tmp_path, limits=limits)


def test_huge_input_dimension(tmp_path):
    model = qdq_model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 10**9
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 10**9
    with pytest.raises(ModelError, match="over the cap"):
        load(model, tmp_path)


def test_huge_initializer_dimension(tmp_path):
    model = qdq_model()
    model.graph.initializer[0].dims.append(10**9)
    with pytest.raises(ModelError, match="over the cap"):
        load(model, tmp_path)


def test_huge_constant_of_shape_is_not_computed(tmp_path):
    """Constant folding must look at the result's size before it allocates it."""
    nodes = [node("ConstantOfShape", "shape", "c"), node("ReduceSum", "c", "r", keepdims=0), node("Add", "x r", "y")]
    model = build(nodes, {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])}, {"shape": np.array([10**5, 10**5])})
    with pytest.raises(ModelError, match="over the cap"):
        load(model, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.dims.append(7),
        lambda t: t.dims.extend([-1, -1]),
        lambda t: setattr(t, "raw_data", b"\0"),
        lambda t: setattr(t, "data_type", 99),
    ],
    ids=["dims", "negative dims", "data cut", "unknown type"],
)
def test_initializer_that_makes_no_sense(tmp_path, change):
    model = qdq_model()
    change(model.graph.initializer[0])
    with pytest.raises(ModelError):
        load(model, tmp_path)


def test_zero_point_out_of_range(tmp_path):
    """numpy wraps 300 to 44 when it reads a uint8 from int32_data."""
    model = qdq_model()
    zero = model.graph.initializer[1]
    zero.ClearField("raw_data")
    zero.int32_data.append(300)
    with pytest.raises(ModelError, match=r"'z' holds values outside 0\.\.255"):
        load(model, tmp_path)


def _external(location: str, **entries: int) -> ModelProto:
    nodes = [node("Add", "x w", "y")]
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, {"w": np.arange(4, dtype=np.float32)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "C:\\secret.bin", "..\\secret.bin", "", "link.bin"],
)
def test_external_data_outside_the_folder(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="folder"):
        load(_external(location), folder)


@pytest.mark.parametrize(
    "entries", [{"offset": -4}, {"offset": 8}, {"length": 8}, {"length": 10**12}, {"offset": 10**12}], ids=str
)
def test_external_data_span(tmp_path, entries):
    (tmp_path / "w.bin").write_bytes(bytes(16))
    with pytest.raises(ModelError, match="'w'"):
        load(_external("w.bin", **entries), tmp_path)


def test_external_data_that_is_missing(tmp_path):
    with pytest.raises(ModelError, match="not beside the model"):
        load(_external("w.bin"), tmp_path)


def test_external_data_counts_against_the_size_cap(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(16))
    size = len(_external("w.bin").SerializeToString())
    with pytest.raises(ModelError, match="external data exceed"):
        load(_external("w.bin"), tmp_path, limits=Limits(max_file_bytes=size + 15))


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "./w.bin"])
def test_external_data_inside_the_folder(tmp_path, location):
    data = np.arange(5, dtype=np.float32)
    path: Path = tmp_path / location
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.tobytes())
    loaded = load(_external(location, offset=4, length=16), tmp_path)
    assert not loaded.graph.initializer[0].external_data
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(loaded.graph.initializer[0]), data[1:])


def _two_nodes(first: str, second: str) -> ModelProto:
    nodes = [node("Add", first, "a", name="first"), node("Add", second, "y", name="second")]
    return build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_two_nodes("x y", "x a"), "cyclic"),
        (_two_nodes("a x", "x a"), "cyclic"),
        (_two_nodes("x nowhere", "x a"), "nothing writes"),
    ],
    ids=["cycle of two", "self", "dangling"],
)
def test_broken_graph(tmp_path, model, message):
    with pytest.raises(ModelError, match=message):
        load(model, tmp_path)


def test_unsorted_graph(tmp_path):
    model = _two_nodes("x x", "x a")
    model.graph.node.insert(0, model.graph.node.pop(1))
    with pytest.raises(ModelError, match="topological"):
        load(model, tmp_path)


def test_tensor_written_twice(tmp_path):
    model = _two_nodes("x x", "x a")
    model.graph.node[1].output[0] = "a"
    with pytest.raises(ModelError, match="written twice"):
        load(model, tmp_path)


def test_two_outputs_of_one_name(tmp_path):
    """Valid to ONNX and onnxruntime; the manifest of the library was called damaged."""
    model = _two_nodes("x x", "x a")
    model.graph.output.append(model.graph.output[0])
    with pytest.raises(ModelError, match="two graph outputs have the name 'y'"):
        load(model, tmp_path)


def test_shapes_that_do_not_fit(tmp_path):
    nodes = [node("MatMul", "x w", "y", name="mm")]
    model = build(nodes, {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 2])}, {"w": np.zeros((3, 2), np.float32)})
    with pytest.raises(ModelError, match="mm"):
        load(model, tmp_path)


def test_types_that_do_not_fit(tmp_path):
    nodes = [node("Add", "x w", "y", name="mixed")]
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, {"w": np.zeros(4, np.int64)})
    with pytest.raises(ModelError, match="mixed"):
        load(model, tmp_path)


@pytest.mark.parametrize("opset", [1, 6, 9999])
def test_opset_out_of_range(tmp_path, opset):
    model = build([node("Relu", "x", "y")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, opset=opset)
    with pytest.raises(ModelError):
        load(model, tmp_path)


def test_functions_that_grow_exponentially(tmp_path):
    """30 local functions that call each other twice are 2**30 nodes."""
    functions = []
    for level in range(30):
        inner, domain = (f"f{level - 1}", "local") if level else ("Relu", "")
        body = [node(inner, "a", "b", domain), node(inner, "b", "c", domain)]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        functions.append(helper.make_function("local", f"f{level}", ["a"], ["c"], body, opsets))
    model = build([node("f29", "x", "y", "local")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])})
    model.functions.extend(functions)
    with pytest.raises(ModelError):
        load(model, tmp_path)


def test_local_function_is_inlined(tmp_path):
    body = [node("Relu", "a", "b"), node("Neg", "b", "c")]
    model = build([node("f", "x", "y", "local")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])})
    model.functions.append(helper.make_function("local", "f", ["a"], ["c"], body, [helper.make_opsetid("", 17)]))
    assert [n.op_type for n in load(model, tmp_path).graph.node] == ["Relu", "Neg"]


@pytest.mark.parametrize(
    "broken",
    [
        node("QLinearAdd", "x s z x s", "y", "com.microsoft", name="op"),
        node("QLinearAdd", "x s z x s z s z x", "y", "com.microsoft", name="op"),
        node("QLinearConcat", "s z x s", "y", "com.microsoft", name="op"),
        node("QLinearConcat", "s z x s z x", "y", "com.microsoft", name="op"),
        node("QGemm", "x s z", "y", "com.microsoft", name="op"),
        node("QLinearSoftmax", "x s z s z", "y", "com.microsoft", name="op", axis="last"),
        node("QLinearSigmoid", "x s z s z", "y w", "com.microsoft", name="op"),
    ],
    ids=["too few", "too many", "concat cut", "concat odd", "gemm cut", "attribute type", "outputs"],
)
def test_microsoft_operators_are_checked_too(tmp_path, broken):
    """onnx.checker passes any node of a domain that it does not know."""
    model = build([broken], {"x": (2, [4, 4])}, {"y": (2, [4, 4])}, {"s": np.float32(1), "z": np.uint8(0)})
    with pytest.raises(ModelError, match="'op'"):
        load(model, tmp_path)


def test_constant_without_a_value(tmp_path):
    """Found by flipping bits: the checker passes it."""
    model = build([node("Constant", "", "c"), node("Add", "x c", "y")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])})
    with pytest.raises(ModelError):
        load(model, tmp_path)


def test_damaged_files_end_in_a_model_error(tmp_path):
    """Flipped bits and cut bytes, 300 times: the model loads, or there is a ModelError and no other exception."""
    kinds: dict[str, Any] = {
        "s": np.float32(0.1), "z": np.uint8(3), "w": np.ones((2, 3, 1, 1), np.int8), "ws": np.ones(2, np.float32),
        "wz": np.zeros(2, np.int8), "b": np.zeros(2, np.int32), "target": np.array([0, -1]),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("QLinearConv", "q s z w ws wz s z b", "c", name="conv"),
        node("QLinearAveragePool", "c s z s z", "p", "com.microsoft", kernel_shape=[2, 2]),
        node("DequantizeLinear", "p s z", "d"),
        node("Identity", "d", "i"),
        node("Reshape", "i target", "y"),
    ]
    data = build(nodes, {"x": (FLOAT, ["N", 3, 4, 4])}, {"y": (FLOAT, ["N", 18])}, kinds).SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    load_model(path)
    generator = random.Random(0)
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(generator.choice([1, 2, 5])):
            place = generator.randrange(len(broken))
            if generator.random() < 0.7:
                broken[place] ^= 1 << generator.randrange(8)
            else:
                del broken[place : place + generator.randrange(1, 8)]
        path.write_bytes(broken)
        with contextlib.suppress(ModelError):
            load_model(path)


def test_all_unsupported_operators_in_one_error(tmp_path):
    nodes = [
        node("NonZero", "x", "a", name="first"),
        node("Frobnicate", "x", "b", "com.acme", name="second"),
        node("Relu", "x", "y"),
        node("Resize", "x - scales", "c", name="third", antialias=1, mode="linear"),
    ]
    model = build(
        nodes,
        {"x": (FLOAT, [1, 1, 4, 4])},
        {"y": (FLOAT, [1, 1, 4, 4])},
        {"scales": np.array([1, 1, 0.5, 0.5], np.float32)},
        opset=18,
    )
    with pytest.raises(UnsupportedOperatorError) as caught:
        load(model, tmp_path)
    message = str(caught.value)
    assert message.startswith("3 nodes")
    for part in ("'first' (NonZero, domain ai.onnx)", "'second' (Frobnicate, domain com.acme)", "'third'", "antialias"):
        assert part in message
    assert "\n" not in message


def test_model_in_memory_is_not_changed_by_saving(tmp_path):
    """load_model reads: the file is the same afterwards."""
    path = save(qdq_model(), tmp_path)
    before = path.read_bytes()
    load_model(path, batch=3)
    assert path.read_bytes() == before
