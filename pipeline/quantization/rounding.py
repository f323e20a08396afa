"""Adaptive rounding: up or down, whichever makes the layer's result err less on the calibration data.

As in AdaRound the aim is the least ``E[ ((w_q - w) x_q)**2 ]`` for each output channel, x_q being the quantised
activations under the filter, with each weight rounded up or down. That is ``d G d`` with the differences d = w_q - w
and the second moments ``G = E[x_q x_q^T]``, which is all that the data is needed for: they are summed over the batches,
and memory does not depend on the number of images. Where AdaRound then relaxes the choice and descends by gradient,
single roundings are changed here as long as one lowers the error: exact, the same on every run, and without settings.

Source of the aim: M. Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from pipeline.frontend.graph import Graph
from pipeline.quantization.calibration import Tensors
from pipeline.quantization.encoding import Encoding, LayerEncoding
from pipeline.quantization.feeds import Feeds
from pipeline.quantization.placement import Layer, Placement
from pipeline.quantization.windows import filter_inputs, filter_shape

LARGEST_FILTER = 8192
"""Inputs of a filter; G has the square of it. Layers with more are rounded to nearest."""

_SWEEPS = 10
_DAMPING = 1e-3
"""Part of the mean of G's diagonal that is added to it: inputs that were zero in all of the data may still occur."""

_BYTES = 512 * 2**20
"""Second moments held at once; layers beyond it wait for another pass over the data."""


def round_adaptively(
    graph: Graph, placement: Placement, encoding: Encoding, feeds: Feeds, tell: Callable[[float], None]
) -> None:
    """Replace the weights of ``encoding`` by better rounded ones, for Conv, Gemm and MatMul."""
    shares = list(_shares(graph, placement.layers))
    model = graph.to_model()
    for turn, layers in enumerate(shares):
        by_input: dict[str, list[Layer]] = {}
        for layer in layers:
            by_input.setdefault(layer.x, []).append(layer)
        moments: dict[str, np.ndarray] = {}
        for index, (_, values) in enumerate(Tensors(graph, model, by_input, feeds)):
            _add(moments, by_input, encoding, values)
            tell((turn + 0.5 * (1 - 1 / (1 + index / 50))) / len(shares))
        for layer in layers:
            encoding.layers[layer.name] = _rounded(graph, layer, encoding.layers[layer.name], moments.pop(layer.name))
        tell((turn + 1) / len(shares))


def _shares(graph: Graph, layers: list[Layer]) -> Iterator[list[Layer]]:
    """The layers that can be rounded, in lists whose second moments fit into memory together."""
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


def _add(
    moments: dict[str, np.ndarray],
    by_input: Mapping[str, list[Layer]],
    encoding: Encoding,
    values: Mapping[str, np.ndarray],
) -> None:
    """Add up ``x x^T`` (groups, K, K) of the windows of one batch, for each layer."""
    for name, value in values.items():
        parameters = encoding.activations[name]
        x = parameters.dequantize(parameters.quantize(value))
        for layer in by_input[name]:
            windows = filter_inputs(layer, encoding.layers[layer.name].weight.shape, x)
            product = np.matmul(windows.transpose(0, 2, 1), windows).astype(np.float64)
            moments[layer.name] = moments[layer.name] + product if layer.name in moments else product


def _rounded(graph: Graph, layer: Layer, numbers: LayerEncoding, moments: np.ndarray) -> LayerEncoding:
    weight = graph.constant(layer.weight)
    assert weight is not None
    parameters = numbers.parameters
    rows = np.moveaxis(weight, layer.axis, 0)
    codes = np.moveaxis(numbers.weight, layer.axis, 0).astype(np.int64)
    scale = np.broadcast_to(parameters.scale, len(rows)).astype(np.float64)
    steps = rows.reshape(len(rows), -1) / scale[:, None]
    flat = codes.reshape(len(rows), -1)
    groups = moments.shape[0]
    each = len(rows) // groups
    better = [
        improve_rounding(
            steps[group * each : (group + 1) * each],
            flat[group * each : (group + 1) * each],
            moments[group],
            (parameters.minimum, parameters.maximum),
        )
        for group in range(groups)
    ]
    result = np.moveaxis(np.concatenate(better).reshape(codes.shape), 0, layer.axis)
    return replace(numbers, weight=np.ascontiguousarray(result, np.int8))


def improve_rounding(steps: np.ndarray, codes: np.ndarray, moments: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    """Codes (R, K), each ``steps`` rounded up or down, with a lower ``d moments d`` than ``codes`` in every row.

    ``steps``: the weights over their scale (R, K). ``codes``: where to start from. ``moments``: (K, K).
    """
    moments = moments + np.eye(len(moments)) * (_DAMPING * np.trace(moments) / len(moments))
    lower = np.clip(np.floor(steps), *limits).astype(np.int64)
    upper = np.clip(np.floor(steps) + 1, *limits).astype(np.int64)
    codes = codes.copy()
    pull = (codes - steps) @ moments
    for _ in range(_SWEEPS):
        changed = False
        for k in range(steps.shape[1]):
            other = np.where(codes[:, k] == upper[:, k], lower[:, k], upper[:, k])
            change = (other - codes[:, k]).astype(np.float64)
            gain = change * (2 * pull[:, k] + change * moments[k, k])
            rows = np.flatnonzero(gain < -1e-9 * moments[k, k])
            if rows.size:
                changed = True
                codes[rows, k] = other[rows]
                pull[rows] += change[rows, None] * moments[k]
        if not changed:
            break
    return codes
