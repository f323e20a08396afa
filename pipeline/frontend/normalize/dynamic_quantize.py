"""DynamicQuantizeLinear → the nodes of its definition in the ONNX specification.

One addition: where all values are 0 the definition divides 0 by 0; the scale is 1 there, as in onnxruntime.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from pipeline.frontend.graph import Graph, Node
from pipeline.frontend.normalize._rewrite import Rewrite


def expand_dynamic_quantize(graph: Graph) -> None:
    """Rewrite every DynamicQuantizeLinear."""
    graph.sweep(_expand)


def _expand(graph: Graph, node: Node) -> list[Node] | None:
    if not node.is_op("DynamicQuantizeLinear"):
        return None
    rewrite = Rewrite(graph, node)
    zero, levels, one = (graph.add_constant(f"{node.name}_{v}", np.asarray(v, np.float32)) for v in (0, 255, 1))
    (x,) = node.inputs
    y, y_scale, y_zero = (name or graph.fresh_tensor_name(node.name) for name in (*node.outputs, "", "")[:3])
    low = rewrite.op("Min", [rewrite.op("ReduceMin", [x], {"keepdims": 0}, "min"), zero], suffix="low")
    high = rewrite.op("Max", [rewrite.op("ReduceMax", [x], {"keepdims": 0}, "max"), zero], suffix="high")
    width = rewrite.op("Sub", [high, low], suffix="range")
    step = rewrite.op("Div", [width, levels], suffix="step")
    is_zero = rewrite.op("Equal", [step, zero], suffix="is_zero")
    rewrite.op("Where", [is_zero, one, step], suffix="scale", output=y_scale, dtype=TensorProto.FLOAT)
    offset = rewrite.op("Sub", [zero, rewrite.op("Div", [low, y_scale], suffix="low_steps")], suffix="offset")
    bounded = rewrite.op("Clip", [offset, zero, levels], suffix="bounded")
    rounded = rewrite.op("Round", [bounded], suffix="rounded")
    rewrite.op("Cast", [rounded], {"to": TensorProto.UINT8}, "zero_point", output=y_zero, dtype=TensorProto.UINT8)
    rewrite.op("QuantizeLinear", [x, y_scale, y_zero], output=y, dtype=TensorProto.UINT8)
    return rewrite.nodes
