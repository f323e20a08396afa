"""Averages become ``octet.avg_pool2d``; softmax becomes ``octet.softmax``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import numpy_reference
from tests.pipeline.passes.integer.qdq import Model, lower, onnxruntime_outputs, steps_apart, values

POOLS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_shape": [2, 3]},
    "strided_pads": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "asymmetric_pads": {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [0, 1, 2, 0]},
    "ceil": {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    "ceil_pads": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("include", [0, 1], ids=["exclude_pad", "include_pad"])
@pytest.mark.parametrize("zero_point", [0, 100, 255])
def test_average_pool(pool: str, include: int, zero_point: int) -> None:
    """Guards the number of elements that each window counts, ceil_mode and count_include_pad together included."""
    model = Model()
    x = model.qdq(model.input((2, 3, 7, 6)), 0.05, zero_point)
    y = model.op("AveragePool", x, count_include_pad=include, **POOLS[pool])
    model.output(model.quantize(y, 0.04, zero_point))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.avg_pool2d": 1}
    assert not lowered.float_operators
    assert steps_apart(model, lowered, values((2, 3, 7, 6), 1, 3.0), as_written=True) <= 1


def test_average_pool_of_one_axis() -> None:
    """Guards AveragePool of (N, C, W)."""
    model = Model()
    x = model.qdq(model.input((2, 3, 9)), 0.05, 90)
    model.output(model.quantize(model.op("AveragePool", x, kernel_shape=[3], strides=[2], pads=[1, 0]), 0.05, 100))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.avg_pool2d": 1, "relax.reshape": 2}
    assert steps_apart(model, lowered, values((2, 3, 9), 1, 3.0)) <= 1


@pytest.mark.parametrize("relu", [False, True])
def test_global_average_pool(relu: bool) -> None:
    """Guards the pool in front of a classifier."""
    model = Model()
    y = model.op("GlobalAveragePool", model.qdq(model.input((2, 3, 7, 5)), 0.05, 100))
    model.output(model.quantize(model.op("Relu", y) if relu else y, 0.01, 50))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.avg_pool2d": 1}
    assert steps_apart(model, lowered, values((2, 3, 7, 5), 1, 3.0)) <= 1


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 3, 7, 5), [2, 3]),
        ((2, 3, 7, 5), [1, 2]),
        ((2, 3, 7, 5), [-1]),
        ((2, 9, 4), [1]),
        ((4, 6), [1]),
        ((4, 6), None),
    ],
    ids=str,
)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean_over_any_axes(shape: tuple[int, ...], axes: Any, keepdims: int) -> None:
    """Guards the order of axes that are brought to the end."""
    model = Model()
    attributes = {} if axes is None else {"axes": axes}
    y = model.op("ReduceMean", model.qdq(model.input(shape), 0.05, 100), keepdims=keepdims, **attributes)
    model.output(model.quantize(y, 0.02, 128))
    lowered = lower(model)
    assert lowered.operators["octet.avg_pool2d"] == 1
    assert not lowered.float_operators
    assert steps_apart(model, lowered, values(shape, 1, 3.0)) <= 1


@pytest.mark.parametrize(("shape", "axis"), [((3, 10), -1), ((2, 5, 3, 4), 1), ((2, 5, 1000), 2)], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_softmax(shape: tuple[int, ...], axis: int, dtype: str) -> None:
    """Guards the table of exponentials, on any axis."""
    model = Model()
    zero_point = 0 if dtype == "uint8" else -128
    y = model.op("Softmax", model.qdq(model.input(shape), 0.05, 3, dtype), axis=axis)
    model.output(model.quantize(y, 1 / 256, zero_point, dtype), dtype)
    lowered = lower(model)
    assert lowered.operators["octet.softmax"] == 1
    assert not lowered.float_operators
    assert steps_apart(model, lowered, values(shape, 1, 3.0)) <= 1


def test_softmax_with_a_float_result() -> None:
    """Guards a classifier that ends in a softmax which is not quantised."""
    model = Model()
    model.output(model.op("Softmax", model.qdq(model.input((3, 10)), 0.05, 100), axis=1), "float32")
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.softmax": 1}
    data = values((3, 10), 1, 3.0)
    (expected,) = onnxruntime_outputs(model.build(), [data])
    np.testing.assert_allclose(numpy_reference.run(lowered.module, data), expected, rtol=1e-5)


def test_softmax_far_from_its_maximum_is_zero() -> None:
    """Guards exponentials that underflow: zeros, never NaN."""
    model = Model()
    y = model.op("Softmax", model.qdq(model.input((1, 4)), 1e6, 0), axis=1)
    model.output(model.quantize(y, 1 / 256, 0))
    lowered = lower(model)
    assert steps_apart(model, lowered, np.array([[0, 1e6, 2e8, 2e8]], np.float32)) == 0
