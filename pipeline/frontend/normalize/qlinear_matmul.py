"""QLinearMatMul → DequantizeLinear (both sides), MatMul, QuantizeLinear.

Per-row parameters of the left and per-column parameters of the right side stay vectors. Does not: take parameters
that differ by batch.
"""

from __future__ import annotations

from pipeline.frontend.graph import Graph, Node
from pipeline.frontend.normalize._rewrite import Rewrite, as_vector


def expand_qlinear_matmul(graph: Graph) -> None:
    """Rewrite every QLinearMatMul."""
    graph.sweep(_expand)


def _expand(graph: Graph, node: Node) -> list[Node] | None:
    if not node.is_op("QLinearMatMul"):
        return None
    rewrite = Rewrite(graph, node)
    sides = []
    for first, axis in ((0, -2), (3, -1)):
        data, scale, zero = node.inputs[first : first + 3]
        scale = as_vector(graph, node, scale, axis)
        zero = as_vector(graph, node, zero, axis)
        sides.append(rewrite.dequantize(data, scale, zero, axis))
    rewrite.quantize(rewrite.main("MatMul", sides), node.inputs[6], node.inputs[7])
    return rewrite.nodes
