"""Data movement between the DequantizeLinear of a constant and its consumer, done at compile time.

Does: Transpose, Reshape, Flatten, Squeeze and Unsqueeze after DequantizeLinear(constants) move the integers, so that
the consumer reads DequantizeLinear(constant) directly. A per-axis scale follows its axis.
Does not: move where the axis of a per-axis scale is split or merged, or where the node writes a graph output.
The original DequantizeLinear stays for its other readers.
"""

from __future__ import annotations

import math

from onnx import numpy_helper

from pipeline.frontend.graph import Graph, Node
from pipeline.frontend.normalize.constants import evaluate

_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


def move_weights_at_compile_time(graph: Graph) -> None:
    """Fold data movement into quantised constants."""
    graph.sweep(_move)


def _move(graph: Graph, node: Node) -> list[Node] | None:
    if not node.is_op(*_MOVES) or graph.is_output(node.outputs[0]):
        return None
    dequantize = graph.producer(node.inputs[0])
    if dequantize is None or not dequantize.is_op("DequantizeLinear"):
        return None
    if any(name not in graph.constants for name in (dequantize.inputs[0], *node.inputs[1:]) if name):
        return None
    old_shape, new_shape = graph.shape(dequantize.inputs[0]), graph.shape(node.outputs[0])
    if old_shape is None or new_shape is None:
        return None
    axis = _new_axis(graph, node, dequantize, old_shape, new_shape)
    if axis is None:
        return None
    mover = Node(node.op_type, [dequantize.inputs[0], *node.inputs[1:]], ["moved"], node.name, "", node.attributes)
    name = graph.fresh_tensor_name(f"{dequantize.inputs[0]}_moved")
    (value,) = evaluate(graph, mover)
    graph.constants[name] = numpy_helper.from_array(value, name)
    result = Node(
        "DequantizeLinear",
        [name, *dequantize.inputs[1:]],
        list(node.outputs),
        graph.fresh_node_name(dequantize.name),
        "",
        dict(dequantize.attributes),
    )
    result.set_attr("axis", axis)
    return [result]


def _new_axis(
    graph: Graph, node: Node, dequantize: Node, old_shape: tuple[int, ...], new_shape: tuple[int, ...]
) -> int | None:
    """Where the axis of the scale ends up; None where it does not survive in one piece."""
    if graph.rank(dequantize.inputs[1]) == 0:
        return 0
    axis = dequantize.attr("axis", 1)
    if node.op_type == "Transpose":
        default = list(range(len(old_shape)))[::-1]
        return list(node.attr("perm", default)).index(axis)
    before = math.prod(old_shape[:axis])
    for index, size in enumerate(new_shape):
        if size == old_shape[axis] and math.prod(new_shape[:index]) == before:
            return index
    return None
