"""com.microsoft QGemm → DequantizeLinear (A, B, C), Gemm and, where it has an output scale, QuantizeLinear.

The int32 C has scale ``alpha * a_scale * b_scale``; the Gemm keeps alpha, transA and transB, and C is added unscaled.
"""

from __future__ import annotations

from pipeline.frontend.graph import Graph, Node
from pipeline.frontend.normalize._rewrite import Rewrite


def expand_qgemm(graph: Graph) -> None:
    """Rewrite every QGemm."""
    graph.sweep(_expand)


def _expand(graph: Graph, node: Node) -> list[Node] | None:
    if (node.domain, node.op_type) != ("com.microsoft", "QGemm"):
        return None
    rewrite = Rewrite(graph, node)
    a, a_scale, a_zero, b, b_scale, b_zero = node.inputs[:6]
    columns = 0 if node.attr("transB", 0) else 1
    inputs = [rewrite.dequantize(a, a_scale, a_zero), rewrite.dequantize(b, b_scale, b_zero, axis=columns)]
    if node.input(6):
        scale = rewrite.product(a_scale, b_scale, factor=node.attr("alpha", 1.0))
        inputs.append(rewrite.dequantize(node.input(6), scale, "", axis=-1, suffix="dq_bias"))
    if not node.input(7):
        rewrite.main("Gemm", inputs, output=node.outputs[0])
        return rewrite.nodes
    rewrite.quantize(rewrite.main("Gemm", inputs), node.input(7), node.input(8), graph.dtype(a))
    return rewrite.nodes
