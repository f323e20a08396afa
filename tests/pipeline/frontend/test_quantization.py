"""Quantisation parameters that have no meaning."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from pipeline.errors import ModelError, UnsupportedOperatorError
from tests.pipeline.frontend.models import MICROSOFT, build, load, node, run

FLOAT, UINT8, INT8, INT32 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32
DENORMAL = np.float32(1e-40)


def _pair(scale, zero, in_scale=None, in_zero=None, axis=1) -> ModelProto:
    """x → Q(scale, zero) → DQ(in_scale, in_zero) → y of shape (1, 4)."""
    nodes = [
        node("QuantizeLinear", "x s z", "q", name="quant", axis=axis),
        node("DequantizeLinear", "q s2 z2", "y", name="dequant", axis=axis),
    ]
    values = {
        "s": np.asarray(scale, np.float32),
        "z": zero,
        "s2": np.asarray(scale if in_scale is None else in_scale, np.float32),
        "z2": zero if in_zero is None else in_zero,
    }
    return build(nodes, {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 4])}, values)


ZERO = np.uint8(0)


@pytest.mark.parametrize(
    ("model", "node_name", "message"),
    [
        (_pair(0, ZERO), "quant", "is 0"),
        (_pair(-1, ZERO), "quant", "negative"),
        (_pair(np.nan, ZERO), "quant", "NaN"),
        (_pair(np.inf, ZERO), "quant", "inf"),
        (_pair(DENORMAL, ZERO), "quant", "denormal"),
        (_pair(1, ZERO, in_scale=0), "dequant", "is 0"),
        (_pair(1, ZERO, in_scale=np.nan), "dequant", "NaN"),
        (_pair(1, ZERO, in_scale=-np.inf), "dequant", "inf"),
        (_pair(1, ZERO, in_scale=3e38), "dequant", "overflow"),
        (_pair([1, 1, 0, 1], np.zeros(4, np.uint8)), "quant", r"is 0 \(entry 2\)"),
        (_pair([1, 1, 1], np.zeros(3, np.uint8)), "quant", "3 values, but axis 1 of the tensor has 4"),
        (_pair([1, 1, 1, 1], np.zeros(4, np.uint8), axis=0), "quant", "4 values, but axis 0"),
        (_pair([1, 1, 1, 1], np.zeros(4, np.uint8), axis=5), "quant", "out of range"),
        (_pair([1, 1, 1, 1], np.zeros(3, np.uint8)), "quant", "3 values for the 4"),
        (_pair(np.ones((2, 2)), np.zeros((2, 2), np.uint8)), "quant", "2 dimensions"),
    ],
    ids=[
        "scale 0", "negative", "nan", "inf", "denormal", "input scale 0", "input nan", "input -inf", "overflow",
        "vector with 0", "length", "other axis", "axis range", "zero point length", "matrix",
    ],
)  # fmt: skip
def test_bad_parameters_name_the_node(tmp_path, model, node_name, message):
    with pytest.raises(ModelError, match=f"'{node_name}'.*{message}"):
        load(model, tmp_path)


def test_zero_point_of_another_type(tmp_path):
    with pytest.raises(ModelError, match="dequant"):
        load(_pair(1, np.uint8(0), in_zero=np.int8(0)), tmp_path)


def test_zero_point_of_a_float_type(tmp_path):
    with pytest.raises(ModelError, match="quant"):
        load(_pair(1, np.float32(0)), tmp_path)


def test_int32_zero_point_must_be_zero(tmp_path):
    nodes = [node("DequantizeLinear", "b s z", "d", name="bias"), node("Add", "x d", "y")]
    values = {"b": np.arange(4, dtype=np.int32), "s": np.float32(1), "z": np.int32(5)}
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}, values)
    with pytest.raises(ModelError, match=r"'bias'.*is not 0"):
        load(model, tmp_path)


def test_denormal_scale_of_a_constant_stays_exact(tmp_path):
    """A dead channel's bias often has a denormal scale: its value is a number, so nothing is wrong with it."""
    nodes = [node("DequantizeLinear", "b s", "d"), node("Add", "x d", "y")]
    values = {"b": np.array([0, 1000], np.int32), "s": DENORMAL}
    model = build(nodes, {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])}, values)
    loaded = load(model, tmp_path)
    x = np.zeros(2, np.float32)
    np.testing.assert_array_equal(run(loaded, {"x": x})[0], run(model, {"x": x})[0])


def _qlinear_conv(**changes) -> ModelProto:
    values = {
        "xs": np.float32(0.1), "xz": np.uint8(1), "w": np.ones((2, 1, 1, 1), np.int8), "ws": np.float32(0.1),
        "wz": np.int8(0), "ys": np.float32(0.1), "yz": np.uint8(1), **changes,
    }  # fmt: skip
    nodes = [node("QLinearConv", "x xs xz w ws wz ys yz", "y", name="conv7")]
    return build(nodes, {"x": (UINT8, [1, 1, 2, 2])}, {"y": (UINT8, [1, 2, 2, 2])}, values)


@pytest.mark.parametrize(
    "changes",
    [
        {"xs": np.float32(0)}, {"ws": np.array([1, np.nan], np.float32), "wz": np.zeros(2, np.int8)},
        {"ys": np.float32(np.inf)}, {"ys": DENORMAL}, {"xz": np.int8(1)}, {"ws": np.ones(3, np.float32)},
        {"xs": np.ones(2, np.float32)},
    ],
    ids=["x scale 0", "w scale nan", "y scale inf", "y scale denormal", "x zero type", "w length", "x per channel"],
)  # fmt: skip
def test_operators_with_their_own_parameters(tmp_path, changes):
    """QLinear operators are checked before they are rewritten, so that the message names the user's node."""
    with pytest.raises(ModelError, match="conv7"):
        load(_qlinear_conv(**changes), tmp_path)


def test_concat_parameters(tmp_path):
    values = {"s": np.float32(0.1), "z": np.uint8(0), "bad": np.float32(0)}
    nodes = [node("QLinearConcat", "s z a s z b bad z", "y", MICROSOFT, name="cat", axis=1)]
    model = build(nodes, {"a": (UINT8, [1, 2]), "b": (UINT8, [1, 2])}, {"y": (UINT8, [1, 4])}, values)
    with pytest.raises(ModelError, match=r"'cat'.*'bad' is 0"):
        load(model, tmp_path)


def test_scale_that_is_computed_from_constants(tmp_path):
    """A scale behind Constant and Div nodes is checked as well as one in an initializer."""
    nodes = [
        node("Constant", "", "zero", value_float=0.0),
        node("Div", "zero two", "s"),
        node("QuantizeLinear", "x s z", "y", name="quant"),
    ]
    values = {"two": np.float32(2), "z": np.uint8(0)}
    model = build(nodes, {"x": (FLOAT, [4])}, {"y": (UINT8, [4])}, values)
    with pytest.raises(ModelError, match=r"'quant'.*is 0"):
        load(model, tmp_path)


def test_blocked_quantisation_is_refused(tmp_path):
    nodes = [node("DequantizeLinear", "x s", "y", name="blocks", axis=1, block_size=2)]
    model = build(nodes, {"x": (INT8, [1, 4])}, {"y": (FLOAT, [1, 4])}, {"s": np.ones((1, 2), np.float32)}, opset=21)
    with pytest.raises(UnsupportedOperatorError, match=r"'blocks'.*block_size"):
        load(model, tmp_path)


def test_types_of_less_than_8_bits_are_listed_together(tmp_path):
    """int4 weights and com.microsoft's 16 bits end in one message, not in an error of the importer."""
    nodes = [
        node("DequantizeLinear", "w s", "wf", name="four"),
        node("QuantizeLinear", "x s z", "q", MICROSOFT, name="sixteen"),
        node("DequantizeLinear", "q s z", "d", MICROSOFT, name="back"),
        node("Add", "d wf", "y"),
    ]
    model = build(nodes, {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])}, {"s": np.float32(1), "z": np.uint16(0)}, opset=17)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.UINT4, [2], [1, 2]))
    model.opset_import[0].version = 21
    model.ir_version = 10
    with pytest.raises(UnsupportedOperatorError, match=r"1 node.*'four' \(DequantizeLinear, uint4\)"):
        load(model, tmp_path)
    nodes = [node("Identity", "x", "wf"), *nodes[1:]]
    model = build(nodes, {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])}, {"s": np.float32(1), "z": np.uint16(0)}, opset=17)
    with pytest.raises(UnsupportedOperatorError, match=r"2 nodes.*'sixteen'.*uint16.*'back'"):
        load(model, tmp_path)
