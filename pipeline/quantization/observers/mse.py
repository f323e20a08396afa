"""The range with the least mean squared error, searched on a grid."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.quantization.observers.base import Observer
from pipeline.quantization.observers.histogram import GrowingHistogram

_ROUNDS = 4
"""How often each end of an asymmetric range is moved at most, after both were moved together."""


class MSEObserver(Observer):
    """Minimises ``sum((x - dequantise(quantise(x)))**2)`` over ranges that are parts of what was seen.

    1. The range seen is scaled by 1/steps, 2/steps ... 1 as a whole, and the best factor is kept.
    2. In an asymmetric range with two signs, the upper end is then chosen anew among its multiples of 1/steps, then
       the lower one, until neither moves (or four times).

    The error is computed from a histogram (:class:`GrowingHistogram`) as if the values of a bin were spread evenly over
    it: an integral over the rounding error inside the range and the clipping error outside, in closed form. Zeros are
    exact in every range. Of equal errors the widest range wins.

    Source: step 1 is the usual search, as in M. Nagel et al., "A White Paper on Neural Network Quantization", 2021
    (section 3.1, MSE range setting), or MQBench's MSEObserver.
    """

    def __init__(self, *, steps: int = 100, **options: Any) -> None:
        """``steps``: into how many parts either end of the range is divided, at least 2."""
        super().__init__(**options)
        if steps < 2:
            raise InputError(f"the MSE search has {steps} steps: choose at least 2")
        self.steps = steps
        self._histogram = GrowingHistogram()

    def _observe(self, values: np.ndarray) -> None:
        self._histogram.add(values)

    def _range(self) -> tuple[float, float]:
        filled = np.flatnonzero(self._histogram.counts)
        if filled.size == 0:
            return 0.0, 0.0
        # Everything in bins, so that the cube of a value neither overflows nor vanishes.
        width = self._histogram.width
        counts = self._histogram.counts[filled[0] : filled[-1] + 1]
        edges = np.arange(filled[0], filled[-1] + 2) - float(self._histogram.BINS)
        low, high = min(self.low, 0.0) / width, max(self.high, 0.0) / width

        factors = np.arange(self.steps, 0, -1) / self.steps
        best = self._best(edges, counts, [(low * factor, high * factor) for factor in factors])
        if not (self.symmetric or self.one_sided):
            for _ in range(_ROUNDS):
                before = best
                best = self._best(edges, counts, [best, *((best[0], high * factor) for factor in factors)])
                best = self._best(edges, counts, [best, *((low * factor, best[1]) for factor in factors)])
                if best == before:
                    break
        return best[0] * width, best[1] * width

    def _best(self, edges: np.ndarray, counts: np.ndarray, ranges: list[tuple[float, float]]) -> tuple[float, float]:
        """The first of ``ranges`` with the least error."""
        errors = [self._error(edges, counts, low, high) for low, high in ranges]
        return ranges[int(np.argmin(errors))]

    def _error(self, edges: np.ndarray, counts: np.ndarray, low: float, high: float) -> float:
        """The squared error of all values together, in bins, when the type spans ``low..high``."""
        if self.symmetric:
            above = 2 ** (self.bits - 1) - 1
            below, step = above, max(-low, high) / above
        else:
            steps = 2**self.bits - 1
            step = (high - low) / steps
            below = round(-low / step)
            above = steps - below
        return float((counts * np.diff(squared_error_integral(edges, step, below, above))).sum())


def squared_error_integral(x: np.ndarray, step: float, below: int, above: int) -> np.ndarray:
    """The integral from 0 to x of ``(u - q(u))**2``, q(u) being the nearest of ``-below*step .. above*step``."""
    nearest = np.minimum(np.maximum(np.rint(x / step), -below), above)
    rest = x - nearest * step
    # Up to the nearest level lie |nearest| whole periods, each of integral step**3 / 12, then the cubic from there.
    return nearest * (step**3 / 12) + rest**3 / 3
