"""The kinds of units of random graphs. Each appends one unit to a graph, or returns False where it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.end_to_end.random_graphs import Floats, Graph
from tests.pipeline.passes.integer import qdq

Kind = Callable[[Graph], bool]


def _shape(graph: Graph) -> tuple[int, ...]:
    return graph.codes[-1].shape


def _last(graph: Graph) -> int:
    return len(graph.codes) - 1


def _simple(op: str, *, same: bool = False, **attributes: Any) -> Kind:
    """An operator on any tensor, with the same attributes every time."""

    def kind(graph: Graph) -> bool:
        graph.append(op, [_last(graph)], lambda m, x: m.op(op, x[0], **attributes), same=same)
        return True

    return kind


def rescale(graph: Graph) -> bool:
    """DequantizeLinear and QuantizeLinear with nothing between."""
    graph.append("rescale", [_last(graph)], lambda _m, x: x[0])
    return True


def clip(graph: Graph) -> bool:
    """Clip to a range inside what the codes stand for, or as relu6."""
    low, high = sorted(graph.random.uniform(-2, 4, 2).tolist()) if graph.random.random() < 0.5 else (0.0, 6.0)
    graph.append(
        "clip", [_last(graph)], lambda m, x: m.op("Clip", x[0], m.constant(low, "float32"), m.constant(high, "float32"))
    )
    return True


def silu(graph: Graph) -> bool:
    """x * sigmoid(x): two operators that read one tensor, and one table."""
    graph.append("silu", [_last(graph)], lambda m, x: m.op("Mul", x[0], m.op("Sigmoid", x[0])))
    return True


# Layers with weights.


Operand = Callable[[qdq.Model], str]


def _weight(graph: Graph, shape: tuple[int, ...], axis: int) -> tuple[Operand, Any]:
    """A DequantizeLinear of random weights, and its scale: s8 or u8, one scale or one a channel, any zero point."""
    random = graph.random
    dtype = str(random.choice(["int8", "int8", "uint8"]))
    limits = np.iinfo(dtype)
    codes = qdq.codes(shape, dtype, int(random.integers(2**31)))
    if random.random() < 0.25:
        codes = random.choice(np.array([limits.min, limits.max], dtype), shape)
    if random.random() < 0.15:
        np.moveaxis(codes, axis, 0)[0] = 0 if dtype == "int8" else 128
    channels = shape[axis]
    per_channel = random.random() < 0.5
    scale: Any = np.float32(random.uniform(0.001, 0.02))
    zero: Any = 0 if dtype == "int8" else 128
    if per_channel:
        scale = random.uniform(0.001, 0.02, channels).astype(np.float32)
    if random.random() < 0.3:
        zero = random.integers(limits.min, limits.max + 1, channels if per_channel else ()).astype(dtype)
    return lambda model: model.weight(codes, scale, zero, axis), scale


def _bias(graph: Graph, channels: int, weight_scale: Any) -> tuple[list[Operand], float]:
    """No bias, one in whole steps of the sums, or real numbers, and the least scale of the output.

    The kernels round a real bias to a step of the sum; where that is larger than a step of the output, the result is
    further off than one.
    """
    kind = graph.random.random()
    if kind < 0.3:
        return [], 0.0
    step = np.float32(graph.quantizations[-1].scale) * weight_scale
    values = graph.random.normal(size=channels)
    if kind < 0.6:
        codes = np.rint(values / step).astype(np.int32)
        return [lambda model: model.dequantize(model.constant(codes), step, 0, "int32", axis=0)], 0.0
    return [lambda model: model.constant(values, "float32")], float(np.max(step))


def _with_activation(graph: Graph, floats: Floats) -> Floats:
    """``floats``, or with a relu, relu6 or leaky relu behind."""
    kind = str(graph.random.choice(["none", "Relu", "Clip", "LeakyRelu"], p=[0.4, 0.3, 0.15, 0.15]))
    if kind == "none":
        return floats
    if kind == "Clip":
        return lambda m, x: m.op("Clip", floats(m, x), m.constant(0.0, "float32"), m.constant(6.0, "float32"))
    return lambda m, x: m.op(kind, floats(m, x))


def _conv(graph: Graph, groups: int, out_channels: int) -> bool:
    random, (_, c, *size) = graph.random, _shape(graph)
    rank = len(size)
    kernel = [int(random.integers(1, 4)) for _ in size]
    dilations = [int(random.integers(1, 3)) for _ in size]
    pads = [int(p) for p in random.integers(0, 3, 2 * rank)]
    strides = [int(s) for s in random.integers(1, 3, rank)]
    for i in range(rank):
        if size[i] + pads[i] + pads[i + rank] < dilations[i] * (kernel[i] - 1) + 1:
            kernel[i] = 1
    weight, scale = _weight(graph, (out_channels, c // groups, *kernel), 0)
    bias, coarsest = _bias(graph, out_channels, scale)

    def floats(m: qdq.Model, x: Any) -> str:
        operands = [x[0], weight(m), *(b(m) for b in bias)]
        return m.op("Conv", *operands, pads=pads, strides=strides, dilations=dilations, group=groups)

    graph.append("conv", [_last(graph)], _with_activation(graph, floats), at_least=coarsest)
    return True


def conv(graph: Graph) -> bool:
    """A convolution over two axes or one."""
    return len(_shape(graph)) in (3, 4) and _conv(graph, 1, int(graph.random.choice([1, 3, 5, 16, 17])))


def depthwise(graph: Graph) -> bool:
    """One filter a channel, or two."""
    shape = _shape(graph)
    return len(shape) in (3, 4) and _conv(graph, shape[1], shape[1] * int(graph.random.choice([1, 1, 2])))


def grouped(graph: Graph) -> bool:
    """A convolution in groups."""
    shape = _shape(graph)
    divisors = [g for g in range(2, shape[1]) if shape[1] % g == 0] if len(shape) == 4 else []
    if not divisors:
        return False
    groups = int(graph.random.choice(divisors))
    return _conv(graph, groups, groups * int(graph.random.choice([1, 3, 8])))


def gemm(graph: Graph) -> bool:
    """A fully connected layer of ONNX's old kind."""
    shape = _shape(graph)
    if len(shape) != 2:
        return False
    units, transposed = int(graph.random.choice([1, 7, 10, 33])), int(graph.random.integers(0, 2))
    weight, scale = _weight(graph, (units, shape[1]) if transposed else (shape[1], units), 0 if transposed else 1)
    bias, coarsest = _bias(graph, units, scale)

    def floats(m: qdq.Model, x: Any) -> str:
        return m.op("Gemm", x[0], weight(m), *(b(m) for b in bias), transB=transposed)

    graph.append("gemm", [_last(graph)], _with_activation(graph, floats), at_least=coarsest)
    return True


def matmul(graph: Graph) -> bool:
    """A product with constant weights, and a bias that is added behind it."""
    shape = _shape(graph)
    if len(shape) < 2:
        return False
    units = int(graph.random.choice([1, 7, 10, 33]))
    weight, scale = _weight(graph, (shape[-1], units), 1)
    bias, coarsest = _bias(graph, units, scale)

    def floats(m: qdq.Model, x: Any) -> str:
        product = m.op("MatMul", x[0], weight(m))
        return m.op("Add", product, bias[0](m)) if bias else product

    graph.append("matmul", [_last(graph)], floats, at_least=coarsest)
    return True


def attention(graph: Graph) -> bool:
    """A product of two activations: a tensor with itself, transposed."""
    rank = len(_shape(graph))
    if rank < 2:
        return False
    order = [*range(rank - 2), rank - 1, rank - 2]
    last = _last(graph)
    graph.append("attention", [last, last], lambda m, x: m.op("MatMul", x[0], m.op("Transpose", x[1], perm=order)))
    return True


# Two tensors.


def _binary(op: str) -> Kind:
    def kind(graph: Graph) -> bool:
        shape, last = _shape(graph), _last(graph)
        fitting = [i for i, x in enumerate(graph.codes) if x.shape == shape]
        if len(shape) == 4:
            fitting += [i for i, x in enumerate(graph.codes) if x.shape in ((*shape[:2], 1, 1), (1, *shape[1:]))]
        operands = [last, int(graph.random.choice(fitting))]
        if graph.random.random() < 0.5:
            operands.reverse()
        graph.append(op, operands, _with_activation(graph, lambda m, x: m.op(op, x[0], x[1])))
        return True

    return kind


def gate(graph: Graph) -> bool:
    """A product with the sigmoid of an average: squeeze and excite."""
    if len(_shape(graph)) != 4:
        return False
    last = _last(graph)
    graph.append("gate", [last], lambda m, x: m.op("Sigmoid", m.op("GlobalAveragePool", x[0])))
    graph.append("Mul", [last, last + 1], lambda m, x: m.op("Mul", x[0], x[1]))
    return True


def concat(graph: Graph) -> bool:
    """Two or three tensors along an axis, each with its own scale."""
    shape, last = _shape(graph), _last(graph)
    axis = (
        int(graph.random.integers(-len(shape), len(shape))) if graph.random.random() < 0.4 else min(1, len(shape) - 1)
    )
    rest = [d for i, d in enumerate(shape) if i != axis % len(shape)]
    fitting = [
        i
        for i, x in enumerate(graph.codes)
        if x.ndim == len(shape) and [d for j, d in enumerate(x.shape) if j != axis % len(shape)] == rest
    ]
    others = graph.random.choice(fitting, int(graph.random.integers(1, 3))).tolist()
    graph.append("concat", [last, *others], lambda m, x: m.op("Concat", *x, axis=axis), same=True)
    return True


# Windows and averages.


def _pool(op: str) -> Kind:
    def kind(graph: Graph) -> bool:
        random, shape = graph.random, _shape(graph)
        if len(shape) != 4:
            return False
        kernel = [int(random.integers(1, min(4, d) + 1)) for d in shape[2:]]
        pads = [int(random.integers(0, k)) for k in (*kernel, *kernel)]
        attributes: dict[str, Any] = {
            "kernel_shape": kernel,
            "pads": pads,
            "strides": [int(s) for s in random.integers(1, 3, 2)],
            "ceil_mode": int(random.random() < 0.3 and not any(pads)),
        }
        if op == "AveragePool":
            attributes["count_include_pad"] = int(random.integers(0, 2))
        graph.append(op, [_last(graph)], lambda m, x: m.op(op, x[0], **attributes), same=op == "MaxPool")
        return True

    return kind


def global_average(graph: Graph) -> bool:
    """The average of each channel."""
    if len(_shape(graph)) != 4:
        return False
    graph.append("gap", [_last(graph)], lambda m, x: m.op("GlobalAveragePool", x[0]))
    return True


def mean(graph: Graph) -> bool:
    """The average over some axes."""
    rank = len(_shape(graph))
    axes = sorted(graph.random.choice(rank, int(graph.random.integers(1, rank + 1)), replace=False).tolist())
    graph.append("mean", [_last(graph)], lambda m, x: m.op("ReduceMean", x[0], axes=axes, keepdims=1))
    return True


def softmax(graph: Graph) -> bool:
    """Over any axis."""
    axis = int(graph.random.integers(-len(_shape(graph)), len(_shape(graph))))
    graph.append("softmax", [_last(graph)], lambda m, x: m.op("Softmax", x[0], axis=axis))
    return True


# Movement.


def flatten(graph: Graph) -> bool:
    """To a matrix."""
    shape = _shape(graph)
    if len(shape) < 3:
        return False
    graph.append("flatten", [_last(graph)], lambda m, x: m.op("Flatten", x[0], axis=1), same=True)
    return True


def reshape(graph: Graph) -> bool:
    """Height and width into one axis, or the channels apart."""
    shape = _shape(graph)
    if len(shape) == 4:
        target = [shape[0], shape[1], shape[2] * shape[3]]
    elif len(shape) == 2:
        target = [shape[0], shape[1], 1, 1]
    else:
        return False
    graph.append("reshape", [_last(graph)], lambda m, x: m.op("Reshape", x[0], m.constant(target, "int64")), same=True)
    return True


def transpose(graph: Graph) -> bool:
    """Axes in any order."""
    order = graph.random.permutation(len(_shape(graph))).tolist()
    graph.append("transpose", [_last(graph)], lambda m, x: m.op("Transpose", x[0], perm=order), same=True)
    return True


def slice_(graph: Graph) -> bool:
    """Part of one axis, in steps, also backwards."""
    shape = _shape(graph)
    axis = int(graph.random.integers(len(shape)))
    size, step = shape[axis], int(graph.random.choice([1, 1, 2, -1]))
    start, end = (0, max(1, size - 1)) if step > 0 else (size - 1, -(2**31))
    parts = [[start], [end], [axis], [step]]
    graph.append(
        "slice", [_last(graph)], lambda m, x: m.op("Slice", x[0], *(m.constant(p, "int64") for p in parts)), same=True
    )
    return True


def pad(graph: Graph) -> bool:
    """With zeros, or another number, around the last axes."""
    rank = len(_shape(graph))
    widths = [0] * (2 * rank)
    for axis in range(max(0, rank - 2), rank):
        widths[axis], widths[axis + rank] = graph.random.integers(0, 3, 2).tolist()
    value = float(graph.random.choice([0.0, 0.0, 0.7]))
    graph.append(
        "pad",
        [_last(graph)],
        lambda m, x: m.op("Pad", x[0], m.constant(widths, "int64"), m.constant(value, "float32")),
        same=True,
    )
    return True


def _resize(mode: str) -> Kind:
    def kind(graph: Graph) -> bool:
        shape = _shape(graph)
        if len(shape) != 4 or shape[2] * shape[3] > 100:
            return False
        scales = [1.0, 1.0, *graph.random.choice([1.0, 2.0, 3.0], 2).tolist()]
        nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        attributes: dict[str, Any] = nearest if mode == "nearest" else {"coordinate_transformation_mode": "half_pixel"}
        graph.append(
            "resize",
            [_last(graph)],
            lambda m, x: m.op("Resize", x[0], "", m.constant(scales, "float32"), mode=mode, **attributes),
            same=mode == "nearest",
        )
        return True

    return kind


KINDS: dict[str, Kind] = {
    "rescale": rescale,
    "conv": conv,
    "depthwise": depthwise,
    "grouped": grouped,
    "gemm": gemm,
    "matmul": matmul,
    "attention": attention,
    "add": _binary("Add"),
    "sub": _binary("Sub"),
    "mul": _binary("Mul"),
    "gate": gate,
    "concat": concat,
    "max-pool": _pool("MaxPool"),
    "average-pool": _pool("AveragePool"),
    "global-average": global_average,
    "mean": mean,
    "softmax": softmax,
    "relu": _simple("Relu", same=True),
    "clip": clip,
    "sigmoid": _simple("Sigmoid"),
    "tanh": _simple("Tanh"),
    "leaky-relu": _simple("LeakyRelu", alpha=0.1),
    "hard-swish": _simple("HardSwish"),
    "hard-sigmoid": _simple("HardSigmoid"),
    "elu": _simple("Elu"),
    "exp": _simple("Exp"),
    "silu": silu,
    "flatten": flatten,
    "reshape": reshape,
    "transpose": transpose,
    "slice": slice_,
    "pad": pad,
    "resize-nearest": _resize("nearest"),
    "resize-linear": _resize("linear"),
}
