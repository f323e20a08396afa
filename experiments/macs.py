"""Counts what an ONNX model does: the multiply-accumulates of its products, and the bytes that its operators move."""

from __future__ import annotations

import math

import onnx
from onnx import helper

Shape = tuple[int, ...]

# Operators that hand the shape of their first input on; needed to look through QDQ pairs to the weights.
_SAME_SHAPE = {"QuantizeLinear", "DequantizeLinear"}

# Operators that cost no pass over memory of their own: part of the operator before, or another view of its output.
_FREE = {"Relu", "Clip", "Flatten", "Concat"}


def count_macs(model: onnx.ModelProto, batch: int = 1) -> int:
    """Multiply-accumulates of all Conv, Gemm and MatMul nodes, every symbolic dimension taken as ``batch``.

    Works on FP32 and QDQ models. Raises ValueError where the shape of an operand cannot be inferred.
    """
    shapes = _shapes(model, batch)
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            weight, output = _of(shapes, node, node.input[1]), _of(shapes, node, node.output[0])
            total += math.prod(output) * math.prod(weight[1:])
        elif node.op_type in ("Gemm", "MatMul"):
            left, output = _of(shapes, node, node.input[0]), _of(shapes, node, node.output[0])
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            total += math.prod(output) * left[-2 if transposed else -1]
    return total


def count_traffic(model: onnx.ModelProto, batch: int = 1) -> int:
    """Bytes that the operators of an FP32 ``model`` read and write in INT8, one a value, weights once for a batch.

    As if nothing stayed in a cache between two operators, and activations and Concat were part of others; biases and
    scales are not counted. Raises ValueError as ``count_macs``.
    """
    shapes = _shapes(model, batch)
    vectors = {t.name for t in model.graph.initializer if len(t.dims) < 2}
    total = 0
    for node in model.graph.node:
        if node.op_type not in _FREE:
            operands = [name for name in (*node.input, node.output[0]) if name not in vectors]
            total += sum(math.prod(_of(shapes, node, name)) for name in operands)
    return total


def count_weights(model: onnx.ModelProto) -> int:
    """Values in the weights of an FP32 ``model``: its bytes in INT8. Biases are not counted."""
    return sum(math.prod(t.dims) for t in model.graph.initializer if len(t.dims) >= 2)


def _shapes(model: onnx.ModelProto, batch: int) -> dict[str, Shape]:
    """Shape by tensor name, symbolic dimensions replaced by ``batch``."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.output[:]
    for value in [*fixed.graph.input, *fixed.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") != "dim_value":
                dim.dim_value = batch
    inferred = onnx.shape_inference.infer_shapes(fixed).graph
    shapes = {t.name: tuple(t.dims) for t in inferred.initializer}
    for value in [*inferred.input, *inferred.value_info]:
        dims = value.type.tensor_type.shape.dim
        if all(d.WhichOneof("value") == "dim_value" for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    for node in inferred.node:
        if node.op_type in _SAME_SHAPE and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    return shapes


def _of(shapes: dict[str, Shape], node: onnx.NodeProto, name: str) -> Shape:
    if name not in shapes:
        text = helper.printable_node(node)
        raise ValueError(f"cannot count the multiply-accumulates: the shape of {name!r} is unknown in: {text}")
    return shapes[name]
