"""Constants.

Does:
1. Constant nodes become initializers.
2. Nodes of :data:`FOLDABLE` whose inputs are all constants are computed.
3. Shape and Size of a static shape become initializers, graph outputs too: the importer makes no tensor of them.

Does not: fold DequantizeLinear (the compiler must see the integers) or QuantizeLinear (``quantized_constants`` does),
random generators, results over the element budget, or other nodes that write a graph output.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.errors import ModelError
from pipeline.frontend.graph import Array, Graph, Node

_FOLDABLE_NAMES = """
    Abs Add And Cast CastLike Ceil Clip Concat ConstantOfShape Div Equal Exp Expand Flatten Floor Gather GatherElements
    GatherND Greater GreaterOrEqual Less LessOrEqual Log Max Min Mod Mul Neg Not Or Pad Pow Range Reciprocal ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Round ScatterElements ScatterND Sign Slice Split Sqrt Squeeze
    Sub Sum Tile Transpose Trilu Unsqueeze Where Xor
"""
# A round computes all it can; another one is due only for a shape that depends on a shape. Real models need two.
_MAX_ROUNDS = 50

FOLDABLE = frozenset(_FOLDABLE_NAMES.split())


def lift_constants(graph: Graph) -> None:
    """Turn Constant nodes into initializers."""

    def rule(graph: Graph, node: Node) -> list[Node] | None:
        if not node.is_op("Constant") or graph.is_output(node.outputs[0]):
            return None
        tensor = _constant_value(node)
        tensor.name = node.outputs[0]
        graph.constants[tensor.name] = tensor
        return []

    graph.sweep(rule)


def fold_constants(graph: Graph) -> None:
    """Compute what depends on constants and static shapes alone, as long as that makes more shapes static."""
    for _ in range(_MAX_ROUNDS):
        if not graph.sweep(_fold):
            return
        graph.infer()


def _constant_value(node: Node) -> TensorProto:
    if len(node.attributes) != 1:
        raise ModelError(f"node {node.name!r} (Constant) has {len(node.attributes)} values instead of one.")
    (attribute,) = node.attributes.values()
    if attribute.name == "value" and attribute.type == AttributeProto.TENSOR:
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    value = helper.get_attribute_value(attribute)
    if attribute.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.asarray(value, np.float32))
    if attribute.name in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.asarray(value, np.int64))
    raise ModelError(
        f"node {node.name!r} (Constant) holds {attribute.name}; only dense numeric constants are supported."
    )


def _fold(graph: Graph, node: Node) -> list[Node] | None:
    if node.is_op("Shape", "Size"):
        return _fold_shape(graph, node)
    if node.domain or any(graph.is_output(name) for name in node.outputs):
        return None
    inputs = [name for name in node.inputs if name]
    if node.op_type not in FOLDABLE or not all(name in graph.constants for name in inputs):
        return None
    elements = 0
    for name in node.outputs:
        shape = graph.shape(name) if name else ()
        if shape is None:
            return None
        elements += math.prod(shape)
    if elements > graph.fold_budget:
        return None
    graph.fold_budget -= elements
    for name, value in zip(node.outputs, evaluate(graph, node), strict=True):
        if name:
            graph.constants[name] = numpy_helper.from_array(np.asarray(value), name)
    return []


def _fold_shape(graph: Graph, node: Node) -> list[Node] | None:
    shape = graph.shape(node.inputs[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        value = np.asarray(np.prod(shape, dtype=np.int64), np.int64)
    else:
        value = np.asarray(shape[node.attr("start", 0) : node.attr("end", len(shape))], np.int64)
    graph.constants[node.outputs[0]] = numpy_helper.from_array(value, node.outputs[0])
    return []


def evaluate(graph: Graph, node: Node) -> list[Array]:
    """Results of a node whose inputs are all constants, by ONNX's reference implementation."""
    feeds = {name: graph.constant(name) for name in node.inputs if name}
    inputs = [helper.make_tensor_value_info(n, graph.dtype(n), graph.shape(n)) for n in feeds]
    outputs = [helper.make_value_info(name, helper.make_tensor_type_proto(0, None)) for name in node.outputs if name]
    body = helper.make_graph([node.to_proto()], "constant", inputs, outputs)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid(d, v) for d, v in graph.opsets.items()])
    try:
        with np.errstate(all="ignore"):
            results = iter(ReferenceEvaluator(model).run(None, feeds))
    except Exception as error:  # numpy and the evaluator raise many types on senseless operands
        reason = " ".join(str(error).split())
        raise ModelError(
            f"node {node.name!r} ({node.op_type}) cannot be computed from its constants: {reason}"
        ) from error
    return [np.asarray(next(results)) if name else np.empty(0) for name in node.outputs]
