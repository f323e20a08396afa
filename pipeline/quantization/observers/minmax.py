"""The range of all values seen."""

from __future__ import annotations

import numpy as np

from pipeline.quantization.observers.base import Observer


class MinMaxObserver(Observer):
    """``low = min(x)``, ``high = max(x)`` over the whole calibration data: nothing seen there saturates.

    Source: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018; the default of most tools.
    """

    def _observe(self, values: np.ndarray) -> None:
        """The base class keeps the range."""

    def _range(self) -> tuple[float, float]:
        return self.low, self.high
