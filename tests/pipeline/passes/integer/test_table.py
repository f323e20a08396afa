"""Element-wise float operators on one quantised tensor become a table of 256 codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests import numpy_reference
from tests.pipeline.passes.integer.qdq import Model, lower, onnxruntime_outputs, steps_apart

Chain = Callable[[Model, str], str]


def _number(model: Model, value: float) -> str:
    return model.constant(value, "float32")


CHAINS: dict[str, Chain] = {
    "sigmoid": lambda m, x: m.op("Sigmoid", x),
    "tanh": lambda m, x: m.op("Tanh", x),
    "leaky_relu": lambda m, x: m.op("LeakyRelu", x, alpha=0.1),
    "prelu": lambda m, x: m.op("PRelu", x, m.constant([0.2], "float32")),
    "elu": lambda m, x: m.op("Elu", x, alpha=0.7),
    "selu": lambda m, x: m.op("Selu", x),
    "hard_sigmoid": lambda m, x: m.op("HardSigmoid", x, alpha=0.2, beta=0.5),
    "hard_swish": lambda m, x: m.op("HardSwish", x),
    "silu": lambda m, x: m.op("Mul", x, m.op("Sigmoid", x)),
    "gelu": lambda m, x: m.op(
        "Mul",
        m.op("Mul", x, m.op("Add", m.op("Erf", m.op("Div", x, _number(m, 2**0.5))), _number(m, 1.0))),
        _number(m, 0.5),
    ),
    "exp": lambda m, x: m.op("Exp", x),
    "softplus": lambda m, x: m.op("Softplus", x),
    "softsign": lambda m, x: m.op("Softsign", x),
    "sqrt_of_abs": lambda m, x: m.op("Sqrt", m.op("Abs", x)),
    "negative": lambda m, x: m.op("Neg", x),
    "reciprocal": lambda m, x: m.op("Reciprocal", x),
    "power": lambda m, x: m.op("Pow", x, _number(m, 2.0)),
    "thresholded_relu": lambda m, x: m.op("ThresholdedRelu", x, alpha=0.5),
    "relu_of_a_difference": lambda m, x: m.op("Relu", m.op("Sub", x, _number(m, 0.3))),
    "double": lambda m, x: m.op("Add", x, x),
    "clip_sigmoid": lambda m, x: m.op("Clip", m.op("Sigmoid", x), _number(m, 0.2), _number(m, 0.8)),
}


def _every_code(scale: float, zero_point: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return ((np.arange(256) - zero_point).astype(np.float32) * np.float32(scale)).reshape(1, 4, 8, 8)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_every_code_of_each_function(chain: str, dtype: str) -> None:
    """Guards that each function is one table, right at all 256 inputs."""
    model = Model()
    zero_point = 110 if dtype == "uint8" else -18
    x = model.qdq(model.input((1, 4, 8, 8)), 0.05, zero_point, dtype)
    model.output(model.quantize(CHAINS[chain](model, x), 0.03, zero_point, dtype), dtype)
    lowered = lower(model)
    assert lowered.operators["octet.lookup"] == 1
    assert set(lowered.operators) <= {"octet.quantize", "octet.lookup", "octet.reencode"}
    assert not lowered.float_operators
    assert steps_apart(model, lowered, _every_code(0.05, 110)) <= 1


def test_gelu_of_opset_20() -> None:
    """Guards Gelu as one ONNX operator."""
    model = Model()
    model.output(model.quantize(model.op("Gelu", model.qdq(model.input((1, 4, 8, 8)), 0.05, 110)), 0.03, 20))
    lowered = lower(model, opset=20)
    assert lowered.operators == {"octet.quantize": 1, "octet.lookup": 1}
    assert steps_apart(model, lowered, _every_code(0.05, 110), opset=20) <= 1


@pytest.mark.parametrize("chain", ["double", "negative", "relu_of_a_difference", "power"])
def test_plain_arithmetic_is_exact(chain: str) -> None:
    """Guards the float32 rounding of each step, which has one right answer here."""
    model = Model()
    model.output(model.quantize(CHAINS[chain](model, model.qdq(model.input((1, 4, 8, 8)), 0.05, 110)), 0.03, 110))
    (expected,) = onnxruntime_outputs(model.build(), [_every_code(0.05, 110)], as_written=True)
    np.testing.assert_array_equal(numpy_reference.run(lower(model).module, _every_code(0.05, 110)), expected)


def test_tables_in_a_row_become_one() -> None:
    """Guards Q(tanh(DQ(Q(sigmoid(DQ x))))): the same bits from one pass over memory."""
    model = Model()
    x = model.qdq(model.input((1, 4, 8, 8)), 0.05, 110)
    x = model.qdq(model.op("Sigmoid", x), 1 / 255, 0)
    model.output(model.quantize(model.op("Tanh", x), 1 / 200, 3))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.lookup": 1}
    assert steps_apart(model, lowered, _every_code(0.05, 110)) <= 1


def test_intermediate_with_two_readers_is_kept() -> None:
    """Guards merging: a table that something else reads stays."""
    model = Model()
    x = model.quantize(model.op("Sigmoid", model.qdq(model.input((1, 4, 8, 8)), 0.05, 110)), 1 / 255, 0)
    model.output(x)
    model.output(model.quantize(model.op("Tanh", model.dequantize(x, 1 / 255, 0)), 1 / 200, 3))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.lookup": 2}
    assert steps_apart(model, lowered, _every_code(0.05, 110)) <= 1


def test_a_factor_for_each_channel_is_no_table() -> None:
    """Guards the limit of tables: a constant with several elements makes the result depend on the position."""
    model = Model()
    x = model.qdq(model.input((1, 4, 8, 8)), 0.05, 110)
    y = model.op("PRelu", x, model.constant(np.linspace(0, 1, 4).reshape(4, 1, 1), "float32"))
    model.output(model.quantize(y, 0.05, 110))
    lowered = lower(model)
    assert "octet.lookup" not in lowered.operators
    assert len(lowered.float_operators) == 1
