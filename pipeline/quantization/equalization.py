"""Cross-layer equalisation: channels of neighbouring layers are scaled so that all use their scale's range alike.

Between two layers lies nothing but operators f with f(s x) = s f(x) for s > 0, channel by channel. So the output
channel c of the first may be divided by s_c and the input channel c of the second multiplied by it. With r1 and r2 the
largest weights of the channel in both, s = sqrt(r1 r2) / r2 makes them equal. Chains of layers are gone through until
nothing changes much. This is for weights with one scale a tensor; scales of channels hardly need it. No bias is made
larger than the layer's largest, which would stretch the range of the activations.

Source: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.1. Unlike there, Clip (ReLU6) is not passed, as it is no such operator: it would have to clip each channel elsewhere.
"""

from __future__ import annotations

import os

import numpy as np
from onnx import ModelProto, numpy_helper

from pipeline.frontend.graph import Array, Graph, Node
from pipeline.quantization.folding import output_channel_axis
from pipeline.quantization.model import load_float_graph

_ROUNDS = 20
_SETTLED = 1e-3
"""Largest change of a factor, as a part of it, that ends the rounds."""

_NEGLIGIBLE = 1e-4
"""Channels whose weights are below this part of the layer's largest count as dead and stay as they are."""

_PASSED = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Flatten")


def equalize(graph: Graph) -> int:
    """Scale the weights and biases of all pairs in place; the model computes the same but for float rounding.

    Returns the number of pairs: 0 where no two layers are joined by operators that may be passed.
    """
    pairs = _pairs(graph)
    for _ in range(_ROUNDS):
        if max((_equalize(graph, first, second) for first, second in pairs), default=0.0) < _SETTLED:
            break
    return len(pairs)


def equalized_model(path: str | os.PathLike[str]) -> ModelProto:
    """The float model in a file as the quantiser equalises it. Raises ModelError as the quantiser does."""
    graph, _ = load_float_graph(path)
    equalize(graph)
    return graph.to_model()


def _pairs(graph: Graph) -> list[tuple[Node, Node]]:
    """Layers with constant weights that nobody shares, the second being all that reads the first."""
    pairs = []
    for node in graph.nodes:
        if not node.is_op("Conv", "Gemm") or not _is_plain(graph, node):
            continue
        reader = _reader(graph, node)
        while reader is not None and reader.is_op(*_PASSED):
            reader = _reader(graph, reader)
        if reader is None or not reader.is_op("Conv", "Gemm") or not _is_plain(graph, reader):
            continue
        weight = graph.constant(node.inputs[1])
        assert weight is not None
        # Behind Flatten a fully connected layer may see several entries of one channel.
        if _input_channels(graph, reader) == weight.shape[output_channel_axis(graph, node) or 0]:
            pairs.append((node, reader))
    return pairs


def _reader(graph: Graph, node: Node) -> Node | None:
    if len(node.outputs) != 1 or not graph.has_one_use(node.outputs[0]):
        return None
    (reader,) = graph.consumers(node.outputs[0])
    return reader if reader.inputs[0] == node.outputs[0] else None


def _is_plain(graph: Graph, node: Node) -> bool:
    constants = [name for name in node.inputs[1:] if name]
    own = all(name in graph.constants and len(graph.consumers(name)) == 1 for name in constants)
    factors = node.attr("alpha", 1.0) == 1.0 and node.attr("beta", 1.0) == 1.0
    bias = graph.constant(node.input(2)) if node.input(2) else None
    return own and len(set(constants)) == len(constants) and factors and (bias is None or bias.ndim == 1)


def _input_channels(graph: Graph, node: Node) -> int:
    weight = graph.constant(node.inputs[1])
    assert weight is not None
    if node.is_op("Conv"):
        return weight.shape[1] * int(node.attr("group", 1))
    return weight.shape[1 - (output_channel_axis(graph, node) or 0)]


def _outputs_first(graph: Graph, node: Node) -> Array:
    """The weights as (O, K)."""
    weight = graph.constant(node.inputs[1])
    assert weight is not None
    return np.moveaxis(weight, output_channel_axis(graph, node) or 0, 0).reshape(
        weight.shape[output_channel_axis(graph, node) or 0], -1
    )


def _inputs_first(graph: Graph, node: Node) -> Array:
    """The weights as (C, ...), C being the input channels of all groups."""
    weight = graph.constant(node.inputs[1])
    assert weight is not None
    if node.is_op("Gemm"):
        return weight if output_channel_axis(graph, node) == 1 else weight.T
    groups = int(node.attr("group", 1))
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return np.moveaxis(grouped, 2, 1).reshape(_input_channels(graph, node), -1)


def _equalize(graph: Graph, first: Node, second: Node) -> float:
    """Returns by how much the factors differ from 1 at most."""
    r1 = np.abs(_outputs_first(graph, first)).max(axis=1).astype(np.float64)
    r2 = np.abs(_inputs_first(graph, second)).max(axis=1).astype(np.float64)
    alive = (r1 > _NEGLIGIBLE * r1.max()) & (r2 > _NEGLIGIBLE * r2.max())
    factor = np.ones_like(r1)
    factor[alive] = np.sqrt(r1[alive] / r2[alive])
    bias = graph.constant(first.input(2)) if first.input(2) else None
    if bias is not None and np.abs(bias).max() > 0:
        # Scaled up, a large bias would stretch the range of all activations.
        least = np.abs(bias.astype(np.float64)) / np.abs(bias).max()
        factor = np.where(alive, np.maximum(factor, np.minimum(least, 1.0)), 1.0)
    _scale(graph, first.inputs[1], 1 / factor, output_channel_axis(graph, first) or 0)
    if first.input(2):
        _scale(graph, first.inputs[2], 1 / factor, 0)
    if second.is_op("Gemm"):
        _scale(graph, second.inputs[1], factor, 1 - (output_channel_axis(graph, second) or 0))
    else:
        weight = graph.constant(second.inputs[1])
        assert weight is not None
        groups = int(second.attr("group", 1))
        # Output channels lie group by group, and each group has input channels of its own.
        by_row = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        _replace(graph, second.inputs[1], weight * by_row.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2)))
    return float(np.abs(factor - 1).max(initial=0.0))


def _scale(graph: Graph, name: str, factor: Array, axis: int) -> None:
    value = graph.constant(name)
    assert value is not None
    along = [1] * value.ndim
    along[axis] = -1
    _replace(graph, name, value * factor.reshape(along))


def _replace(graph: Graph, name: str, value: Array) -> None:
    graph.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
