"""The compile function on a real network: the same bits everywhere, and all or nothing on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import pipeline
from pipeline.errors import CompileError, ModelError, TargetError, UnsupportedOperatorError
from pipeline.frontend import import_model, load_model
from pipeline.passes.integer import lower_to_integer
from pipeline.runtime import Model, load
from pipeline.targets import DeployTarget
from tests import numpy_reference
from tests.conftest import REPOSITORY
from tests.octet_runner import Array, assert_same_bits, each_target
from tests.pipeline.passes.integer import qdq

DIGITS = REPOSITORY / "examples" / "digits" / "digits_qdq.onnx"
HELDOUT = REPOSITORY / "examples" / "digits" / "heldout.npz"
BATCH = 3


@pytest.fixture(scope="module")
def images() -> Array:
    """Handwritten digits, (BATCH, 1, 16, 16)."""
    with np.load(HELDOUT, allow_pickle=False) as data:
        return (data["images"][:BATCH, None] / np.float32(255)).astype(np.float32)


@pytest.fixture(scope="module")
def logits(images: Array) -> Array:
    """What numpy makes of the integer operators of the network."""
    module = lower_to_integer(import_model(load_model(DIGITS, batch=BATCH)).module)
    result: Array = numpy_reference.run(module, images)
    assert len(np.unique(result)) > BATCH * 3, "the images do not excite the network"
    return result


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network for this CPU."""
    return pipeline.compile(DIGITS, output=tmp_path_factory.mktemp("digits") / "digits.so", batch=BATCH)


@each_target
def test_same_bits_on_every_target_and_number_of_threads(
    target: DeployTarget, images: Array, logits: Array, tmp_path: Path
) -> None:
    """All of them against numpy, so against each other."""
    path = pipeline.compile(DIGITS, target, output=tmp_path / "digits.so", batch=BATCH)
    for threads in (1, 2):
        assert_same_bits(load(path, threads=threads)(images), logits, f"{target.name} with {threads} threads")


def test_compiled_again_gives_the_same_answers(compiled: Path, images: Array, logits: Array, tmp_path: Path) -> None:
    """Under another name, over an older file, and with the first one still loaded."""
    first = load(compiled)
    output = tmp_path / "again.so"
    output.write_text("an older file")
    second = load(pipeline.compile(str(DIGITS), output=output, batch=BATCH))
    for model in (first, second, first):
        assert_same_bits(model(images), logits, "compiled again")
    assert first.manifest.model_sha256 == second.manifest.model_sha256
    assert first.manifest.options == second.manifest.options


def test_manifest_describes_the_network(compiled: Path) -> None:
    """Names, shapes and dtypes of the file, the batch that was asked for, and what runs in integer."""
    model: Model = load(compiled)
    assert [(i.name, i.shape, i.dtype) for i in model.inputs] == [("image", (BATCH, 1, 16, 16), "float32")]
    assert [(o.name, o.shape, o.dtype) for o in model.outputs] == [("logits", (BATCH, 10), "float32")]
    assert model.manifest.float_operators == 0
    assert model.manifest.integer_operators > 10
    assert model.manifest.options["batch"] == BATCH
    assert model.manifest.model_file == DIGITS.name


def test_manifest_says_how_integer_inputs_and_outputs_are_quantised(tmp_path: Path) -> None:
    """Without scale and zero point nobody can feed a model that takes codes."""
    tensor = onnx.helper.make_tensor_value_info
    parameters = [("sx", 0.5), ("sy", 0.25)]
    constants = [onnx.numpy_helper.from_array(np.array(value, np.float32), name) for name, value in parameters]
    constants += [
        onnx.numpy_helper.from_array(np.array(value, np.int8), name) for name, value in (("zx", 3), ("zy", -7))
    ]
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["real"]),
        onnx.helper.make_node("Relu", ["real"], ["positive"]),
        onnx.helper.make_node("QuantizeLinear", ["positive", "sy", "zy"], ["y"]),
    ]
    ends = [tensor(name, onnx.TensorProto.INT8, [1, 4]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "codes", ends[:1], ends[1:], constants)
    path = tmp_path / "codes.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    model = load(pipeline.compile(path, "llvm", output=tmp_path / "codes.so"))
    assert [str(info) for info in (*model.inputs, *model.outputs)] == [
        "x: int8[1, 4], scale 0.5, zero point 3",
        "y: int8[1, 4], scale 0.25, zero point -7",
    ]
    assert model(np.array([[-128, 3, 4, 127]], np.int8)).tolist() == [[-7, -7, -5, 127]]


def test_every_operator_of_the_network_is_integer() -> None:
    """Said of ONNX nodes by their names, each once."""
    reports = pipeline.inspect(DIGITS)
    assert {r.kind for r in reports} == {"integer"}
    names = [r.name for r in reports]
    assert len(names) == len(set(names))
    nodes = {n.name: n.op_type for n in onnx.load(DIGITS).graph.node}
    named = {r.name: r.op_type for r in reports if r.name in nodes}
    assert {"Conv", "Add", "Gemm", "GlobalAveragePool"} <= set(named.values())
    assert all(nodes[name] == kind for name, kind in named.items())


def test_each_phase_is_written_and_told(tmp_path: Path) -> None:
    """One file a phase, in order, without the weights; progress grows from 0 to 1."""
    told: list[tuple[str, float]] = []
    pipeline.compile(
        DIGITS,
        "llvm",
        output=tmp_path / "digits.so",
        dump_ir=tmp_path / "ir",
        progress=lambda phase, share: told.append((phase, share)),
    )
    names = [f.name for f in sorted((tmp_path / "ir").iterdir())]
    assert names == [
        "00-import.py", "01-integer.py", "02-fuse-epilogues.py", "03-assign-layout.py", "04-images-in-turn.py",
        "05-emit-kernels.py", "06-unaligned-inputs.py",
    ]  # fmt: skip
    texts = [(tmp_path / "ir" / name).read_text() for name in names]
    assert "octet.conv2d" not in texts[0]
    assert all("octet.conv2d" in text for text in texts[1:5])
    assert "octet.conv2d" not in texts[5]
    assert max(map(len, texts)) < 2_000_000
    shares = [share for _, share in told]
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares == sorted(shares)
    assert len({phase for phase, _ in told}) == len(told)


def test_result_of_another_type_than_the_manifest_says(tmp_path: Path) -> None:
    """The kernel of GridSample gives float32 whatever it is given, and the library gave it too."""
    tensor, half = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT16
    inputs = [tensor("x", half, [1, 2, 5, 5]), tensor("grid", half, [1, 3, 3, 2])]
    node = onnx.helper.make_node("GridSample", ["x", "grid"], ["y"])
    graph = onnx.helper.make_graph([node], "half", inputs, [tensor("y", half, [1, 2, 3, 3])])
    path, output = tmp_path / "half.onnx", tmp_path / "half.so"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(UnsupportedOperatorError, match=r"'y: float32\[1, 2, 3, 3\]' instead of 'y: float16"):
        pipeline.compile(path, "llvm", output=output)
    assert not output.exists()


def _half_float_model() -> onnx.ModelProto:
    """Two operators without an integer form, and a convolution."""
    model = qdq.Model()
    x, y = (model.qdq(model.input((1, 4, 5, 5)), 0.1, 120) for _ in range(2))
    quotient = model.qdq(model.op("Div", x, y), 0.2, 128)
    weight = model.weight(np.ones((4, 4, 1, 1), np.int8), 0.5)
    features = model.qdq(model.op("Conv", quotient, weight), 0.3, 128)
    largest = model.op("Max", features, x)
    model.output(model.quantize(largest, 0.3, 128))
    return model.build()


def test_pure_int8_lists_every_float_operator(tmp_path: Path) -> None:
    """Both of them, by name and type with a reason each; without the option they run in float."""
    path, output = tmp_path / "half.onnx", tmp_path / "half.so"
    onnx.save(_half_float_model(), path)
    floats = {r.name: r for r in pipeline.inspect(path) if r.kind == "float"}
    assert sorted(r.op_type for r in floats.values()) == ["Div", "Max"]
    with pytest.raises(UnsupportedOperatorError) as caught:
        pipeline.compile(path, output=output, pure_int8=True)
    for name, report in floats.items():
        assert f"{name} ({report.op_type}): {report.reason}" in str(caught.value)
    assert "Conv" not in str(caught.value)
    assert not output.exists()
    model = load(pipeline.compile(path, output=output))
    assert model.manifest.float_operators == 2


@pytest.mark.parametrize("existing", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("failing", ["tvm.compile", "pipeline.package._link", "pipeline.package.append_manifest"])
def test_nothing_is_left_of_a_failure(
    failing: str, existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails, the folder holds what it held before."""

    def fail(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    model = qdq.Model()
    model.output(model.quantize(model.qdq(model.input((1, 4)), 0.1, 120), 0.2, 128))
    path = tmp_path / "small.onnx"
    onnx.save(model.build(), path)
    output = tmp_path / "libraries" / "small.so"
    output.parent.mkdir()
    if existing:
        output.write_text("an older file")
    monkeypatch.setattr(failing, fail)
    with pytest.raises(CompileError, match="No space left"):
        pipeline.compile(path, "llvm", output=output)
    assert [f.name for f in output.parent.iterdir()] == (["small.so"] if existing else [])
    assert not existing or output.read_text() == "an older file"


def test_wrong_arguments(tmp_path: Path) -> None:
    """Each is refused by its own class before anything is compiled or written."""
    output = tmp_path / "digits.so"
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(DIGITS.read_bytes()[:5000])
    with pytest.raises(TargetError, match="llvm-avx2"):
        pipeline.compile(DIGITS, "llvm-avx3", output=output)
    with pytest.raises(CompileError, match="does not exist"):
        pipeline.compile(DIGITS, output=tmp_path / "missing" / "digits.so")
    with pytest.raises(CompileError, match="the same file is read or written too"):
        pipeline.compile(cut, output=cut)
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        pipeline.compile(cut, output=output)
    with pytest.raises(ModelError, match=r"missing\.onnx"):
        pipeline.compile(tmp_path / "missing.onnx", output=output)
    assert not output.exists()
