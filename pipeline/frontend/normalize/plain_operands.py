"""Operands that must be plain constants but come through DequantizeLinear: onnxruntime's quantiser wraps the value of
Pad, the bounds of Clip and others, and the importer wants to see the number.

Does: replaces such an operand by the dequantised constant, for the operands in :data:`PLAIN`, and with it the scales
and zero points of QuantizeLinear and DequantizeLinear. Does not: touch weights, biases and other data, which stay
DequantizeLinear(integers).
"""

from __future__ import annotations

import numpy as np

from pipeline.frontend.graph import Array, Graph

PLAIN: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2, 3, 4),
    "Clip": (1, 2),
    "DequantizeLinear": (1, 2),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "PRelu": (1,),
    "QuantizeLinear": (1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
}


def make_operands_plain(graph: Graph) -> None:
    """Replace dequantised constants by plain ones where the operator needs that."""
    for node in graph.nodes:
        slots = PLAIN.get(node.op_type, ()) if node.domain == "" else ()
        inputs = list(node.inputs)
        for index in slots:
            value = dequantized_constant(graph, node.input(index)) if node.input(index) else None
            if value is not None:
                inputs[index] = graph.add_constant(f"{inputs[index]}_value", value)
        if inputs != node.inputs:
            graph.set_inputs(node, inputs)
    graph.prune()


def dequantized_constant(graph: Graph, name: str) -> Array | None:
    """Value of DequantizeLinear(constants) in its scale's float type, None for anything else."""
    node = graph.producer(name)
    if node is None or not node.is_op("DequantizeLinear") or node.attr("block_size", 0):
        return None
    data, scale, zero = (graph.constant(name) for name in node.inputs[:3])
    if data is None or scale is None or zero is None:
        return None
    if scale.ndim:
        along = [1] * data.ndim
        along[node.attr("axis", 1)] = -1
        scale, zero = scale.reshape(along), zero.reshape(along)
    # int8 less int8 fits int64 always, and int32 biases are exact in it too; ONNX then multiplies in the scale's type.
    return (data.astype(np.int64) - zero.astype(np.int64)).astype(scale.dtype) * scale
