"""BatchNormalization in inference.

Does:
1. After a Conv with float constant weights that nothing else reads: scales the filters and the bias.
2. Else: a per-channel Mul and Add with the same constants.

Factor and offset are computed in float64 and rounded once. Does not: touch one whose parameters are not constants,
or fold into quantised weights (rule 2 applies: their integers must stay as they are).
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from pipeline.errors import ModelError
from pipeline.frontend.graph import Array, Graph, Node, new_node


def fold_batch_norm(graph: Graph) -> None:
    """Remove every BatchNormalization with constant parameters."""
    graph.infer()
    graph.sweep(_fold)


def _fold(graph: Graph, node: Node) -> list[Node] | None:
    if not node.is_op("BatchNormalization"):
        return None
    gamma, beta, mean, variance = (graph.constant(name) for name in node.inputs[1:5])
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    spread = variance.astype(np.float64) + node.attr("epsilon", 1e-5)
    if not (spread > 0).all() or not np.isfinite(spread).all():
        raise ModelError(
            f"node {node.name!r} (BatchNormalization): variance {node.inputs[4]!r} is negative, NaN, "
            "or zero without epsilon. Export the model again."
        )
    factor = gamma.astype(np.float64) / np.sqrt(spread)
    offset = beta.astype(np.float64) - mean.astype(np.float64) * factor
    if _fold_into_conv(graph, node, factor, offset):
        return []
    return _as_mul_add(graph, node, factor, offset)


def _fold_into_conv(graph: Graph, node: Node, factor: Array, offset: Array) -> bool:
    conv = graph.producer(node.inputs[0])
    if conv is None or not conv.is_op("Conv") or not graph.has_one_use(conv.outputs[0]):
        return False
    weight = graph.constant(conv.inputs[1])
    bias = graph.constant(conv.input(2)) if conv.input(2) else np.zeros(len(factor))
    if weight is None or bias is None:
        return False
    along = (-1, *([1] * (weight.ndim - 1)))
    new_weight = (weight.astype(np.float64) * factor.reshape(along)).astype(weight.dtype)
    new_bias = (bias.astype(np.float64) * factor + offset).astype(weight.dtype)
    names = (graph.add_constant(f"{conv.name}_weight", new_weight), graph.add_constant(f"{conv.name}_bias", new_bias))
    graph.set_inputs(conv, [conv.inputs[0], *names])
    graph.rename_output(conv, conv.outputs[0], node.outputs[0])
    return True


def _as_mul_add(graph: Graph, node: Node, factor: Array, offset: Array) -> list[Node] | None:
    rank = graph.rank(node.inputs[0])
    if rank is None or rank < 2:
        return None
    dtype = helper.tensor_dtype_to_np_dtype(graph.dtype(node.inputs[0]))
    along = (-1, *([1] * (rank - 2)))
    scale = graph.add_constant(f"{node.name}_factor", factor.astype(dtype).reshape(along))
    shift = graph.add_constant(f"{node.name}_offset", offset.astype(dtype).reshape(along))
    product = graph.fresh_tensor_name(f"{node.name}_product")
    return [
        new_node("Mul", [node.inputs[0], scale], [product], graph.fresh_node_name(f"{node.name}_mul")),
        new_node("Add", [product, shift], [node.outputs[0]], node.name),
    ]
