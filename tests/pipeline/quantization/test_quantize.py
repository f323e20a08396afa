"""From a float file to a QDQ file: what is in it, and what it computes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pipeline
from pipeline.data import describe_model, load_data
from pipeline.errors import InputError, ModelError
from pipeline.quantization import mixed_precision
from tests.pipeline.frontend.models import build, constants, qdq_model
from tests.pipeline.quantization.networks import Net, batches, node, run, save, sqnr


def _residual(opset: int = 17) -> Net:
    """Convolutions with BatchNormalization, an addition, a concat, pools and a classifier."""
    net = Net(opset=opset).conv("x", "c1", 8, bias=False)
    for name, value in (("g", 1.5), ("o", 0.2), ("m", 0.1), ("v", 0.7)):
        net.constant(name, np.full(8, value) * np.linspace(0.5, 1.5, 8))
    net.op("BatchNormalization", "c1 g o m v", "n1").op("Relu", "n1", "r1")
    net.conv("r1", "c2", 8, 8).op("Add", "c2 r1", "s").op("Relu", "s", "r2")
    net.conv("r2", "d", 8, 1, group=8).op("Concat", "d r2", "cat", axis=1)
    net.op("MaxPool", "cat", "pool", kernel_shape=[2, 2], strides=[2, 2]).op("GlobalAveragePool", "pool", "mean")
    return net.op("Flatten", "mean", "flat").gemm("flat", "y", 16, 10)


def _quantized(tmp_path: Path, net: Net, *outputs: str, ranks: tuple[int, ...] = (2,), **options):
    path = net.file(tmp_path, *outputs, ranks=ranks)
    data = options.pop("data", None)
    data = batches() if data is None else data
    result = pipeline.quantize(path, data, output=tmp_path / "q.onnx", **options)
    return onnx.load(path), onnx.load(result)


def _compare(before, after, seed: int = 5, shape=(4, 3, 8, 8)) -> float:
    (feed,) = batches(1, shape, seed)
    return sqnr(run(before, feed)[0], run(after, feed)[0])


@pytest.mark.parametrize("activations", ["u8", "s8"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("weights", ["per-channel", "per-tensor", "per-group"])
def test_close_to_the_float_model(tmp_path, activations, symmetric, weights):
    before, after = _quantized(
        tmp_path, _residual(), "y", activations=activations, symmetric=symmetric, weights=weights
    )
    assert _compare(before, after) > 25
    zero_points = {t.data_type for t in after.graph.initializer if t.name.endswith("_zero_point")}
    kind = TensorProto.UINT8 if activations == "u8" else TensorProto.INT8
    assert zero_points == {kind, TensorProto.INT8, TensorProto.INT32}


def test_standard_file_with_the_names_of_the_model(tmp_path):
    before, after = _quantized(tmp_path, _residual(), "y")
    names = {n.name for n in before.graph.node}
    kept = {n.name for n in after.graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear")}
    assert names - kept == {"n1_node"}, "BatchNormalization is folded, all else stays"
    assert after.graph.input[0] == before.graph.input[0], "the batch stays open"
    assert [o.name for o in after.graph.output] == ["y"]
    assert {o.domain for o in after.opset_import} == {""}
    biases = [t for t in after.graph.initializer if t.data_type == TensorProto.INT32 and t.name.endswith("_quantized")]
    assert len(biases) == 4
    values = constants(after)
    for entry in after.graph.node:
        if entry.op_type == "DequantizeLinear" and entry.input[0].startswith("b_"):
            layer = next(n for n in after.graph.node if entry.output[0] in n.input)
            producers = {n.output[0]: n for n in after.graph.node}
            x_scale, w_scale = (values[producers[name].input[1]] for name in layer.input[:2])
            product = (np.float64(x_scale) * w_scale).astype(np.float32)
            np.testing.assert_array_equal(values[entry.input[1]], product)


def test_every_operator_is_lowered_to_integers(tmp_path):
    path = _residual().file(tmp_path, "y", ranks=(2,))
    result = pipeline.quantize(path, batches(), output=tmp_path / "q.onnx")
    assert [r for r in pipeline.inspect(result) if r.kind != "integer"] == []


def test_same_bytes_each_time(tmp_path):
    path = _residual().file(tmp_path, "y", ranks=(2,))
    files = [pipeline.quantize(path, batches(), output=tmp_path / f"{i}.onnx").read_bytes() for i in range(2)]
    assert files[0] == files[1]


def test_batches_need_not_be_equal_or_kept(tmp_path):
    """Observers see the same values however the images are cut into batches, and from a generator too."""
    path = _residual().file(tmp_path, "y", ranks=(2,))
    images = np.concatenate([batch["x"] for batch in batches()])
    cuts = ({"x": images[a:b]} for a, b in ((0, 1), (1, 6), (6, 8)))
    whole = pipeline.quantize(path, batches(), output=tmp_path / "a.onnx")
    other = pipeline.quantize(path, cuts, output=tmp_path / "b.onnx")
    assert sqnr(*(run(onnx.load(p), {"x": images})[0] for p in (whole, other))) > 60


def test_samples_limits_the_data(tmp_path):
    path = _residual().file(tmp_path, "y", ranks=(2,))
    first = pipeline.quantize(path, batches(1, (3, 3, 8, 8)), output=tmp_path / "a.onnx")
    data = [{"x": np.concatenate([batches(1, (3, 3, 8, 8))[0]["x"], np.full((2, 3, 8, 8), 99, np.float32)])}]
    cut = pipeline.quantize(path, data, samples=3, output=tmp_path / "b.onnx")
    assert first.read_bytes() == cut.read_bytes()


@pytest.mark.parametrize("fill", [0.0, 1.0], ids=["black", "constant"])
def test_one_featureless_image_is_enough(tmp_path, fill):
    _, after = _quantized(tmp_path, _residual(), "y", data=[{"x": np.full((1, 3, 8, 8), fill, np.float32)}])
    scales = [v for n, v in constants(after).items() if n.endswith("_scale")]
    assert all(np.isfinite(s).all() and (s > 0).all() for s in scales)
    assert np.isfinite(run(after, batches(1)[0])[0]).all()


def test_dead_channel_and_large_bias(tmp_path):
    """A channel without weights, and one whose bias is 1e9 steps: finite scales, and the bias is exact."""
    net = Net().conv("x", "y", 3)
    net.constants["w_y"][0] = 0
    net.constants["w_y"][1] *= 1e-9
    net.constants["b_y"][:] = (2.5, 3.5, 0.1)
    before, after = _quantized(tmp_path, net, "y", ranks=(4,), outputs="float")
    (feed,) = batches(1)
    result = run(after, feed)[0]
    np.testing.assert_allclose(result[:, :2], run(before, feed)[0][:, :2], rtol=1e-5)
    assert constants(after)["b_y_quantized"].max() <= 2**30


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_narrow_weights(tmp_path, bits):
    before, after = _quantized(tmp_path, _residual(), "y", weight_bits=bits)
    half = 2 ** (bits - 1) - 1
    codes = [v for n, v in constants(after).items() if n.endswith("_quantized") and v.dtype == np.int8]
    assert len(codes) == 4
    assert {int(np.abs(c).max()) for c in codes} == {half}
    assert _compare(before, after) > {2: 0, 4: 10, 7: 20}[bits]


def test_older_opset_is_raised(tmp_path):
    """Scales of channels exist from opset 13 on."""
    before, after = _quantized(tmp_path, _residual(opset=11), "y")
    assert after.opset_import[0].version >= 13
    assert _compare(before, after) > 25


def test_raw_input_for_float_layers(tmp_path):
    """The first layer is kept float to save accuracy: it must not read a rounded input that another layer needs."""
    net = Net().conv("x", "a").conv("x", "b").op("Add", "a b", "y")
    _, after = _quantized(tmp_path, net, "y", ranks=(4,), exclude="^a_node$")
    reads = {n.name: n.input[0] for n in after.graph.node}
    assert reads["a_node"] == "x"
    assert reads["b_node"] == "x_DequantizeLinear_Output"


def test_output_that_another_node_reads(tmp_path):
    net = Net().conv("x", "a").op("Relu", "a", "y").conv("y", "z", i=4)
    before, after = _quantized(tmp_path, net, "y", "z", ranks=(4, 4))
    (feed,) = batches(1)
    for reference, value in zip(run(before, feed), run(after, feed), strict=True):
        assert sqnr(reference, value) > 25


def test_transposed_convolution_and_bias_of_a_product(tmp_path):
    net = Net().constant("w", np.random.default_rng(3).normal(size=(3, 4, 2, 2))).constant("b", np.ones(4))
    net.op("ConvTranspose", "x w b", "up", strides=[2, 2]).op("Relu", "up", "r")
    net.constant("m", np.random.default_rng(4).normal(size=(16, 5))).constant("row", np.ones((1, 5)))
    net.op("MatMul", "r m", "p").op("Add", "p row", "y")
    before, after = _quantized(tmp_path, net, "y", ranks=(4,))
    assert _compare(before, after) > 25


def _gate(factor: float) -> Net:
    """The sigmoid of a convolution whose values are around -``factor``."""
    net = Net().conv("x", "a").constant("down", np.float32(factor)).op("Sub", "a down", "s").op("Sigmoid", "s", "g")
    return net.conv("g", "y", i=4)


@pytest.mark.parametrize(
    ("factor", "options", "scale"),
    [
        (0.0, {}, 1 / 256),
        (6.0, {}, None),
        (0.0, {"overrides": {"tensors": {"g": {"observer": "minmax"}}}}, None),
    ],
    ids=["most of it", "little of it", "observer of the user's own"],
)
def test_range_of_an_operator_that_is_hardly_used(tmp_path, factor, options, scale):
    """Rare detections and attention to hundreds of tokens were rounded to multiples of 1/256, most of them to 0."""
    before, after = _quantized(tmp_path, _gate(factor), "y", "g", ranks=(4, 4), observer="minmax", **options)
    largest = max(run(before, feed)[1].max() for feed in batches())
    assert constants(after)["g_scale"] == pytest.approx(scale or largest / 255, rel=1e-6)


def test_range_of_an_operator_without_data(tmp_path):
    path = _gate(6.0).file(tmp_path, "y")
    ranges = {name: {"low": -4.0, "high": 4.0} for name in "xsy"}
    result = pipeline.quantize(path, None, output=tmp_path / "q.onnx", overrides={"tensors": ranges})
    assert constants(onnx.load(result))["g_scale"] == 1 / 256


def test_overrides_from_a_file(tmp_path):
    text = """
    [tensors.r1]
    low = 0.0
    high = 5.1
    [tensors.x]
    scale = 0.03
    zero_point = 100
    [layers.c2_node]
    quantize = false
    [layers.d_node]
    weight_scale = 0.02
    """
    (tmp_path / "o.toml").write_text(text)
    _, after = _quantized(tmp_path, _residual(), "y", overrides=tmp_path / "o.toml")
    values = constants(after)
    np.testing.assert_allclose(values["r1_scale"], 5.1 / 255, rtol=1e-6)
    assert values["x_scale"] == np.float32(0.03)
    assert values["x_zero_point"] == 100
    assert values["w_d_scale"] == np.float32(0.02)
    assert "w_c2" in values, "stays float"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tensors": {"s": {"scale": 1.0}}}, "'s' is not quantised"),
        ({"layers": {"nobody": {"quantize": False}}}, "no node 'nobody'"),
        ({"tensors": {"r1": {"low": 0.0}}}, "both low and high"),
        ({"tensors": {"r1": {"scale": 0.1}, "x": {"scale": -1.0}}}, "no finite number above 0"),
        ({"tensors": {"cat": {"scale": 0.1}, "r2": {"scale": 0.2}}}, "share one scale"),
        ({"layer": {}}, "'layer' is unknown"),
        ({"layers": {"c2_node": {"bits": 4}}}, "'bits' is unknown"),
        ({"layers": {"c2_node": {"quantize": "no"}}}, "wrong type"),
        ({"layers": {"c2_node": {"weight_scale": [0.1, 0.2]}}}, "there are 8 output channels"),
        ({"tensors": {"x": {"scale": 1e-50}}}, "scale 1e-50 is no finite number above 0 in float32"),
        ({"tensors": {"x": {"scale": 10**400}}}, "is no finite number above 0 in float32"),
        ({"tensors": {"x": {"low": 0, "high": 10**400}}}, "are no range"),
        ({"layers": {"c2_node": {"weight_scale": [1e39]}}}, "is no finite number above 0 in float32"),
        ({"tensors": {"w_c2": {"scale": 1.0}}}, "'w_c2' is not quantised, is a constant"),
        ({"layers": {"r1_node": {"weight_bits": 4}}}, "'r1_node' is no layer"),
    ],
)
def test_overrides_that_make_no_sense(tmp_path, overrides, message):
    path = _residual().file(tmp_path, "y", ranks=(2,))
    with pytest.raises((InputError, ModelError), match=message):
        pipeline.quantize(path, batches(1), output=tmp_path / "q.onnx", overrides=overrides)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 3.5}, "samples 3.5: give a whole number"),
        ({"table_scales": "middle"}, "table scales of 'middle': choose input or output"),
        ({"observer_options": [99.9]}, "give a dictionary of numbers by name"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_options_that_make_no_sense(tmp_path, options, message):
    path = Net().conv("x", "y").file(tmp_path, "y")
    with pytest.raises(InputError, match=message):
        pipeline.quantize(path, batches(1), output=tmp_path / "q.onnx", **options)


def test_no_data_where_every_range_is_given(tmp_path):
    path = Net().conv("x", "y").file(tmp_path, "y")
    ranges = {name: {"threshold": 4.0} for name in ("x", "y")}
    result = pipeline.quantize(path, None, output=tmp_path / "q.onnx", overrides={"tensors": ranges}, symmetric=True)
    np.testing.assert_allclose(constants(onnx.load(result))["x_scale"], 4 / 127, rtol=1e-6)
    with pytest.raises(InputError, match=r"no calibration data.*'y'"):
        pipeline.quantize(path, None, output=tmp_path / "q.onnx", overrides={"tensors": {"x": {"threshold": 4.0}}})


def test_nan_names_tensor_and_node(tmp_path):
    net = Net().conv("x", "a").constant("p", np.float32(0.5)).op("Pow", "a p", "root").conv("root", "y", i=4)
    path = net.file(tmp_path, "y")
    with pytest.raises(ModelError, match="tensor 'root', written by node 'root_node' \\(Pow\\), holds NaN"):
        pipeline.quantize(path, batches(1), output=tmp_path / "q.onnx")


@pytest.mark.parametrize("name", ["w_a", "b_a"])
def test_nan_in_the_model_names_the_layer(tmp_path, name):
    """And not the first tensor behind it that is observed."""
    net = Net().conv("x", "a").op("Relu", "a", "r").conv("r", "y", i=4)
    net.constants[name].flat[1] = np.nan
    with pytest.raises(ModelError, match=rf"'a_node' \(Conv\): its \w+ '{name}' hold NaN"):
        pipeline.quantize(net.file(tmp_path, "y"), batches(1), output=tmp_path / "q.onnx")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "is empty"),
        ([{"image": np.zeros((1, 3, 8, 8), np.float32)}], "holds 'image', but the inputs of the model are 'x'"),
        ([{"x": np.zeros((1, 8, 8, 3), np.float32)}], r"\(N, 3, 8, 8\).*another order"),
        ([{"x": np.zeros((3, 8, 8), np.float32)}], "Add an axis for the batch"),
        ([{"x": np.zeros((1, 3, 8, 8), np.uint8)}], "uint8, the model wants float32"),
        ([{"x": np.full((1, 3, 8, 8), np.nan, np.float32)}], "batch 0 .*NaN"),
        ([{"x": np.zeros((0, 3, 8, 8), np.float32)}], "holds no values"),
        ([np.zeros((1, 3, 8, 8), np.float32)], "not a dictionary"),
        ({"x": np.zeros((1, 3, 8, 8), np.float32)}, "one dictionary a batch"),
    ],
    ids=["empty", "name", "layout", "no-batch", "dtype", "nan", "no-values", "no-dict", "bare-dict"],
)
def test_data_that_does_not_fit(tmp_path, data, message):
    path = Net().conv("x", "y").file(tmp_path, "y")
    with pytest.raises(InputError, match=message):
        pipeline.quantize(path, data, output=tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_quantised_already(tmp_path):
    with pytest.raises(ModelError, match="quantised already: node 'quant'"):
        pipeline.quantize(save(qdq_model(), tmp_path), batches(1), output=tmp_path / "q.onnx")


def test_control_flow_is_refused(tmp_path):
    branch = helper.make_graph([node("Identity", "x", "t")], "b", [], [helper.make_tensor_value_info("t", 1, None)])
    other = helper.make_graph([node("Relu", "x", "e")], "b", [], [helper.make_tensor_value_info("e", 1, None)])
    nodes = [node("If", "c", "y", name="choice", then_branch=branch, else_branch=other)]
    model = build(nodes, {"x": (1, [1]), "c": (TensorProto.BOOL, [])}, {"y": (1, [1])})
    with pytest.raises(ModelError, match=r"'choice' .*control flow"):
        pipeline.quantize(save(model, tmp_path), [], output=tmp_path / "q.onnx")


@pytest.mark.parametrize(("kind", "name"), [(TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64")])
@pytest.mark.parametrize("outside", ["same", "float32"])
def test_other_floats_are_refused(tmp_path, kind, name, outside):
    """With inputs and outputs in float32 the model was said to have no weights."""
    nodes = [node("MatMul", "x w", "y")]
    if outside == "float32":
        nodes = [node("Cast", "x", "c", to=kind), node("MatMul", "c w", "m"), node("Cast", "m", "y", to=1)]
    ends = (kind if outside == "same" else TensorProto.FLOAT, [1, 4])
    model = build(nodes, {"x": ends}, {"y": ends}, {"w": np.ones((4, 4), name)})
    with pytest.raises(ModelError, match=f"is a {name} model: export it in float32"):
        pipeline.quantize(save(model, tmp_path), [], output=tmp_path / "q.onnx")


def test_weights_stored_in_half_precision(tmp_path):
    """What computes in float32 is quantised, however its weights are stored."""
    nodes = [node("Cast", "w", "wide", to=1), node("MatMul", "x wide", "y")]
    ends = (TensorProto.FLOAT, [2, 4])
    path = save(build(nodes, {"x": ends}, {"y": ends}, {"w": np.ones((4, 4), np.float16)}), tmp_path)
    made = onnx.load(pipeline.quantize(path, batches(2, (2, 4)), output=tmp_path / "q.onnx"))
    assert TensorProto.INT8 in {tensor.data_type for tensor in made.graph.initializer}


@pytest.mark.parametrize(
    "quantize", [pipeline.quantize, partial(mixed_precision, metric=lambda _: 0.0, max_drop=1)], ids=["plain", "mixed"]
)
@pytest.mark.parametrize("output", ["", "missing/q.onnx", "none.onnx", "x.toml"])
def test_output_is_checked_first(tmp_path, quantize, output):
    """Before the model is read; the model itself and the overrides used to be replaced."""
    (tmp_path / "x.toml").touch()
    with pytest.raises(InputError, match="cannot write"):
        quantize(tmp_path / "none.onnx", [], output=tmp_path / output, overrides=tmp_path / "x.toml")


def test_failure_leaves_the_old_file(tmp_path):
    (tmp_path / "q.onnx").write_bytes(b"old")
    path = Net().conv("x", "y").file(tmp_path, "y")
    with pytest.raises(InputError):
        pipeline.quantize(path, [], output=tmp_path / "q.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "q.onnx"]
    assert (tmp_path / "q.onnx").read_bytes() == b"old"


def test_metadata_and_progress(tmp_path):
    path = Net().conv("x", "y").file(tmp_path, "y")
    told: list[tuple[str, float]] = []
    result = pipeline.quantize(
        path, batches(), output=tmp_path / "q.onnx", metadata={"recipe": "r"}, progress=lambda *t: told.append(t)
    )
    entries = {e.key: e.value for e in onnx.load(result).metadata_props}
    assert entries["recipe"] == "r"
    assert json.loads(entries["octet.quantize"])["weights"] == "per-channel"
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert told[-1] == ("done", 1.0)


def test_weights_on_a_grid_stay_exact(tmp_path):
    """Weights dequantised from uint8 with a zero point: rounding each channel anew would double the error."""
    net = Net().conv("x", "y", 16)
    codes = np.random.default_rng(0).integers(30, 200, (16, 3, 3, 3))
    net.constants["w_y"] = ((codes - 120) * np.float32(0.0123)).astype(np.float32)
    before, after = _quantized(tmp_path, net, "y", ranks=(4,))
    values = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    scale = values["w_y_scale"].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(values["w_y_quantized"] * scale, net.constants["w_y"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("batch", ["n", -1, 0])
def test_one_number_a_sample_and_an_open_batch(tmp_path, batch):
    """The numbers became arrays of one; -1 and 0, which exporters write for an open batch, were taken literally."""
    nodes = [node("MatMul", "x w", "a"), node("Reshape", "t shape", "column"), node("Mul", "a column", "y")]
    floats = TensorProto.FLOAT
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(8, 4)).astype("float32"), "shape": np.array([-1, 1])}
    inputs = {"x": (floats, [batch, 8]), "t": (floats, [batch])}
    path = save(build(nodes, inputs, {"y": (floats, [batch, 4])}, values), tmp_path)
    samples = {"x": rng.normal(size=(20, 8)).astype("float32"), "t": rng.uniform(1, 2, 20).astype("float32")}
    np.savez(tmp_path / "x.npz", x=samples["x"], t=samples["t"])
    data = load_data(tmp_path / "x.npz", describe_model(path).inputs, batch=2)
    quantised = onnx.load(pipeline.quantize(path, data, output=tmp_path / "q.onnx"))
    expected = samples["x"] @ values["w"] * samples["t"][:, None]
    assert sqnr(expected, run(quantised, samples)[0]) > 30
