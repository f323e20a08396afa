"""Adaptive rounding: up or down, whichever makes the layer's result err less on the calibration data.

As in AdaRound the aim is the least ``E[ ((w_q - w) x_q)**2 ]`` for each output channel, x_q being the quantised
activations under the filter, with each weight rounded up or down. That is ``d M d`` with the differences d = w_q - w
and the second moments M (:mod:`.moments`). Where AdaRound then relaxes the choice and descends by gradient, single
roundings are changed here as long as one lowers the error: exact, the same on every run, and without settings.
The scale then gives each filter the size that it had (:mod:`.weight_ranges`, step 2).

Source of the aim: M. Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020.
"""

from __future__ import annotations

import numpy as np

from pipeline.frontend.graph import Graph
from pipeline.quantization.calibration import Tell
from pipeline.quantization.encoding import Encoding, has_stated_scale, weight_steps, with_codes
from pipeline.quantization.feeds import Feeds
from pipeline.quantization.moments import layer_moments
from pipeline.quantization.options import Options
from pipeline.quantization.placement import Placement
from pipeline.quantization.products import product
from pipeline.quantization.weight_ranges import scale_sets, size_factor

_SWEEPS = 10


def round_adaptively(
    graph: Graph,
    placement: Placement,
    options: Options,
    encoding: Encoding,
    feeds: Feeds,
    tell: Tell,
) -> None:
    """Replace the weights of ``encoding`` by better rounded ones, in the layers that have moments."""
    layers, activations = placement.layers, encoding.activations
    all_moments = layer_moments(graph, layers, activations, feeds, tell, bias_correction=options.bias_correction)
    for layer, moments in all_moments:
        numbers = encoding.layers[layer.name]
        limits = numbers.parameters.minimum, numbers.parameters.maximum
        steps = weight_steps(graph, layer, encoding)
        codes = np.moveaxis(numbers.weight, layer.axis, 0).reshape(steps.shape).astype(np.int64)
        parts = [np.split(rows, len(moments)) for rows in (steps, codes)]
        better = [improve_rounding(s, c, m, limits) for s, c, m in zip(*parts, moments, strict=True)]
        codes = np.concatenate(better)
        factor: np.ndarray | float = 1.0
        if not has_stated_scale(layer, options):
            factor = size_factor(steps, codes, scale_sets(graph, layer, options), moments)
        encoding.layers[layer.name] = with_codes(graph, layer, encoding, codes, factor)


def improve_rounding(steps: np.ndarray, codes: np.ndarray, moments: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    """Codes (R, K), each ``steps`` rounded up or down, with a lower ``d moments d`` than ``codes`` in every row.

    ``steps``: the weights over their scale (R, K). ``codes``: where to start from. ``moments``: (K, K).
    """
    lower = np.clip(np.floor(steps), *limits).astype(np.int64)
    upper = np.clip(np.floor(steps) + 1, *limits).astype(np.int64)
    codes = codes.copy()
    pull = product(codes - steps, moments)
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
