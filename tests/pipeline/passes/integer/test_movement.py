"""Data movement acts on codes, in front of and behind the operators that quantise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.pipeline.passes.integer.qdq import Model, codes, lower, steps_apart, values

SHAPE = (2, 6, 5, 4)

MOVEMENTS: dict[str, Callable[[Model, str], str]] = {
    "reshape": lambda m, x: m.op("Reshape", x, m.constant([2, 3, -1], "int64")),
    "flatten": lambda m, x: m.op("Flatten", x),
    "transpose": lambda m, x: m.op("Transpose", x, perm=[0, 2, 3, 1]),
    "unsqueeze": lambda m, x: m.op("Unsqueeze", x, m.constant([1], "int64")),
    "squeeze": lambda m, x: m.op(
        "Squeeze", m.op("Slice", x, *(m.constant([v], "int64") for v in (0, 1, 0))), m.constant([0], "int64")
    ),
    "slice": lambda m, x: m.op("Slice", x, *(m.constant(v, "int64") for v in ([1, 0], [6, 4], [1, 2], [2, 1]))),
    "slice_backwards": lambda m, x: m.op("Slice", x, *(m.constant([v], "int64") for v in (-1, -9, 1, -1))),
    "tile": lambda m, x: m.op("Tile", x, m.constant([1, 2, 1, 3], "int64")),
    "expand": lambda m, x: m.op("Expand", m.op("ReduceMax", x, axes=[1]), m.constant([2, 3, 5, 4], "int64")),
    "gather": lambda m, x: m.op("Gather", x, m.constant([3, 0, 0], "int64"), axis=1),
    "depth_to_space": lambda m, x: m.op(
        "DepthToSpace", m.op("Reshape", x, m.constant([2, 12, 5, 2], "int64")), blocksize=2
    ),
    "pad_zero": lambda m, x: m.op("Pad", x, m.constant([0, 1, 2, 0, 0, 0, 1, 3], "int64")),
    "max_pool": lambda m, x: m.op("MaxPool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "max_pool_ceil": lambda m, x: m.op("MaxPool", x, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1),
    "max_pool_dilated": lambda m, x: m.op("MaxPool", x, kernel_shape=[2, 2], dilations=[2, 3]),
    "global_max_pool": lambda m, x: m.op("GlobalMaxPool", x),
    "reduce_max": lambda m, x: m.op("ReduceMax", x, axes=[1], keepdims=0),
    "resize_nearest": lambda m, x: m.op(
        "Resize", x, "", m.constant([1, 1, 2, 2], "float32"), mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
}  # fmt: skip


@pytest.mark.parametrize("movement", MOVEMENTS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_between_two_quantisations(movement: str, dtype: str) -> None:
    """Guards Q(op(DQ x)) at one scale: no arithmetic is left, and every code arrives unchanged."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100, dtype)
    model.output(model.quantize(MOVEMENTS[movement](model, x), 0.05, 100, dtype), dtype)
    lowered = lower(model)
    assert not lowered.float_operators
    assert not any(name in lowered.operators for name in ("octet.requantize", "octet.lookup", "octet.dequantize"))
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) == 0


CHANNELS = {
    "transpose": 5,
    "slice": 3,
    "slice_backwards": 6,
    "tile": 12,
    "expand": 3,
    "depth_to_space": 3,
    "pad_zero": 7,
    "max_pool": 6,
    "max_pool_ceil": 6,
    "max_pool_dilated": 6,
    "global_max_pool": 6,
    "resize_nearest": 6,
}
"""Channels of the results that have four axes."""


@pytest.mark.parametrize("movement", CHANNELS)
def test_in_front_of_a_convolution_without_a_quantisation_between(movement: str) -> None:
    """Guards op(DQ x) -> DQ(op x): the convolution behind it finds integers."""
    model = Model()
    moved = MOVEMENTS[movement](model, model.qdq(model.input(SHAPE), 0.05, 100))
    y = model.op("Conv", moved, model.weight(codes((4, CHANNELS[movement], 1, 1), "int8"), 0.01))
    model.output(model.quantize(y, 0.1, 100))
    lowered = lower(model)
    assert not lowered.float_operators
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) <= 1


@pytest.mark.parametrize("movement", ["reshape", "transpose", "pad_zero", "max_pool", "slice"])
def test_behind_a_convolution_without_a_quantisation_between(movement: str) -> None:
    """Guards Q(op(conv)) -> op(Q(conv)): the QuantizeLinear finds the convolution through the movement."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    y = model.op("Conv", x, model.weight(codes((6, 6, 1, 1), "int8"), 0.01))
    model.output(model.quantize(model.op("Relu", MOVEMENTS[movement](model, y)), 0.1, 100))
    lowered = lower(model)
    assert not lowered.float_operators
    assert lowered.operators["octet.conv2d"] == 1
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) <= 1


@pytest.mark.parametrize("value", [1.0, 1.02, -0.7, 1e9], ids=str)
def test_padding_with_a_number(value: float) -> None:
    """Guards the code of the number that pads, on the grid, between two codes and beyond the range."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    padded = model.op("Pad", x, model.constant([0, 0, 1, 1, 0, 0, 1, 1], "int64"), model.constant(value, "float32"))
    model.output(model.quantize(padded, 0.03, 90))
    lowered = lower(model)
    assert not lowered.float_operators
    assert set(lowered.operators) == {"octet.quantize", "octet.requantize", "relax.nn.pad"}
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) <= 1


def test_padding_with_a_number_between_two_codes_stays_float() -> None:
    """Guards a padding that no QuantizeLinear follows: the number would change."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    padded = model.op("Pad", x, model.constant([0, 0, 1, 1, 0, 0, 1, 1], "int64"), model.constant(1.02, "float32"))
    model.output(model.op("Sigmoid", padded), "float32")
    assert [r.op_type for r in lower(model).float_operators] == ["nn.pad", "sigmoid"]


@pytest.mark.parametrize("scales", [(0.05, 0.05, 0.05), (0.05, 0.02, 0.05), (0.01, 0.02, 0.03)], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_concat(scales: tuple[float, float, float], dtype: str) -> None:
    """Guards the change of scale of exactly those inputs that need one."""
    model = Model()
    parts = [model.qdq(model.input(SHAPE), scale, 100 + i, dtype) for i, scale in enumerate(scales[:2])]
    model.output(model.quantize(model.op("Concat", *parts, axis=1), scales[2], 100, dtype), dtype)
    lowered = lower(model)
    needed = sum((scale, 100 + i) != (scales[2], 100) for i, scale in enumerate(scales[:2]))
    assert lowered.operators["relax.concat"] == 1
    assert lowered.operators.get("octet.requantize", 0) == needed
    assert not lowered.float_operators
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0), values(SHAPE, 2, 3.0)) <= 1


def test_concat_of_convolutions_quantises_each_once() -> None:
    """Guards concat of float results: each convolution is requantised to the scale of the concat at once."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    parts = [model.op("Conv", x, model.weight(codes((3, 6, 1, 1), "int8", seed), 0.01)) for seed in (1, 2)]
    model.output(model.quantize(model.op("Concat", *parts, axis=1), 0.1, 100))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.conv2d": 2, "relax.concat": 1}
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) <= 1


def test_concat_with_a_float_operand() -> None:
    """Guards a mixed concat: the float operand is quantised by itself, the other stays integer."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    y = model.op("Concat", x, model.input(SHAPE), axis=1)
    model.output(model.quantize(model.op("Relu", y), 0.03, 10))
    lowered = lower(model)
    assert not lowered.float_operators
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0), values(SHAPE, 2, 3.0)) <= 1


@pytest.mark.parametrize("quantised", [True, False], ids=["quantised_parts", "plain_parts"])
def test_split(quantised: bool) -> None:
    """Guards the tuple that a split returns, in front of and behind a QuantizeLinear."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    if quantised:
        x = model.op("Conv", x, model.weight(codes((6, 6, 1, 1), "int8"), 0.01))
    left, right = model.op("Split", x, model.constant([2, 4], "int64"), outputs=2, axis=1)
    for part in (left, right):
        model.output(model.quantize(part, 0.1, 90))
    lowered = lower(model)
    assert not lowered.float_operators
    assert lowered.operators["relax.split"] == 1
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) <= 1


@pytest.mark.parametrize("axis", [1, -1])
def test_argmax_of_codes(axis: int) -> None:
    """Guards the index of the first of several equal codes."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.5, 100)
    model.output(model.op("ArgMax", x, axis=axis), "int64")
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "relax.argmax": 1}
    assert not lowered.float_operators
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) == 0


def test_max_pool_of_one_axis() -> None:
    """Guards MaxPool of (N, C, W)."""
    model = Model()
    x = model.qdq(model.input((2, 3, 9)), 0.05, 100)
    model.output(model.quantize(model.op("MaxPool", x, kernel_shape=[3], strides=[2], pads=[1, 0]), 0.05, 100))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 1, "octet.max_pool2d": 1, "relax.reshape": 2}
    assert steps_apart(model, lowered, values((2, 3, 9), 1, 3.0)) == 0


@pytest.mark.parametrize("second", [(0.05, 100), (0.03, 90)], ids=["same_scale", "other_scale"])
def test_requantisation(second: tuple[float, int]) -> None:
    """Guards Q(DQ x): nothing where the scale is the same, one operator where it is not."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    model.output(model.quantize(x, *second))
    lowered = lower(model)
    assert lowered.operators.get("octet.requantize", 0) == (second != (0.05, 100))
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) <= 1


@pytest.mark.parametrize("low_high", [(0.0, 6.0), (-1.0, 1.0), (-1.02, 1.02)], ids=str)
def test_clamp_of_codes_in_front_of_a_pool(low_high: tuple[float, float]) -> None:
    """Guards clip(DQ x) where a pool, not a QuantizeLinear, reads its result: only the codes are clamped."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    bounds = [model.constant(v, "float32") for v in low_high]
    y = model.op("MaxPool", model.op("Clip", x, *bounds), kernel_shape=[2, 2])
    model.output(model.quantize(y, 0.05, 100))
    lowered = lower(model)
    assert not lowered.float_operators
    assert lowered.operators == {"octet.quantize": 1, "octet.requantize": 1, "octet.max_pool2d": 1}
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) == 0


def test_constant_table_of_an_embedding() -> None:
    """Guards Gather from a quantised constant: the codes are gathered."""
    model = Model()
    table = model.weight(codes((10, 4), "uint8"), 0.02, 100)
    rows = model.op("Gather", table, model.input((3,), "int64"), axis=0)
    model.output(model.quantize(rows, 0.02, 100))
    lowered = lower(model)
    assert not lowered.float_operators
    assert "octet.quantize" not in lowered.operators
    assert "octet.dequantize" not in lowered.operators
    assert steps_apart(model, lowered, np.array([0, 9, 3])) == 0


def test_linear_resize_stays_float_between_codes() -> None:
    """Guards the report of an operator without an integer form, and the integers around it."""
    model = Model()
    x = model.qdq(model.input(SHAPE), 0.05, 100)
    scales: Any = model.constant([1, 1, 2, 2], "float32")
    model.output(model.quantize(model.op("Resize", x, "", scales, mode="linear"), 0.05, 100))
    lowered = lower(model)
    assert lowered.operators == {"octet.quantize": 2, "octet.dequantize": 1, "relax.image.resize2d": 1}
    assert [r.op_type for r in lowered.float_operators] == ["image.resize2d"]
    assert steps_apart(model, lowered, values(SHAPE, 1, 3.0)) <= 1
