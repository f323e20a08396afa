"""Small pieces of integer graphs, for the tests of the passes behind the integer lowering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, op_name
from pipeline.ir.operators import Output, shape_of
from schedules.compute.arithmetic import Output as StageOutput
from schedules.compute.stages import Add, Lookup, Multiply, Requantize, Stage, stages_to_json
from tests.octet_runner import Array, Body, module_of

Builder: TypeAlias = Any
"""A ``relax.BlockBuilder``."""

Params = Sequence[relax.Var]

IMAGE = (1, 24, 5, 5)
TABLE = np.roll(np.arange(256), 57).astype(np.uint8)

RESULT = Output(zero_point=128)
SUM = Output(zero_point=100, qmin=100)
PRODUCT = Output(zero_point=90)
CHANGED = Output(zero_point=7, qmax=200)


def image_module(body: Body, count: int = 1, shape: tuple[int, ...] = IMAGE) -> tvm.IRModule:
    """``main`` with ``count`` uint8 inputs of ``shape``."""
    return module_of([(shape, "uint8")] * count, body)


def conv(x: relax.Expr, channels: int = 24, kernel: int = 1, groups: int = 1, **changes: Any) -> relax.Call:
    """A convolution of the same size, its constants depending on its shape alone."""
    ic = shape_of(x)[1]
    random = np.random.default_rng(channels * kernel + ic)
    weight = random.integers(-128, 128, (channels, ic // groups, kernel, kernel)).astype(np.int8)
    bias = random.integers(-999, 999, channels).astype(np.int32)
    multiplier = (random.random(channels) / 80 / np.sqrt(weight[0].size)).astype(np.float32)
    arguments: dict[str, Any] = {
        "strides": (1, 1),
        "padding": [kernel // 2] * 4,
        "dilation": (1, 1),
        "groups": groups,
        "x_zero_point": 128,
        "output": RESULT,
    }
    constants = (relax.const(weight), relax.const(bias), relax.const(multiplier))
    return operators.conv2d(x, *constants, **{**arguments, **changes})


def dense(x: relax.Expr, units: int) -> relax.Call:
    """A fully connected layer, its constants depending on its shape alone."""
    k = shape_of(x)[-1]
    random = np.random.default_rng(units + k)
    weight = relax.const(random.integers(-128, 128, (units, k)).astype(np.int8))
    bias = relax.const(random.integers(-999, 999, units).astype(np.int32))
    multiplier = relax.const((random.random(units) / 80 / np.sqrt(k)).astype(np.float32))
    return operators.dense(x, weight, bias, multiplier, x_zero_point=128, output=RESULT)


def add(a: relax.Expr, b: relax.Expr) -> relax.Call:
    """A sum whose two operands differ in scale and zero point."""
    return operators.add(a, b, a_ratio=0.5, b_ratio=0.7, a_zero_point=128, b_zero_point=3, output=SUM)


def multiply(a: relax.Expr, b: relax.Expr) -> relax.Call:
    """A product whose two operands differ in zero point."""
    return operators.multiply(a, b, multiplier=0.01, a_zero_point=128, b_zero_point=5, output=PRODUCT)


def lookup(x: relax.Expr) -> relax.Call:
    """A look-up."""
    return operators.lookup(x, relax.const(TABLE))


def requantize(x: relax.Expr) -> relax.Call:
    """A change of scale."""
    return operators.requantize(x, multiplier=0.75, x_zero_point=128, output=CHANGED)


def pool(x: relax.Expr, kernel: int = 3) -> relax.Call:
    """A max pool of the same size."""
    padding = [kernel // 2] * 4
    return operators.max_pool2d(x, kernel=(kernel, kernel), strides=(1, 1), padding=padding, dilation=(1, 1))


def average(x: relax.Expr) -> relax.Call:
    """A global average."""
    _, _, h, w = shape_of(x)
    mean = relax.const(np.full((1, 1), 1 / (h * w), np.float32))
    return operators.avg_pool2d(
        x, mean, kernel=(h, w), strides=(1, 1), padding=[0] * 4, x_zero_point=100, output=Output(zero_point=128)
    )


def _stage_output(output: Output) -> StageOutput:
    return StageOutput(output.dtype, output.zero_point, output.qmin, output.qmax)


def add_stage(swapped: bool = False) -> Add:
    """:func:`add` as a stage behind its first operand, or behind its second."""
    a, b, multiplier = operators.add_coefficients(0.5, 0.7)
    stage = Add(a, b, multiplier, 128, 3, _stage_output(SUM))
    if not swapped:
        return stage
    return replace(stage, coefficient=b, other_coefficient=a, zero_point=3, other_zero_point=128)


def multiply_stage(swapped: bool = False) -> Multiply:
    """:func:`multiply` as a stage behind its first operand, or behind its second."""
    return Multiply(0.01, *((5, 128) if swapped else (128, 5)), _stage_output(PRODUCT))


LOOKUP = Lookup()
REQUANTIZE = Requantize(0.75, 128, _stage_output(CHANGED))


def staged(anchor: relax.Call, stages: Sequence[Stage], operands: Sequence[relax.Expr]) -> relax.Call:
    """``anchor`` with an epilogue."""
    attrs = {**dict(anchor.attrs.items()), "stages": stages_to_json(stages)}
    output = Output(*(anchor.attrs[k] for k in ("out_dtype", "y_zero_point", "qmin", "qmax")))
    return operators.make(op_name(anchor), [*anchor.args, *operands], anchor.attrs["out_shape"], output, attrs)


def elementwise(x: relax.Expr, stages: Sequence[Stage], operands: Sequence[relax.Expr], shape: tuple[int, ...]) -> Any:
    """A chain by itself."""
    attrs = {"stages": stages_to_json(stages)}
    return operators.make(operators.ELEMENTWISE, [x, *operands], shape, Output(), attrs)


def pack(x: relax.Expr, shape: tuple[int, ...], dtype: str = "uint8", **attrs: Any) -> relax.Call:
    """A change to the stored ``shape``."""
    return operators.make(operators.PACK, [x], shape, Output(dtype=dtype), attrs)


def unpack(x: relax.Expr, shape: tuple[int, ...], dtype: str = "uint8", **attrs: Any) -> relax.Call:
    """A change to the model's ``shape``."""
    return operators.make(operators.UNPACK, [x], shape, Output(dtype=dtype), attrs)


def stored(call: relax.Call, x: relax.Expr, shape: tuple[int, ...]) -> relax.Call:
    """``call`` on the stored tensor ``x``, with a stored result of ``shape``."""
    output = Output(*(call.attrs[k] for k in ("out_dtype", "y_zero_point", "qmin", "qmax")))
    return operators.make(op_name(call), [x, *call.args[1:]], shape, output, dict(call.attrs.items()))


def operator_names(module: tvm.IRModule) -> list[str]:
    """The operators that ``main`` calls, in order, without ``octet.`` and ``relax.``."""
    return [op_name(value).split(".", 1)[-1] for _, value in Graph(module).bindings if op_name(value)]


def random_images(count: int = 1, shape: tuple[int, ...] = IMAGE) -> list[Array]:
    """Inputs for :func:`image_module`."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, shape).astype(np.uint8) for _ in range(count)]
