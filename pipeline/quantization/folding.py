"""Rewrites of the float graph that leave fewer tensors to quantise.

Each computes in float64 and rounds once to float32; node names stay with the operator that is left.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from pipeline.frontend.graph import Array, Graph, Node, new_node

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_EPSILON = 1e-5  # BatchNormalization's default


def matmul_to_gemm(graph: Graph) -> None:
    """MatMul of a matrix with a constant matrix, and Add of a constant row -> Gemm, whose bias has 32 bits."""

    def rule(graph: Graph, node: Node) -> list[Node] | None:
        if not node.is_op("Add"):
            return None
        for product, row in (node.inputs, node.inputs[::-1]):
            matmul, bias = graph.producer(product), graph.constant(row)
            if matmul is None or bias is None or not matmul.is_op("MatMul") or not graph.has_one_use(product):
                continue
            weight = graph.constant(matmul.inputs[1])
            if weight is None or weight.ndim != 2 or graph.rank(matmul.inputs[0]) != 2:
                continue
            if bias.shape not in ((weight.shape[1],), (1, weight.shape[1])):  # a column would be added to other entries
                continue
            flat = graph.add_constant(row, bias.reshape(-1))
            return [new_node("Gemm", [*matmul.inputs, flat], node.outputs, matmul.name)]
        return None

    graph.sweep(rule)


def absorb_gemm_factors(graph: Graph) -> None:
    """Gemm with alpha and beta and constant operands -> the same with both at 1, and a bias of one entry a column."""

    def rule(graph: Graph, node: Node) -> list[Node] | None:
        weight = graph.constant(node.input(1)) if node.is_op("Gemm") else None
        bias = graph.constant(node.input(2)) if weight is not None and node.input(2) else None
        if weight is None or (node.input(2) and bias is None):
            return None
        alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
        columns = weight.shape[0 if node.attr("transB", 0) else 1]
        is_row = bias is not None and bias.size in (1, columns) and (bias.ndim < 2 or bias.shape[0] == 1)
        inputs = list(node.inputs)
        if alpha != 1.0:
            inputs[1] = graph.add_constant(inputs[1], _rounded(weight.astype(np.float64) * alpha))
        if bias is not None and (beta != 1.0 or (is_row and bias.shape != (columns,))):
            scaled = _rounded(bias.astype(np.float64) * beta)
            if is_row:
                scaled = np.ascontiguousarray(np.broadcast_to(scaled.reshape(-1), (columns,)))
            inputs[2] = graph.add_constant(inputs[2], scaled)
        if inputs == node.inputs:
            return None
        graph.set_inputs(node, inputs)
        node.attributes.pop("alpha", None)
        node.attributes.pop("beta", None)
        return [node]

    graph.sweep(rule)


def batch_norm_to_convolution(graph: Graph) -> None:
    """BatchNormalization that no convolution can take -> Gemm's weights, or a depthwise 1x1 convolution.

    A product and a sum with a quantised vector would lose what one scale for each channel and a 32-bit bias keep.
    """
    graph.sweep(_batch_norm)


def _batch_norm(graph: Graph, node: Node) -> list[Node] | None:
    if not node.is_op("BatchNormalization") or graph.dtype(node.inputs[0]) != TensorProto.FLOAT:
        return None
    gamma, beta, mean, variance = (graph.constant(name) for name in node.inputs[1:5])
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    spread = variance.astype(np.float64) + node.attr("epsilon", _EPSILON)
    if not (spread > 0).all() or not np.isfinite(spread).all():
        return None  # the general rewrite says what is wrong
    factor = gamma.astype(np.float64) / np.sqrt(spread)
    offset = beta.astype(np.float64) - mean.astype(np.float64) * factor
    producer = graph.producer(node.inputs[0])
    if producer is not None and graph.has_one_use(node.inputs[0]):
        if producer.is_op("Conv") and graph.constant(producer.inputs[1]) is not None:
            return None  # the general rewrite folds it
        if scale_channels(graph, producer, factor, offset):
            graph.rename_output(producer, producer.outputs[0], node.outputs[0])
            return []
    rank = graph.rank(node.inputs[0])
    if rank is None or not 3 <= rank <= 5:
        return None
    channels, spatial = len(factor), [1] * (rank - 2)
    weight = graph.add_constant(f"{node.name}_weight", _rounded(factor.reshape(channels, 1, *spatial)))
    bias = graph.add_constant(f"{node.name}_bias", _rounded(offset))
    settings = {"group": channels, "kernel_shape": spatial}
    return [new_node("Conv", [node.inputs[0], weight, bias], node.outputs[:1], node.name, settings)]


def fold_channel_arithmetic(graph: Graph) -> None:
    """Mul, Div, Add and Sub of a constant with one entry a channel, behind a layer that nothing else reads."""
    graph.sweep(_channel_arithmetic)


def _channel_arithmetic(graph: Graph, node: Node) -> list[Node] | None:
    if not node.is_op("Mul", "Div", "Add", "Sub"):
        return None
    commutes = node.is_op("Mul", "Add")
    for value_name, constant_name in (node.inputs, node.inputs[::-1]) if commutes else (node.inputs,):
        layer, constant = graph.producer(value_name), graph.constant(constant_name)
        if layer is None or constant is None or not graph.has_one_use(value_name):
            continue
        vector = _per_channel(graph, layer, value_name, constant)
        if vector is None or not np.isfinite(vector).all() or (node.op_type == "Div" and (vector == 0).any()):
            continue
        factor, offset = np.ones_like(vector), np.zeros_like(vector)
        if node.is_op("Mul", "Div"):
            factor = vector if node.op_type == "Mul" else 1.0 / vector
        else:
            offset = vector if node.op_type == "Add" else -vector
        if scale_channels(graph, layer, factor, offset):
            graph.rename_output(layer, value_name, node.outputs[0])
            return []
    return None


def _per_channel(graph: Graph, layer: Node, value: str, constant: Array) -> Array | None:
    """``constant`` as one float64 an output channel of ``layer``, None where it is none."""
    axis = output_channel_axis(graph, layer)
    weight = graph.constant(layer.input(1)) if axis is not None else None
    rank = graph.rank(value)
    if axis is None or weight is None or rank is None or constant.ndim > rank:
        return None
    channels = weight.shape[axis] * (layer.attr("group", 1) if layer.is_op("ConvTranspose") else 1)
    shape = (1,) * (rank - constant.ndim) + constant.shape
    along = 1 if layer.is_op(*_CONVOLUTIONS) else rank - 1
    if any(size != 1 for i, size in enumerate(shape) if i != along) or shape[along] not in (1, channels):
        return None
    return np.broadcast_to(constant.reshape(-1), (channels,)).astype(np.float64)


def scale_channels(graph: Graph, layer: Node, factor: Array, offset: Array) -> bool:
    """Make each output channel of ``layer`` ``factor`` times as large, plus ``offset`` (both float64, (O,)).

    False, and nothing done, where the weights or the bias are no constants or belong to no one axis of the weights.
    """
    axis = output_channel_axis(graph, layer)
    weight = graph.constant(layer.input(1)) if axis is not None else None
    bias = graph.constant(layer.input(2)) if layer.input(2) else np.zeros(len(factor), np.float32)
    if axis is None or weight is None or bias is None or bias.shape != (len(factor),):
        return False
    if layer.is_op("ConvTranspose") and layer.attr("group", 1) != 1:
        return False
    along = [1] * weight.ndim
    along[axis] = -1
    new_weight = _rounded(weight.astype(np.float64) * factor.reshape(along))
    new_bias = _rounded(bias.astype(np.float64) * factor + offset)
    names = [graph.add_constant(f"{layer.name}_weight", new_weight), graph.add_constant(f"{layer.name}_bias", new_bias)]
    if layer.is_op("Gemm") or layer.is_op(*_CONVOLUTIONS):
        graph.set_inputs(layer, [layer.inputs[0], *names])
        return True
    return False


def output_channel_axis(graph: Graph, layer: Node) -> int | None:
    """The axis of the weights (input 1) that belongs to the output channels, None for what is no layer."""
    if layer.is_op("Conv"):
        return 0
    if layer.is_op("ConvTranspose"):
        return 1
    if layer.is_op("Gemm"):
        return 0 if layer.attr("transB", 0) else 1
    if layer.is_op("MatMul") and graph.rank(layer.inputs[1]) == 2:
        return 1
    return None


def simplify_sums(graph: Graph) -> None:
    """Sum of two tensors -> Add, which has an integer form."""

    def rule(_: Graph, node: Node) -> list[Node] | None:
        if not node.is_op("Sum") or len(node.inputs) != 2:
            return None
        return [new_node("Add", node.inputs, node.outputs, node.name)]

    graph.sweep(rule)


def _rounded(value: Array) -> Array:
    return value.astype(np.float32)
