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
        self._average: tuple[float, float] | None = None

    def _observe(self, values: np.ndarray) -> None:
        low, high = float(values.min()), float(values.max())
        if self._average is None:
            self._average = (low, high)
        else:
            old_low, old_high = self._average
            constant = self.averaging_constant
            self._average = (old_low + constant * (low - old_low), old_high + constant * (high - old_high))

    def _range(self) -> tuple[float, float]:
        assert self._average is not None
        return self._average
