"""The range averaged over batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.quantization.observers.base import Observer


class MovingAverageObserver(Observer):
    """``low += c * (min(batch) - low)``, ``high += c * (max(batch) - high)``, starting with the first batch's range.

    Old batches fade with ``(1 - c)**age``, so the result depends on the order and the size of the batches.

    Source: PyTorch's MovingAverageMinMaxObserver, whose constant c = 0.01 is the default here.
    """

    def __init__(self, *, averaging_constant: float = 0.01, **options: Any) -> None:
        """``averaging_constant``: the weight c of the newest batch, above 0 and at most 1."""
        super().__init__(**options)
        if not 0 < averaging_constant <= 1:
            raise InputError(f"the averaging constant is {averaging_constant}: choose one above 0, at most 1")
        self.averaging_constant = averaging_constant
        self._batch = (np.inf, -np.inf)
        """The range of the newest batch."""
        self._before: tuple[float, float] | None = None
        """The average without it."""

    def _observe(self, values: np.ndarray) -> None:
        low, high = float(values.min()), float(values.max())
        if self._same_batch:
            low, high = min(low, self._batch[0]), max(high, self._batch[1])
        elif not np.isinf(self._batch).any():
            self._before = self._average()
        self._batch = (low, high)

    def _average(self) -> tuple[float, float]:
        if self._before is None:
            return self._batch
        (old_low, old_high), (low, high) = self._before, self._batch
        constant = self.averaging_constant
        return old_low + constant * (low - old_low), old_high + constant * (high - old_high)

    def _range(self) -> tuple[float, float]:
        return self._average()
