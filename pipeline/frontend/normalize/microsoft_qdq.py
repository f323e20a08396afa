"""QuantizeLinear and DequantizeLinear of the com.microsoft domain.

Does: moves them to the standard domain for int8, uint8 and (dequantise) int32, where both definitions agree.
Does not: take 16-bit types before opset 21, where the standard operators do not know them, or 4-bit types. They keep
their domain, and ``check_types`` refuses all of them in one message.
"""

from __future__ import annotations

from onnx import TensorProto

from pipeline.frontend.graph import Graph, Node

_STANDARD_TYPES = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32)
_OPSET_21_TYPES = (TensorProto.INT16, TensorProto.UINT16)


def standardize_qdq(graph: Graph) -> None:
    """Move QuantizeLinear and DequantizeLinear to the standard domain."""
    graph.sweep(_standardize)


def _standardize(graph: Graph, node: Node) -> list[Node] | None:
    if node.domain != "com.microsoft" or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    carrier = node.inputs[0] if node.op_type == "DequantizeLinear" else node.input(2)
    dtype = graph.dtype(carrier) if carrier else TensorProto.UINT8
    if dtype not in _STANDARD_TYPES and (dtype not in _OPSET_21_TYPES or graph.opsets[""] < 21):
        return None
    node.domain = ""
    graph.declare(node.outputs[0], dtype if node.op_type == "QuantizeLinear" else graph.dtype(node.inputs[1]))
    return [node]
