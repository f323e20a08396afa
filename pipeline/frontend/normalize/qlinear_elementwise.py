"""com.microsoft QLinearAdd, Mul, Concat, Sigmoid, LeakyRelu and Softmax → DequantizeLinear, operator, QuantizeLinear.

QLinearSoftmax carries the opset it was written for: before 13 it flattens everything from its axis on, which becomes
Flatten, Softmax, Reshape (in float, between the two scales) unless the axis is the last one.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import ModelError
from pipeline.frontend.graph import Graph, Node
from pipeline.frontend.normalize._rewrite import Rewrite

_BINARY = {"QLinearAdd": "Add", "QLinearMul": "Mul"}
_UNARY = {"QLinearSigmoid": "Sigmoid", "QLinearLeakyRelu": "LeakyRelu"}


def expand_qlinear_elementwise(graph: Graph) -> None:
    """Rewrite the element-wise QLinear operators, QLinearConcat and QLinearSoftmax."""
    graph.sweep(_expand)


def _expand(graph: Graph, node: Node) -> list[Node] | None:
    if node.domain != "com.microsoft":
        return None
    rewrite = Rewrite(graph, node)
    dtype = graph.dtype(node.inputs[0])
    if node.op_type in _BINARY:
        sides = [_dequantize(rewrite, node, first) for first in (0, 3)]
        rewrite.quantize(rewrite.main(_BINARY[node.op_type], sides), node.input(6), node.input(7), dtype)
    elif node.op_type == "QLinearConcat":
        parts = [_dequantize(rewrite, node, first) for first in range(2, len(node.inputs) - 2, 3)]
        rewrite.quantize(rewrite.main("Concat", parts), node.inputs[0], node.inputs[1])
    elif node.op_type in _UNARY:
        value = _dequantize(rewrite, node, 0)
        rewrite.quantize(rewrite.main(_UNARY[node.op_type], [value]), node.input(3), node.input(4), dtype)
    elif node.op_type == "QLinearSoftmax":
        value = _dequantize(rewrite, node, 0)
        rewrite.quantize(_softmax(graph, node, rewrite, value), node.input(3), node.input(4), dtype)
    else:
        return None
    return rewrite.nodes


def _dequantize(rewrite: Rewrite, node: Node, first: int) -> str:
    """The operand whose data, scale and zero point start at input ``first``."""
    return rewrite.dequantize(node.input(first), node.input(first + 1), node.input(first + 2))


def _softmax(graph: Graph, node: Node, rewrite: Rewrite, value: str) -> str:
    axis = node.attr("axis", -1)
    rank = graph.rank(node.inputs[0])
    is_last = axis == -1 or (rank is not None and axis in (-1, rank - 1))
    if node.attr("opset", 13) >= 13 or is_last:
        return rewrite.op("Softmax", [value], {"axis": axis})
    shape = graph.shape(node.inputs[0])
    if shape is None:
        raise ModelError(f"node {node.name!r} (QLinearSoftmax): its input shape is not known at compile time.")
    flat = rewrite.op("Flatten", [value], {"axis": axis}, "flatten")
    normal = rewrite.op("Softmax", [flat], {"axis": -1})
    target = graph.add_constant(f"{node.name}_shape", np.asarray(shape, np.int64))
    return rewrite.op("Reshape", [normal, target], suffix="reshape")
