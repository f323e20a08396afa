"""Histograms of a stream of values, of fixed size and independent of how the stream is cut into batches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

_CHUNK = 1 << 16
"""Values handled at once: the temporaries stay in the cache, and memory does not grow with the batch."""


class GrowingHistogram:
    """Counts in bins of equal width over ``-2**k .. 2**k``, where k grows with the largest magnitude.

    Bins are merged in pairs when k grows by one. As all edges are multiples of a power of two, merging gives exactly
    the counts that the final k would have given from the start: the result depends on neither the order nor the
    batches. Values that are exactly 0, most of what a ReLU gives, are counted apart in ``zeros``.
    """

    BINS = 4096
    """On each side of 0; at least half of those on the longer side cover values that occur."""

    def __init__(self) -> None:
        self.counts = np.zeros(2 * self.BINS, np.int64)
        """Bin i holds values in ``(i - BINS) * width <= x < (i - BINS + 1) * width``, without zeros."""
        self.zeros = 0
        self._exponent: int | None = None

    def add(self, values: np.ndarray) -> None:
        """Count ``values``: 1-d, all finite."""
        for chunk in chunks(values):
            self._cover(float(np.abs(chunk).max()))
            zeros = chunk.size - int(np.count_nonzero(chunk))
            self.zeros += zeros
            if self._exponent is not None:
                index = np.floor(np.ldexp(chunk, self._shift)).astype(np.int64) + self.BINS
                self.counts += np.bincount(index, minlength=self.counts.size)
                self.counts[self.BINS] -= zeros

    @property
    def width(self) -> float:
        """The width of a bin; 0 as long as nothing but zeros came."""
        return 0.0 if self._exponent is None else math.ldexp(1.0, -self._shift)

    @property
    def edges(self) -> np.ndarray:
        """The ``counts.size + 1`` edges of the bins, in float64."""
        return np.arange(-self.BINS, self.BINS + 1) * self.width

    @property
    def _shift(self) -> int:
        """``-log2(width)``."""
        assert self._exponent is not None
        return self.BINS.bit_length() - 1 - self._exponent

    def _cover(self, largest: float) -> None:
        """Widen the bins until magnitudes up to ``largest`` have one."""
        if largest == 0:
            return
        exponent = math.frexp(largest)[1]  # largest < 2**exponent
        if self._exponent is None:
            self._exponent = exponent
        while self._exponent < exponent and self.counts.any():
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[self.BINS // 2 : self.BINS // 2 + self.BINS] = merged
            self._exponent += 1
        self._exponent = max(self._exponent, exponent)


class FixedHistogram:
    """Counts in ``bins`` bins of equal width over a range known beforehand; the last bin includes ``high``.

    Needs a pass over the data to learn the range, and gives the bins that published formulas are defined on.
    """

    def __init__(self, low: float, high: float, bins: int) -> None:
        """``low < high``, both finite; all values must lie between them."""
        self.low = low
        self.width = (high - low) / bins
        self.counts = np.zeros(bins, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count ``values``: 1-d, in ``low..high``."""
        for chunk in chunks(values):
            self.counts += self._count(chunk)

    def add_magnitudes(self, values: np.ndarray) -> None:
        """Count the absolute values, but not those that are 0. ``low`` must be 0."""
        for chunk in chunks(values):
            self.counts += self._count(np.abs(chunk))
            self.counts[0] -= chunk.size - np.count_nonzero(chunk)

    def _count(self, values: np.ndarray) -> np.ndarray:
        last = self.counts.size - 1
        index = np.minimum((values - self.low) / self.width, last).astype(np.int64)
        return np.bincount(index, minlength=self.counts.size)


def chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    """``values`` in float64, a part at a time."""
    for start in range(0, values.size, _CHUNK):
        yield values[start : start + _CHUNK].astype(np.float64)
