"""The range that quantiles moving in from both ends reach before the squared error rises: PyTorch's default."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pipeline.quantization.observers.base import Observer
from pipeline.quantization.observers.histogram import FixedHistogram

QUANTILE_STEP = 1e-5
"""How far a quantile moves at once."""


class HistogramL2Observer(Observer):
    """Cuts off tails, always at the end where it removes more, as long as the squared error falls.

    On 2048 bins over the range seen, 0 included, with quantiles a = 0 and b = 1 and the bins l and r they lie in:

    1. move a up or b down by 1e-5, namely the one whose bin would move farther (b if equal);
    2. if that moved the bin, estimate the squared error of ``2**bits`` levels over bins l..r, with values spread evenly
       over their bin; stop if it rose, without taking that move;
    3. repeat until a and b meet.

    The range goes from the lower edge of bin l to the upper edge of bin r. Symmetric types then take the larger
    magnitude of both.

    Source: HistogramObserver in PyTorch's torch/ao/quantization/observer.py, after caffe2's norm_minimization.cc.
    PyTorch widens its histogram with the data, which loses precision; here a first pass finds the range.
    """

    passes: ClassVar[int] = 2
    BINS: ClassVar[int] = 2048

    def __init__(self, *, symmetric: bool, bits: int = 8) -> None:
        super().__init__(symmetric=symmetric, bits=bits)
        self._histogram: FixedHistogram | None = None

    def next_pass(self) -> None:
        super().next_pass()
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if low < high and not self.empty:
            self._histogram = FixedHistogram(low, high, self.BINS)

    def _observe(self, values: np.ndarray) -> None:
        if self._histogram is not None:
            self._histogram.add(values)

    def _range(self) -> tuple[float, float]:
        if self._histogram is None:
            return 0.0, 0.0
        first, last = search_bins(self._histogram.counts, 2**self.bits)
        low, width = self._histogram.low, self._histogram.width
        return max(low + width * first, self.low), min(low + width * (last + 1), self.high)


def search_bins(counts: np.ndarray, levels: int) -> tuple[int, int]:
    """The first and last bin that :class:`HistogramL2Observer` keeps."""
    cumulated = np.cumsum(counts)
    total = float(cumulated[-1])
    start, end = 0, counts.size - 1
    # The bin of every quantile that the search can come to; it has taken a and b steps from either end.
    steps = np.full(round(1 / QUANTILE_STEP) + 2, QUANTILE_STEP)
    lower = np.cumsum(np.append(0.0, steps))
    upper = np.cumsum(np.append(1.0, -steps))
    lower_bin = np.searchsorted(cumulated, lower * total, side="left").tolist()
    upper_bin = (np.searchsorted(cumulated, upper * total, side="right") - 1).tolist()
    a = b = 0
    least = np.inf
    while lower[a] < upper[b]:
        left = min(max(lower_bin[a + 1], start), end)
        right = max(min(upper_bin[b + 1], end), start)
        if left - start > end - right:
            a += 1
            candidate = (left, end)
        else:
            b += 1
            candidate = (start, right)
        if candidate == (start, end):
            continue
        error = quantization_error(counts, *candidate, levels)
        if error > least:
            break
        least = error
        start, end = candidate
    return start, end


def quantization_error(counts: np.ndarray, first: int, last: int, levels: int) -> float:
    """The squared error, in bins, when ``levels`` levels share bins ``first..last`` evenly and the rest is clipped.

    Each level represents a stretch by its centre. A bin's values are spread evenly over it, from the level in which
    the bin begins to the one in which it ends.
    """
    step = (last - first + 1) / levels
    filled = np.flatnonzero(counts)
    begin = filled - float(first)
    end = begin + 1.0
    begin_level = np.clip(np.floor(begin / step), 0, levels - 1)
    end_level = np.clip(np.floor(end / step), 0, levels - 1)
    half = step / 2
    # The integral of the squared distance from the centre: the rest of the first level, whole levels, part of the last.
    integral = (half**3 - (begin - (begin_level + 0.5) * step) ** 3) / 3
    integral += (end_level - begin_level - 1) * (2 * half**3 / 3)
    integral += ((end - (end_level + 0.5) * step) ** 3 + half**3) / 3
    return float((counts[filled] * integral).sum())
