"""Resize says its output in sizes.

Does:
1. Turns constant scales into sizes where each ``size * scale`` is a whole number, which means the same.
2. Turns half_pixel_symmetric into half_pixel: it differs only where the size was rounded, so never after 1.

Does not: take scales whose result ONNX rounds down (7 * 1.5 is 10, but samples are still 1/1.5 apart, which the
importer cannot express), or a Resize of the batch or channel axis. Those raise :class:`UnsupportedOperatorError`, all
of them in one message.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import UnsupportedOperatorError
from pipeline.frontend.graph import Graph, Node

# Scales are float32: 1.1 * 10 is 11.0000002.
_ROUNDING = 1e-6


def replace_resize_scales(graph: Graph) -> None:
    """Rewrite every Resize with constant scales, or with half_pixel_symmetric."""
    graph.infer()
    refused = [message for node in graph.nodes if node.is_op("Resize") and (message := _replace(graph, node))]
    if refused:
        raise UnsupportedOperatorError(
            f"Resize cannot be compiled as it is set: {'; '.join(refused)}. Export it with sizes instead of scales."
        )


def _replace(graph: Graph, node: Node) -> str | None:
    """None, or why the node is refused."""
    before, after = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if before is None or after is None:
        return None
    if len(before) not in (3, 4, 5) or before[:2] != after[:2]:
        return f"{node.name!r} resizes other axes than width, height and depth ({before} to {after})"
    scales = graph.constant(node.input(2)) if node.input(2) else None
    if scales is not None and scales.size:
        exact = scales.astype(np.float64) * before
        if (np.abs(exact - after) > _ROUNDING * exact).any():
            return f"{node.name!r} has scales {scales.tolist()} that do not divide its shapes ({before} to {after})"
        sizes = graph.add_constant(f"{node.name}_sizes", np.asarray(after, np.int64))
        graph.set_inputs(node, [node.inputs[0], node.input(1), "", sizes])
    if node.attr("coordinate_transformation_mode") == "half_pixel_symmetric":
        node.set_attr("coordinate_transformation_mode", "half_pixel")
    return None
