"""Second moments of what the filters of a layer see: all that the error of its result depends on.

If the weights of a filter are off by d, its result is off by ``d @ x`` for each window x, and the mean square of that
over the calibration data is ``d M d`` with ``M = E[x x^T]``. Where the bias takes the mean error off afterwards,
what is left is the variance, ``d M d`` with the covariance of x for M. x is quantised as it will be.

The moments are summed over the batches: memory does not depend on the number of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.frontend.graph import Graph
from pipeline.quantization.bias_correction import is_corrected
from pipeline.quantization.calibration import Tell, Tensors
from pipeline.quantization.feeds import Feeds
from pipeline.quantization.parameters import QuantizationParameters
from pipeline.quantization.placement import Layer
from pipeline.quantization.products import product
from pipeline.quantization.windows import filter_inputs, filter_shape

LARGEST_FILTER = 8192
"""Inputs of a filter; the moments have the square of it. Layers with more are left out."""

_DAMPING = 1e-3
"""Part of the mean of M's diagonal that is added to it: inputs that were constant in all of the data may still vary."""

_BYTES = 512 * 2**20
"""Moments held at once; layers beyond it wait for another pass over the data."""


def layer_moments(
    graph: Graph,
    layers: Sequence[Layer],
    activations: Mapping[str, QuantizationParameters],
    feeds: Feeds,
    tell: Tell,
    *,
    bias_correction: bool,
) -> Iterator[tuple[Layer, np.ndarray]]:
    """M (groups, K, K), float64, of each Conv, Gemm and MatMul among ``layers``; others are left out.

    ``bias_correction``: whether biases will be corrected, so that mean errors do not count.
    """
    shares = list(_shares(graph, layers))
    model = graph.to_model()
    for turn, share in enumerate(shares):
        by_input: dict[str, list[Layer]] = {}
        for layer in share:
            by_input.setdefault(layer.x, []).append(layer)
        sums = {layer.name: _Sums(layer, graph.shape(layer.weight) or ()) for layer in share}
        for index, (_, values) in enumerate(Tensors(graph, model, by_input, feeds)):
            for name, value in values.items():
                x = activations[name].dequantize(activations[name].quantize(value))
                for layer in by_input[name]:
                    sums[layer.name].add(x)
            tell((turn + 0.5 * (1 - 1 / (1 + index / 50))) / len(shares))
        for place, layer in enumerate(share):
            yield layer, sums.pop(layer.name).moments(centred=bias_correction and is_corrected(layer))
            tell((turn + 0.5 + 0.5 * (place + 1) / len(share)) / len(shares))


def _shares(graph: Graph, layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """The layers in lists whose moments fit into memory together."""
    share: list[Layer] = []
    filled = 0
    for layer in layers:
        shape = filter_shape(graph, layer)
        if shape is None or shape[1] > LARGEST_FILTER:
            continue
        size = 8 * shape[0] * shape[1] ** 2
        if share and filled + size > _BYTES:
            yield share
            share, filled = [], 0
        share.append(layer)
        filled += size
    if share:
        yield share


class _Sums:
    """Of the windows of one layer and of their products."""

    def __init__(self, layer: Layer, weight: Sequence[int]) -> None:
        self._layer = layer
        self._weight = weight
        self._count = 0
        self._windows: np.ndarray | float = 0.0
        self._products: np.ndarray | float = 0.0

    def add(self, x: np.ndarray) -> None:
        windows = filter_inputs(self._layer, self._weight, x)
        self._count += windows.shape[1]
        self._windows = self._windows + windows.sum(axis=1, dtype=np.float64)
        self._products = self._products + product(windows.transpose(0, 2, 1), windows).astype(np.float64)

    def moments(self, *, centred: bool) -> np.ndarray:
        """(groups, K, K)"""
        mean, moments = np.asarray(self._windows) / self._count, np.asarray(self._products) / self._count
        if centred:
            moments -= mean[:, :, None] * mean[:, None, :]
        diagonal = np.trace(moments, axis1=1, axis2=2) / moments.shape[1]
        # Where nothing varies, all weights count alike.
        damping = np.where(diagonal > 0, _DAMPING * diagonal, 1.0)
        moments += damping[:, None, None] * np.eye(moments.shape[1])
        return moments
