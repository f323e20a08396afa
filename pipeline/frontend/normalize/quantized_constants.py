"""QuantizeLinear of a float constant → the integer constant, computed as ONNX defines it.

Divides in the scale's float type, rounds ties to even, adds the zero point, saturates. Does not: touch types other
than int8, uint8, int16 and uint16, or a node that writes a graph output.
"""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from pipeline.frontend.graph import Array, Graph, Node

_TYPES = (np.int8, np.uint8, np.int16, np.uint16)


def quantize_constants(graph: Graph) -> None:
    """Compute every QuantizeLinear whose inputs are constants."""
    graph.sweep(_quantize)


def _quantize(graph: Graph, node: Node) -> list[Node] | None:
    if not node.is_op("QuantizeLinear") or graph.is_output(node.outputs[0]) or node.attr("block_size", 0):
        return None
    value, scale, zero = (graph.constant(name) for name in node.inputs[:3])
    if value is None or scale is None or zero is None or zero.dtype.type not in _TYPES or value.dtype != scale.dtype:
        return None
    result = quantize_array(value, scale, zero, node.attr("axis", 1))
    graph.constants[node.outputs[0]] = numpy_helper.from_array(result, node.outputs[0])
    return []


def quantize_array(value: Array, scale: Array, zero: Array, axis: int) -> Array:
    """``saturate(round_half_even(value / scale) + zero)``; value and scale float, result of the zero point's type."""
    if scale.ndim:
        along = [1] * value.ndim
        along[axis] = -1
        scale, zero = scale.reshape(along), zero.reshape(along)
    bounds = np.iinfo(zero.dtype)
    with np.errstate(over="ignore"):
        steps = np.rint(value / scale).astype(np.float64) + zero.astype(np.float64)
    return np.clip(steps, bounds.min, bounds.max).astype(zero.dtype)
