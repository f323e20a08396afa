"""From the text of a problem to the operators that it stands for; see :mod:`tests.schedules.problem`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.operators import Output, shape_of, window_size
from tests.octet_runner import Array, Body, Case
from tests.schedules.problem import Draw, Problem, parse

Shape = tuple[int, ...]
Maker = Callable[[Problem, Draw], Case]
Anchor = Callable[[relax.BlockBuilder, relax.Expr], relax.Expr]


def case_of(text: str) -> Case:
    """The case of a problem.

    Raises:
        ValueError: the text is not of the notation, or has a part that the operator does not know.
    """
    problem = parse(text)
    if problem.operator not in _MAKERS:
        raise ValueError(f"{text}: {problem.operator} is none of {', '.join(_MAKERS)}")
    case = _MAKERS[problem.operator](problem, Draw(text))
    problem.done()
    return case


def _output(problem: Problem, zero_point: int = 77) -> Output:
    """Dtype by word; ``y`` is the zero point of the result, ``lo`` and ``hi`` its range."""
    dtype = problem.word("int32", "float32", "uint8", default="uint8")
    return Output(dtype, problem.number("y", zero_point), problem.number("lo", 0), problem.number("hi", 255))


def _uint8_case(problem: Problem, draw: Draw, shapes: Sequence[Shape], body: Body) -> Case:
    return Case(problem.text, tuple((s, "uint8") for s in shapes), body, draw.fills(*shapes))


def _ratio(problem: Problem, name: str, default: int) -> float:
    """A real number, given in thousandths."""
    return problem.number(name, default) / 1000


# Epilogues.


def _stage(builder: relax.BlockBuilder, kind: str, x: relax.Expr, other: relax.Expr, table: Array) -> relax.Expr:
    """One element-wise operator behind ``x``, which an add has on its left and a mul on its right."""
    output = Output(zero_point=101, qmin=3, qmax=250)
    if kind == "add":
        call = operators.add(x, other, a_ratio=0.61, b_ratio=0.37, a_zero_point=77, b_zero_point=31, output=output)
    elif kind == "mul":
        call = operators.multiply(other, x, multiplier=0.0123, a_zero_point=31, b_zero_point=77, output=output)
    elif kind == "lookup":
        call = operators.lookup(x, relax.const(table))
    else:
        call = operators.requantize(x, multiplier=0.83, x_zero_point=77, output=output)
    return builder.emit(call)


def _staged(problem: Problem, draw: Draw, x_shape: Shape, out_shape: Shape, anchor: Anchor) -> Case:
    """``anchor(builder, x)`` on a uint8 tensor, and the problem's stages behind it."""
    stages, tables = list(problem.stages), [draw.table() for _ in problem.stages]
    others = sum(s in ("add", "mul") for s in stages)

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        result, remaining = anchor(builder, params[0]), iter(params[1:])
        for kind, table in zip(stages, tables, strict=True):
            result = _stage(builder, kind, result, next(remaining) if kind in ("add", "mul") else None, table)
        return result

    return _uint8_case(problem, draw, [x_shape, *[out_shape] * others], body)


# Convolutions and matrix products.


def _conv(problem: Problem, draw: Draw) -> Case:
    number = problem.number
    n, groups, ic, oc = number("n", 1), number("g", 1), number("ic"), number("oc")
    (h, w), (kh, kw) = problem.pair("ih", "iw", 7), problem.pair("kh", "kw", 1)
    strides, dilation = problem.pair("sh", "sw", 1), [d + 1 for d in problem.pair("dh", "dw", 0)]
    top, left = problem.pair("ph", "pw", 0)
    padding = [top, left, number("pb", top), number("pr", left)]
    zero_point, output = number("zp", 128), _output(problem)
    weight = draw.weights((oc, ic // groups, kh, kw), "int16" if problem.word("wide") else "int8")
    window_sum = bool(problem.word("windowsum"))
    zeros = draw.random.integers(-128, 128, oc).astype(np.int32)
    bias = draw.bias(weight, reserve=255 * 128 * weight[0].size if window_sum else 0)
    multiplier = draw.multipliers(weight, below_one=bool(problem.word("belowone")))
    geometry: dict[str, Any] = {
        "strides": strides,
        "padding": padding,
        "dilation": dilation,
        "x_zero_point": zero_point,
    }

    def anchor(builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        sums: dict[str, relax.Expr] = {}
        if window_sum:
            ones = [np.ones((1, *weight.shape[1:]), np.int8), np.zeros(1, np.int32), np.ones(1, np.float32)]
            total = operators.conv2d(x, *map(relax.const, ones), **geometry, groups=1, output=Output(dtype="int32"))
            sums = {"window_sum": builder.emit(total), "weight_zero_point": relax.const(zeros)}
        w, b, m = map(relax.const, (weight, bias, multiplier))
        return builder.emit(operators.conv2d(x, w, b, m, **geometry, groups=groups, output=output, **sums))

    oh = window_size(h, kh, strides[0], padding[0], padding[2], dilation[0])
    ow = window_size(w, kw, strides[1], padding[1], padding[3], dilation[1])
    return _staged(problem, draw, (n, ic, h, w), (n, oc, oh, ow), anchor)


def _dense(problem: Problem, draw: Draw) -> Case:
    k, n, zero_point, output = problem.number("k"), problem.number("n"), problem.number("zp", 128), _output(problem)
    lead = problem.shapes[0] if problem.shapes else (1,)
    window_sum = bool(problem.word("windowsum"))
    weight = draw.weights((n, k), "int8")
    zeros = draw.random.integers(-128, 128, n).astype(np.int32)
    bias = draw.bias(weight, reserve=255 * 128 * k if window_sum else 0)
    multiplier = draw.multipliers(weight)

    def anchor(builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        sums: dict[str, relax.Expr] = {}
        if window_sum:
            ones = [np.ones((1, k), np.int8), np.zeros(1, np.int32), np.ones(1, np.float32)]
            total = operators.dense(x, *map(relax.const, ones), x_zero_point=zero_point, output=Output(dtype="int32"))
            sums = {"window_sum": builder.emit(total), "weight_zero_point": relax.const(zeros)}
        constants = map(relax.const, (weight, bias, multiplier))
        return builder.emit(operators.dense(x, *constants, x_zero_point=zero_point, output=output, **sums))

    return _staged(problem, draw, (*lead, k), (*lead, n), anchor)


def _matmul(problem: Problem, draw: Draw) -> Case:
    (a, b), output = problem.shapes, _output(problem)
    zeros: dict[str, Any] = {"a_zero_point": problem.number("za", 100), "b_zero_point": problem.number("zb", 128)}
    multiplier = np.array([50 / (74 * 74 * math.sqrt(a[-1]))], np.float32)

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        a, b = params
        return builder.emit(operators.matmul(a, b, relax.const(multiplier), **zeros, output=output))

    return _uint8_case(problem, draw, [a, b], body)


# Pools and softmax.


def _window(problem: Problem) -> tuple[Shape, dict[str, Any], tuple[int, int]]:
    number = problem.number
    shape = (number("n", 1), number("c"), *problem.pair("ih", "iw", 7))
    kernel, strides = problem.pair("kh", "kw", 1), problem.pair("sh", "sw", 1)
    top, left = problem.pair("ph", "pw", 0)
    padding = (top, left, number("pb", top), number("pr", left))
    dilation = tuple(d + 1 for d in problem.pair("dh", "dw", 0))
    out = tuple(
        window_size(shape[2 + i], kernel[i], strides[i], padding[i], padding[i + 2], dilation[i]) for i in (0, 1)
    )
    return shape, {"kernel": kernel, "strides": strides, "padding": padding, "dilation": dilation}, (out[0], out[1])


def _max_pool(problem: Problem, draw: Draw) -> Case:
    shape, window, _ = _window(problem)

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        return builder.emit(operators.max_pool2d(params[0], **window))

    return _uint8_case(problem, draw, [shape], body)


def _average_pool(problem: Problem, draw: Draw) -> Case:
    shape, window, out = _window(problem)
    del window["dilation"]
    zero_point, output = problem.number("zp", 128), _output(problem)
    count = math.prod(window["kernel"])
    multiplier = (draw.random.uniform(0.7, 1.4, out) / count).astype(np.float32)
    multiplier.flat[0] = 1 / count

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        x, m = params[0], relax.const(multiplier)
        return builder.emit(operators.avg_pool2d(x, m, **window, x_zero_point=zero_point, output=output))

    return _uint8_case(problem, draw, [shape], body)


def _softmax(problem: Problem, draw: Draw) -> Case:
    (shape,), axis, step = problem.shapes, problem.number("axis", 1), _ratio(problem, "step", 50)
    output = _output(problem, 0)
    table = np.exp(-step * np.arange(256)).astype(np.float32)
    inverse = 1.0 if output.dtype == "float32" else 256.0

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        x = params[0]
        return builder.emit(operators.softmax(x, relax.const(table), axis=axis, inverse_scale=inverse, output=output))

    return _uint8_case(problem, draw, [shape], body)


# Element by element.


def _add(problem: Problem, draw: Draw) -> Case:
    ratios: dict[str, Any] = {"a_ratio": _ratio(problem, "a", 610), "b_ratio": _ratio(problem, "b", 370)}
    zeros: dict[str, Any] = {"a_zero_point": problem.number("za", 128), "b_zero_point": problem.number("zb", 3)}
    output = _output(problem)

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        a, b = params
        return builder.emit(operators.add(a, b, **ratios, **zeros, output=output))

    return _uint8_case(problem, draw, problem.shapes, body)


def _multiply(problem: Problem, draw: Draw) -> Case:
    zeros: dict[str, Any] = {"a_zero_point": problem.number("za", 128), "b_zero_point": problem.number("zb", 3)}
    multiplier, output = _ratio(problem, "m", 12), _output(problem)

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        a, b = params
        return builder.emit(operators.multiply(a, b, multiplier=multiplier, **zeros, output=output))

    return _uint8_case(problem, draw, problem.shapes, body)


def _lookup(problem: Problem, draw: Draw) -> Case:
    table = draw.table()

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        return builder.emit(operators.lookup(params[0], relax.const(table)))

    return _uint8_case(problem, draw, problem.shapes, body)


def _requantize(problem: Problem, draw: Draw) -> Case:
    multiplier, zero_point, output = _ratio(problem, "m", 830), problem.number("zp", 128), _output(problem)

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        call = operators.requantize(params[0], multiplier=multiplier, x_zero_point=zero_point, output=output)
        return builder.emit(call)

    return _uint8_case(problem, draw, problem.shapes, body)


def _chain(problem: Problem, draw: Draw) -> Case:
    """The problem's stages alone, without a convolution in front."""
    (shape,) = problem.shapes
    return _staged(problem, draw, shape, shape, lambda _builder, x: x)


def _quantize(problem: Problem, draw: Draw) -> Case:
    (shape,), scale, zero_point = problem.shapes, _ratio(problem, "scale", 20), problem.number("zp", 128)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-39, 3.4e38, -3.4e38], np.float32)
    ties = (np.arange(-300, 300) + np.float32(0.5)) * np.float32(scale)
    fills = {
        "random": draw.random.normal(size=shape) * scale * 100,
        "ties": np.resize(ties, shape),
        "beside ties": np.nextafter(np.resize(ties, shape).astype(np.float32), np.float32(0)),
        "special": np.resize(special, shape),
        "far": draw.random.normal(size=shape) * 1e30,
    }

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        return builder.emit(operators.quantize(params[0], scale=scale, zero_point=zero_point))

    return Case(problem.text, ((shape, "float32"),), body, {k: [v.astype(np.float32)] for k, v in fills.items()})


def _dequantize(problem: Problem, draw: Draw) -> Case:
    scale, zero_point = _ratio(problem, "scale", 20), problem.number("zp", 128)

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        return builder.emit(operators.dequantize(params[0], scale=scale, zero_point=zero_point))

    return _uint8_case(problem, draw, problem.shapes, body)


def _reencode(problem: Problem, draw: Draw) -> Case:
    (shape,), target = problem.shapes, problem.word("uint8", "int8", default="uint8")
    source = "int8" if target == "uint8" else "uint8"
    fills = {name: [x.view(source) for x in inputs] for name, inputs in draw.fills(shape).items()}

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        return builder.emit(operators.reencode(params[0], target))

    return Case(problem.text, ((shape, source),), body, fills)


# Data movement in the stored layout.


def _concat(problem: Problem, draw: Draw) -> Case:
    """Channels of several tensors, the first of which is stored because a pool makes it."""
    pool = {"kernel": (1, 1), "strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        stored = builder.emit(operators.max_pool2d(params[0], **pool))
        return builder.emit(relax.op.concat([stored, *params[1:]], axis=1))

    assert all(len(s) == 4 for s in problem.shapes)
    return _uint8_case(problem, draw, problem.shapes, body)


def _constant_added(problem: Problem, draw: Draw) -> Case:
    """A 1x1 convolution and the sum of its result and a constant tensor."""
    (shape,), oc = problem.shapes, problem.number("oc")
    weight = draw.weights((oc, shape[1], 1, 1), "int8")
    constant = draw.fills((1 if problem.word("broadcast") else shape[0], oc, *shape[2:]))["random"][0]
    bias, multiplier = draw.bias(weight), draw.multipliers(weight)
    geometry: dict[str, Any] = {"strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        constants = map(relax.const, (weight, bias, multiplier))
        x = operators.conv2d(params[0], *constants, **geometry, x_zero_point=9, output=Output(zero_point=77))
        return _stage(builder, "add", builder.emit(x), relax.const(constant), draw.table())

    return _uint8_case(problem, draw, [shape], body)


def _global_features(problem: Problem, draw: Draw) -> Case:
    """A global average, its result as (N, C), and a fully connected layer: the end of a classifier."""
    (shape,), units = problem.shapes, problem.number("units")
    n, c, h, w = shape
    mean = np.full((1, 1), 1.9 / (h * w), np.float32)
    weight = draw.weights((units, c), "int8")
    bias, multiplier = draw.bias(weight), draw.multipliers(weight)

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        window: dict[str, Any] = {"kernel": (h, w), "strides": (1, 1), "padding": (0, 0, 0, 0), "x_zero_point": 100}
        pooled = operators.avg_pool2d(params[0], relax.const(mean), **window, output=Output(zero_point=90))
        rows = builder.emit(relax.op.reshape(builder.emit(pooled), (n, c)))
        assert shape_of(rows) == (n, c)
        constants = map(relax.const, (weight, bias, multiplier))
        return builder.emit(operators.dense(rows, *constants, x_zero_point=90, output=Output(zero_point=60)))

    return _uint8_case(problem, draw, [shape], body)


_MAKERS: dict[str, Maker] = {
    "conv": _conv,
    "dense": _dense,
    "matmul": _matmul,
    "maxpool": _max_pool,
    "avgpool": _average_pool,
    "softmax": _softmax,
    "add": _add,
    "mul": _multiply,
    "lookup": _lookup,
    "requantize": _requantize,
    "chain": _chain,
    "quantize": _quantize,
    "dequantize": _dequantize,
    "reencode": _reencode,
    "concat": _concat,
    "constant": _constant_added,
    "features": _global_features,
}
