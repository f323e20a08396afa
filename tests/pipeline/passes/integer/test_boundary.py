"""The ends of the integer part: graph inputs and outputs, float operators, bad scales, and the report."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ModelError
from tests import numpy_reference
from tests.pipeline.passes.integer.qdq import Model, codes, lower, onnxruntime_outputs, steps_apart, values

SHAPE = (1, 4, 5, 5)


def test_int8_input_and_output_are_reencoded_at_the_ends_only() -> None:
    """Guards a model whose interface is int8: it stays int8, everything between is uint8."""
    model = Model()
    x = model.input(SHAPE, "int8")
    y = model.op("Conv", model.dequantize(x, 0.05, 3, "int8"), model.weight(codes((4, 4, 3, 3), "int8"), 0.01))
    model.output(model.quantize(model.op("MaxPool", y, kernel_shape=[2, 2]), 0.1, -7, "int8"), "int8")
    lowered = lower(model)
    assert lowered.operators == {"octet.reencode": 2, "octet.conv2d": 1, "octet.max_pool2d": 1}
    assert steps_apart(model, lowered, codes(SHAPE, "int8", 1)) <= 1


def test_int8_codes_that_another_operator_reads() -> None:
    """Guards codes read as numbers: they are int8 again there."""
    model = Model()
    q = model.quantize(model.input(SHAPE), 0.05, 3, "int8")
    model.output(model.op("Cast", q, to=6), "int32")
    assert steps_apart(model, lower(model), values(SHAPE, 1, 3.0)) == 0


def test_movement_of_int8_codes_themselves() -> None:
    """Guards quantised operators between Q and DQ, as onnxruntime writes Pad and Transpose."""
    model = Model()
    q = model.quantize(model.input(SHAPE), 0.05, -128, "int8")
    q = model.op("Transpose", q, perm=[0, 2, 3, 1])
    model.output(
        model.quantize(model.op("Sigmoid", model.dequantize(q, 0.05, -128, "int8")), 0.01, -128, "int8"), "int8"
    )
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "relax.permute_dims": 1, "octet.lookup": 1, "octet.reencode": 1}
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) <= 1


def test_one_input_quantised_twice_is_quantised_once() -> None:
    """Guards two QuantizeLinear of the same tensor with the same scale."""
    model = Model()
    x = model.input(SHAPE)
    for seed in (1, 2):
        y = model.op("Conv", model.qdq(x, 0.05, 90), model.weight(codes((4, 4, 1, 1), "int8", seed), 0.01))
        model.output(model.quantize(y, 0.1, 100))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.conv2d": 2}
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) <= 1


def test_float_operator_between_integer_ones() -> None:
    """Guards the fallback: only the operator without an integer form is float, and the report says so."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    x = model.qdq(model.op("Conv", x, model.weight(codes((4, 4, 1, 1), "int8"), 0.01)), 0.1, 100)
    x = model.op(
        "InstanceNormalization", x, model.constant(np.ones(4, np.float32)), model.constant(np.zeros(4, np.float32))
    )
    x = model.qdq(x, 0.02, 128)
    model.output(model.quantize(model.op("Conv", x, model.weight(codes((4, 4, 1, 1), "int8"), 0.01)), 0.1, 100))
    lowered = lower(model)
    assert lowered.operators["octet.conv2d"] == 2
    assert lowered.operators["octet.dequantize"] == 1
    assert ("variance", "no integer form for variance") in [(r.op_type, r.reason) for r in lowered.float_operators]
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) <= 2  # two requantisations, float in between


def test_weights_of_a_float_operator_are_float_constants() -> None:
    """Guards against dequantising constants again at every run."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    y = model.op("ConvTranspose", x, model.weight(codes((4, 2, 3, 3), "int8"), 0.01))
    model.output(model.quantize(y, 0.1, 100))
    lowered = lower(model)
    assert "relax.dequantize" not in lowered.operators
    assert [r.op_type for r in lowered.float_operators] == ["nn.conv2d_transpose"]
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) <= 1


def test_sixteen_bit_activations_stay_float() -> None:
    """Guards types that no integer operator takes."""
    model = Model()
    x = model.input(SHAPE)
    zero, scale = model.constant(0, "int16"), model.constant(0.001, "float32")
    wide = model.op("DequantizeLinear", model.op("QuantizeLinear", x, scale, zero), scale, zero)
    y = model.op("Conv", wide, model.weight(codes((4, 4, 1, 1), "int8"), 0.01))
    model.output(y, "float32")
    (report,) = lower(model, opset=21).float_operators
    assert report.reason == "input 0 is not quantised"


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")], ids=str)
def test_bad_scale_of_an_activation(scale: float) -> None:
    """Guards against NaN at run time: the model is refused."""
    model = Model()
    model.output(model.quantize(model.op("Relu", model.qdq(model.input(SHAPE), scale)), 0.1))
    with pytest.raises(ModelError, match="scale"):
        lower(model)


def test_report_names_every_operator_once() -> None:
    """Guards one line an operator: parts of a layer and of a table have none of their own."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    w, b = model.weight(codes((4, 4, 1, 1), "int8"), 0.01), model.constant(values((4,)))
    x = model.qdq(model.op("Relu", model.op("Conv", x, w, b)), 0.1, 100)
    x = model.qdq(model.op("HardSwish", x), 0.1, 100)
    model.output(model.op("Flatten", x), "float32")
    reports = lower(model).reports
    assert [(r.op_type, r.kind) for r in reports] == [
        ("nn.conv2d", "integer"),
        ("nn.relu", "integer"),
        ("multiply", "integer"),
        ("reshape", "integer"),
    ]
    assert [r.shape for r in reports] == [SHAPE, SHAPE, SHAPE, (1, 100)]
    assert reports[1].reason == f"clamps the codes of {reports[0].name}"


def test_names_of_operators_survive() -> None:
    """Guards dumps and reports that people read: a binding keeps the name of its operator."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    y = model.op("Conv", x, model.weight(codes((4, 4, 1, 1), "int8"), 0.01))
    model.output(model.quantize(model.op("Relu", y), 0.1, 0))
    lowered = lower(model)
    names = {b.var.name: b.value for block in lowered.module["main"].body.blocks for b in block.bindings}
    assert names[lowered.reports[0].name].op.name == "octet.conv2d"


def test_no_quantisation_at_all() -> None:
    """Guards a float model: nothing changes, and every operator has its reason."""
    model = Model()
    y = model.op("Relu", model.op("Conv", model.input(SHAPE), model.constant(values((4, 4, 1, 1)))))
    model.output(y, "float32")
    lowered = lower(model)
    assert lowered.operators == {"relax.nn.conv2d": 1, "relax.nn.relu": 1}
    assert [r.reason for r in lowered.float_operators] == ["input 0 is not quantised"] * 2
    data = values(SHAPE, 1)
    expected = onnxruntime_outputs(model.build(), [data])[0]
    np.testing.assert_allclose(numpy_reference.run(lowered.module, data), expected, atol=1e-5)
