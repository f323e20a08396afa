"""One spelling for QuantizeLinear and DequantizeLinear.

Does:
1. A scale or zero point with a single value becomes a scalar (onnxruntime reads it as per-tensor too).
2. A missing zero point becomes an explicit zero: uint8 or ``output_dtype`` when quantising, the data's type else.
3. The axis counts from the front, and is there.
4. ``output_dtype`` goes, as the zero point says the same.

Does not: touch operators with block_size.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from pipeline.errors import ModelError
from pipeline.frontend.graph import Graph, Node, new_node


def canonicalize_qdq(graph: Graph) -> None:
    """Rewrite the parameters of every QuantizeLinear and DequantizeLinear."""
    graph.infer()
    graph.sweep(_canonicalize)


def _canonicalize(graph: Graph, node: Node) -> list[Node] | None:
    if not node.is_op("QuantizeLinear", "DequantizeLinear") or node.attr("block_size", 0):
        return None
    before: list[Node] = []
    scale = _scalar(graph, node, node.inputs[1], before)
    zero = _scalar(graph, node, node.input(2), before) if node.input(2) else _zero(graph, node, scale)
    _set_axis(graph, node)
    node.attributes.pop("output_dtype", None)
    node.inputs = [node.inputs[0], scale, zero]
    return [*before, node]


def _scalar(graph: Graph, node: Node, name: str, before: list[Node]) -> str:
    shape = graph.shape(name)
    if not shape or any(size != 1 for size in shape):
        return name
    value = graph.constant(name)
    if value is not None:
        return graph.add_constant(name, value.reshape(()))
    target = graph.add_constant(f"{name}_scalar_shape", np.asarray([], np.int64))
    result = graph.fresh_tensor_name(f"{name}_scalar")
    graph.declare(result, graph.dtype(name), ())
    before.append(new_node("Reshape", [name, target], [result], graph.fresh_node_name(f"{node.name}_scalar")))
    return result


def _zero(graph: Graph, node: Node, scale: str) -> str:
    if node.op_type == "QuantizeLinear":
        dtype = node.attr("output_dtype", 0) or TensorProto.UINT8
    else:
        dtype = graph.dtype(node.inputs[0])
    shape = graph.shape(scale)
    if not dtype or shape is None:
        raise ModelError(
            f"node {node.name!r} ({node.op_type}): the type of its data or the shape of its scale is unknown."
        )
    zeros = np.zeros(shape, helper.tensor_dtype_to_np_dtype(dtype))
    return graph.add_constant(f"{node.name}_zero_point", zeros)


def _set_axis(graph: Graph, node: Node) -> None:
    rank = graph.rank(node.inputs[0])
    if rank is None:
        return
    axis = node.attr("axis", 1)
    # With a scalar scale the axis means nothing; 0 is valid for every rank.
    per_tensor = graph.rank(node.inputs[1]) == 0 or rank == 0
    node.set_attr("axis", 0 if per_tensor else axis % rank)
