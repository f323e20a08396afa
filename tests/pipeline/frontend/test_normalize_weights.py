"""Constants, weights and the operators that normalisation removes: the same answer from onnxruntime, fewer nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from pipeline.errors import ModelError, UnsupportedOperatorError
from pipeline.frontend.normalize.quantized_constants import quantize_array
from tests.pipeline.frontend.models import (
    assert_same_answer,
    build,
    constants,
    floats,
    integers,
    load,
    node,
    op_types,
    run,
)

FLOAT = TensorProto.FLOAT


def test_weights_stay_quantised(tmp_path):
    """DequantizeLinear of a constant must never be folded: the compiler needs the integers."""
    nodes = [node("DequantizeLinear", "w ws wz", "wf", name="dq", axis=0), node("Conv", "x wf", "y", name="conv")]
    values = {
        "w": integers((2, 3, 1, 1), np.int8), "ws": np.array([0.1, 0.2], np.float32), "wz": np.zeros(2, np.int8),
    }  # fmt: skip
    model = build(nodes, {"x": (FLOAT, ["N", 3, 2, 2])}, {"y": (FLOAT, ["N", 2, 2, 2])}, values)
    loaded = load(model, tmp_path)
    assert op_types(loaded) == ["DequantizeLinear", "Conv"]
    assert constants(loaded)["w"].dtype == np.int8


def test_float_weight_behind_quantize_becomes_int8(tmp_path):
    nodes = [
        node("QuantizeLinear", "w s z", "wq", axis=0),
        node("DequantizeLinear", "wq s z", "wf", axis=0),
        node("Conv", "x wf", "y"),
    ]
    values = {"w": floats((4, 3, 3, 3)), "s": np.linspace(0.01, 0.04, 4, dtype=np.float32), "z": np.zeros(4, np.int8)}
    model = build(nodes, {"x": (FLOAT, [1, 3, 5, 5])}, {"y": (FLOAT, [1, 4, 3, 3])}, values)
    loaded = load(model, tmp_path)
    assert op_types(loaded) == ["DequantizeLinear", "Conv"]
    assert any(v.dtype == np.int8 and v.shape == (4, 3, 3, 3) for v in constants(loaded).values())
    assert_same_answer(model, loaded, {"x": floats((1, 3, 5, 5), 1)})


def test_quantize_array_rounds_ties_to_even_and_saturates():
    value = np.array([0.5, 1.5, 2.5, -0.5, 1e30, -1e30, 127.5], np.float32)
    result = quantize_array(value, np.asarray(1, np.float32), np.asarray(0, np.int8), 0)
    np.testing.assert_array_equal(result, np.array([0, 2, 2, 0, 127, -128, 127], np.int8))


@pytest.mark.parametrize("axis", [None, 0, 1], ids=["per tensor", "axis 0", "axis 1"])
def test_transpose_of_a_weight_moves_the_integers(tmp_path, axis):
    count = {None: (), 0: (3,), 1: (5,)}[axis]
    values = {
        "w": integers((3, 5), np.int8),
        "s": np.full(count, 0.1, np.float32) * np.arange(1, 1 + int(np.prod(count)), dtype=np.float32).reshape(count),
        "z": np.zeros(count, np.int8),
    }
    nodes = [
        node("DequantizeLinear", "w s z", "wf", axis=axis or 0),
        node("Transpose", "wf", "wt", perm=[1, 0]),
        node("MatMul", "x wt", "y"),
    ]
    model = build(nodes, {"x": (FLOAT, [2, 5])}, {"y": (FLOAT, [2, 3])}, values)
    loaded = load(model, tmp_path)
    assert op_types(loaded) == ["DequantizeLinear", "MatMul"]
    assert_same_answer(model, loaded, {"x": floats((2, 5))})


@pytest.mark.parametrize(
    ("shape", "axis", "moved"),
    [([6, 4], 0, False), ([2, 3, 2, 2], 0, True), ([2, 3, 4, 1], 1, True), ([6, 4], 2, True), ([8, 3], 1, False)],
    ids=["merged", "kept first", "kept second", "kept last", "split"],
)
def test_reshape_of_a_weight_follows_the_axis(tmp_path, shape, axis, moved):
    """A per-channel scale survives a Reshape only where its axis stays in one piece."""
    size = (2, 3, 4)[axis]
    values = {
        "w": integers((2, 3, 4), np.int8), "s": np.linspace(0.1, 0.2, size, dtype=np.float32),
        "z": np.zeros(size, np.int8), "t": np.array(shape),
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", "w s z", "wf", axis=axis),
        node("Reshape", "wf t", "wt"),
        node("Add", "x wt", "y"),
    ]
    model = build(nodes, {"x": (FLOAT, shape)}, {"y": (FLOAT, shape)}, values)
    loaded = load(model, tmp_path)
    assert ("Reshape" not in op_types(loaded)) == moved
    assert_same_answer(model, loaded, {"x": floats(shape)})


@pytest.mark.parametrize("quantised", [False, True], ids=["float", "per channel"])
def test_gemm_weight_is_transposed_at_compile_time(tmp_path, quantised):
    values = {"s": np.linspace(0.1, 0.2, 3, dtype=np.float32), "z": np.zeros(3, np.int8), "c": floats((3,))}
    values["w"] = integers((3, 5), np.int8) if quantised else floats((3, 5))
    first = [node("DequantizeLinear", "w s z", "wf", axis=0)] if quantised else []
    gemm = node("Gemm", f"x {'wf' if quantised else 'w'} c", "y", name="fc", transB=1)
    model = build([*first, gemm], {"x": (FLOAT, [2, 5])}, {"y": (FLOAT, [2, 3])}, values)
    loaded = load(model, tmp_path)
    fc = loaded.graph.node[-1]
    assert {a.name: a.i for a in fc.attribute}["transB"] == 0
    assert_same_answer(model, loaded, {"x": floats((2, 5))}, steps=1e-5)


def test_quantised_pad_value_becomes_plain(tmp_path):
    """onnxruntime's quantiser puts Pad's value behind DequantizeLinear, which the importer cannot read."""
    nodes = [
        node("DequantizeLinear", "v s z", "value"),
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("Pad", "d pads value", "p"),
        node("QuantizeLinear", "p s z", "r"),
        node("DequantizeLinear", "r s z", "y"),
    ]
    values = {"v": np.uint8(30), "s": np.float32(0.1), "z": np.uint8(20)}
    pads = {"pads": np.array([0, 1, 0, 2])}
    model = build(nodes, {"x": (FLOAT, [1, 3])}, {"y": (FLOAT, [1, 6])}, {**values, **pads})
    loaded = load(model, tmp_path)
    pad = next(n for n in loaded.graph.node if n.op_type == "Pad")
    np.testing.assert_array_equal(constants(loaded)[pad.input[2]], np.float32(10) * np.float32(0.1))
    assert_same_answer(model, loaded, {"x": floats((1, 3))})


def test_quantised_clip_bounds_become_plain(tmp_path):
    nodes = [
        node("DequantizeLinear", "l s z", "low"),
        node("DequantizeLinear", "h s z", "high"),
        node("Clip", "x low high", "y"),
    ]
    values = {"l": np.uint8(20), "h": np.uint8(80), "s": np.float32(0.1), "z": np.uint8(20)}
    model = build(nodes, {"x": (FLOAT, [9])}, {"y": (FLOAT, [9])}, values)
    loaded = load(model, tmp_path)
    assert op_types(loaded) == ["Clip"]
    assert_same_answer(model, loaded, {"x": floats((9,), spread=9)})


def _batch_norm_values(channels: int) -> dict[str, Any]:
    return {
        "g": floats((channels,), 1), "b": floats((channels,), 2), "m": floats((channels,), 3),
        "v": np.abs(floats((channels,), 4)) + np.float32(0.1),
    }  # fmt: skip


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("group", [1, 2], ids=["dense", "grouped"])
def test_batch_norm_folds_into_conv(tmp_path, bias, group):
    values = {**_batch_norm_values(4), "w": floats((4, 4 // group, 3, 3)), "c": floats((4,), 5)}
    nodes = [
        node("Conv", "x w" + (" c" if bias else ""), "t", name="conv", group=group),
        node("BatchNormalization", "t g b m v", "y", name="bn"),
    ]
    model = build(nodes, {"x": (FLOAT, [1, 4, 5, 5])}, {"y": (FLOAT, [1, 4, 3, 3])}, values)
    loaded = load(model, tmp_path)
    assert [n.name for n in loaded.graph.node] == ["conv"]
    assert_same_answer(model, loaded, {"x": floats((1, 4, 5, 5))}, steps=1e-4)


@pytest.mark.parametrize("case", ["first", "shared", "quantised weights"])
def test_batch_norm_that_cannot_fold_becomes_mul_add(tmp_path, case):
    values = {**_batch_norm_values(3), "w": floats((3, 3, 1, 1)), "q": integers((3, 3, 1, 1), np.int8)}
    values |= {"s": np.float32(0.02), "z": np.int8(0)}
    norm = "BatchNormalization"
    nodes = {
        "first": [node(norm, "x g b m v", "y", name="bn")],
        "shared": [node("Conv", "x w", "t"), node(norm, "t g b m v", "u", name="bn"), node("Add", "t u", "y")],
        "quantised weights": [
            node("DequantizeLinear", "q s z", "wf"),
            node("Conv", "x wf", "t"),
            node(norm, "t g b m v", "y", name="bn"),
        ],
    }[case]
    model = build(nodes, {"x": (FLOAT, [1, 3, 4, 4])}, {"y": (FLOAT, [1, 3, 4, 4])}, values)
    loaded = load(model, tmp_path)
    assert [n.op_type for n in loaded.graph.node if n.name.startswith("bn")] == ["Mul", "Add"]
    assert_same_answer(model, loaded, {"x": floats((1, 3, 4, 4))}, steps=1e-5)


def test_batch_norm_of_float64(tmp_path):
    """Its constants were float32, which no Mul takes beside float64."""
    kind = {"x": (TensorProto.DOUBLE, [2, 3, 4, 4])}
    values = {name: value.astype(np.float64) for name, value in _batch_norm_values(3).items()}
    nodes = [node("BatchNormalization", "x g b m v", "y", name="bn")]
    model = build(nodes, kind, {"y": (TensorProto.DOUBLE, [2, 3, 4, 4])}, values)
    loaded = load(model, tmp_path)
    assert op_types(loaded) == ["Mul", "Add"]
    assert_same_answer(model, loaded, {"x": floats((2, 3, 4, 4)).astype(np.float64)}, steps=1e-9)


def test_batch_norm_with_a_negative_variance(tmp_path):
    values = {**_batch_norm_values(3), "v": np.array([1, -1, 1], np.float32)}
    nodes = [node("BatchNormalization", "x g b m v", "y", name="bn")]
    model = build(nodes, {"x": (FLOAT, [1, 3])}, {"y": (FLOAT, [1, 3])}, values)
    with pytest.raises(ModelError, match=r"'bn'.*variance"):
        load(model, tmp_path)


def test_batch_norm_in_training_mode_is_refused(tmp_path):
    nodes = [node("BatchNormalization", "x g b m v", "y m2 v2", name="bn", training_mode=1)]
    model = build(nodes, {"x": (FLOAT, [2, 3])}, {"y": (FLOAT, [2, 3])}, _batch_norm_values(3))
    with pytest.raises(UnsupportedOperatorError, match=r"'bn'.*training"):
        load(model, tmp_path)


def test_identity_and_dropout_go(tmp_path):
    nodes = [
        node("Identity", "x", "a"),
        node("Dropout", "a", "b"),
        node("Relu", "b", "c", name="relu"),
        node("Cast", "c", "d", to=FLOAT),
        node("Identity", "d", "y"),
        node("Neg", "c", "z", name="neg"),
    ]
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4]), "z": (FLOAT, [4])})
    loaded = load(model, tmp_path)
    assert [n.name for n in loaded.graph.node] == ["relu", "neg"]
    assert_same_answer(model, loaded, {"x": floats((4,))})


@pytest.mark.parametrize("source", ["x", "w"], ids=["input", "constant"])
def test_identity_from_input_to_output_keeps_both_names(tmp_path, source):
    nodes = [node("Identity", source, "y"), node("Relu", "x", "z")]
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4]), "z": (FLOAT, [4])}, {"w": floats((4,), 1)})
    loaded = load(model, tmp_path)
    assert [o.name for o in loaded.graph.output] == ["y", "z"]
    assert_same_answer(model, loaded, {"x": floats((4,))})


def test_one_tensor_as_two_outputs(tmp_path):
    nodes = [node("Relu", "x", "y"), node("Identity", "y", "z")]
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4]), "z": (FLOAT, [4])})
    assert_same_answer(model, load(model, tmp_path), {"x": floats((4,))})


def test_dropout_in_training_mode_is_refused(tmp_path):
    nodes = [node("Dropout", "x r t", "y", name="drop")]
    values = {"r": np.float32(0.5), "t": np.asarray(True)}
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, values)
    with pytest.raises(ModelError, match="'drop'"):
        load(model, tmp_path)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("size", [5, 6])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op_type", ["Conv", "MaxPool", "AveragePool"])
def test_auto_pad(tmp_path, op_type, mode, size, stride):
    settings: dict[str, Any] = {"auto_pad": mode, "strides": [stride] * 2}
    if op_type != "Conv":
        settings["kernel_shape"] = [3, 2]
    nodes = [node(op_type, "x w" if op_type == "Conv" else "x", "y", **settings)]
    model = build(
        nodes, {"x": (FLOAT, [1, 2, size, size])}, {"y": (FLOAT, ["a", "b", "c", "d"])}, {"w": floats((2, 2, 3, 2), 1)}
    )
    loaded = load(model, tmp_path)
    attributes = {a.name for a in loaded.graph.node[0].attribute}
    assert "auto_pad" not in attributes
    assert {"pads", "kernel_shape"} <= attributes
    assert_same_answer(model, loaded, {"x": floats((1, 2, size, size))}, steps=1e-5)


@pytest.mark.parametrize(("mode", "pads"), [("SAME_UPPER", [2, 1, 2, 2]), ("SAME_LOWER", [2, 2, 2, 1])])
def test_auto_pad_of_a_dilated_kernel(tmp_path, mode, pads):
    """onnxruntime refuses this one; the specification gives (k - 1) * dilation of padding at stride 1."""
    nodes = [node("Conv", "x w", "y", auto_pad=mode, dilations=[2, 3])]
    kind = (FLOAT, [1, 2, 5, 5])
    loaded = load(build(nodes, {"x": kind}, {"y": kind}, {"w": floats((2, 2, 3, 2))}), tmp_path)
    assert {a.name: list(a.ints) for a in loaded.graph.node[0].attribute}["pads"] == pads


def _conv_transpose(out: list[int], **settings: Any) -> ModelProto:
    nodes = [node("ConvTranspose", "x w", "y", name="up", output_shape=out, strides=[2, 3], **settings)]
    return build(nodes, {"x": (FLOAT, [1, 2, 5, 4])}, {"y": (FLOAT, [1, 3, *out])}, {"w": floats((2, 3, 3, 4))})


@pytest.mark.parametrize(
    ("out", "settings"),
    [
        ([11, 13], {}),
        ([8, 10], {}),
        ([10, 12], {"auto_pad": "SAME_UPPER"}),
        ([10, 12], {"auto_pad": "SAME_LOWER"}),
        ([12, 13], {"dilations": [2, 1], "output_padding": [1, 2], "pads": [1, 1, 1, 1]}),
    ],
    ids=str,
)
def test_output_shape_becomes_pads(tmp_path, out, settings):
    """The importer does not read output_shape: the result had another shape, and the model compiled."""
    model = _conv_transpose(out, **settings)
    loaded = load(model, tmp_path)
    assert "output_shape" not in {a.name for a in loaded.graph.node[0].attribute}
    assert_same_answer(model, loaded, {"x": floats((1, 2, 5, 4), 1)}, steps=1e-5)


def test_output_shape_out_of_reach_is_refused(tmp_path):
    with pytest.raises(UnsupportedOperatorError, match=r"'up' \(ConvTranspose\).*larger"):
        load(_conv_transpose([12, 13]), tmp_path)


def _resize(scales: list[float], shape: list[int], opset: int = 17, **settings: Any) -> ModelProto:
    nodes = [node("Resize", "x - s", "y", name="up", **settings)]
    out = [int(size * scale) for size, scale in zip(shape, scales, strict=True)]
    return build(nodes, {"x": (FLOAT, shape)}, {"y": (FLOAT, out)}, {"s": np.array(scales, np.float32)}, opset)


@pytest.mark.parametrize("scales", [[1, 1, 2, 2], [1, 1, 1.5, 0.5], [1, 1, 1.1, 1]], ids=str)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_scales_become_sizes(tmp_path, mode, scales):
    model = _resize(scales, [1, 2, 10, 4], mode=mode)
    loaded = load(model, tmp_path)
    assert len(loaded.graph.node[0].input) == 4
    assert_same_answer(model, loaded, {"x": floats((1, 2, 10, 4))}, steps=1e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_half_pixel_symmetric_is_half_pixel(tmp_path, mode):
    """TVM lacks it, and failed in code generation, which knows no node."""
    settings = {"mode": mode, "coordinate_transformation_mode": "half_pixel_symmetric"}
    model = _resize([1, 1, 1.5, 0.5], [1, 2, 10, 4], 19, **settings)
    loaded = load(model, tmp_path)
    assert {a.name: a.s for a in loaded.graph.node[0].attribute}["coordinate_transformation_mode"] == b"half_pixel"
    assert_same_answer(model, loaded, {"x": floats((1, 2, 10, 4))}, steps=1e-5)


@pytest.mark.parametrize(("scales", "shape"), [([1, 1, 1.5, 1.5], [1, 1, 7, 7]), ([1, 2, 1, 1], [1, 1, 7, 7])])
def test_resize_that_the_importer_gets_wrong_is_refused(tmp_path, scales, shape):
    """It takes output size / input size for the scale, and ignores the batch and channel axes, without a word."""
    with pytest.raises(UnsupportedOperatorError, match="'up'"):
        load(_resize(scales, shape), tmp_path)


def test_upsample_of_opset_9(tmp_path):
    nodes = [node("Upsample", "x s", "y", mode="nearest")]
    values = {"s": np.array([1, 1, 2, 3], np.float32)}
    model = build(nodes, {"x": (FLOAT, [1, 2, 3, 3])}, {"y": (FLOAT, [1, 2, 6, 9])}, values, opset=9)
    x = floats((1, 2, 3, 3))
    (result,) = run(load(model, tmp_path), {"x": x})
    np.testing.assert_array_equal(result, x.repeat(2, axis=2).repeat(3, axis=3))


def test_canonical_qdq(tmp_path):
    """A missing zero point, a scale of one element and a negative axis are all spelled the same way afterwards."""
    nodes = [
        node("QuantizeLinear", "x s", "q", name="quant"),
        node("DequantizeLinear", "q s", "d", name="dequant"),
        node("DequantizeLinear", "w t", "wf", axis=-1),
        node("MatMul", "d wf", "y"),
    ]
    values = {"s": np.array([0.1], np.float32), "w": integers((4, 3), np.int8), "t": np.ones(3, np.float32)}
    model = build(nodes, {"x": (FLOAT, [2, 4])}, {"y": (FLOAT, [2, 3])}, values)
    loaded = load(model, tmp_path)
    known = constants(loaded)
    for found in loaded.graph.node[:3]:
        assert len(found.input) == 3
        assert known[found.input[1]].shape == known[found.input[2]].shape
    assert known[loaded.graph.node[0].input[1]].shape == ()
    assert {a.name: a.i for a in loaded.graph.node[2].attribute}["axis"] == 1
    assert_same_answer(model, loaded, {"x": floats((2, 4))})


def test_unnamed_and_equal_node_names_become_unique(tmp_path):
    nodes = [node("Relu", "x", "a"), node("Neg", "a", "b", name="n"), node("Abs", "b", "y", name="n")]
    names = [n.name for n in load(build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}), tmp_path).graph.node]
    assert len(set(names)) == 3
    assert all(names)


def test_what_nothing_reads_goes(tmp_path):
    nodes = [node("Relu", "x", "y"), node("Add", "x w", "dead")]
    loaded = load(build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, {"w": floats((4,))}), tmp_path)
    assert op_types(loaded) == ["Relu"]
    assert not loaded.graph.initializer
