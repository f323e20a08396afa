"""The range that holds all but the outermost values."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.quantization.observers.base import Observer
from pipeline.quantization.observers.histogram import GrowingHistogram


class PercentileObserver(Observer):
    """The range that holds ``percentile`` per cent of the values.

    Symmetric types, and values of one sign, are cut at the far end: |x| stays below the threshold for ``percentile``
    per cent of the values. Otherwise half of the rest is cut at either end. Percentiles are read from a histogram
    (:class:`GrowingHistogram`) and interpolated linearly within the bin, so they are off by less than 1/2048 of the
    largest magnitude.

    Source: J. L. McKinstry et al., "Discovering Low-Precision Networks Close to Full-Precision Networks for Efficient
    Embedded Inference", 2018; 99.99 is what NVIDIA's H. Wu et al., "Integer Quantization for Deep Learning Inference",
    2020, found best for most networks. The cut at both ends is onnxruntime's.
    """

    def __init__(self, *, percentile: float = 99.99, **options: Any) -> None:
        """``percentile``: how many per cent of the values do not saturate, above 50 and at most 100."""
        super().__init__(**options)
        if not 50 < percentile <= 100:
            raise InputError(f"the percentile is {percentile}: choose one above 50, at most 100")
        self.percentile = percentile
        self._histogram = GrowingHistogram()

    def _observe(self, values: np.ndarray) -> None:
        self._histogram.add(values)

    def _range(self) -> tuple[float, float]:
        histogram = self._histogram
        counts, middle = histogram.counts.copy(), histogram.BINS
        counts[middle] += histogram.zeros
        cut = 1 - self.percentile / 100
        if self.symmetric or self.one_sided:
            magnitudes = counts[middle:] + counts[:middle][::-1]
            threshold = _quantile(magnitudes, histogram.edges[middle:], 1 - cut)
            return max(self.low, -threshold), min(self.high, threshold)
        low = _quantile(counts, histogram.edges, cut / 2)
        high = _quantile(counts, histogram.edges, 1 - cut / 2)
        return max(self.low, low), min(self.high, high)


def _quantile(counts: np.ndarray, edges: np.ndarray, fraction: float) -> float:
    """The value below which ``fraction`` of the counts lie, if each bin's values are spread evenly over it."""
    cumulated = np.concatenate([[0], np.cumsum(counts)])
    target = fraction * cumulated[-1]
    # The bin where the sum reaches the target. The first and last one may be empty: start after the former.
    index = int(np.clip(np.searchsorted(cumulated, target, side="left"), 1, counts.size)) - 1
    if counts[index] == 0:
        return float(edges[index + 1])
    return float(edges[index] + (target - cumulated[index]) / counts[index] * (edges[index + 1] - edges[index]))
