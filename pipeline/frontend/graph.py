"""A light, mutable view of an ONNX graph: what the rewrites work on.

Protobuf lists are slow to edit and have no def-use information. :class:`Graph` keeps the nodes as plain objects with
producer and consumer maps that stay right under its own methods, and gives a ``ModelProto`` back at the end.
Graphs with subgraphs (If, Loop, Scan) are refused before one is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.frontend.limits import Limits

Array = npt.NDArray[Any]

# Shape inference needs the values of small constants only (shapes, axes, pads); large ones go in as typed inputs, so
# that weights are not serialised on each run.
_INFERENCE_CONSTANT_ELEMENTS = 1024


@dataclass(eq=False)
class Node:
    """One operator. Change ``inputs`` and ``outputs`` through :class:`Graph`, which keeps its maps in step."""

    op_type: str
    inputs: list[str]
    outputs: list[str]
    name: str
    domain: str = ""
    attributes: dict[str, AttributeProto] = field(default_factory=dict)

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute (bytes as str), or ``default`` where it is absent."""
        attribute = self.attributes.get(name)
        if attribute is None:
            return default
        value = helper.get_attribute_value(attribute)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def set_attr(self, name: str, value: Any) -> None:
        """Set or replace an attribute."""
        self.attributes[name] = helper.make_attribute(name, value)

    def input(self, index: int) -> str:
        """Name of an input, "" where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def is_op(self, *op_types: str) -> bool:
        """Whether this is one of the given operators of the standard domain."""
        return self.domain == "" and self.op_type in op_types

    def to_proto(self) -> NodeProto:
        """The protobuf form; optional inputs left out at the end are dropped."""
        inputs = list(self.inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        proto = helper.make_node(self.op_type, inputs, self.outputs, name=self.name, domain=self.domain)
        proto.attribute.extend(self.attributes.values())
        return proto


@dataclass(frozen=True)
class TensorType:
    """What shape inference knows: element type (0: unknown), shape (None: unknown rank; None inside: unknown size)."""

    dtype: int
    shape: tuple[int | None, ...] | None


Rule = Callable[["Graph", Node], "list[Node] | None"]
"""Looks at one node: None leaves it alone, a list takes its place (an empty one removes it)."""


class Graph:
    """Nodes in topological order, constants, inputs, outputs and inferred types of one model."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self.fold_budget = Limits().max_folded_elements
        self.opsets: dict[str, int] = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
        self.constants: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        self.inputs: list[ValueInfoProto] = [i for i in model.graph.input if i.name not in self.constants]
        self.outputs: list[ValueInfoProto] = list(model.graph.output)
        self.nodes: list[Node] = [_from_proto(n) for n in model.graph.node]
        self._output_names = {o.name for o in self.outputs}
        self._types: dict[str, TensorType] = {v.name: _tensor_type(v) for v in model.graph.value_info}
        self._types.update({v.name: _tensor_type(v) for v in (*self.inputs, *self.outputs)})
        self._producers: dict[str, Node] = {}
        self._consumers: dict[str, dict[Node, None]] = {}
        for node in self.nodes:
            self._attach(node)
        self._tensor_names = dict.fromkeys((*self.constants, *self._types, *self._producers), 1)
        self._node_names: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            node.name = self.fresh_node_name(node.name or f"{node.op_type}_{index}")

    # -- questions ---------------------------------------------------------------------------------------------------

    def constant(self, name: str) -> Array | None:
        """Value of a constant, or None where ``name`` is not one."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def producer(self, name: str) -> Node | None:
        """The node that writes a tensor, None for inputs and constants."""
        return self._producers.get(name)

    def consumers(self, name: str) -> list[Node]:
        """The nodes that read a tensor."""
        return list(self._consumers.get(name, ()))

    def is_output(self, name: str) -> bool:
        """Whether a tensor is an output of the whole graph."""
        return name in self._output_names

    def has_one_use(self, name: str) -> bool:
        """Whether exactly one node reads a tensor and the caller of the model does not."""
        return len(self._consumers.get(name, ())) == 1 and not self.is_output(name)

    def type_of(self, name: str) -> TensorType:
        """Element type and shape, as far as they are known."""
        tensor = self.constants.get(name)
        if tensor is not None:
            return TensorType(tensor.data_type, tuple(tensor.dims))
        return self._types.get(name, TensorType(0, None))

    def dtype(self, name: str) -> int:
        """``TensorProto`` element type, 0 where unknown."""
        return self.type_of(name).dtype

    def rank(self, name: str) -> int | None:
        """Number of dimensions, None where unknown."""
        shape = self.type_of(name).shape
        return None if shape is None else len(shape)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Static shape, None where any part of it is unknown."""
        shape = self.type_of(name).shape
        if shape is None:
            return None
        sizes = tuple(size for size in shape if size is not None)
        return sizes if len(sizes) == len(shape) else None

    # -- changes -----------------------------------------------------------------------------------------------------

    def declare(self, name: str, dtype: int, shape: tuple[int | None, ...] | None = None) -> None:
        """Record the type of a new tensor, for rules that look before shape inference runs again."""
        self._types[name] = TensorType(dtype, shape)

    def fresh_tensor_name(self, base: str) -> str:
        """A tensor name nobody uses yet, close to ``base``."""
        return _fresh(base, self._tensor_names)

    def fresh_node_name(self, base: str) -> str:
        """A node name nobody uses yet, close to ``base``."""
        return _fresh(base, self._node_names)

    def add_constant(self, base: str, value: Array) -> str:
        """Add a constant and return its name."""
        name = self.fresh_tensor_name(base)
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        return name

    def set_inputs(self, node: Node, inputs: Iterable[str]) -> None:
        """Replace all inputs of a node."""
        self._detach_inputs(node)
        node.inputs = list(inputs)
        self._attach_inputs(node)

    def replace_uses(self, old: str, new: str) -> None:
        """Make every reader of ``old`` read ``new``. Graph outputs keep their names: see :meth:`rename_output`."""
        for node in self.consumers(old):
            self.set_inputs(node, [new if name == old else name for name in node.inputs])

    def rename_output(self, node: Node, old: str, new: str) -> None:
        """Make ``node`` write ``new`` where it wrote ``old``, readers included."""
        node.outputs = [new if name == old else name for name in node.outputs]
        self._producers.pop(old, None)
        self._producers[new] = node
        self.replace_uses(old, new)

    def sweep(self, rule: Rule) -> bool:
        """Offer each node to ``rule`` once, in order, then drop what nothing reads. True where anything was replaced.

        A replacement must read only tensors available at the place of the node it replaces.
        """
        changed = False
        kept: list[Node] = []
        for node in self.nodes:
            replacement = rule(self, node)
            if replacement is None:
                kept.append(node)
                continue
            changed = True
            self._detach(node, keep={name for new in replacement for name in new.outputs})
            for new in replacement:
                self._attach(new)
            kept.extend(replacement)
        self.nodes = kept
        if changed:
            self.prune()
        return changed

    def prune(self) -> None:
        """Drop nodes and constants that no graph output depends on."""
        live = set(self._output_names)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if any(name in live for name in node.outputs):
                live.update(name for name in node.inputs if name)
                kept.append(node)
            else:
                self._detach(node, keep=set())
        self.nodes = kept[::-1]
        self.constants = {name: tensor for name, tensor in self.constants.items() if name in live}

    def infer(self) -> None:
        """Run ONNX shape inference (strict, with data propagation) and take its types over.

        Raises :class:`ModelError` where shapes or types contradict each other.
        """
        small: list[TensorProto] = []
        typed: list[ValueInfoProto] = []
        for name, tensor in self.constants.items():
            if int(np.prod(tensor.dims, dtype=np.int64)) <= _INFERENCE_CONSTANT_ELEMENTS:
                small.append(tensor)
            else:
                typed.append(helper.make_tensor_value_info(name, tensor.data_type, tuple(tensor.dims)))
        model = self._build([*self.inputs, *typed], small)
        try:
            inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"shapes or types of the model do not fit together: {_one_line(error)}. "
                "Check the sizes given for its inputs (--shape, --batch), then the named node."
            ) from error
        for value in (*inferred.graph.value_info, *inferred.graph.output):
            found = _tensor_type(value)
            known = self._types.get(value.name)
            if found.dtype == 0 and known is not None:
                found = TensorType(known.dtype, found.shape)
            self._types[value.name] = found

    def to_model(self) -> ModelProto:
        """The model as protobuf, with the inferred types of intermediate tensors in ``value_info``."""
        model = self._build(self.inputs, self.constants.values())
        skip = {*self._output_names, *(i.name for i in self.inputs)}
        for node in self.nodes:
            for name in node.outputs:
                kind = self._types.get(name)
                if name and name not in skip and kind is not None and kind.dtype and kind.shape is not None:
                    model.graph.value_info.append(helper.make_tensor_value_info(name, kind.dtype, kind.shape))
        return model

    # -- book-keeping ------------------------------------------------------------------------------------------------

    def _build(self, inputs: Iterable[ValueInfoProto], constants: Iterable[TensorProto]) -> ModelProto:
        graph = helper.make_graph(
            [node.to_proto() for node in self.nodes],
            self._model.graph.name or "main",
            list(inputs),
            self.outputs,
            list(constants),
        )
        used = {"", *(node.domain for node in self.nodes)}
        opsets = [helper.make_opsetid(domain, v) for domain, v in self.opsets.items() if domain in used]
        # Initializers that are no inputs need IR 4; 8 is the oldest one that opset 13 to 18 files are written with.
        model = helper.make_model(graph, opset_imports=opsets, ir_version=max(self._model.ir_version, 8))
        model.producer_name = self._model.producer_name
        return model

    def _attach(self, node: Node) -> None:
        for name in node.outputs:
            if name:
                self._producers[name] = node
        self._attach_inputs(node)

    def _attach_inputs(self, node: Node) -> None:
        for name in node.inputs:
            if name:
                self._consumers.setdefault(name, {})[node] = None

    def _detach(self, node: Node, keep: set[str]) -> None:
        for name in node.outputs:
            if name not in keep and self._producers.get(name) is node:
                del self._producers[name]
        self._detach_inputs(node)

    def _detach_inputs(self, node: Node) -> None:
        for name in node.inputs:
            self._consumers.get(name, {}).pop(node, None)


def new_node(
    op_type: str, inputs: Iterable[str], outputs: Iterable[str], name: str, attributes: Mapping[str, Any] | None = None
) -> Node:
    """A node of the standard domain; attributes given as Python values."""
    made = {key: helper.make_attribute(key, value) for key, value in (attributes or {}).items()}
    return Node(op_type, list(inputs), list(outputs), name, "", made)


def _from_proto(proto: NodeProto) -> Node:
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    attributes = {a.name: a for a in proto.attribute}
    return Node(proto.op_type, list(proto.input), list(proto.output), proto.name, domain, attributes)


def _tensor_type(value: ValueInfoProto) -> TensorType:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorType(tensor.elem_type, shape)


def _fresh(base: str, taken: dict[str, int]) -> str:
    """``taken`` remembers the next number to try for each base, so that many equal names stay cheap."""
    name, count = base, taken.get(base, 0)
    while name in taken:
        name = f"{base}_{count}"
        count += 1
    taken[base] = count
    taken.setdefault(name, 1)
    return name


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
