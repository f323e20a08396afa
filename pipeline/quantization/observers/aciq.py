"""Analytical clipping: the best threshold for values of a known distribution."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pipeline.quantization.observers.base import Observer
from pipeline.quantization.observers.histogram import chunks

GAUSSIAN_ALPHA = {
    2: 1.71063519,
    3: 2.15159277,
    4: 2.55913646,
    5: 2.93620062,
    6: 3.28691474,
    7: 3.6151146,
    8: 3.92403714,
    9: 4.21632993,
}
"""By bits, the a that minimises the mean squared error of clipping N(0, 1) at -a and a and rounding to 2**bits levels:
``(a*a + 1) * (1 - erf(a / sqrt(2))) + a*a / (3 * 4**bits) - a * sqrt(2 / pi) * exp(-a*a / 2)``."""

LAPLACE_ALPHA = {
    2: 2.83068299,
    3: 3.89722946,
    4: 5.02864014,
    5: 6.20476633,
    6: 7.41312622,
    7: 8.64561995,
    8: 9.89675982,
    9: 11.16268502,
}
"""The same for the Laplace distribution of scale 1: ``2 * exp(-a) + a*a / (3 * 4**bits)``."""


class AciqObserver(Observer):
    """Clips at ``mean -+ alpha * sigma``, which is best if the values have a Gaussian distribution.

    ``alpha`` is :data:`GAUSSIAN_ALPHA` of the bits (3.92403714 at 8), and mean and standard deviation are those of all
    values. Values of one sign in an asymmetric type have all levels on one side, twice as many as a Gaussian would
    give them, so that alpha is that of one bit more and the other end of the range is 0. The range never exceeds what
    was seen.

    Source: R. Banner et al., "Post training 4-bit quantization of convolutional networks for rapid-deployment",
    NeurIPS 2019 (ACIQ), its alpha_gaus and alpha_gaus_positive. ncnn's ACIQ uses the same alphas, but estimates sigma
    from the largest value.
    """

    def __init__(self, *, symmetric: bool, bits: int = 8) -> None:
        super().__init__(symmetric=symmetric, bits=bits)
        self._count = 0
        self._mean = 0.0
        self._squares = 0.0  # sum of the squared distances from the mean

    def _observe(self, values: np.ndarray) -> None:
        # Merging (count, mean, squares) of two sets does not cancel, as a difference of sums of squares does. No dot
        # product: its sum depends on the number of threads.
        for chunk in chunks(values):
            mean = float(chunk.mean())
            shift, count = mean - self._mean, self._count + chunk.size
            self._squares += float(np.square(chunk - mean).sum()) + shift * shift * self._count * chunk.size / count
            self._mean += shift * chunk.size / count
            self._count = count

    def _range(self) -> tuple[float, float]:
        deviation = float(np.sqrt(self._squares / self._count))
        return self._clipped(self._mean, deviation, GAUSSIAN_ALPHA)

    def _clipped(self, mean: float, spread: float, alpha: dict[int, float]) -> tuple[float, float]:
        """``mean -+ alpha * spread`` within what was seen."""
        one_sided = self.one_sided and not self.symmetric
        reach = alpha[self.bits + one_sided] * spread
        return max(self.low, min(mean - reach, 0.0)), min(self.high, max(mean + reach, 0.0))


class AciqLaplaceObserver(AciqObserver):
    """Clips at ``mean -+ alpha * b``, which is best if the values have a Laplace distribution.

    ``alpha`` is :data:`LAPLACE_ALPHA` of the bits (9.89675982 at 8) and ``b`` is the mean of ``|x - mean|``, for which
    the data is needed a second time. Else as :class:`AciqObserver`, same source.
    """

    passes: ClassVar[int] = 2

    def __init__(self, *, symmetric: bool, bits: int = 8) -> None:
        super().__init__(symmetric=symmetric, bits=bits)
        self._distances = 0.0

    def _observe(self, values: np.ndarray) -> None:
        if self._pass == 1:
            super()._observe(values)
        else:
            self._distances += sum(float(np.abs(chunk - self._mean).sum()) for chunk in chunks(values))

    def _range(self) -> tuple[float, float]:
        return self._clipped(self._mean, self._distances / self._count, LAPLACE_ALPHA)
