"""Nodes that one scale of 8 bits cannot serve, which shows only once the ranges of the tensors have been observed.

- A Concat in front of an output that joins unlike values: of a detector's boxes in pixels and scores below 1, all
  scores would be rounded to 0.
- A Pad with a value far outside of what it surrounds, as exporters write in front of MaxPool.
- A Softmax that reads so wide a range that steps of it are no small factors any more: a mask of -10,000 or -infinity
  has been added to what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.frontend.graph import Graph, Node
from pipeline.quantization.placement import Placement, hull
from pipeline.quantization.roles import Role, activation_inputs, padding_value

UNLIKE = 16.0
"""How many times larger than the other an operand may be: four of its eight bits are lost then."""

WIDEST = 128.0
"""What a Softmax may read, from the lowest to the highest: steps of 0.5, each a factor of 1.6 in its results."""

Extent = tuple[float, float]
"""The smallest and the largest value of a tensor."""

_MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def range_conflicts(graph: Graph, placement: Placement, extents: Mapping[str, Extent]) -> dict[str, str]:
    """By name, why a node should stay float; ``extents`` are of the tensors that were observed."""
    found = _Conflicts(graph, placement, extents)
    reasons = {node: found.reason(node, role) for node, role in placement.active.items()}
    return {node.name: f"{node.op_type} {node.name!r} stays float: {why}" for node, why in reasons.items() if why}


def only_softmax_reads(graph: Graph, tensor: str) -> bool:
    """Whether -infinity makes sense in a tensor: it becomes 0 in the Softmax that reads it, moved or not."""
    readers = graph.consumers(tensor)
    return bool(readers) and all(
        reader.is_op("Softmax") or (reader.is_op(*_MOVES) and only_softmax_reads(graph, reader.outputs[0]))
        for reader in readers
    )


class _Conflicts:
    def __init__(self, graph: Graph, placement: Placement, extents: Mapping[str, Extent]) -> None:
        self._graph = graph
        self._placement = placement
        self._extents = extents

    def reason(self, node: Node, role: Role) -> str | None:
        """Why a node should stay float; None where it need not."""
        if role is Role.PASSIVE and node.is_op("Concat"):
            return self._unlike_parts(node)
        if role is Role.PASSIVE and node.is_op("Pad"):
            return self._far_padding(node)
        return self._too_wide(node) if node.is_op("Softmax") else None

    def _unlike_parts(self, node: Node) -> str | None:
        if not self._ends_as_output(node.outputs[0]):
            return None
        sizes = [size for name in activation_inputs(self._graph, node) if (size := self._size(name)) > 0]
        if not sizes or max(sizes) <= UNLIKE * min(sizes):
            return None
        return f"it joins values up to {min(sizes):.3g} and values up to {max(sizes):.3g}"

    def _far_padding(self, node: Node) -> str | None:
        value, size = padding_value(self._graph, node), self._size(node.inputs[0])
        if value is None or size == 0 or abs(value) <= UNLIKE * size:
            return None
        return f"it puts {value:.3g} around values up to {size:.3g}"

    def _too_wide(self, node: Node) -> str | None:
        extent = self._extent(node.inputs[0])
        if extent is None or extent[1] - extent[0] <= WIDEST:
            return None
        return f"it reads values from {extent[0]:.3g} to {extent[1]:.3g}"

    def _ends_as_output(self, tensor: str) -> bool:
        """Whether a tensor is an output, or moved to one without being computed with."""
        movers = [reader for reader in self._graph.consumers(tensor) if reader.is_op(*_MOVES)]
        return self._graph.is_output(tensor) or any(self._ends_as_output(mover.outputs[0]) for mover in movers)

    def _size(self, tensor: str) -> float:
        """The largest magnitude, 0 where it is not known."""
        extent = self._extent(tensor)
        return 0.0 if extent is None else max(abs(extent[0]), abs(extent[1]))

    def _extent(self, tensor: str) -> Extent | None:
        """Of a tensor that was observed, or that holds values of such; None of others."""
        if tensor in self._extents:
            return self._extents[tensor]
        producer = self._graph.producer(tensor)
        if producer is None or self._placement.active.get(producer) is not Role.PASSIVE:
            return None
        parts = [self._extent(name) for name in activation_inputs(self._graph, producer)]
        padding = padding_value(self._graph, producer)
        return hull([*parts, *([] if padding is None else [(padding, padding)])])
