"""Conv and pools say their padding in numbers.

Does: auto_pad becomes pads (SAME_UPPER and SAME_LOWER need the static input size), kernel_shape of Conv is filled in
from the weight. Does not: touch ConvTranspose and LpPool.
"""

from __future__ import annotations

from pipeline.errors import ModelError
from pipeline.frontend.graph import Graph, Node


def make_padding_explicit(graph: Graph) -> None:
    """Replace auto_pad by pads."""
    graph.infer()
    for node in graph.nodes:
        if node.is_op("Conv", "MaxPool", "AveragePool"):
            _make_explicit(graph, node)


def _make_explicit(graph: Graph, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    weight = graph.shape(node.inputs[1]) if node.is_op("Conv") else None
    kernel = node.attr("kernel_shape") or (weight[2:] if weight else None)
    mode = node.attr("auto_pad", "NOTSET")
    if not kernel:
        raise ModelError(f"node {node.name!r} ({node.op_type}): the size of its kernel is not known at compile time.")
    node.set_attr("kernel_shape", list(kernel))
    node.attributes.pop("auto_pad", None)
    if mode in ("", "NOTSET"):
        return
    spatial = len(kernel)
    if mode == "VALID":
        node.set_attr("pads", [0] * 2 * spatial)
        return
    if shape is None:
        raise ModelError(f"node {node.name!r} ({node.op_type}): auto_pad={mode} needs a static input shape.")
    strides = node.attr("strides", [1] * spatial)
    dilations = node.attr("dilations", [1] * spatial)
    totals = []
    for size, k, stride, dilation in zip(shape[2:], kernel, strides, dilations, strict=True):
        outputs = -(-size // stride)
        totals.append(max((outputs - 1) * stride + (k - 1) * dilation + 1 - size, 0))
    small = [total // 2 for total in totals]
    large = [total - total // 2 for total in totals]
    node.set_attr("pads", [*small, *large] if mode == "SAME_UPPER" else [*large, *small])
