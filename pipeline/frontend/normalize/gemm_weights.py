"""Gemm with transB=1 and a constant weight → transB=0 and the transposed constant.

Does: both forms of a weight, a float constant and DequantizeLinear(constant), the axis of a per-channel scale
included; a weight that others read is copied. Does not: touch transA or a weight that is computed.
"""

from __future__ import annotations

import numpy as np

from pipeline.frontend.graph import Graph, Node


def fold_gemm_transpose(graph: Graph) -> None:
    """Transpose constant weights at compile time."""
    graph.sweep(_fold)


def _fold(graph: Graph, node: Node) -> list[Node] | None:
    if not node.is_op("Gemm") or not node.attr("transB", 0):
        return None
    weight = node.inputs[1]
    value = graph.constant(weight)
    if value is not None:
        node.inputs[1] = graph.add_constant(f"{weight}_transposed", np.ascontiguousarray(value.T))
        node.set_attr("transB", 0)
        return [node]
    dequantize = graph.producer(weight)
    if dequantize is None or not dequantize.is_op("DequantizeLinear"):
        return None
    data = graph.constant(dequantize.inputs[0])
    if data is None:
        return None
    name = graph.add_constant(f"{dequantize.inputs[0]}_transposed", np.ascontiguousarray(data.T))
    output = graph.fresh_tensor_name(f"{weight}_transposed")
    graph.declare(output, graph.dtype(weight), data.T.shape)
    moved = Node(
        "DequantizeLinear",
        [name, *dequantize.inputs[1:]],
        [output],
        graph.fresh_node_name(dequantize.name),
        "",
        dict(dequantize.attributes),
    )
    if graph.rank(dequantize.inputs[1]) != 0:
        moved.set_attr("axis", 1 - dequantize.attr("axis", 1))
    node.inputs[1] = output
    node.set_attr("transB", 0)
    return [moved, node]
