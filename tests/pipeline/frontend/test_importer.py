"""From normalised ONNX to Relax."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tvm
from onnx import TensorProto
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from pipeline.errors import ModelError, UnsupportedOperatorError
from pipeline.frontend import TensorSpec, import_model
from pipeline.frontend.operators import IMPORTED, REWRITTEN
from tests.pipeline.frontend.models import MICROSOFT, build, floats, integers, load, node, qdq_model, run, save

FLOAT = TensorProto.FLOAT


def _call(module: tvm.IRModule, *inputs: np.ndarray) -> list[np.ndarray]:
    """Run a module as TVM compiles it without Octet's passes."""
    with tvm.target.Target("llvm"):
        executable = tvm.compile(relax.transform.LegalizeOps()(module), target="llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(x) for x in inputs))
    return [result.numpy()] if hasattr(result, "numpy") else [part.numpy() for part in result]


def _bound(module: tvm.IRModule) -> list[str]:
    return [binding.var.name for block in module["main"].body.blocks for binding in block.bindings]


def test_inputs_and_outputs_in_order(tmp_path):
    nodes = [node("Relu", "b.1", "y.1"), node("Neg", "a/0", "z")]
    model = build(nodes, {"a/0": (FLOAT, ["N", 2]), "b.1": (FLOAT, [3])}, {"y.1": (FLOAT, [3]), "z": (FLOAT, ["N", 2])})
    imported = import_model(load(model, tmp_path, batch=4))
    assert imported.inputs == (TensorSpec("a/0", (4, 2), "float32"), TensorSpec("b.1", (3,), "float32"))
    assert imported.output_names == ["y.1", "z"]
    assert imported.input_names == ["a/0", "b.1"]
    a, b = floats((4, 2)), floats((3,), 1)
    left, right = _call(imported.module, a, b)
    np.testing.assert_array_equal(left, np.maximum(b, 0))
    np.testing.assert_array_equal(right, -a)


def test_threads_import_at_once(tmp_path):
    """Each restored the standard output that it had found, which was another's: what was printed later was lost."""
    loaded, output = load(qdq_model(), tmp_path), sys.stdout
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: import_model(loaded), range(24)))
    assert sys.stdout is output


def test_one_output_is_a_tensor(tmp_path):
    imported = import_model(load(qdq_model(), tmp_path))
    assert isinstance(imported.module["main"].ret_ty, relax.TensorType)
    x = floats((1, 4), spread=20)
    np.testing.assert_array_equal(_call(imported.module, x)[0], run(qdq_model(), {"x": x})[0])


@pytest.mark.parametrize("output", ["x", "w"])
def test_output_that_is_no_result(tmp_path, output):
    """An output that is an input, or a constant, of the graph goes through Identity."""
    nodes = [node("Identity", output, "y"), node("Relu", "x", "z")]
    values = {"w": floats((4,), 1)}
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4]), "z": (FLOAT, [4])}, values)
    x = floats((4,))
    results = _call(import_model(load(model, tmp_path)).module, x)
    np.testing.assert_array_equal(results[0], x if output == "x" else values["w"])


def test_every_binding_has_the_name_of_its_node(tmp_path):
    """Names that TVMScript cannot spell, that clash once they can, and conversions of more than one binding."""
    nodes = [
        node("Conv", "x w b", "a", name="block/conv.1"),
        node("Relu", "a", "c", name="block_conv_1"),
        node("Clip", "c low high", "d", name="7clip"),
        node("Pad", "d pads", "y", name="pad"),
    ]
    values = {
        "w": floats((2, 3, 1, 1)), "b": floats((2,)), "low": np.float32(-1), "high": np.float32(1),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }  # fmt: skip
    model = build(nodes, {"x": (FLOAT, [1, 3, 4, 4])}, {"y": (FLOAT, [1, 2, 6, 6])}, values)
    imported = import_model(load(model, tmp_path))
    bound = _bound(imported.module)
    assert len(set(bound)) == len(bound)
    assert list(dict.fromkeys(imported.node_names[name] for name in bound)) == [n.name for n in nodes]


def test_node_with_the_name_of_the_function(tmp_path):
    """The variable took the name, and the function could not be found."""
    model = build([node("Neg", "x", "y", name="main")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])})
    imported = import_model(load(model, tmp_path))
    assert set(imported.node_names.values()) == {"main"}
    x = floats((4,))
    np.testing.assert_array_equal(_call(imported.module, x)[0], -x)


def test_shared_result_is_computed_once(tmp_path):
    nodes = [node("Exp", "x", "e", name="exp"), node("Add", "e e", "a"), node("Mul", "a e", "y")]
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])})
    script = import_model(load(model, tmp_path)).module.script()
    assert script.count("R.exp(") == 1


def test_split_has_several_results(tmp_path):
    nodes = [node("Split", "x", "a b", name="split", axis=0), node("Sub", "a b", "y", name="sub")]
    model = build(nodes, {"x": (FLOAT, [4, 3])}, {"y": (FLOAT, [2, 3])})
    imported = import_model(load(model, tmp_path))
    x = floats((4, 3))
    np.testing.assert_array_equal(_call(imported.module, x)[0], x[:2] - x[2:])


def test_weights_are_constants_behind_dequantize(tmp_path):
    nodes = [node("DequantizeLinear", "w s z", "wf", axis=0), node("Conv", "x wf", "y")]
    values = {"w": integers((2, 3, 1, 1), np.int8), "s": np.ones(2, np.float32), "z": np.zeros(2, np.int8)}
    model = build(nodes, {"x": (FLOAT, [1, 3, 2, 2])}, {"y": (FLOAT, [1, 2, 2, 2])}, values)
    (block,) = import_model(load(model, tmp_path)).module["main"].body.blocks
    first = block.bindings[0].value
    assert first.op.name == "relax.dequantize"
    assert isinstance(first.args[0], tvm.ir.GenericConst)


def test_unsupported_operators_are_all_named():
    nodes = [
        node("QLinearConv", "x s z w s z s z", "a", name="one"),
        node("Attention", "x w", "b", MICROSOFT, name="two"),
        node("Relu", "x", "y"),
    ]
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])})
    with pytest.raises(UnsupportedOperatorError, match=r"2 nodes.*'one' \(QLinearConv.*'two' \(Attention, domain com"):
        import_model(model)


def test_open_shapes_are_refused():
    with pytest.raises(ModelError, match="load_model"):
        import_model(qdq_model())


@pytest.mark.parametrize("dtype", [TensorProto.BFLOAT16, TensorProto.STRING], ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("role", ["input", "output"])
def test_types_that_a_library_cannot_exchange(tmp_path, dtype, role):
    """They ended as a damaged library, or as a failure of node ''."""
    kinds = {"input": (FLOAT, [2]), "output": (FLOAT, [2])} | {role: (dtype, [2])}
    nodes = [node("Cast", "input", "output", to=kinds["output"][0])]
    loaded = load(build(nodes, {"input": kinds["input"]}, {"output": kinds["output"]}), tmp_path)
    name = TensorProto.DataType.Name(dtype).lower()
    with pytest.raises(ModelError, match=rf"^{role} '{role}' of the model holds {name}.*float32"):
        import_model(loaded)


def test_error_of_the_importer_names_the_node(tmp_path, capfd):
    """TVM prints what it fails on and raises anything at all."""
    nodes = [node("Relu", "x", "r"), node("Conv", "r w", "y", name="conv4d")]
    values = {"w": floats((1, 1, 1, 1, 1, 1))}
    model = build(nodes, {"x": (FLOAT, [1, 1, 2, 2, 2, 2])}, {"y": (FLOAT, [1, 1, 2, 2, 2, 2])}, values)
    loaded = load(model, tmp_path)
    with pytest.raises(ModelError, match=r"'conv4d' \(Conv\)"):
        import_model(loaded)
    captured = capfd.readouterr()
    assert not captured.out
    assert not captured.err


@pytest.mark.parametrize(
    ("maker", "constants", "kind", "message"),
    [
        (node("OneHot", "n depth values", "y", name="hot"),
         {"depth": np.int64(4), "values": np.array([0, 1], np.float32)},
         (FLOAT, [3, 4]), r"'hot' \(OneHot\) makes float64\[3, 4\] of 'y', which is float32\[3, 4\]"),
        (node("Dropout", "x", "kept y", name="drop"), {},
         (TensorProto.BOOL, [3]), r"'drop' \(Dropout\) makes float32\[3\] of 'y', which is bool\[3\]"),
    ],
    ids=["OneHot", "Dropout"],
)  # fmt: skip
def test_result_of_another_type_than_onnx_infers_is_refused(tmp_path, maker, constants, kind, message):
    """TVM gives other types than ONNX in silence; what follows such a node has them too and is not to blame."""
    inputs = {"x": (FLOAT, [3]), "n": (TensorProto.INT64, [3])}
    model = build([maker, node("Identity", "y", "z", name="after")], inputs, {"y": kind, "z": kind}, constants)
    loaded = load(model, tmp_path)
    with pytest.raises(UnsupportedOperatorError, match=message) as caught:
        import_model(loaded)
    assert "after" not in str(caught.value)


def test_shape_of_another_size_than_onnx_infers_is_refused(tmp_path, monkeypatch):
    """A stand-in for a conversion that ignores a setting."""
    monkeypatch.setattr(onnx_frontend.Relu, "_impl_v13", lambda _bb, inputs, *_: relax.op.expand_dims(inputs[0], 0))
    model = build([node("Relu", "x", "y", name="relu")], {"x": (FLOAT, [3])}, {"y": (FLOAT, [3])})
    loaded = load(model, tmp_path)
    with pytest.raises(
        UnsupportedOperatorError, match=r"'relu' \(Relu\) makes float32\[1, 3\] of 'y', which is float32\[3\]"
    ):
        import_model(loaded)


@pytest.mark.parametrize("nodes", [[node("Shape", "x", "y")], [node("Shape", "x", "s"), node("Identity", "s", "y")]])
def test_shape_as_an_output(tmp_path, nodes):
    """To TVM a shape is no tensor: the library failed when it was called."""
    model = build(
        [*nodes, node("Relu", "x", "z")], {"x": (FLOAT, [2, 3])}, {"y": (TensorProto.INT64, [2]), "z": (FLOAT, [2, 3])}
    )
    shape, _ = _call(import_model(load(model, tmp_path)).module, floats((2, 3)))
    assert shape.dtype == np.int64
    assert shape.tolist() == [2, 3]


def test_import_is_quiet(tmp_path, capfd, recwarn):
    model = build([node("Relu", "in.put", "y")], {"in.put": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])})
    import_model(load(model, tmp_path))
    captured = capfd.readouterr()
    assert not captured.out
    assert not captured.err
    assert not recwarn.list


def test_every_operator_of_the_table_is_known_to_tvm():
    known = onnx_frontend._get_convert_map()
    assert not {name for _, name in IMPORTED} - set(known)
    assert not IMPORTED & REWRITTEN


def test_loading_does_not_import_tvm(tmp_path):
    """Reading and normalising must work in an environment without the compiler."""
    path = save(qdq_model(), tmp_path)
    code = (
        "import sys, json; sys.modules['tvm'] = None; from pipeline.frontend import load_model;"
        "print(json.dumps([n.op_type for n in load_model(sys.argv[1]).graph.node]))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == ["QuantizeLinear", "DequantizeLinear"]
