"""QuantizeLinear and DequantizeLinear of the com.microsoft domain.

Does: moves them to the standard domain for int8, uint8 and (dequantise) int32, where both definitions agree.
Does not: take 16-bit and 4-bit types, which the standard operators know from opset 21 on only: those raise
:class:`UnsupportedOperatorError`, all of them in one message.
"""

from __future__ import annotations

from onnx import TensorProto

from pipeline.errors import UnsupportedOperatorError
from pipeline.frontend.graph import Graph, Node

_DOMAIN = "com.microsoft"
_STANDARD_TYPES = (0, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32)


def standardize_qdq(graph: Graph) -> None:
    """Move QuantizeLinear and DequantizeLinear to the standard domain."""
    refused: list[str] = []

    def rule(graph: Graph, node: Node) -> list[Node] | None:
        if node.domain != _DOMAIN or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return None
        carrier = node.inputs[0] if node.op_type == "DequantizeLinear" else node.input(2)
        dtype = graph.dtype(carrier) if carrier else TensorProto.UINT8
        if dtype not in _STANDARD_TYPES and graph.opsets[""] < 21:
            refused.append(f"{node.name!r} ({node.op_type}, {TensorProto.DataType.Name(dtype).lower()})")
            return None
        node.domain = ""
        graph.declare(node.outputs[0], dtype if node.op_type == "QuantizeLinear" else graph.dtype(node.inputs[1]))
        return [node]

    graph.sweep(rule)
    if refused:
        raise UnsupportedOperatorError(
            f"com.microsoft operators with types other than int8 and uint8 cannot be compiled: {', '.join(refused)}. "
            "Quantise to 8 bits, or export with opset 21."
        )
