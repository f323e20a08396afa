"""Convolutions become one integer operator each, with numbers at most one step from onnxruntime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import numpy_reference
from tests.pipeline.passes.integer.qdq import Model, codes, lower, onnxruntime_outputs, steps_apart, values

ONLY_CONVOLUTION = {"octet.quantize": 1, "octet.conv2d": 1}

GEOMETRIES: dict[str, dict[str, Any]] = {
    "1x1": {"kernel": (1, 1)},
    "3x3_pad1": {"kernel": (3, 3), "pads": [1, 1, 1, 1]},
    "3x2_asymmetric_pads": {"kernel": (3, 2), "pads": [0, 1, 2, 0]},
    "stride2x1": {"kernel": (3, 3), "strides": [2, 1], "pads": [1, 1, 0, 1]},
    "dilation2x3": {"kernel": (3, 3), "dilations": [2, 3], "pads": [2, 3, 2, 3]},
    "groups2": {"kernel": (3, 3), "group": 2, "pads": [1, 1, 1, 1]},
    "depthwise": {"kernel": (3, 3), "group": 6, "pads": [1, 1, 1, 1]},
    "depthwise_multiplier2": {"kernel": (3, 3), "group": 6, "outputs": 12, "pads": [1, 1, 1, 1]},
}


def _convolution(
    *,
    kernel: tuple[int, ...] = (3, 3),
    outputs: int = 6,
    group: int = 1,
    x_type: str = "uint8",
    x_zero_point: int = 100,
    weight: Any = None,
    weight_scale: Any = 0.01,
    weight_zero_point: Any = 0,
    bias: str = "int32",
    y_type: str = "uint8",
    y_zero_point: int = 120,
    y_scale: float = 0.1,
    after: Any = None,
    **attributes: Any,
) -> tuple[Model, Any]:
    """One quantised convolution of (2, 6, 9, ...) with a quantised result, and an input for it."""
    model = Model()
    shape = (2, 6, *([9] * len(kernel)))
    x = model.qdq(model.input(shape), 0.05, x_zero_point, x_type)
    if weight is None:
        weight = codes((outputs, 6 // group, *kernel), "int8", 1)
    operands = [x, model.weight(weight, weight_scale, weight_zero_point)]
    if bias == "int32":
        drawn = np.random.default_rng(3).integers(-3000, 3000, outputs).astype(np.int32)
        scale = np.broadcast_to(weight_scale, outputs) * 0.05
        operands.append(model.dequantize(model.constant(drawn), scale, 0, "int32", 0))
    elif bias == "float":
        operands.append(model.constant(values((outputs,), 3)))
    y = model.op("Conv", *operands, group=group, **attributes)
    y = after(model, y) if after else y
    model.output(model.quantize(y, y_scale, y_zero_point, y_type), y_type)
    return model, values(shape, 5, 3.0)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("bias", ["int32", "float", "none"])
def test_every_geometry_with_and_without_bias(geometry: str, bias: str) -> None:
    """Guards strides, paddings, dilation, groups, and the three forms of a bias."""
    model, x = _convolution(bias=bias, **GEOMETRIES[geometry])
    lowered = lower(model)
    assert lowered.operators == ONLY_CONVOLUTION
    assert steps_apart(model, lowered, x) <= 1


@pytest.mark.parametrize("x_zero_point", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("y_zero_point", [0, 255])
def test_zero_points_at_the_ends_of_the_range(x_zero_point: int, y_zero_point: int) -> None:
    """Guards the term of the input's zero point in the bias, padded windows included."""
    model, x = _convolution(x_zero_point=x_zero_point, y_zero_point=y_zero_point, pads=[2, 1, 0, 2])
    lowered = lower(model)
    assert lowered.operators == ONLY_CONVOLUTION
    assert steps_apart(model, lowered, x) <= 1


@pytest.mark.parametrize("zero_point", [-128, -1, 0, 127])
def test_int8_activations_are_encoded_as_uint8(zero_point: int) -> None:
    """Guards the shift of int8 codes and zero points by 128 at the input and at an int8 output."""
    model, x = _convolution(x_type="int8", x_zero_point=zero_point, y_type="int8", y_zero_point=zero_point)
    lowered = lower(model)
    assert lowered.operators == {**ONLY_CONVOLUTION, "octet.reencode": 1}
    assert lowered.calls("octet.conv2d")[0].attrs["x_zero_point"] == zero_point + 128
    assert steps_apart(model, lowered, x) <= 1


def test_one_scale_a_channel() -> None:
    """Guards that M and the bias use each channel's own scale."""
    model, x = _convolution(weight_scale=np.array([0.001, 0.1, 0.02, 0.005, 0.5, 0.01]), pads=[1, 1, 1, 1])
    lowered = lower(model)
    assert lowered.operators == ONLY_CONVOLUTION
    assert steps_apart(model, lowered, x) <= 1


def _limit(model: Model, x: str) -> str:
    return model.op("Clip", x, model.constant(0, "float32"), model.constant(6, "float32"))


@pytest.mark.parametrize(
    ("after", "y_scale", "limits"),
    [
        (lambda m, x: m.op("Relu", x), 0.1, (120, 255)),
        (_limit, 0.1, (120, 180)),
        (lambda m, x: m.op("Relu", _limit(m, x)), 0.1, (120, 180)),
        (_limit, 0.0235, (120, 255)),
        (lambda m, x: m.op("Clip", x, m.constant(-1.05, "float32"), ""), 0.1, (110, 255)),
        (lambda m, x: m.op("Max", x, m.constant(-2, "float32")), 0.1, (100, 255)),
    ],
    ids=["relu", "relu6", "relu6_relu", "relu6_beyond_range", "clip_low_between_codes", "max_with_number"],
)
def test_clamps_become_the_range_of_the_result(after: Any, y_scale: float, limits: tuple[int, int]) -> None:
    """Guards that a clamp costs nothing and is exact where the range of the codes does not imply it."""
    model, x = _convolution(after=after, y_scale=y_scale)
    lowered = lower(model)
    assert lowered.operators == ONLY_CONVOLUTION
    attributes = lowered.calls("octet.conv2d")[0].attrs
    assert (attributes["qmin"], attributes["qmax"]) == limits
    assert steps_apart(model, lowered, x) <= 1
    assert not lowered.float_operators


@pytest.mark.parametrize("zero_point", [0, 1, 100, 200, 255])
def test_uint8_weights_with_a_zero_point(zero_point: int) -> None:
    """Guards the sum over each window, whose padding counts the zero point of x."""
    model, x = _convolution(weight=codes((6, 6, 3, 3), "uint8", 2), weight_zero_point=zero_point, pads=[1, 0, 2, 1])
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.conv2d": 2}
    assert steps_apart(model, lowered, x) <= 1


def test_uint8_weights_whose_differences_fit_int8_need_no_window_sum() -> None:
    """Guards the cheap form of weights that are near their zero point."""
    weight = np.random.default_rng(0).integers(100 - 128, 100 + 128, (6, 6, 3, 3)).clip(0, 227).astype(np.uint8)
    model, x = _convolution(weight=weight, weight_zero_point=100, pads=[1, 1, 1, 1])
    lowered = lower(model)
    assert lowered.operators == ONLY_CONVOLUTION
    assert steps_apart(model, lowered, x) <= 1


@pytest.mark.parametrize(("dtype", "zero_point"), [("uint8", 0), ("uint8", 255), ("int8", 127), ("int8", -128)])
def test_depthwise_weights_with_a_zero_point_become_int16(dtype: str, zero_point: int) -> None:
    """Guards the one case in which weights are stored wider than 8 bits."""
    model, x = _convolution(weight=codes((6, 1, 3, 3), dtype, 2), weight_zero_point=zero_point, group=6, pads=[1] * 4)
    lowered = lower(model)
    assert lowered.operators == ONLY_CONVOLUTION
    assert str(lowered.calls("octet.conv2d")[0].args[1].ty.dtype) == "int16"
    assert steps_apart(model, lowered, x) <= 1


@pytest.mark.parametrize("zero_point", [3, 250])
def test_grouped_weights_with_a_zero_point(zero_point: int) -> None:
    """Guards the rewriting of groups as zeros, which uint8 weights write as their zero point."""
    model, x = _convolution(weight=codes((6, 3, 3, 3), "uint8", 2), weight_zero_point=zero_point, group=2, pads=[1] * 4)
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.conv2d": 2}
    assert steps_apart(model, lowered, x) <= 1


def test_per_channel_zero_points_of_weights() -> None:
    """Guards that each channel's own zero point is taken off."""
    zero_points = np.array([0, 255, 128, 7, 90, 200], np.uint8)
    model, x = _convolution(
        weight=codes((6, 6, 3, 3), "uint8", 2), weight_scale=np.full(6, 0.01), weight_zero_point=zero_points
    )
    assert steps_apart(model, lower(model), x) <= 1


@pytest.mark.parametrize("geometry", [{"kernel": (3,)}, {"kernel": (3,), "group": 6, "pads": [2, 1], "strides": [2]}])
def test_conv1d_is_a_conv2d_of_height_one(geometry: dict[str, Any]) -> None:
    """Guards the order of paddings when an axis is added."""
    model, x = _convolution(**geometry)
    lowered = lower(model)
    assert lowered.operators == {**ONLY_CONVOLUTION, "relax.reshape": 2}
    assert steps_apart(model, lowered, x) <= 1


@pytest.mark.parametrize("scale", [1e-30, 1e-38, 1e-45, 0.0], ids=["tiny", "subnormal_product", "subnormal", "zero"])
@pytest.mark.parametrize("bias", ["float", "none"])
def test_dead_channels_keep_their_bias_and_never_give_nan(scale: float, bias: str) -> None:
    """Guards a channel of zeros whose scale would put its bias beyond int32, or divide by zero."""
    weight = codes((6, 6, 3, 3), "int8", 1)
    weight[2] = 0
    scales = np.full(6, 0.01, np.float32)
    scales[2] = scale
    model, x = _convolution(weight=weight, weight_scale=scales, bias=bias)
    lowered = lower(model)
    assert lowered.operators == ONLY_CONVOLUTION
    channel = numpy_reference.run(lowered.module, x)[:, 2]
    constant = values((6,), 3)[2] if bias == "float" else 0.0
    assert (channel == 120 + np.rint(constant / np.float32(0.1))).all()


def test_weights_that_cannot_move_the_result_do_not_cost_the_bias_its_precision() -> None:
    """Guards channels that a folded BatchNorm has left with weights of 1e-12 and an ordinary bias.

    onnxruntime saturates such a bias when it makes the convolution integer, so it runs the float operators here.
    """
    scales = np.full(6, 0.01, np.float32)
    scales[4] = 1e-14
    model, x = _convolution(weight_scale=scales, bias="float")
    lowered = lower(model)
    assert lowered.operators == ONLY_CONVOLUTION
    assert steps_apart(model, lowered, x, as_written=True) <= 1


def test_a_bias_beyond_int32_leaves_the_convolution_float() -> None:
    """Guards against wrapping a bias silently: the operator stays float and says why."""
    scales = np.full(6, 1e-9, np.float32)
    model, x = _convolution(weight_scale=scales, bias="float", y_scale=1e-9)
    lowered = lower(model)
    assert "octet.conv2d" not in lowered.operators
    assert all("does not fit int32" in r.reason for r in lowered.float_operators)
    assert lowered.float_operators
    assert steps_apart(model, lowered, x, as_written=True) <= 1


def test_padding_in_front_joins_the_convolution() -> None:
    """Guards that a separate Pad with zeros costs no pass over memory."""
    model = Model()
    x = model.qdq(model.input((1, 3, 7, 7)), 0.05, 33)
    x = model.op("Pad", x, model.constant([0, 0, 1, 2, 0, 0, 0, 1], "int64"))
    y = model.op("Conv", x, model.weight(codes((4, 3, 3, 3), "int8"), 0.01), pads=[0, 1, 0, 0])
    model.output(model.quantize(y, 0.1, 128))
    lowered = lower(model)
    assert lowered.operators == ONLY_CONVOLUTION
    assert [int(p) for p in lowered.calls("octet.conv2d")[0].attrs["padding"]] == [1, 3, 0, 1]
    assert steps_apart(model, lowered, values((1, 3, 7, 7), 1, 3.0)) <= 1


def test_float_result_of_an_integer_convolution() -> None:
    """Guards a model whose last layer is not quantised: bias included, no float convolution left."""
    model = Model()
    x = model.qdq(model.input((1, 6, 5, 5)), 0.05, 100)
    bias = model.dequantize(model.constant(np.arange(4, dtype=np.int32) * 1000), np.full(4, 0.0005), 0, "int32", 0)
    y = model.op("Conv", x, model.weight(codes((4, 6, 3, 3), "int8"), np.full(4, 0.01)), bias)
    model.output(y, "float32")
    lowered = lower(model)
    assert lowered.operators == ONLY_CONVOLUTION
    assert not lowered.float_operators
    data = values((1, 6, 5, 5), 1, 3.0)
    expected = onnxruntime_outputs(model.build(), [data])[0]
    np.testing.assert_allclose(numpy_reference.run(lowered.module, data), expected, rtol=1e-5, atol=1e-4)


def test_two_quantisations_of_one_convolution() -> None:
    """Guards shared float results: each QuantizeLinear gets numbers at its own scale."""
    model = Model()
    x = model.qdq(model.input((1, 6, 5, 5)), 0.05, 100)
    y = model.op("Conv", x, model.weight(codes((4, 6, 3, 3), "int8"), 0.01))
    model.output(model.quantize(y, 0.1, 128))
    model.output(model.quantize(model.op("Relu", y), 0.05, 0))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.conv2d": 2}
    assert steps_apart(model, lowered, values((1, 6, 5, 5), 1, 3.0)) <= 1


@pytest.mark.parametrize("what", ["float_input", "float_weight"])
def test_reason_of_a_float_convolution(what: str) -> None:
    """Guards that the report names the operand at fault."""
    model = Model()
    x = model.input((1, 6, 5, 5))
    x = x if what == "float_input" else model.qdq(x, 0.05, 100)
    weight = codes((4, 6, 3, 3), "int8")
    w = model.weight(weight, 0.01) if what == "float_input" else model.constant(weight, "float32")
    model.output(model.quantize(model.op("Conv", x, w), 0.1, 128))
    (report,) = lower(model).float_operators
    assert report.op_type == "nn.conv2d"
    assert ("input 0 is not quantised" if what == "float_input" else "the weights are not") in report.reason
