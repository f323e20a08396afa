"""Which tensor of a float model is which of its quantised version.

Tools rename tensors, fold BatchNormalization and drop a Relu that the range of the next tensor implies, and two tools
that number tensors may give the same name to different ones. So layers are recognised by their weights, which
quantising hardly changes, and what lies between them by the operators on the way; names only decide between equals.
The outputs of the models are counterparts in any case: by name, or else in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto

from pipeline.frontend.graph import Graph, Node

Array = npt.NDArray[np.float32]
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
_RESHAPING = ("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
_CLAMPING = ("Relu", "Clip")
_TELLING = ("kernel_shape", "strides", "axis", "axes", "perm")
MIN_COSINE = 0.5
"""Of the weights of one layer, before and after. Those of different layers are all but orthogonal."""


@dataclass(frozen=True)
class Quantised:
    """A tensor that the quantised model stores as integers: the output of a DequantizeLinear."""

    name: str
    scale: Array
    zero_point: npt.NDArray[np.int64]
    low: int
    high: int
    """The codes that the type allows."""
    axis: int


@dataclass(frozen=True)
class Pair:
    """A tensor of the float model and its counterpart."""

    reference: str
    operator: str
    """Name of the float model's node that computes it; "input" for an input."""
    op_type: str
    counterpart: str
    """Its name in the quantised model."""
    quantised: Quantised | None
    """None for an output that is not stored as integers."""


@dataclass(frozen=True)
class Matching:
    """All pairs in the order of the network, and how many tensors of each side have no counterpart."""

    pairs: tuple[Pair, ...]
    unmatched_quantised: int
    unmatched_reference: int
    related: bool
    """Whether some layer was recognised; where the quantised model has none with weights, some tensor inside."""


def match_tensors(reference: ModelProto, quantised: ModelProto) -> Matching:
    """Pair the tensors of two models that :func:`pipeline.frontend.load_model` read.

    Only activations count; of the float model those that some operator other than Relu, Clip or a reshape reads, and
    outputs.
    """
    ours, theirs = _Side(Graph(reference)), _Side(Graph(quantised))
    recognised = theirs.anchor_like(ours)
    places: dict[_Place, list[str]] = {}
    for name, place in ours.places():
        places.setdefault(place, []).append(name)
    counterparts = dict(theirs.places())
    entries = {entry.name: entry for _, entry in theirs.quantised()}
    found: dict[str, str] = {}
    unmatched = set[str]()
    for node, entry in theirs.quantised():
        candidates = places.get(counterparts[entry.name], [])
        names = {entry.name, node.input(0)}
        best = next((name for name in candidates if name in names), candidates[0] if candidates else None)
        if best is None:
            unmatched.add(entry.name)
        else:
            found.setdefault(ours.after_clamp(best, theirs, entry.name), entry.name)
    related = recognised > 0 if theirs.weighted else any(ours.graph.producer(name) for name in found)
    for name, other in _outputs(ours, theirs):
        if name not in found and other not in found.values():
            found[name] = other
    order = [name for name, _ in ours.places()]
    return Matching(
        tuple(_pair(ours.graph, name, found[name], entries) for name in order if name in found),
        len(unmatched.difference(found.values())),
        sum(name not in found and ours.is_kept(name) for name in order),
        related,
    )


def _pair(graph: Graph, name: str, counterpart: str, entries: Mapping[str, Quantised]) -> Pair:
    producer = graph.producer(name)
    operator, op_type = (producer.name, producer.op_type) if producer else ("input", "")
    return Pair(name, operator, op_type, counterpart, entries.get(counterpart))


def _outputs(ours: _Side, theirs: _Side) -> Iterator[tuple[str, str]]:
    """The float outputs of the float model that are computed, and the quantised model's."""
    outputs = [_computed_outputs(side) for side in (ours, theirs)]
    in_order = dict(zip(*outputs, strict=True)) if len(outputs[0]) == len(outputs[1]) else {}
    for name in outputs[0]:
        other = name if name in outputs[1] else in_order.get(name)
        if other is not None:
            yield name, other


def _computed_outputs(side: _Side) -> list[str]:
    floats = [value.name for value in side.graph.outputs if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    computed = {name for name, _ in side.places()}
    return [name for name in floats if name in computed]


_Key = tuple[object, ...]
_Place = tuple[int, tuple[str, ...]]
"""A number for the way from the last layers with weights, and the Relu and Clip passed since."""


class _Side:
    """One of the two graphs, and where each of its activations lies."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._constant = set(graph.constants)
        for node in graph.nodes:
            if all(name in self._constant or not name for name in node.inputs):
                self._constant.update(node.outputs)
        self.weighted = [node for node in graph.nodes if self._is_weighted(node)]
        self.anchors: dict[int, object] = {id(node): index for index, node in enumerate(self.weighted)}
        self.numbers: dict[_Key, int] = {}

    def anchor_like(self, other: _Side) -> int:
        """Name the layers with weights after those of ``other`` that they are, and share its numbers of places.

        Returns how many are some of the other's.
        """
        self.numbers = other.numbers
        values = [other.weight(node) for node in other.weighted]
        taken: set[int] = set()
        for place, node in enumerate(self.weighted):
            mine = self.weight(node)
            rated = [
                (round(_cosine(mine, value), 2), set(node.outputs) == set(other.weighted[index].outputs), -index)
                for index, value in enumerate(values)
                if index not in taken and value.shape == mine.shape
            ]
            best = max(rated, default=(0.0, False, 0))
            known = best[0] >= MIN_COSINE
            if known:
                taken.add(-best[2])
            self.anchors[id(node)] = -best[2] if known else ("unknown", place)
        return len(taken)

    def weight(self, node: Node) -> Array:
        """The real values of a layer's weights, in its own order."""
        name = node.input(1)
        producer = self.graph.producer(name)
        if producer is None:
            return np.asarray(self.graph.constant(name), np.float32)
        if not producer.is_op(_DEQUANTISE):
            return np.zeros(0, np.float32)
        entry = _parameters(self.graph, producer)
        values = self.graph.constant(producer.input(0))
        if entry is None or values is None:
            return np.zeros(0, np.float32)
        shape = [1] * values.ndim
        if entry.scale.size > 1:
            shape[entry.axis] = entry.scale.size
        real = (values.astype(np.float32) - entry.zero_point.reshape(shape)) * entry.scale.reshape(shape)
        return real.astype(np.float32)

    def places(self) -> Iterator[tuple[str, _Place]]:
        """The activations in the order of the graph, and where each lies."""
        places: dict[str, _Place] = {}
        for index, value in enumerate(self.graph.inputs):
            places[value.name] = (self._number(("input", index)), ())
        yield from places.items()
        for node in self.graph.nodes:
            if node.outputs[0] in self._constant:
                continue
            inputs = [places[name] for name in node.inputs if name in places]
            for position, name in enumerate(node.outputs):
                if name:
                    places[name] = self._place(node, position, inputs)
                    yield name, places[name]

    def quantised(self) -> Iterator[tuple[Node, Quantised]]:
        """The QuantizeLinear nodes of activations, and what the first DequantizeLinear of each gives."""
        for node in self.graph.nodes:
            if not node.is_op(_QUANTISE) or node.outputs[0] in self._constant:
                continue
            readers = [reader for reader in self.graph.consumers(node.outputs[0]) if reader.is_op(_DEQUANTISE)]
            entry = _parameters(self.graph, readers[0]) if readers else None
            if entry is not None:
                yield node, entry

    def readers(self, name: str) -> list[Node]:
        """The nodes that read an activation, as if there were no QuantizeLinear and DequantizeLinear."""
        found: list[Node] = []
        for node in self.graph.consumers(name):
            found += self.readers(node.outputs[0]) if node.is_op(_QUANTISE, _DEQUANTISE) else [node]
        return found

    def after_clamp(self, name: str, other: _Side, counterpart: str) -> str:
        """``name``, or what follows where a Relu or Clip is its only reader and ``counterpart`` goes without it."""
        readers = self.graph.consumers(name)
        is_clamped = len(readers) == 1 and readers[0].is_op(*_CLAMPING) and not self.graph.is_output(name)
        if is_clamped and not any(node.is_op(readers[0].op_type) for node in other.readers(counterpart)):
            return readers[0].outputs[0]
        return name

    def is_kept(self, name: str) -> bool:
        """Whether quantisers are expected to keep a tensor: something other than a clamp or a reshape reads it."""
        readers = self.graph.consumers(name)
        return self.graph.is_output(name) or any(not node.is_op(*_CLAMPING, *_RESHAPING) for node in readers)

    def _place(self, node: Node, position: int, inputs: list[_Place]) -> _Place:
        if id(node) in self.anchors:
            return (self._number(("layer", self.anchors[id(node)])), ())
        if inputs and position == 0:
            number, passed = inputs[0]
            if node.is_op(*_RESHAPING, _QUANTISE, _DEQUANTISE):
                return inputs[0]
            if node.is_op(*_CLAMPING):
                return (number, (*passed, node.op_type))
        told = tuple((name, str(node.attr(name))) for name in _TELLING if name in node.attributes)
        # Without the clamps of the inputs: one of the two models may do without them.
        origins = tuple(number for number, _ in inputs)
        return (self._number((node.domain, node.op_type, position, told, origins)), ())

    def _is_weighted(self, node: Node) -> bool:
        is_constant = node.is_op(*_WEIGHTED) and node.input(1) in self._constant
        return is_constant and node.input(0) not in self._constant

    def _number(self, key: _Key) -> int:
        return self.numbers.setdefault(key, len(self.numbers))


def _parameters(graph: Graph, node: Node) -> Quantised | None:
    """The scale, zero point and type of a DequantizeLinear; None where they are computed by the graph."""
    scale, zero = graph.constant(node.input(1)), graph.constant(node.input(2)) if node.input(2) else None
    if scale is None or (node.input(2) and zero is None):
        return None
    zero = np.zeros(scale.shape, np.uint8) if zero is None else zero
    if zero.dtype.kind not in "iu" or zero.dtype.itemsize > 2:
        limits = (-(2**31), 2**31 - 1)  # a bias; nothing saturates
    else:
        limits = (int(np.iinfo(zero.dtype).min), int(np.iinfo(zero.dtype).max))
    return Quantised(
        node.outputs[0],
        scale.astype(np.float32).reshape(-1),
        zero.astype(np.int64).reshape(-1),
        *limits,
        int(node.attr("axis", 1)),
    )


def _cosine(a: Array, b: Array) -> float:
    length = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.vdot(a, b)) / length if length else float(not a.any() and not b.any())
