"""QLinearConv → DequantizeLinear (input, weight, bias), Conv, QuantizeLinear.

The int32 bias has scale ``x_scale * w_scale`` and no zero point, as the operator defines it. Per-channel weights keep
their vectors on axis 0. Does not: take the com.microsoft variant with channels_last.
"""

from __future__ import annotations

from pipeline.frontend.graph import Graph, Node
from pipeline.frontend.normalize._rewrite import Rewrite


def expand_qlinear_conv(graph: Graph) -> None:
    """Rewrite every QLinearConv."""
    graph.sweep(_expand)


def _expand(graph: Graph, node: Node) -> list[Node] | None:
    if not node.is_op("QLinearConv"):
        return None
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs[:8]
    rewrite = Rewrite(graph, node)
    inputs = [
        rewrite.dequantize(x, x_scale, x_zero),
        rewrite.dequantize(w, w_scale, w_zero, axis=0),
    ]
    if node.input(8):
        bias_scale = rewrite.product(x_scale, w_scale)
        inputs.append(rewrite.dequantize(node.input(8), bias_scale, "", axis=0, suffix="dq_bias"))
    rewrite.quantize(rewrite.main("Conv", inputs), y_scale, y_zero)
    return rewrite.nodes
