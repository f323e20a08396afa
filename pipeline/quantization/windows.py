"""What each filter of a layer sees: its windows over the activation, as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.frontend.graph import Graph, Node
from pipeline.quantization.placement import Layer

POSITIONS = 128
"""Windows taken of each sample, spread evenly over it."""


def filter_shape(graph: Graph, layer: Layer) -> tuple[int, int] | None:
    """(groups, inputs of one filter) of a Conv, Gemm or MatMul; None for other layers."""
    weight = graph.shape(layer.weight) or ()
    if layer.node.is_op("Conv"):
        return layer.groups, int(np.prod(weight[1:]))
    if layer.node.is_op("Gemm", "MatMul") and not layer.node.attr("transA", 0):
        return 1, weight[1 - layer.axis]
    return None


def filter_inputs(layer: Layer, weight: Sequence[int], x: np.ndarray) -> np.ndarray:
    """(groups, P, K) windows of ``x`` under the filters of shape ``weight``, K in the order of the weights."""
    if not layer.node.is_op("Conv"):
        rows = x.reshape(-1, x.shape[-1])
        return rows[None, _spread(len(rows), len(x) * POSITIONS)]
    kernel = weight[2:]
    spatial = len(kernel)
    strides = layer.node.attr("strides", [1] * spatial)
    dilations = layer.node.attr("dilations", [1] * spatial)
    pads = _pads(layer.node, x.shape[2:], kernel, strides, dilations)
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    views = sliding_window_view(padded, extents, axis=tuple(range(2, 2 + spatial)))
    every = [slice(None, None, stride) for stride in strides]
    views = views[(slice(None), slice(None), *every, *[slice(None, None, d) for d in dilations])]
    places = _spread(int(np.prod(views.shape[2 : 2 + spatial])), POSITIONS)
    index: tuple[Any, ...] = np.unravel_index(places, views.shape[2 : 2 + spatial])
    taken = np.moveaxis(views[(slice(None), slice(None), *index)], 2, 1)  # (N, P, C, kernel)
    rows = taken.reshape(-1, layer.groups, x.shape[1] // layer.groups, *kernel)
    return np.ascontiguousarray(np.moveaxis(rows, 1, 0)).reshape(layer.groups, len(rows), -1)


def _spread(count: int, wanted: int) -> np.ndarray:
    """Up to ``wanted`` of ``count`` places, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))


def _pads(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    mode = node.attr("auto_pad", "NOTSET")
    if mode in ("", "NOTSET"):
        pads = node.attr("pads", [0] * 2 * len(kernel))
        return list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))
    result = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = 0 if mode == "VALID" else max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return result
