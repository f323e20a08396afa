"""What is kept of a tensor and its quantised counterpart while batches stream by."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.comparison.matching import Quantised
from pipeline.errors import InputError

Array = npt.NDArray[np.float32]
BINS = 48
MAX_DECIBEL = 200.0
"""Stands for infinity, which JSON does not have."""


MAX_RATIO = 1e20


@dataclass
class Statistics:
    """Sums over all elements seen; memory does not depend on how many they are."""

    name: str
    quantised: Quantised | None
    """None where the tensor is not stored as integers."""
    count: int = 0
    signal: float = 0.0
    noise: float = 0.0
    own_noise: float = 0.0
    norm: float = 0.0
    product: float = 0.0
    max_error: float = 0.0
    saturated: int = 0
    span: tuple[float, float] = field(init=False, default=(0.0, 0.0))
    """The smallest and the largest value that the quantised tensor can hold, or 0 and those of the first batch."""
    histogram: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, BINS), np.int64))
    """Of the float model and of the compiled one, over :attr:`span`; what lies outside is in the outermost bins."""

    def update(self, expected: Array, actual: Array, isolated: Array) -> None:
        """Take one batch: of the float model, of the compiled one, and what float operators make of the latter's.

        Raises:
            InputError: the sizes differ, or there is NaN or infinity.
        """
        if expected.size != actual.size:
            raise InputError(
                f"tensor {self.name!r} has {expected.size} elements in one model, {actual.size} in the other"
            )
        for values, whose in ((expected, "float"), (actual, "compiled")):
            if not np.isfinite(values).all():
                raise InputError(f"tensor {self.name!r} of the {whose} model holds NaN or infinity")
        saturated = self._saturated(expected.reshape(actual.shape), actual)
        x, y = (values.astype(np.float64).reshape(-1) for values in (expected, actual))
        self.signal += float(x @ x)
        self.norm += float(y @ y)
        self.product += float(x @ y)
        error = y - x
        self.noise += float(error @ error)
        own = y - isolated.astype(np.float64).reshape(-1)
        self.own_noise += float(own @ own)
        self.max_error = max(self.max_error, float(np.abs(error).max(initial=0.0)))
        self.saturated += saturated
        if not self.count:
            self.span = self._span(x, y)
        low, high = self.span
        for row, numbers in enumerate((x, y)):
            bins = (numbers - low) * (BINS / (high - low))
            self.histogram[row] += np.bincount(np.clip(bins, 0, BINS - 1).astype(np.int64), minlength=BINS)
        self.count += x.size

    @property
    def noise_ratio(self) -> float:
        """Noise power over signal power, at most :data:`MAX_RATIO`."""
        return _ratio(self.noise, self.signal)

    @property
    def added(self) -> float:
        """The same for the noise that comes in at this tensor alone."""
        return _ratio(self.own_noise, self.signal)

    @property
    def sqnr(self) -> float:
        """Signal to quantisation noise in dB: 10 log10(sum x² / sum (y - x)²), within ±:data:`MAX_DECIBEL`."""
        ratio = self.noise_ratio
        return max(-MAX_DECIBEL, min(MAX_DECIBEL, -10 * math.log10(ratio))) if ratio else MAX_DECIBEL

    @property
    def cosine(self) -> float:
        """Of the angle between the two; 1 where both are zero."""
        length = math.sqrt(self.signal) * math.sqrt(self.norm)
        return min(1.0, self.product / length) if length else float(self.noise == 0)

    @property
    def saturation(self) -> float | None:
        """Share of the elements stored as the first or last code because the float value lies beyond it."""
        if self.quantised is None:
            return None
        return self.saturated / self.count if self.count else 0.0

    @property
    def max_error_steps(self) -> float | None:
        """:attr:`max_error` in steps of the coarsest scale."""
        return None if self.quantised is None else self.max_error / float(self.quantised.scale.max())

    def _span(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
        entry = self.quantised
        if entry is None:
            low = min(float(values.min(initial=0.0)) for values in (x, y))
            high = max(float(values.max(initial=0.0)) for values in (x, y))
            return (low, high) if low < high else (0.0, 1.0)
        ends = [(code - entry.zero_point) * entry.scale.astype(np.float64) for code in (entry.low, entry.high)]
        return float(ends[0].min()), float(ends[1].max())

    def _saturated(self, expected: Array, actual: Array) -> int:
        entry = self.quantised
        if entry is None:
            return 0
        shape = [1] * actual.ndim
        if entry.scale.size > 1:
            shape[entry.axis] = entry.scale.size
        scale = entry.scale.astype(np.float64).reshape(shape)
        zero = entry.zero_point.reshape(shape)
        codes = np.rint(actual / scale) + zero
        wanted = expected / scale + zero
        below = (codes <= entry.low) & (wanted < entry.low - 0.5)
        above = (codes >= entry.high) & (wanted > entry.high + 0.5)
        return int(below.sum() + above.sum())


def _ratio(noise: float, signal: float) -> float:
    return min(MAX_RATIO, noise / signal) if signal else MAX_RATIO if noise else 0.0
