"""Integer operators before and after they become QDQ: the same answer from onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from tests.pipeline.frontend.models import (
    MICROSOFT,
    assert_same_answer,
    build,
    constants,
    integers,
    load,
    node,
    op_types,
    run,
)

FLOAT, UINT8, INT8, INT32 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32
QDQ = {"QuantizeLinear", "DequantizeLinear"}


def _float_ops(model: ModelProto) -> list[str]:
    return [name for name in op_types(model) if name not in QDQ]


@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("weight_type", [np.int8, np.uint8], ids=["s8", "u8"])
def test_qlinear_conv(tmp_path, weight_type, per_channel, with_bias):
    count = 3 if per_channel else 1
    values: dict[str, Any] = {
        "xs": np.float32(0.03),
        "xz": np.uint8(120),
        "w": integers((3, 2, 3, 3), weight_type),
        "ws": np.linspace(0.01, 0.02, count, dtype=np.float32),
        "wz": np.full(count, 0 if weight_type is np.int8 else 128, weight_type),
        "ys": np.float32(0.2),
        "yz": np.uint8(128),
        "b": integers((3,), np.int16).astype(np.int32),
    }
    inputs = "x xs xz w ws wz ys yz" + (" b" if with_bias else "")
    nodes = [node("QLinearConv", inputs, "y", name="conv", pads=[1, 0, 2, 1], strides=[2, 1])]
    model = build(nodes, {"x": (UINT8, [1, 2, 7, 7])}, {"y": (UINT8, ["a", "b", "c", "d"])}, values)
    loaded = load(model, tmp_path)
    assert _float_ops(loaded) == ["Conv"]
    assert next(n.name for n in loaded.graph.node if n.op_type == "Conv") == "conv"
    assert all(n.name.startswith("conv") for n in loaded.graph.node)
    weight = next(n for n in loaded.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == "w")
    assert len(constants(loaded)[weight.input[1]].shape) == (1 if per_channel else 0)
    assert_same_answer(model, loaded, {"x": integers((1, 2, 7, 7), np.uint8)}, steps=1)


def test_qlinear_conv_bias_scale_is_the_product(tmp_path):
    """Lowering to integers needs exactly x_scale * w_scale, rounded once in float32."""
    values: dict[str, Any] = {
        "xs": np.float32(0.1), "xz": np.uint8(0), "w": np.ones((2, 1, 1, 1), np.int8), "wz": np.zeros(2, np.int8),
        "ws": np.array([0.3, 0.7], np.float32), "ys": np.float32(1), "yz": np.uint8(0), "b": np.array([1, 2], np.int32),
    }  # fmt: skip
    nodes = [node("QLinearConv", "x xs xz w ws wz ys yz b", "y", name="conv")]
    loaded = load(build(nodes, {"x": (UINT8, [1, 1, 2, 2])}, {"y": (UINT8, [1, 2, 2, 2])}, values), tmp_path)
    bias = next(n for n in loaded.graph.node if n.input[0] == "b")
    assert bias.name == "conv_dq_bias"
    np.testing.assert_array_equal(constants(loaded)[bias.input[1]], values["xs"] * values["ws"])


@pytest.mark.parametrize("kind", [np.uint8, np.int8], ids=["u8", "s8"])
@pytest.mark.parametrize("columns", [1, 5], ids=["per tensor", "per column"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=["2d", "3d"])
def test_qlinear_matmul(tmp_path, kind, columns, batch):
    """Per column, onnxruntime wants a vector in two dimensions and [batch, 1, columns] in three."""
    full = (*batch, 1, columns) if batch and columns > 1 else (columns,)
    values = {
        "as": np.float32(0.02), "az": kind(3), "b": integers((*batch, 4, 5), np.int8),
        "bs": np.broadcast_to(np.linspace(0.01, 0.03, columns, dtype=np.float32), full),
        "bz": np.zeros(full, np.int8), "ys": np.float32(0.05), "yz": kind(7),
    }  # fmt: skip
    elem = UINT8 if kind is np.uint8 else INT8
    nodes = [node("QLinearMatMul", "a as az b bs bz ys yz", "y", name="mm")]
    model = build(nodes, {"a": (elem, [*batch, 3, 4])}, {"y": (elem, [*batch, 3, 5])}, values)
    loaded = load(model, tmp_path)
    assert _float_ops(loaded) == ["MatMul"]
    assert_same_answer(model, loaded, {"a": integers((*batch, 3, 4), kind)}, steps=1)


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("columns", [1, 5], ids=["per tensor", "per column"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("quantised", [False, True], ids=["float out", "int out"])
def test_qgemm(tmp_path, trans_b, columns, bias, quantised):
    values = {
        "as": np.float32(0.02), "az": np.uint8(100), "b": integers((5, 4) if trans_b else (4, 5), np.int8),
        "bs": np.linspace(0.01, 0.03, columns, dtype=np.float32), "bz": np.zeros(columns, np.int8),
        "c": integers((5,), np.int16).astype(np.int32), "ys": np.float32(0.4), "yz": np.uint8(9),
    }  # fmt: skip
    inputs = "a as az b bs bz " + ("c" if bias else "-") + (" ys yz" if quantised else "")
    nodes = [node("QGemm", inputs, "y", MICROSOFT, name="gemm", transB=trans_b, alpha=1.0)]
    elem = UINT8 if quantised else FLOAT
    model = build(nodes, {"a": (UINT8, [3, 4])}, {"y": (elem, [3, 5])}, values)
    loaded = load(model, tmp_path)
    assert _float_ops(loaded) == ["Gemm"]
    gemm = next(n for n in loaded.graph.node if n.op_type == "Gemm")
    assert {a.name: a.i for a in gemm.attribute}.get("transB", 0) == 0, (
        "a constant weight is transposed at compile time"
    )
    assert_same_answer(model, loaded, {"a": integers((3, 4), np.uint8)}, steps=1 if quantised else 1e-3)


@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("kind", [np.uint8, np.int8], ids=["u8", "s8"])
def test_qlinear_binary(tmp_path, op_type, kind):
    elem = UINT8 if kind is np.uint8 else INT8
    nodes = [node(op_type, "a s z b t z u z", "y", MICROSOFT, name="sum")]
    values = {"s": np.float32(0.1), "t": np.float32(0.07), "u": np.float32(0.15), "z": kind(5)}
    model = build(nodes, {"a": (elem, [2, 9]), "b": (elem, [2, 9])}, {"y": (elem, [2, 9])}, values)
    loaded = load(model, tmp_path)
    assert _float_ops(loaded) == [op_type.removeprefix("QLinear")]
    feeds = {"a": integers((2, 9), kind, 1), "b": integers((2, 9), kind, 2)}
    assert_same_answer(model, loaded, feeds, steps=1)


def test_chain_without_zero_points_keeps_the_type(tmp_path):
    """Shape inference cannot see through com.microsoft operators: the int8 of `a` must reach the second Add.

    onnxruntime's own check wants zero points, so the reference has explicit ones.
    """
    models = [
        build(
            [
                node("QLinearAdd", f"a s {zero} a s {zero} s {zero}", "t", MICROSOFT, name="one"),
                node("QLinearAdd", f"t s {zero} t s {zero} s {zero}", "y", MICROSOFT, name="two"),
            ],
            {"a": (INT8, [9])},
            {"y": (INT8, [9])},
            {"s": np.float32(0.1), "z": np.int8(0)},
        )
        for zero in ("z", "-")
    ]
    assert_same_answer(models[0], load(models[1], tmp_path), {"a": integers((9,), np.int8)}, steps=1)


def test_qlinear_concat(tmp_path):
    nodes = [node("QLinearConcat", "u zu a s zs b t zt", "y", MICROSOFT, name="cat", axis=1)]
    values = {
        "s": np.float32(0.1), "t": np.float32(0.07), "u": np.float32(0.12),
        "zs": np.uint8(3), "zt": np.uint8(100), "zu": np.uint8(50),
    }  # fmt: skip
    model = build(nodes, {"a": (UINT8, [1, 3, 2]), "b": (UINT8, [1, 4, 2])}, {"y": (UINT8, [1, 7, 2])}, values)
    loaded = load(model, tmp_path)
    assert _float_ops(loaded) == ["Concat"]
    assert_same_answer(
        model, loaded, {"a": integers((1, 3, 2), np.uint8, 1), "b": integers((1, 4, 2), np.uint8, 2)}, steps=1
    )


@pytest.mark.parametrize("channels_last", [0, 1], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("op_type", ["QLinearAveragePool", "QLinearGlobalAveragePool"])
def test_qlinear_pool(tmp_path, op_type, channels_last):
    shape = [1, 6, 5, 3] if channels_last else [1, 3, 6, 5]
    settings = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]} if "Global" not in op_type else {}
    nodes = [node(op_type, "x s z t y_z", "y", MICROSOFT, name="pool", channels_last=channels_last, **settings)]
    values = {"s": np.float32(0.1), "z": np.uint8(7), "t": np.float32(0.11), "y_z": np.uint8(2)}
    model = build(nodes, {"x": (UINT8, shape)}, {"y": (UINT8, ["a", "b", "c", "d"])}, values)
    loaded = load(model, tmp_path)
    pool = op_type.removeprefix("QLinear")
    assert _float_ops(loaded) == (["Transpose", pool, "Transpose"] if channels_last else [pool])
    assert_same_answer(model, loaded, {"x": integers(shape, np.uint8)}, steps=1)


def test_two_channels_last_pools_in_a_row(tmp_path):
    """The rank behind the first one is known only once it is rewritten."""
    nodes = [
        node("QLinearAveragePool", "x s z s z", "a", MICROSOFT, channels_last=1, kernel_shape=[2, 2]),
        node("QLinearGlobalAveragePool", "a s z s z", "y", MICROSOFT, channels_last=1),
    ]
    values = {"s": np.float32(0.1), "z": np.uint8(7)}
    model = build(nodes, {"x": (UINT8, [1, 5, 5, 3])}, {"y": (UINT8, [1, 1, 1, 3])}, values)
    assert_same_answer(model, load(model, tmp_path), {"x": integers((1, 5, 5, 3), np.uint8)}, steps=2)


@pytest.mark.parametrize(
    ("op_type", "settings"),
    [
        ("QLinearSigmoid", {}),
        ("QLinearLeakyRelu", {"alpha": 0.2}),
        ("QLinearSoftmax", {"axis": -1, "opset": 13}),
        ("QLinearSoftmax", {"axis": 1, "opset": 13}),
        ("QLinearSoftmax", {"axis": 1, "opset": 11}),
    ],
    ids=["sigmoid", "leaky relu", "softmax", "softmax axis 1", "flattening softmax"],
)
def test_qlinear_unary(tmp_path, op_type, settings):
    scale = np.float32(1 / 256 if op_type != "QLinearLeakyRelu" else 0.05)
    nodes = [node(op_type, "x s z t u", "y", MICROSOFT, name="act", **settings)]
    values = {"s": np.float32(0.05), "z": np.uint8(100), "t": scale, "u": np.uint8(0)}
    model = build(nodes, {"x": (UINT8, [2, 3, 4])}, {"y": (UINT8, [2, 3, 4])}, values)
    loaded = load(model, tmp_path)
    assert_same_answer(model, loaded, {"x": integers((2, 3, 4), np.uint8)}, steps=1)


@pytest.mark.parametrize("zeros", ["", " xz", " xz wz", " - wz"], ids=["none", "x", "both", "w only"])
def test_conv_integer(tmp_path, zeros):
    """Sums below 2**24 are exact in float32: not a step of difference."""
    values = {"xz": np.uint8(12), "w": integers((2, 3, 3, 3), np.uint8), "wz": np.uint8(130)}
    nodes = [node("ConvInteger", "x w" + zeros, "y", name="conv", pads=[1, 1, 1, 1])]
    model = build(nodes, {"x": (UINT8, [1, 3, 6, 6])}, {"y": (INT32, [1, 2, 6, 6])}, values)
    loaded = load(model, tmp_path)
    assert _float_ops(loaded) == ["Conv", "Cast"]
    assert_same_answer(model, loaded, {"x": integers((1, 3, 6, 6), np.uint8)})


def test_conv_integer_with_a_zero_point_for_each_filter(tmp_path):
    """onnxruntime takes a single one only, the specification takes a vector."""
    w, wz = integers((2, 3, 1, 1), np.uint8), np.array([3, 200], np.uint8)
    nodes = [node("ConvInteger", "x w xz wz", "y", name="conv")]
    model = build(
        nodes, {"x": (UINT8, [1, 3, 2, 2])}, {"y": (INT32, [1, 2, 2, 2])}, {"xz": np.uint8(12), "w": w, "wz": wz}
    )
    x = integers((1, 3, 2, 2), np.uint8)
    centred = w[:, :, 0, 0].astype(np.int32) - wz[:, None]
    expected = np.einsum("oc,nchw->nohw", centred, x.astype(np.int32) - 12)
    np.testing.assert_array_equal(run(load(model, tmp_path), {"x": x})[0], expected)


@pytest.mark.parametrize(
    ("a_zero", "b_zero"),
    [(None, None), (np.uint8(9), np.int8(0)), (np.uint8(9), np.arange(4, dtype=np.int8))],
    ids=["none", "per tensor", "per column"],
)
def test_matmul_integer(tmp_path, a_zero, b_zero):
    values = {"b": integers((5, 4), np.int8)}
    values |= {} if a_zero is None else {"az": a_zero, "bz": b_zero}
    nodes = [node("MatMulInteger", "a b" if a_zero is None else "a b az bz", "y", name="mm")]
    model = build(nodes, {"a": (UINT8, [3, 5])}, {"y": (INT32, [3, 4])}, values)
    loaded = load(model, tmp_path)
    assert _float_ops(loaded) == ["MatMul", "Cast"]
    assert_same_answer(model, loaded, {"a": integers((3, 5), np.uint8)})


@pytest.mark.parametrize(
    "x",
    [
        np.array([0, 2, -3, -2.5, 1.34, 0.5], np.float32),
        np.array([-1, -2.1, -1.3, -2.5, -3.34, -4], np.float32),
        np.array([1, 2.1, 1.3, 2.5, 3.34, 4], np.float32),
        np.zeros(6, np.float32),
    ],
    ids=["mixed", "negative", "positive", "all zero"],
)
def test_dynamic_quantize(tmp_path, x):
    nodes = [node("DynamicQuantizeLinear", "x", "y s z", name="dyn")]
    model = build(nodes, {"x": (FLOAT, [6])}, {"y": (UINT8, [6]), "s": (FLOAT, []), "z": (UINT8, [])})
    loaded = load(model, tmp_path)
    assert "DynamicQuantizeLinear" not in op_types(loaded)
    assert_same_answer(model, loaded, {"x": x})


def test_microsoft_qdq(tmp_path):
    nodes = [
        node("QuantizeLinear", "x s", "q", MICROSOFT, name="quant"),
        node("DequantizeLinear", "q s", "y", MICROSOFT, name="dequant"),
    ]
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, {"s": np.float32(0.1)})
    loaded = load(model, tmp_path)
    assert op_types(loaded) == ["QuantizeLinear", "DequantizeLinear"]
    assert [o.domain for o in loaded.opset_import] == [""]
    assert_same_answer(model, loaded, {"x": np.array([-1, 0.05, 0.15, 99], np.float32)})
