"""Gemm and MatMul become ``octet.dense`` or ``octet.matmul``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import numpy_reference
from tests.pipeline.passes.integer.qdq import Model, codes, lower, onnxruntime_outputs, steps_apart, values

ONLY_DENSE = {"octet.quantize": 1, "octet.dense": 1}


def _gemm(
    weight: Any, scale: Any, zero_point: Any = 0, *, bias: bool = True, axis: int = 0, **attributes: Any
) -> Model:
    """Gemm of (3, 33) with a quantised weight."""
    model = Model()
    x = model.qdq(model.input((3, 33)), 0.04, 90)
    operands = [x, model.weight(weight, scale, zero_point, axis)]
    if bias:
        drawn = np.random.default_rng(1).integers(-2000, 2000, 5).astype(np.int32)
        operands.append(model.dequantize(model.constant(drawn), np.broadcast_to(scale, 5) * 0.04, 0, "int32", 0))
    model.output(model.quantize(model.op("Gemm", *operands, **attributes), 0.05, 100))
    return model


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "per_tensor"])
def test_gemm(trans_b: int, bias: bool, per_channel: bool) -> None:
    """Guards the transposition of the weight and, with it, of the axis of its scales."""
    weight = codes((5, 33) if trans_b else (33, 5), "int8")
    scale = np.linspace(0.001, 0.05, 5) if per_channel else 0.01
    model = _gemm(weight, scale, bias=bias, axis=1 - trans_b, transB=trans_b)
    lowered = lower(model)
    assert lowered.operators == ONLY_DENSE
    assert not lowered.float_operators
    assert steps_apart(model, lowered, values((3, 33), 1, 3.0)) <= 1


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}, {"alpha": 1.5, "beta": 0.25}], ids=str)
def test_gemm_with_factors(attributes: dict[str, Any]) -> None:
    """Guards alpha and beta, which the importer writes as multiplications."""
    model = _gemm(codes((33, 5), "int8"), 0.01, **attributes)
    lowered = lower(model)
    assert lowered.operators == ONLY_DENSE
    assert steps_apart(model, lowered, values((3, 33), 1, 3.0)) <= 1


@pytest.mark.parametrize("zero_point", [0, 17, 255])
def test_uint8_weight_with_a_zero_point(zero_point: int) -> None:
    """Guards the sum over the inputs that the zero point of the weight needs."""
    model = _gemm(codes((33, 5), "uint8"), 0.01, zero_point)
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.dense": 2}
    assert steps_apart(model, lowered, values((3, 33), 1, 3.0)) <= 1


@pytest.mark.parametrize("shape", [(33,), (1, 33), (2, 3, 33)], ids=str)
def test_matmul_of_any_rank(shape: tuple[int, ...]) -> None:
    """Guards layers on sequences, with the bias that an Add behind them gives."""
    model = Model()
    x = model.qdq(model.input(shape), 0.04, 90)
    y = model.op("MatMul", x, model.weight(codes((33, 5), "int8"), np.linspace(0.001, 0.05, 5), axis=1))
    y = model.op("Relu", model.op("Add", y, model.constant(values((5,), 2))))
    model.output(model.quantize(y, 0.05, 10))
    lowered = lower(model)
    assert lowered.operators == ONLY_DENSE
    assert steps_apart(model, lowered, values(shape, 1, 3.0)) <= 1


@pytest.mark.parametrize(
    ("a", "b"), [((4, 7), (7, 3)), ((2, 4, 7), (2, 7, 3)), ((2, 1, 4, 7), (3, 7, 2))], ids=["2d", "3d", "broadcast"]
)
@pytest.mark.parametrize("zero_points", [(0, 255), (128, 100)], ids=str)
def test_product_of_two_activations(a: tuple[int, ...], b: tuple[int, ...], zero_points: tuple[int, int]) -> None:
    """Guards attention: both operands have zero points, and leading axes broadcast."""
    model = Model()
    left = model.qdq(model.input(a), 0.03, zero_points[0])
    right = model.qdq(model.input(b), 0.02, zero_points[1])
    model.output(model.quantize(model.op("MatMul", left, right), 0.05, 128))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 2, "octet.matmul": 1}
    assert steps_apart(model, lowered, values(a, 1, 3.0), values(b, 2, 3.0)) <= 1


def test_constant_on_the_left() -> None:
    """Guards a constant operand where the kernel takes activations: int8 codes become uint8."""
    model = Model()
    x = model.qdq(model.input((7, 3)), 0.03, 77)
    model.output(model.quantize(model.op("MatMul", model.weight(codes((4, 7), "int8"), 0.02, 5), x), 0.05, 128))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.matmul": 1}
    assert steps_apart(model, lowered, values((7, 3), 1, 3.0)) <= 1


def test_float_result() -> None:
    """Guards a classifier whose scores are not quantised."""
    model = Model()
    x = model.qdq(model.input((3, 33)), 0.04, 90)
    w = model.weight(codes((33, 5), "int8"), np.linspace(0.001, 0.05, 5), axis=1)
    model.output(model.op("Gemm", x, w, model.constant(values((5,), 2))), "float32")
    lowered = lower(model)
    assert lowered.operators == ONLY_DENSE
    data = values((3, 33), 1, 3.0)
    expected = onnxruntime_outputs(model.build(), [data])[0]
    np.testing.assert_allclose(numpy_reference.run(lowered.module, data), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_matmul_integer(dtype: str) -> None:
    """Guards int32 results: sums above 2**24 must not pass through float32."""
    model = Model()
    x = model.dequantize(model.input((2, 4096), dtype), 1.0, 7, dtype)
    w = model.weight(codes((4096, 3), "int8"), 1.0)
    model.output(model.op("Cast", model.op("MatMul", x, w), to=6), "int32")
    lowered = lower(model)
    assert set(lowered.operators) == ({"octet.dense"} if dtype == "uint8" else {"octet.reencode", "octet.dense"})
    data = np.full((2, 4096), np.iinfo(dtype).max, dtype)
    weight = codes((4096, 3), "int8").astype(np.int64)
    expected = (data.astype(np.int64) - 7) @ weight
    np.testing.assert_array_equal(numpy_reference.run(lowered.module, data), expected)


def test_weight_with_one_scale_for_each_input_stays_float() -> None:
    """Guards against treating scales along the sum as scales of outputs."""
    model = Model()
    x = model.qdq(model.input((3, 6)), 0.04, 90)
    w = model.weight(codes((6, 5), "int8"), np.linspace(0.01, 0.02, 6), axis=0)
    model.output(model.quantize(model.op("MatMul", x, w), 0.05, 100))
    (report,) = lower(model).float_operators
    assert "one scale for each input" in report.reason
