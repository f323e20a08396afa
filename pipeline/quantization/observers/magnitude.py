"""What the KL observers share: a histogram of |x| over 0..max|x|, and a threshold chosen from it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from pipeline.quantization.observers.base import Observer
from pipeline.quantization.observers.histogram import FixedHistogram


class MagnitudeObserver(Observer):
    """Finds the largest magnitude in a first pass, fills 2048 bins over |x| in a second, and picks a threshold.

    The formulas were made for symmetric types. Asymmetric ones take the part of ``-threshold .. threshold`` where
    values are. A subclass writes ``_threshold``.
    """

    passes: ClassVar[int] = 2
    BINS: ClassVar[int] = 2048

    def __init__(self, *, symmetric: bool, bits: int = 8) -> None:
        super().__init__(symmetric=symmetric, bits=bits)
        self._histogram: FixedHistogram | None = None
        self.zeros = 0
        """How many values are exactly 0; the histogram does not hold them."""

    @property
    def levels(self) -> int:
        """How many steps of the quantised type span 0..threshold: 128 for int8, and what the formulas were made for.

        An asymmetric type whose values have one sign, like those after a ReLU, has all its 256 steps there.
        """
        return 2 ** (self.bits if self.one_sided and not self.symmetric else self.bits - 1)

    def next_pass(self) -> None:
        super().next_pass()
        largest = max(-self.low, self.high)
        if largest > 0:
            self._histogram = FixedHistogram(0.0, largest, self.BINS)

    def _observe(self, values: np.ndarray) -> None:
        if self._pass == 2:
            self.zeros += values.size - int(np.count_nonzero(values))
            if self._histogram is not None:
                self._histogram.add_magnitudes(values)

    def _range(self) -> tuple[float, float]:
        if self._histogram is None:
            return 0.0, 0.0
        bins = self._threshold(self._histogram.counts)
        if bins is None:
            return self.low, self.high
        threshold = bins * self._histogram.width
        return max(self.low, -threshold), min(self.high, threshold)

    @abstractmethod
    def _threshold(self, counts: np.ndarray) -> float | None:
        """The best threshold, in bins from 0; None to keep the whole range.

        ``counts``: int64 [2048], how many |x| lie in each bin, those that are exactly 0 left out. The last bin is
        never empty.
        """
