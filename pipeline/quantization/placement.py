"""Where the graph is quantised: which nodes, which tensors, and which of these share their parameters.

1. A node is active where it has a role, is selected, and quantised values come to it: layers, products and averages
   always; the rest only behind an active node or an input of the graph, and only if something active reads the result.
2. A tensor is quantised where an active node reads it, and so are the outputs of the graph that active nodes write,
   if that is asked for. Not quantised: what lies between a layer and its clamp, and inside a chain of POINTWISE nodes.
3. Inputs and outputs of PASSIVE nodes form groups with one scale, whose range is observed where values enter the group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from pipeline.errors import InputError, ModelError
from pipeline.frontend.graph import Graph, Node
from pipeline.quantization.folding import output_channel_axis
from pipeline.quantization.options import Options, patterns
from pipeline.quantization.roles import Role, activation_inputs, natural_range, padding_value, role_of
from pipeline.quantization.wording import some


@dataclass(frozen=True, eq=False)
class Layer:
    """A node with quantised weights."""

    node: Node
    x: str
    """The activation."""
    result: str
    """What comes out behind the bias (written by :attr:`bias_node` where there is one), in front of any clamp."""
    weight: str
    axis: int
    """Of the output channels in the weights."""
    groups: int
    bias: str = ""
    """Constant, one entry a channel; "" for none."""
    bias_node: Node | None = None
    """The Add behind a MatMul that holds the bias."""

    @property
    def name(self) -> str:
        return self.node.name


@dataclass
class Group:
    """Tensors with one scale and zero point."""

    members: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    """The members whose values are observed: the others hold values of these."""
    low: float | None = None
    high: float | None = None
    """What the range must contain in any case: values of paddings."""
    natural: tuple[float, float] | None = None
    """What the operators behind all sources can give, whatever the data; None where one has no such range."""


@dataclass
class Placement:
    """The result of :func:`place`."""

    active: dict[Node, Role]
    layers: list[Layer]
    groups: list[Group]
    group_of: dict[str, Group]
    """Quantised tensors."""
    vectors: list[str]
    """Constants that active BINARY nodes read: quantised by their own range."""
    candidates: list[str]
    """Names of all nodes with weights, selected or not, in order."""


def place(graph: Graph, options: Options, *, keep_float: Collection[str] = (), only: str | None = None) -> Placement:
    """Decide. Raises ModelError for a model without weights, InputError where the options select nothing.

    ``keep_float``: names of layers that stay float besides those that the options leave out. ``only``: the one node
    with a scale of its own that is quantised; what passes its values on goes with it.
    """
    return _Placer(graph, options, keep_float, only).place()


class _Placer:
    def __init__(self, graph: Graph, options: Options, keep_float: Collection[str], only: str | None) -> None:
        self.graph = graph
        self.options = options
        self.keep_float = keep_float
        self.only = only
        self.roles = {node: role_of(graph, node) for node in graph.nodes}
        self.bias_adds = self._bias_adds()
        self.roots: dict[str, str] = {}
        self.active: dict[Node, Role] = {}
        self.fused: set[Node] = set()
        """Clamps that belong to the node in front of them."""

    def place(self) -> Placement:
        candidates = [node.name for node, role in self.roles.items() if role is Role.LAYER]
        if not candidates:
            raise ModelError(
                "the model has no weights to quantise: no Conv, ConvTranspose, Gemm or MatMul with constant weights."
            )
        selected = self._selected()
        self._activate(selected)
        self._deactivate_dead_ends()
        layers = [self._layer(node) for node, role in self.active.items() if role is Role.LAYER]
        if not layers and not self.keep_float and self.only is None:
            raise InputError(
                f"include, exclude, skip_first, skip_last and overrides leave none of the {len(candidates)} layers to "
                f"quantise; their names are {some(candidates)}."
            )
        tensors = self._quantized_tensors()
        groups, group_of = self._groups(tensors)
        vectors = dict.fromkeys(
            name
            for node, role in self.active.items()
            if role is Role.BINARY and node not in self.bias_adds.values()
            for name in node.inputs
            if name in self.graph.constants
        )
        return Placement(self.active, layers, groups, group_of, list(vectors), candidates)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _bias_adds(self) -> dict[Node, Node]:
        """MatMul to the Add of a constant row behind it."""
        found = {}
        for node, role in self.roles.items():
            if role is not Role.LAYER or not node.is_op("MatMul") or not self.graph.has_one_use(node.outputs[0]):
                continue
            (add,) = self.graph.consumers(node.outputs[0])
            if add.is_op("Add") and add.inputs[0] != add.inputs[1]:
                row = self.graph.constant(next(n for n in add.inputs if n != node.outputs[0]))
                columns = (self.graph.shape(node.inputs[1]) or (0, 0))[1]
                if row is not None and row.dtype == np.float32 and row.shape[-1:] == (columns,) == (row.size,):
                    found[node] = add
        return found

    def _selected(self) -> set[Node]:
        options, nodes = self.options, list(self.roles)
        include, exclude = patterns(options.include, "include"), patterns(options.exclude, "exclude")
        layers = [node for node in nodes if self.roles[node] is Role.LAYER]
        left_out = {*layers[: options.skip_first], *layers[len(layers) - options.skip_last :]}
        unknown = sorted(set(options.overrides.layers) - {node.name for node in nodes})
        if unknown:
            raise InputError(f"overrides: the model has no node {unknown[0]!r}.")
        with_weights = {name for name, override in options.overrides.layers.items() if override.is_for_weights}
        others = sorted(with_weights - {node.name for node in layers})
        if others:
            raise InputError(f"overrides: node {others[0]!r} is no layer and has no weights to be quantised.")
        left_out |= {node for node in nodes if node.name in self._kept_float() or self._is_other(node)}
        for option, expressions in (("include", include), ("exclude", exclude)):
            for expression in expressions:
                if not any(expression.search(node.name) for node in nodes):
                    names = some([node.name for node in layers])
                    raise InputError(
                        f"{option} {expression.pattern!r} matches no node of the model; its layers are {names}."
                    )
        selected = set()
        for node in nodes:
            role = self.roles[node]
            # What only passes values on follows its neighbours, unless it is left out by name.
            wanted = not include or role in (Role.PASSIVE, Role.CLAMP, Role.POINTWISE)
            wanted = wanted or any(e.search(node.name) for e in include)
            if wanted and node not in left_out and not any(e.search(node.name) for e in exclude):
                selected.add(node)
        return selected

    def _kept_float(self) -> set[str]:
        overridden = {name for name, override in self.options.overrides.layers.items() if not override.quantize}
        return overridden.union(self.keep_float)

    def _is_other(self, node: Node) -> bool:
        follows = self.roles[node] in (Role.PASSIVE, Role.CLAMP, Role.POINTWISE)
        return self.only is not None and node.name != self.only and not follows

    def _activate(self, selected: set[Node]) -> None:
        """Rule 1 from front to back; also finds the root of each chain of POINTWISE nodes."""
        bias_adds = set(self.bias_adds.values())
        inputs = {value.name for value in self.graph.inputs}
        for node, role in self.roles.items():
            activations = activation_inputs(self.graph, node)
            before = {self.graph.producer(name) for name in activations}
            if node in bias_adds:
                matmul = self.graph.producer(next(n for n in activations))
                if matmul in self.active:
                    self.active[node] = Role.BINARY
                continue
            roots = {self._root(name) for name in activations}
            if role is Role.BINARY and len(roots) == 1 and self._is_chain(node):
                role = Role.POINTWISE
            if role is Role.FLOAT or node not in selected:
                continue
            reached = any(p in self.active for p in before) or any(name in inputs for name in activations)
            if role not in (Role.LAYER, Role.PRODUCT, Role.AVERAGE, Role.BINARY) and not reached:
                continue
            if role is Role.CLAMP and not self._fuse(node):
                role = Role.POINTWISE
            self.active[node] = role
            if role is Role.POINTWISE:
                self.roots[node.outputs[0]] = next(iter(roots))

    def _root(self, tensor: str) -> str:
        return self.roots.get(tensor, tensor)

    def _is_chain(self, node: Node) -> bool:
        """Whether all constants of a node are numbers and no shape is widened by broadcasting."""
        activations = activation_inputs(self.graph, node)
        types = [self.graph.type_of(name).shape for name in activations]
        constants = [self.graph.constant(name) for name in node.inputs if name not in activations]
        numbers = all(value is not None and value.size == 1 for value in constants)
        return numbers and all(shape is not None and shape == types[0] for shape in types)

    def _fuse(self, clamp: Node) -> bool:
        """Let a clamp belong to the active node in front of it, unless that is part of a chain of tables."""
        tensor = clamp.inputs[0]
        producer = self.graph.producer(tensor)
        if producer is None or self.active.get(producer) in (None, Role.POINTWISE):
            return False
        if not self.graph.has_one_use(tensor):
            return False
        self.fused.add(clamp)
        return True

    def _deactivate_dead_ends(self) -> None:
        """Rule 1 from back to front: no node whose result only float operators read, but for those that may end so."""
        ends = (Role.LAYER, Role.PRODUCT, Role.AVERAGE)
        bias_adds = set(self.bias_adds.values())
        for node in reversed(list(self.active)):
            read = any(c in self.active for name in node.outputs for c in self.graph.consumers(name))
            read = read or (self.options.outputs == "quantized" and any(map(self.graph.is_output, node.outputs)))
            if not read and self.active[node] not in ends and node not in bias_adds:
                del self.active[node]
                self.fused.discard(node)

    def _layer(self, node: Node) -> Layer:
        axis = output_channel_axis(self.graph, node)
        assert axis is not None
        groups = node.attr("group", 1) if node.is_op("Conv", "ConvTranspose") else 1
        add = self.bias_adds.get(node)
        bias = node.input(2)
        result = node.outputs[0]
        if add is not None and add in self.active:
            bias = next(n for n in add.inputs if n != result)
            result = add.outputs[0]
        shape = self.graph.shape(bias) if bias in self.graph.constants else None
        weight = self.graph.shape(node.inputs[1]) or ()
        channels = weight[axis] * (groups if node.is_op("ConvTranspose") else 1)
        if shape != (channels,):
            bias = ""  # none, or one that stays float
        return Layer(node, node.inputs[0], result, node.inputs[1], axis, groups, bias, add)

    # -- tensors -----------------------------------------------------------------------------------------------------

    def _quantized_tensors(self) -> list[str]:
        """Rule 2, in the order of the graph."""
        wanted: set[str] = set()
        for node in self.active:
            wanted.update(name for name in self._read_by(node) if not self._is_inside(name))
            if self.options.outputs == "quantized":
                wanted.update(name for name in node.outputs if self.graph.is_output(name))
        order = [value.name for value in self.graph.inputs]
        order += [name for node in self.graph.nodes for name in node.outputs]
        return [name for name in order if name in wanted and self.graph.dtype(name) == TensorProto.FLOAT]

    def _read_by(self, node: Node) -> Iterable[str]:
        names = activation_inputs(self.graph, node)
        return [n for n in names if n == node.inputs[0]] if self._reads_first_only(node) else names

    def _reads_first_only(self, node: Node) -> bool:
        """Layers, whose bias may be computed, and operators whose further inputs are settings."""
        return self.active[node] is Role.LAYER or node.is_op("Pad", "Resize", "PRelu")

    def _is_inside(self, tensor: str) -> bool:
        """Whether a tensor lies within what becomes one integer operator."""
        producer = self.graph.producer(tensor)
        if producer is None or producer not in self.active or self.graph.is_output(tensor):
            return False
        readers = self.graph.consumers(tensor)
        if any(reader in self.fused or reader in self.bias_adds.values() for reader in readers):
            return len(readers) == 1
        if self.active[producer] is not Role.POINTWISE:
            return False
        root = self._root(tensor)
        return all(
            self.active.get(reader) is Role.POINTWISE and self._root(reader.outputs[0]) == root for reader in readers
        )

    def _groups(self, tensors: list[str]) -> tuple[list[Group], dict[str, Group]]:
        """Rule 3."""
        leader = {name: name for name in tensors}

        def find(name: str) -> str:
            while leader[name] != name:
                leader[name] = leader[leader[name]]
                name = leader[name]
            return name

        derived: set[str] = set()
        for node, role in self.active.items():
            if role is not Role.PASSIVE:
                continue
            before = [name for name in self._read_by(node) if name in leader]
            after = [name for name in node.outputs if name in leader]
            if not before or not after:
                continue
            for name in (*before[1:], *after):
                leader[find(name)] = find(before[0])
            if len(before) == len(list(self._read_by(node))):
                derived.update(after)
        groups: dict[str, Group] = {}
        group_of: dict[str, Group] = {}
        for name in tensors:
            group = groups.setdefault(find(name), Group())
            group.members.append(name)
            group_of[name] = group
            producer = self.graph.producer(name)
            if name not in derived:
                group.sources.append(name)
            elif producer is not None and (value := padding_value(self.graph, producer)) is not None:
                _widen(group, value, value)
        for group in groups.values():
            group.natural = hull([natural_range(self.graph.producer(name)) for name in group.sources])
        return list(groups.values()), group_of


def _widen(group: Group, low: float, high: float) -> None:
    group.low = low if group.low is None else min(group.low, low)
    group.high = high if group.high is None else max(group.high, high)


def hull(ranges: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    """The range of all of them; None where one is not known, or there is none."""
    known = [found for found in ranges if found is not None]
    if not known or len(known) < len(ranges):
        return None
    return min(low for low, _ in known), max(high for _, high in known)
