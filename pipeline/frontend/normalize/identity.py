"""Nodes that do nothing in inference.

Does: removes Identity, Dropout (whose mask nobody reads), and Cast to the type that the tensor already has.
Does not: remove one that connects an input or constant of the graph straight to an output, as both names must stay;
touch Dropout in training mode (refused where the mode is not a constant false).
"""

from __future__ import annotations

from pipeline.errors import ModelError
from pipeline.frontend.graph import Graph, Node


def remove_identities(graph: Graph) -> None:
    """Let the readers of a node that does nothing read its input."""
    graph.sweep(_remove)


def _remove(graph: Graph, node: Node) -> list[Node] | None:
    if not _does_nothing(graph, node):
        return None
    source, target = node.inputs[0], node.outputs[0]
    if not graph.is_output(target):
        graph.replace_uses(target, source)
        return []
    producer = graph.producer(source)
    if producer is None or graph.is_output(source):
        return None
    graph.rename_output(producer, source, target)
    return []


def _does_nothing(graph: Graph, node: Node) -> bool:
    if node.is_op("Identity"):
        return True
    if node.is_op("Cast"):
        return node.attr("to") == graph.dtype(node.inputs[0])
    if not node.is_op("Dropout"):
        return False
    if node.input(2):
        training = graph.constant(node.input(2))
        if training is None or training.any():
            raise ModelError(f"node {node.name!r} (Dropout) is in training mode; export the model for inference.")
    return not any(name and (graph.consumers(name) or graph.is_output(name)) for name in node.outputs[1:])
