"""Ranges of narrow weights: how much of the largest ones to cut off, so that the rest gets finer steps.

Ranges of 1.00, 0.98 ... 0.20 of the largest weight are tried. With the codes q that a range gives to the weights w of
a filter, and the inner product ``<a, b> = a M b``:

1. The range with the largest ``<w, q>**2 / <q, q>`` is kept. That is the one with the least squared error
   ``<w - s q, w - s q>`` for the scale s which suits its codes best.
2. The scale is then ``sqrt(<w, w> / <q, q>)``, with which the quantised filter is as large as the filter.

M is the identity ("mse": the error of the weights) or the second moments of the filter's inputs ("output": the error of
the layer's result, see :mod:`.moments`). Filters with one scale share their sums of products.

Sources: the search is the usual one, as in M. Nagel et al., "A White Paper on Neural Network Quantization", 2021, and
the error of the result the aim of the same authors' AdaRound. Step 2 is the bias correction, that of the variance, in
R. Banner et al., "Post training 4-bit quantization of convolutional networks for rapid-deployment", NeurIPS 2019: the
scale of the least error alone makes every filter smaller, by the part of its power that is lost, and that adds up from
layer to layer, while errors without a preferred direction average out.
"""

from __future__ import annotations

import numpy as np

from pipeline.frontend.graph import Graph
from pipeline.quantization.calibration import Tell
from pipeline.quantization.encoding import Encoding, has_stated_scale, weight_settings, weight_steps, with_codes
from pipeline.quantization.feeds import Feeds
from pipeline.quantization.moments import layer_moments
from pipeline.quantization.options import Options
from pipeline.quantization.parameters import MAX_BITS
from pipeline.quantization.placement import Layer, Placement
from pipeline.quantization.products import product
from pipeline.quantization.weights import weight_sets

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
        if chosen != "minmax" and not has_stated_scale(layer, options):
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
    steps = weight_steps(graph, layer, encoding)
    if np.abs(steps - np.rint(steps)).max(initial=0) < _EXACT:
        return
    largest = encoding.layers[layer.name].parameters.maximum
    codes, factor = search_ranges(steps, largest, scale_sets(graph, layer, options), moments)
    encoding.layers[layer.name] = with_codes(graph, layer, encoding, codes, factor)


def scale_sets(graph: Graph, layer: Layer, options: Options) -> int:
    """In how many equal parts of a layer's filters, in order, each part has one scale."""
    weight = graph.constant(layer.weight)
    assert weight is not None
    return len(weight_sets(weight, layer.axis, layer.groups, weight_settings(layer, options).granularity))


def search_ranges(
    steps: np.ndarray, largest: int, sets: int, moments: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The codes (R, K) of the best range of each set, and by what to multiply the scale of each row (R,).

    Args:
        steps: weights over their scale (R, K), the widest range going to ``largest``.
        largest: code; the smallest is ``-largest``.
        sets: so many equal parts of the rows, in order, get one factor each.
        moments: (groups, K, K), for as many equal parts of the rows; None for the identity.
    """
    image = _transformed(steps, moments)
    best = np.clip(np.rint(steps), -largest, largest)
    most = np.full(sets, -np.inf)
    for part in _PARTS:
        codes = np.clip(np.rint(steps / part), -largest, largest)
        alike = _pooled(codes, image, sets)
        power = _pooled(codes, _transformed(codes, moments), sets)
        fitting = (alike > 0) & (power > 0)  # no dead filter
        kept = np.where(fitting, alike**2 / np.where(fitting, power, 1.0), -np.inf)
        better = kept > most
        most[better] = kept[better]
        rows = np.repeat(better, len(steps) // sets)
        best[rows] = codes[rows]
    return best, size_factor(steps, best, sets, moments)


def size_factor(steps: np.ndarray, codes: np.ndarray, sets: int, moments: np.ndarray | None) -> np.ndarray:
    """By what to multiply the scale of each row (R,), so that the filters of a set are as large as before rounding.

    Arguments as of :func:`search_ranges`; ``codes``: (R, K).
    """
    size, power = (_pooled(rows, _transformed(rows, moments), sets) for rows in (steps, codes))
    alive = (size > 0) & (power > 0)
    return np.repeat(np.sqrt(np.where(alive, size, 1.0) / np.where(alive, power, 1.0)), len(steps) // sets)


def _transformed(rows: np.ndarray, moments: np.ndarray | None) -> np.ndarray:
    """M times each row; float32 is enough to choose among ranges."""
    if moments is None:
        return rows
    grouped = rows.reshape(len(moments), -1, rows.shape[1]).astype(np.float32)
    return product(grouped, moments.astype(np.float32)).reshape(rows.shape)


def _pooled(a: np.ndarray, b: np.ndarray, sets: int) -> np.ndarray:
    """Sums of products over each set (sets,)."""
    return (a * b).sum(axis=1, dtype=np.float64).reshape(sets, -1).sum(axis=1)
