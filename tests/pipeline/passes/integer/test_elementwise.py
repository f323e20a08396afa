"""Sums and products of quantised activations, and the merging of what follows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.pipeline.passes.integer.qdq import Model, codes, lower, steps_apart, values

OPERATORS = {"Add": "octet.add", "Sub": "octet.add", "Mul": "octet.multiply"}


def _binary(
    kind: str,
    *,
    scales: tuple[float, float, float] = (0.05, 0.03, 0.07),
    zero_points: tuple[int, int, int] = (100, 130, 120),
    shapes: tuple[Any, Any] = ((2, 3, 5, 7), (2, 3, 5, 7)),
    dtype: str = "uint8",
    after: Any = None,
) -> Model:
    model = Model()
    a = model.qdq(model.input(shapes[0]), scales[0], zero_points[0], dtype)
    b = model.qdq(model.input(shapes[1]), scales[1], zero_points[1], dtype)
    y = model.op(kind, a, b)
    y = after(model, y) if after else y
    model.output(model.quantize(y, scales[2], zero_points[2], dtype), dtype)
    return model


def _inputs(model: Model, scale: float = 3.0) -> list[Any]:
    shapes = [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.inputs]
    return [values(shape, seed, scale) for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("zero_points", [(0, 0, 0), (255, 255, 255), (0, 255, 128), (100, 130, 120)], ids=str)
def test_zero_points(kind: str, zero_points: tuple[int, int, int]) -> None:
    """Guards the zero points of both operands and of the result, at the ends of the range."""
    model = _binary(kind, zero_points=zero_points)
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 2, OPERATORS[kind]: 1}
    assert steps_apart(model, lowered, *_inputs(model)) <= 1


@pytest.mark.parametrize("kind", OPERATORS)
def test_int8(kind: str) -> None:
    """Guards int8 models: everything in between is uint8."""
    model = _binary(kind, zero_points=(-5, 7, -128), dtype="int8")
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 2, OPERATORS[kind]: 1, "octet.reencode": 1}
    assert steps_apart(model, lowered, *_inputs(model)) <= 1


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize(
    "shapes", [((2, 3, 5, 7), (3, 1, 1)), ((2, 1, 5, 1), (1, 3, 1, 7)), ((4,), (2, 4)), ((2, 3, 5, 7), ())], ids=str
)
def test_broadcasting(kind: str, shapes: tuple[Any, Any]) -> None:
    """Guards operands of different shapes, such as the factors of squeeze-and-excitation."""
    model = _binary(kind, shapes=shapes)
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 2, OPERATORS[kind]: 1}
    assert steps_apart(model, lowered, *_inputs(model)) <= 1


@pytest.mark.parametrize("scales", [(1.0, 1e-6, 1.0), (1e-6, 1.0, 1.0), (1e-6, 1e-6, 1.0), (1e-3, 1e3, 10.0)], ids=str)
def test_scales_far_apart(scales: tuple[float, float, float]) -> None:
    """Guards the common power of two of both coefficients."""
    model = _binary("Add", scales=scales)
    lowered = lower(model)
    assert "octet.add" in lowered.operators
    assert steps_apart(model, lowered, *_inputs(model, 100.0)) <= 1


def test_huge_scale_leaves_the_other_its_precision() -> None:
    """It left the other operand hardly a bit. As written: onnxruntime's fused kernel is six steps off here."""
    model = _binary("Add", scales=(1e6, 1.03, 1.0))
    lowered = lower(model)
    assert "octet.add" in lowered.operators
    assert steps_apart(model, lowered, *_inputs(model, 100.0), as_written=True) <= 1


def test_scales_beyond_float32_leave_the_sum_float() -> None:
    """Guards the multiplier against underflow."""
    model = _binary("Add", scales=(1e-30, 1e-30, 1e30))
    lowered = lower(model)
    assert [r.reason for r in lowered.float_operators] == ["its scales are too far apart"]


def test_product_beyond_float32_saturates() -> None:
    """Guards 0 times an infinite multiplier, which would be NaN."""
    model = _binary("Mul", scales=(1e20, 1e20, 1e-20))
    lowered = lower(model)
    a, b = (
        np.array([[0, 1e20], [-1e20, 2e20]], np.float32).repeat(105).reshape(2, 3, 5, 14)[..., :7] for _ in range(2)
    )
    assert steps_apart(model, lowered, np.ascontiguousarray(a), np.ascontiguousarray(b), as_written=True) <= 1


def test_relu_behind_a_residual_addition() -> None:
    """Guards the clamp of ResNet's additions."""
    model = _binary("Add", after=lambda m, y: m.op("Relu", y), zero_points=(100, 130, 7))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 2, "octet.add": 1}
    assert lowered.calls("octet.add")[0].attrs["qmin"] == 7
    assert steps_apart(model, lowered, *_inputs(model)) <= 1


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_constant_operand(dtype: str) -> None:
    """Guards a quantised constant in the place of an activation."""
    model = Model()
    x = model.qdq(model.input((2, 3, 4, 4)), 0.05, 99)
    model.output(model.quantize(model.op("Mul", x, model.weight(codes((3, 1, 1), dtype), 0.01, 3)), 0.04, 100))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.multiply": 1}
    assert steps_apart(model, lowered, values((2, 3, 4, 4), 1, 3.0)) <= 1


def test_variadic_sum_of_two() -> None:
    """Guards Sum, which the importer writes as a reduction over a stack."""
    model = _binary("Sum")
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 2, "octet.add": 1}
    assert steps_apart(model, lowered, *_inputs(model)) <= 1


def test_operand_that_is_not_quantised() -> None:
    """Guards the report: the operand at fault is named, and the rest of the graph stays integer."""
    model = Model()
    a = model.qdq(model.input((2, 3)), 0.05, 99)
    y = model.op("Add", a, model.input((2, 3)))
    model.output(model.op("Sigmoid", model.qdq(y, 0.1, 100)), "float32")
    lowered = lower(model)
    assert [(r.op_type, r.reason) for r in lowered.float_operators] == [
        ("add", "input 1 is not quantised"),
        ("sigmoid", "its result is not quantised"),
    ]
