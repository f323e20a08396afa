"""Conv and pools say their padding in numbers.

Does: auto_pad becomes pads (SAME_UPPER and SAME_LOWER need the static input size), kernel_shape of Conv is filled in
from the weight, output_shape of ConvTranspose becomes pads. Does not: touch auto_pad of LpPool and ConvTranspose.
"""

from __future__ import annotations

from pipeline.errors import ModelError, UnsupportedOperatorError
from pipeline.frontend.graph import Graph, Node


def make_padding_explicit(graph: Graph) -> None:
    """Replace auto_pad and output_shape by pads."""
    graph.infer()
    for node in graph.nodes:
        if node.is_op("Conv", "MaxPool", "AveragePool"):
            _make_explicit(graph, node)
        elif node.is_op("ConvTranspose") and node.attr("output_shape"):
            _replace_output_shape(graph, node)


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


def _replace_output_shape(graph: Graph, node: Node) -> None:
    """The padding by which a ConvTranspose gets its output_shape; any pads besides it mean nothing."""
    shape, weight = graph.shape(node.inputs[0]), graph.shape(node.inputs[1])
    if shape is None or weight is None:
        raise ModelError(f"node {node.name!r} (ConvTranspose): output_shape needs static shapes of input and weight.")
    spatial = len(shape) - 2
    sizes = zip(
        shape[2:],
        node.attr("kernel_shape") or weight[2:],
        node.attr("strides", [1] * spatial),
        node.attr("dilations", [1] * spatial),
        node.attr("output_padding", [0] * spatial),
        node.attr("output_shape")[-spatial:],
        strict=True,
    )
    totals = [
        (size - 1) * stride + (k - 1) * dilation + 1 + more - out for size, k, stride, dilation, more, out in sizes
    ]
    if min(totals) < 0:
        raise UnsupportedOperatorError(
            f"node {node.name!r} (ConvTranspose): its output_shape {node.attr('output_shape')} is larger than all that "
            "input and kernel reach. Export it with pads and output_padding instead."
        )
    small = [total // 2 for total in totals]
    large = [total - total // 2 for total in totals]
    node.set_attr("pads", [*small, *large] if node.attr("auto_pad") == "SAME_UPPER" else [*large, *small])
    for name in ("auto_pad", "output_shape"):
        node.attributes.pop(name, None)
