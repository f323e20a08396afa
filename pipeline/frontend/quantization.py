"""Check the quantisation parameters of a graph before anything computes with them.

Rules, for scales and zero points that are constants:

1. A scale is finite and above zero.
2. A scale that values are divided by (the output side) is a normal float: x / denormal overflows, and a CPU that
   flushes denormals divides by zero. A denormal on the input side is harmless: its products are exact or round to 0.
3. A scale is not so large that a dequantised value overflows to inf.
4. A zero point has the type of its tensor and the shape of its scale; for int32 it is zero.
5. A one-dimensional scale has one entry for each slice along its axis, and only where the operator allows one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from pipeline.errors import ModelError, UnsupportedOperatorError
from pipeline.frontend.graph import Array, Graph, Node


@dataclass(frozen=True)
class Operand:
    """Where one quantised tensor of an operator keeps its parameters (indices of the node's inputs)."""

    data: int | None
    """The quantised input; None where the operator's output is the quantised tensor."""
    scale: int | None
    """None: the operator has no scale (the *Integer ones)."""
    zero_point: int
    axis: int | str | None = None
    """Axis of a one-dimensional scale: a number, "axis" (the attribute), "transB" (the columns of Gemm's B), or None
    where the scale must be a scalar."""


_IN0_OUT = (Operand(0, 1, 2), Operand(None, 3, 4))
_BINARY = (Operand(0, 1, 2), Operand(3, 4, 5), Operand(None, 6, 7))

OPERANDS: dict[tuple[str, str], tuple[Operand, ...]] = {
    ("", "QuantizeLinear"): (Operand(None, 1, 2, "axis"),),
    ("", "DequantizeLinear"): (Operand(0, 1, 2, "axis"),),
    ("com.microsoft", "QuantizeLinear"): (Operand(None, 1, 2, "axis"),),
    ("com.microsoft", "DequantizeLinear"): (Operand(0, 1, 2, "axis"),),
    ("", "QLinearConv"): (Operand(0, 1, 2), Operand(3, 4, 5, 0), Operand(None, 6, 7)),
    ("", "QLinearMatMul"): (Operand(0, 1, 2, -2), Operand(3, 4, 5, -1), Operand(None, 6, 7)),
    ("", "ConvInteger"): (Operand(0, None, 2), Operand(1, None, 3, 0)),
    ("", "MatMulInteger"): (Operand(0, None, 2, -2), Operand(1, None, 3, -1)),
    ("com.microsoft", "QGemm"): (Operand(0, 1, 2), Operand(3, 4, 5, "transB"), Operand(None, 7, 8)),
    ("com.microsoft", "QLinearAdd"): _BINARY,
    ("com.microsoft", "QLinearMul"): _BINARY,
    ("com.microsoft", "QLinearAveragePool"): _IN0_OUT,
    ("com.microsoft", "QLinearGlobalAveragePool"): _IN0_OUT,
    ("com.microsoft", "QLinearSigmoid"): _IN0_OUT,
    ("com.microsoft", "QLinearLeakyRelu"): _IN0_OUT,
    ("com.microsoft", "QLinearSoftmax"): _IN0_OUT,
}

_LARGEST_STEP: dict[int, int] = {
    TensorProto.INT8: 255,
    TensorProto.UINT8: 255,
    TensorProto.INT16: 65535,
    TensorProto.UINT16: 65535,
}


def operands_of(node: Node) -> tuple[Operand, ...]:
    """The quantised operands of a node, an empty tuple for ordinary operators."""
    if (node.domain, node.op_type) == ("com.microsoft", "QLinearConcat"):
        triples = (Operand(index, index + 1, index + 2) for index in range(2, len(node.inputs) - 2, 3))
        return (Operand(None, 0, 1), *triples)
    return OPERANDS.get((node.domain, node.op_type), ())


def check_quantization(graph: Graph) -> None:
    """Raise :class:`ModelError`, naming the node, where constant quantisation parameters break one of the rules."""
    for node in graph.nodes:
        for operand in operands_of(node):
            _check_operand(graph, node, operand)


def check_types(graph: Graph) -> None:
    """Raise one :class:`UnsupportedOperatorError` that lists all nodes with types other than 8, 16 and 32-bit integers.

    For a graph whose QuantizeLinear and DequantizeLinear all have zero points.
    """
    found = []
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        dtype = graph.dtype(node.input(2) or node.inputs[0])
        if node.domain or dtype not in (*_LARGEST_STEP, TensorProto.INT32):
            found.append(f"{node.name!r} ({node.op_type}, {TensorProto.DataType.Name(dtype).lower()})")
    if found:
        count = "1 node has a type" if len(found) == 1 else f"{len(found)} nodes have types"
        raise UnsupportedOperatorError(
            f"{count} that cannot be compiled: {'; '.join(found)}. Quantise the model to int8 or uint8."
        )


def _check_operand(graph: Graph, node: Node, operand: Operand) -> None:
    scale_name = "" if operand.scale is None else node.input(operand.scale)
    scale = graph.constant(scale_name) if scale_name else None
    zero_name = node.input(operand.zero_point)
    zero = graph.constant(zero_name) if zero_name else None
    data_dtype = graph.dtype(node.inputs[operand.data]) if operand.data is not None else graph.dtype(zero_name)
    if scale is not None:
        _check_scale(node, scale_name, scale, divides=operand.data is None)
        _check_overflow(graph, node, operand, scale_name, scale, data_dtype)
    if zero is not None:
        _check_zero_point(node, zero_name, zero, graph.dtype(zero_name), data_dtype)
    if scale is not None and zero is not None and scale.size != zero.size and zero.size != 1:
        raise _error(node, f"zero point {zero_name!r} has {zero.size} values for the {scale.size} of its scale")
    if operand.scale is None:
        _check_axis(graph, node, operand, zero_name, zero)
    else:
        _check_axis(graph, node, operand, scale_name, scale)


def _check_scale(node: Node, name: str, scale: Array, divides: bool) -> None:
    if not np.issubdtype(scale.dtype, np.floating):
        return  # float8 and bfloat16 scales: numpy does not count them as floating; the importer decides about them
    for problem, bad in (
        ("NaN", np.isnan(scale)),
        ("inf", np.isinf(scale)),
        ("0", scale == 0),
        ("negative", scale < 0),
    ):
        if bad.any():
            where = f" (entry {int(np.argmax(bad))})" if scale.size > 1 else ""
            raise _error(node, f"scale {name!r} is {problem}{where}; it must be finite and above zero")
    if divides and (scale < np.finfo(scale.dtype).tiny).any():
        raise _error(node, f"scale {name!r} is a denormal number, by which no value can be divided safely")


def _check_overflow(graph: Graph, node: Node, operand: Operand, name: str, scale: Array, data_dtype: int) -> None:
    steps = _LARGEST_STEP.get(data_dtype)
    if operand.data is not None and data_dtype == TensorProto.INT32:
        data = graph.constant(node.inputs[operand.data])
        steps = None if data is None or data.size == 0 else int(np.abs(data.astype(np.int64)).max())
    if steps is None or not np.issubdtype(scale.dtype, np.floating):
        return
    if (scale.astype(np.float64) * steps > np.finfo(scale.dtype).max).any():
        raise _error(node, f"scale {name!r} is so large ({scale.max():g}) that dequantised values overflow")


def _check_zero_point(node: Node, name: str, zero: Array, zero_dtype: int, data_dtype: int) -> None:
    if data_dtype and zero_dtype != data_dtype:
        have, want = (TensorProto.DataType.Name(kind).lower() for kind in (zero_dtype, data_dtype))
        raise _error(node, f"zero point {name!r} has type {have}, but the tensor has {want}")
    if zero_dtype == TensorProto.INT32 and zero.any():
        raise _error(node, f"zero point {name!r} of an int32 tensor is not 0")


def _check_axis(graph: Graph, node: Node, operand: Operand, name: str, value: Array | None) -> None:
    """``value``: the scale, or the zero point of an operator without scales."""
    if value is None or value.size == 1 or node.attr("block_size", 0):
        return
    if operand.axis is None:
        raise _error(node, f"{name!r} has {value.size} values where the operator takes a single one")
    if value.ndim != 1:
        if operand.axis in (-1, -2):  # QLinearMatMul and MatMulInteger allow [..., rows, 1] and [..., 1, columns]
            return
        raise _error(node, f"{name!r} has {value.ndim} dimensions; a scale is a scalar or a vector")
    shape = graph.type_of(node.inputs[operand.data or 0]).shape
    if shape is None:
        return
    axis = _axis(node, operand.axis)
    if not -len(shape) <= axis < len(shape):
        raise _error(node, f"axis {axis} is out of range for a tensor of {len(shape)} dimensions")
    size = shape[axis]
    if size is not None and size != value.size:
        raise _error(node, f"{name!r} has {value.size} values, but axis {axis} of the tensor has {size}")


def _axis(node: Node, axis: int | str) -> int:
    if axis == "axis":
        return int(node.attr("axis", 1))
    if axis == "transB":
        return 0 if node.attr("transB", 0) else 1
    return int(axis)


def _error(node: Node, problem: str) -> ModelError:
    return ModelError(f"node {node.name!r} ({node.op_type}): {problem}. Quantise the model again.")
