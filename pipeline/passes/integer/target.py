"""What becomes of an integer operator's result: quantised to uint8, float32, or the int32 itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ir.operators import Output
from pipeline.passes.integer.clamp import Interval
from pipeline.passes.integer.quantization import Quantization, code_of

LARGEST_MULTIPLIER = 2.0**100
"""An M this large saturates from the first step on, and keeps 0 * M a zero."""


@dataclass(frozen=True)
class Refusal:
    """Why an operator stays float, in words that follow its name."""

    reason: str


@dataclass(frozen=True)
class Target:
    """``quantization`` is that of a uint8 result; None where the result is float32 or int32."""

    output: Output
    quantization: Quantization | None = None

    @staticmethod
    def uint8(quantization: Quantization) -> Target:
        """The result goes through a QuantizeLinear."""
        return Target(Output(zero_point=quantization.zero_point), quantization)

    @property
    def scale(self) -> float | None:
        """Step of a uint8 result."""
        return None if self.quantization is None else self.quantization.scale

    @property
    def is_full(self) -> bool:
        """Whether the whole range of uint8 may be reached."""
        return self.output.qmin == 0 and self.output.qmax == 255

    def clamped(self, interval: Interval) -> Target:
        """The same for a result that is clamped first: rounding keeps the order, so the codes can be clamped."""
        if self.quantization is None:
            raise ValueError("only a quantised result can be clamped by its codes")
        low, high = (
            min(max(code_of(bound, self.quantization), self.output.qmin), self.output.qmax)
            for bound in (interval.low, interval.high)
        )
        return replace(self, output=replace(self.output, qmin=low, qmax=high))

    def multiplier(self, scale: NDArray[Any] | float) -> NDArray[np.float32] | Refusal:
        """M for a result whose steps stand for ``scale`` (float64), rounded once."""
        if self.scale is not None:
            with np.errstate(over="ignore"):
                ratio = np.asarray(scale, np.float64) / self.scale
            return np.minimum(ratio, LARGEST_MULTIPLIER).astype(np.float32)
        if self.output.dtype == "int32":
            return np.ones_like(np.asarray(scale), np.float32)
        product = np.asarray(scale, np.float64).astype(np.float32)
        return product if np.isfinite(product).all() else Refusal("a scale leaves float32")
