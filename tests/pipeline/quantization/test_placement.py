"""Which tensors are quantised, and which share their parameters."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputError, ModelError
from tests.pipeline.quantization.networks import Net, placed


def _groups(placement):
    return [set(group.members) for group in placement.groups]


@pytest.mark.parametrize("clamp", ["Relu", "Clip"])
def test_no_rounding_between_convolution_and_its_clamp(tmp_path, clamp):
    """A range taken before the activation wastes half of the codes."""
    net = Net().conv("x", "c").constant("low", np.float32(0)).constant("high", np.float32(6))
    net.op(clamp, "c low high" if clamp == "Clip" else "c", "y")
    _, placement = placed(net.file(tmp_path, "y"))
    assert list(placement.group_of) == ["x", "y"]


def test_convolution_read_twice_is_rounded_before_its_clamp(tmp_path):
    """The second reader needs the values in front of the clamp."""
    net = Net().conv("x", "c").op("Relu", "c", "r").op("Add", "c r", "s").conv("s", "y", i=4)
    _, placement = placed(net.file(tmp_path, "y"))
    assert "c" in placement.group_of


def test_addition_and_its_clamp_are_one(tmp_path):
    net = Net().conv("x", "a").conv("x", "b").op("Add", "a b", "s").op("Relu", "s", "y")
    _, placement = placed(net.file(tmp_path, "y"))
    assert _groups(placement) == [{"x"}, {"a"}, {"b"}, {"y"}]


def test_movement_shares_one_scale(tmp_path):
    """No requantisation where values only move: concat, max pool, slice, pad, transpose, reshape."""
    net = Net().conv("x", "a").conv("x", "b").op("Concat", "a b", "cat", axis=1)
    net.op("MaxPool", "cat", "pool", kernel_shape=[2, 2], strides=[2, 2])
    net.constant("pads", np.array([0, 0, 0, 0, 0, 0, 1, 1])).op("Pad", "pool pads", "padded")
    net.constant("starts", np.array([1])).constant("ends", np.array([4])).constant("axes", np.array([2]))
    net.op("Slice", "padded starts ends axes", "cut").op("Transpose", "cut", "turned", perm=[0, 2, 3, 1])
    net.constant("shape", np.array([0, -1])).op("Reshape", "turned shape", "y")
    _, placement = placed(net.file(tmp_path, "y", ranks=(2,)))
    assert _groups(placement) == [{"x"}, {"a", "b", "cat", "pool", "padded", "cut", "turned", "y"}]
    assert placement.groups[1].sources == ["a", "b"], "the others hold values of these"
    assert (placement.groups[1].low, placement.groups[1].high) == (0.0, 0.0), "padding writes 0"


def test_padding_value_widens_the_range(tmp_path):
    net = Net().conv("x", "a").constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1])).constant("fill", np.float32(-40))
    net.op("Pad", "a pads fill", "y")
    _, placement = placed(net.file(tmp_path, "y"))
    assert placement.group_of["y"].low == -40


@pytest.mark.parametrize(("op_type", "shares"), [("MaxPool", True), ("AveragePool", False)])
def test_average_has_its_own_scale(tmp_path, op_type, shares):
    net = Net().conv("x", "a").op(op_type, "a", "y", kernel_shape=[2, 2])
    _, placement = placed(net.file(tmp_path, "y"))
    assert (placement.group_of["a"] is placement.group_of["y"]) == shares


@pytest.mark.parametrize(
    ("op_type", "low", "high"), [("Softmax", 0, 255 / 256), ("Sigmoid", 0, 255 / 256), ("Tanh", -1, 127 / 128)]
)
def test_natural_range_of_an_operator(tmp_path, op_type, low, high):
    net = Net().conv("x", "a").op(op_type, "a", "b").op("Concat", "a b", "y", axis=1)
    _, placement = placed(Net().conv("x", "a").op(op_type, "a", "y").file(tmp_path, "y"))
    assert placement.group_of["y"].natural == (low, high)
    _, placement = placed(net.file(tmp_path, "y"))
    assert placement.group_of["y"].natural is None, "it holds values of another range too"


def test_chain_of_tables_is_rounded_once(tmp_path):
    """x * sigmoid(x) and hard swish written out: nothing inside is quantised."""
    net = Net().conv("x", "a").op("Sigmoid", "a", "s").op("Mul", "a s", "silu").conv("silu", "b", i=4)
    net.constant("three", np.float32(3)).constant("low", np.float32(0)).constant("six", np.float32(6))
    net.op("Add", "b three", "b3").op("Clip", "b3 low six", "b6").op("Mul", "b b6", "bb").op("Div", "bb six", "y")
    _, placement = placed(net.file(tmp_path, "y"))
    assert _groups(placement) == [{"x"}, {"a"}, {"silu"}, {"b"}, {"y"}]


def test_gate_of_other_shape_is_no_chain(tmp_path):
    """Squeeze and excite: the gate comes from an average, so both factors are rounded."""
    net = Net().conv("x", "a").op("GlobalAveragePool", "a", "p").conv("p", "g", i=4, k=1)
    net.op("Sigmoid", "g", "s").op("Mul", "a s", "y")
    _, placement = placed(net.file(tmp_path, "y"))
    assert {"a", "p", "g", "s", "y"} <= set(placement.group_of)


def test_float_region_stays_float(tmp_path):
    """Movement and additions between layers that are kept float must not be rounded."""
    net = Net().conv("x", "a").op("MaxPool", "a", "p", kernel_shape=[1, 1]).conv("p", "b", i=4).conv("b", "y", i=4)
    _, placement = placed(net.file(tmp_path, "y"), exclude=["^a_node$", "^b_node$"])
    assert list(placement.group_of) == ["b", "y"]


def test_result_that_only_float_reads_stays_float(tmp_path):
    """A layer gives float32 at no cost; rounding it for an operator without integer form is pure loss."""
    net = Net(("N", 6)).gemm("x", "a", 6, 8).constant("scale", np.ones(8)).op("Gelu", "a", "g")
    net.opset = 20
    net.op("LayerNormalization", "g scale", "y")
    _, placement = placed(net.file(tmp_path, "y", ranks=(2,)))
    assert list(placement.group_of) == ["x"]


def test_bias_behind_a_product_is_part_of_the_layer(tmp_path):
    """A row added to a batch of matrices keeps 32 bits instead of being rounded to 8."""
    net = Net(("N", 5, 6)).constant("w", np.ones((6, 4))).constant("b", np.arange(4) / 7)
    net.op("MatMul", "x w", "m").op("Add", "b m", "s").op("Relu", "s", "y")
    _, placement = placed(net.file(tmp_path, "y", ranks=(3,)))
    assert list(placement.group_of) == ["x", "y"]
    (layer,) = placement.layers
    assert (layer.bias, layer.result) == ("b", "s")
    assert placement.vectors == []


def test_product_of_activations(tmp_path):
    net = Net(("N", 5, 6)).op("Transpose", "x", "t", perm=[0, 2, 1]).op("MatMul", "x t", "m")
    net.constant("w", np.ones((5, 4))).op("MatMul", "m w", "y")
    _, placement = placed(net.file(tmp_path, "y", ranks=(3,)))
    assert _groups(placement) == [{"x", "t"}, {"m"}, {"y"}]


def test_vector_operand_is_quantised(tmp_path):
    net = Net().conv("x", "a").op("Sigmoid", "a", "s").constant("v", np.ones((4, 1, 1))).op("Mul", "s v", "y")
    _, placement = placed(net.file(tmp_path, "y"))
    assert placement.vectors == ["v"]


def test_outputs_left_float(tmp_path):
    net = Net().conv("x", "a").op("Relu", "a", "r").conv("r", "y", i=4)
    _, placement = placed(net.file(tmp_path, "y"), outputs="float")
    assert list(placement.group_of) == ["x", "r"]


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"skip_first": 1}, ["b_node", "y_node"]),
        ({"skip_last": 1}, ["a_node", "b_node"]),
        ({"include": "^[ab]_"}, ["a_node", "b_node"]),
        ({"exclude": ["^a_", "^y_"]}, ["b_node"]),
        ({"include": "_node", "exclude": "^b_", "skip_last": 1}, ["a_node"]),
    ],
    ids=["first", "last", "include", "exclude", "all"],
)
def test_selection(tmp_path, options, layers):
    net = Net().conv("x", "a").conv("a", "b", i=4).conv("b", "y", i=4)
    _, placement = placed(net.file(tmp_path, "y"), **options)
    assert [layer.name for layer in placement.layers] == layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": "nothing"}, "'nothing' matches no node"),
        ({"include": "("}, "no regular expression"),
        ({"skip_first": 2}, "leave none of the 2 layers"),
        ({"skip_last": -1}, "skip_last -1"),
        ({"observer": "mean"}, "observer 'mean' is unknown: choose one of"),
        ({"weight_bits": 9}, "choose 2 to 8"),
    ],
)
def test_selection_that_makes_no_sense(tmp_path, options, message):
    path = Net().conv("x", "a").conv("a", "y", i=4).file(tmp_path, "y")
    with pytest.raises(InputError, match=message):
        placed(path, **options)


def test_model_without_weights(tmp_path):
    with pytest.raises(ModelError, match="no weights"):
        placed(Net().op("Relu", "x", "y").file(tmp_path, "y"))
