"""Ranges of narrow weights: how much of the largest ones to cut off, so that the rest gets finer steps.

Ranges of 1.00, 0.98 ... 0.20 of the largest weight are tried. With the codes q that a range gives to the weights w of
a filter, and the inner product ``<a, b> = a M b``:

1. The range with the largest ``<w, q>**2 / <q, q>`` is kept. That is the one with the least squared error
   ``<w - s q, w - s q>`` for the scale s which suits its codes best.
2. The scale is then ``sqrt(<w, w> / <q, q>)``, with which the quantised filter is as large as the filter.

M is the identity ("mse": the error of the weights) or the second moments of the filter's inputs ("output": the error of
the layer's result, see :mod:`.moments`). Filters with one scale share their sums of products.

Sources: the search is that of M. Nagel et al., "A White Paper on Neural Network Quantization", 2021, section 3.1, and
its equation 14 the error of the result. Step 2 is the correction of the variance in R. Banner et al., "Post training
4-bit quantization of convolutional networks for rapid-deployment", NeurIPS 2019, section 2.3: the scale of the least
error alone makes every filter smaller, by the part of its power that is lost, and that adds up from layer to layer,
while errors without a preferred direction average out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.frontend.graph import Graph
from pipeline.quantization.calibration import Tell
from pipeline.quantization.encoding import Encoding, weight_settings
from pipeline.quantization.feeds import Feeds
from pipeline.quantization.moments import layer_moments
from pipeline.quantization.options import Options
from pipeline.quantization.overrides import LayerOverride
from pipeline.quantization.parameters import MAX_BITS
from pipeline.quantization.placement import Layer, Placement
from pipeline.quantization.weights import weight_sets, with_room_for_bias

_PARTS = np.linspace(1.0, 0.2, 41)

_EXACT = 1e-3
"""In steps: weights that are off by less lie on a grid already, which is not to be changed."""


def searched_ranges(placement: Placement, options: Options, *, has_data: bool) -> dict[str, str]:
    """By name of the layer, "mse" or "output" for each whose range is searched."""
    ranges = {}
    for layer in placement.layers:
        # 8 bits are fine enough for the largest weight: the error of the activations is larger.
        narrow = weight_settings(layer, options).bits < MAX_BITS
        chosen = options.weight_range or (("output" if has_data else "mse") if narrow else "minmax")
        stated = options.overrides.layers.get(layer.name, LayerOverride()).weight_scale is not None
        if chosen != "minmax" and not stated:
            ranges[layer.name] = chosen
    return ranges


def narrow_ranges(
    graph: Graph,
    placement: Placement,
    options: Options,
    encoding: Encoding,
    feeds: Feeds | None,
    tell: Tell,
) -> None:
    """Replace the weights of ``encoding`` and their scales in the layers whose range is searched.

    ``feeds`` may be None where "output" is not asked for.
    """
    ranges = searched_ranges(placement, options, has_data=feeds is not None)
    waiting = {layer.name: layer for layer in placement.layers if layer.name in ranges}
    by_output = [layer for layer in waiting.values() if ranges[layer.name] == "output"]
    if by_output:
        assert feeds is not None
        activations, correction = encoding.activations, options.bias_correction
        all_moments = layer_moments(graph, by_output, activations, feeds, tell, bias_correction=correction)
        for layer, moments in all_moments:
            _narrow(graph, waiting.pop(layer.name), options, encoding, moments)
    for layer in waiting.values():  # "mse", and layers that have no moments
        _narrow(graph, layer, options, encoding, None)


def _narrow(graph: Graph, layer: Layer, options: Options, encoding: Encoding, moments: np.ndarray | None) -> None:
    weight, numbers = graph.constant(layer.weight), encoding.layers[layer.name]
    assert weight is not None
    parameters, axis = numbers.parameters, layer.axis
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    scale = np.broadcast_to(parameters.scale, len(rows)).astype(np.float64)
    steps = rows / scale[:, None]
    if np.abs(steps - np.rint(steps)).max(initial=0) < _EXACT:
        return
    sets = len(weight_sets(weight, axis, layer.groups, weight_settings(layer, options).granularity))
    codes, factor = search_ranges(steps, parameters.maximum, sets, moments)
    scale = scale * np.repeat(factor, len(rows) // sets)
    found = replace(parameters, scale=(scale if parameters.axis is not None else scale[0]).astype(np.float32))
    bias, x_scale = graph.constant(layer.bias) if layer.bias else None, encoding.activations[layer.x].scale
    if bias is not None:
        roomy = with_room_for_bias(found, bias.reshape(-1), float(x_scale))
        if not np.array_equal(roomy.scale, found.scale):
            return  # a bias that large says more than the weights
    shape = np.moveaxis(weight, axis, 0).shape
    stored = np.ascontiguousarray(np.moveaxis(codes.reshape(shape), 0, axis), np.int8)
    numbers = replace(numbers, weight=stored, parameters=found)
    encoding.layers[layer.name] = numbers if bias is None else numbers.with_bias(bias.reshape(-1), x_scale)


def search_ranges(
    steps: np.ndarray, largest: int, sets: int, moments: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The codes (R, K) of the best range of each set, and by what to multiply the scale of the set (sets,).

    Args:
        steps: weights over their scale (R, K), the widest range going to ``largest``.
        largest: code; the smallest is ``-largest``.
        sets: so many equal parts of the rows, in order, get one factor each.
        moments: (groups, K, K), for as many equal parts of the rows; None for the identity.
    """
    best = np.clip(np.rint(steps), -largest, largest)
    factor, most = np.ones(sets), np.full(sets, -np.inf)
    image = _transformed(steps, moments)
    size = _pooled(steps, image, sets)
    for part in _PARTS:
        codes = np.clip(np.rint(steps / part), -largest, largest)
        alike = _pooled(codes, image, sets)
        power = _pooled(codes, _transformed(codes, moments), sets)
        fitting = (alike > 0) & (power > 0)  # no dead filter
        kept = np.where(fitting, alike**2 / np.where(fitting, power, 1.0), -np.inf)
        better = kept > most
        most[better] = kept[better]
        factor[better] = np.sqrt(size[better] / power[better])
        rows = np.repeat(better, len(steps) // sets)
        best[rows] = codes[rows]
    return best, factor


def _transformed(rows: np.ndarray, moments: np.ndarray | None) -> np.ndarray:
    """M times each row; float32 is enough to choose among ranges."""
    if moments is None:
        return rows
    grouped = rows.reshape(len(moments), -1, rows.shape[1]).astype(np.float32)
    return np.matmul(grouped, moments.astype(np.float32)).reshape(rows.shape)


def _pooled(a: np.ndarray, b: np.ndarray, sets: int) -> np.ndarray:
    """Sums of products over each set (sets,)."""
    return (a * b).sum(axis=1, dtype=np.float64).reshape(sets, -1).sum(axis=1)
