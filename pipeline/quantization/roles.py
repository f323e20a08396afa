"""What each operator means to the quantiser.

- LAYER: weights and a bias; its result may stay float.
- PRODUCT: a product of two activations.
- AVERAGE: has its own scale; its result may stay float.
- BINARY: two activations, or one and a constant vector; its own scale.
- POINTWISE: reads one tensor, element by element (and numbers): 256 inputs, hence a table. Chains of these are one.
- CLAMP: a POINTWISE that only narrows the range of the layer in front of it.
- PASSIVE: chooses among the elements of its inputs, so codes go through unchanged: inputs and outputs share a scale.
- FLOAT: stays as it is.
"""

from __future__ import annotations

from enum import Enum, auto

import numpy as np
from onnx import TensorProto

from pipeline.frontend.graph import Graph, Node
from pipeline.quantization.folding import output_channel_axis


class Role(Enum):
    """See the module's text."""

    LAYER = auto()
    PRODUCT = auto()
    AVERAGE = auto()
    BINARY = auto()
    POINTWISE = auto()
    CLAMP = auto()
    PASSIVE = auto()
    FLOAT = auto()


LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

_AVERAGES = ("AveragePool", "GlobalAveragePool", "ReduceMean", "Softmax")

_PASSIVE_NAMES = """
    DepthToSpace Expand Flatten Gather GlobalMaxPool Identity MaxPool Pad ReduceMax ReduceMin Reshape Resize Slice
    SpaceToDepth Split Squeeze Tile Transpose Unsqueeze
"""
_PASSIVE_FIRST = frozenset(_PASSIVE_NAMES.split())
_PASSIVE_ALL = frozenset(("Concat", "Max", "Min"))

# Div, Pow and the like only with numbers: see role_of.
_POINTWISE_NAMES = """
    Abs Add Celu Div Elu Erf Gelu HardSigmoid HardSwish LeakyRelu Max Min Mish Mul Neg PRelu Pow Selu Sigmoid Softplus
    Softsign Sqrt Sub Tanh
"""
_POINTWISE = frozenset(_POINTWISE_NAMES.split())

NATURAL_RANGES: dict[str, tuple[float, float]] = {
    # 8 bits asymmetric: scale 1/256 and 1/128, which every runtime has tables for.
    "Softmax": (0.0, 255 / 256),
    "Sigmoid": (0.0, 255 / 256),
    "HardSigmoid": (0.0, 255 / 256),
    "Tanh": (-1.0, 127 / 128),
}
"""What operators can give, whatever the data."""


def role_of(graph: Graph, node: Node) -> Role:
    """The role of a node by its operator, the constants among its inputs and its settings."""
    if node.domain or not node.outputs or graph.dtype(node.outputs[0]) != TensorProto.FLOAT:
        return Role.FLOAT
    if node.op_type in LAYERS:
        return _layer(graph, node)
    if node.op_type in _AVERAGES:
        return Role.AVERAGE
    if node.op_type in ("Relu", "Clip"):
        return Role.CLAMP if all(_is_number(graph, name) for name in node.inputs[1:]) else Role.FLOAT
    activations = activation_inputs(graph, node)
    if not activations:
        return Role.FLOAT
    others = [name for name in node.inputs if name and name not in activations]
    if node.op_type in _POINTWISE and all(_is_number(graph, name) for name in others):
        return _pointwise(node, activations)
    if node.op_type in ("Add", "Sub", "Mul") and len(node.inputs) == 2:
        return Role.BINARY
    if node.op_type in _PASSIVE_ALL:
        return Role.PASSIVE if not others else Role.FLOAT
    if node.op_type in _PASSIVE_FIRST and node.inputs[0] in activations:
        return _passive(graph, node)
    return Role.FLOAT


def activation_inputs(graph: Graph, node: Node) -> list[str]:
    """The float32 inputs that are no constants, in order, each once."""
    names = dict.fromkeys(n for n in node.inputs if n and n not in graph.constants)
    return [name for name in names if graph.dtype(name) == TensorProto.FLOAT]


def natural_range(node: Node | None) -> tuple[float, float] | None:
    """What the node can give, whatever the data; None where its operator does not say."""
    if node is None or node.domain:
        return None
    return NATURAL_RANGES.get(node.op_type)


def padding_value(graph: Graph, node: Node) -> float | None:
    """What a Pad puts around its input; None where that is not a known number, or where it repeats the input."""
    if not node.is_op("Pad") or node.attr("mode", "constant") != "constant":
        return None
    if not node.input(2):
        return 0.0
    value = graph.constant(node.input(2))
    return None if value is None or value.size != 1 else float(value.item())


def _layer(graph: Graph, node: Node) -> Role:
    weight = graph.constant(node.inputs[1])
    if weight is None:
        both = activation_inputs(graph, node)
        return Role.PRODUCT if node.is_op("MatMul") and len(both) == len(set(node.inputs)) else Role.FLOAT
    if node.inputs[0] in graph.constants or output_channel_axis(graph, node) is None or weight.dtype != np.float32:
        return Role.FLOAT
    if not weight.size:
        return Role.FLOAT
    if node.is_op("Gemm") and (node.attr("alpha", 1.0) != 1.0 or node.attr("beta", 1.0) != 1.0):
        return Role.FLOAT
    return Role.LAYER


def _pointwise(node: Node, activations: list[str]) -> Role:
    if node.is_op("Div", "Pow"):
        return Role.POINTWISE if activations == [node.inputs[0]] else Role.FLOAT
    if node.is_op("Max", "Min") and len(activations) > 1:
        return Role.PASSIVE
    # Two activations: one table only if both stem from one tensor, which the placement finds out.
    return Role.POINTWISE if len(activations) == 1 else Role.BINARY


def _passive(graph: Graph, node: Node) -> Role:
    if node.is_op("Pad"):
        value = padding_value(graph, node)
        constant = node.attr("mode", "constant") == "constant"
        return Role.PASSIVE if not constant or (value is not None and np.isfinite(value)) else Role.FLOAT
    if node.is_op("Resize"):
        convex = node.attr("mode", "nearest") in ("nearest", "linear")
        outside = node.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        return Role.PASSIVE if convex and not outside else Role.FLOAT
    if node.is_op("MaxPool") and len(node.outputs) > 1 and node.outputs[1]:
        return Role.FLOAT
    return Role.PASSIVE


def _is_number(graph: Graph, name: str) -> bool:
    """A constant of one element, or an input that is left out."""
    if not name:
        return True
    value = graph.constant(name)
    return value is not None and value.size == 1
