"""The interface of all observers: values stream in, one range comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from pipeline.errors import InputError
from pipeline.quantization.parameters import MAX_BITS, MIN_BITS


class Observer(ABC):
    """Watches the values of one tensor over the calibration data and decides which range its 8-bit type spans.

    Call :meth:`observe` with every batch. If :attr:`passes` is 2, call :meth:`next_pass` and observe the same batches
    once more. Then ask for :meth:`range`. Memory does not grow with the data.

    A subclass writes ``_observe`` and ``_range``, and overrides ``next_pass`` if it needs two passes.
    """

    passes: ClassVar[int] = 1

    def __init__(self, *, symmetric: bool, bits: int = 8) -> None:
        """``symmetric``: the type spans -a..a with 0 in the middle. ``bits``: width of the type, 2 to 8."""
        if not MIN_BITS <= bits <= MAX_BITS:
            raise InputError(f"cannot quantise to {bits} bits: choose {MIN_BITS} to {MAX_BITS}")
        self.symmetric = symmetric
        self.bits = bits
        self.low = np.inf
        """The smallest value seen in the first pass."""
        self.high = -np.inf
        """The largest value seen in the first pass."""
        self._pass = 1
        self._same_batch = False
        """Whether what is observed belongs to the batch of the call before."""
        self._counts = [0] * self.passes

    def observe(self, values: np.ndarray, *, same_batch: bool = False) -> None:
        """Take in one batch, of any shape and real type, or with ``same_batch`` more of the last one.

        An empty one is ignored.

        Raises InputError, which does not know the tensor's name, if a value is NaN or infinite.
        """
        if values.size == 0:
            return
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):  # min and max hand NaN on
            raise InputError(_what_is_not_finite(flat))
        self._counts[self._pass - 1] += flat.size
        if self._pass == 1:
            self.low, self.high = min(self.low, low), max(self.high, high)
        elif low < self.low or high > self.high:
            raise InputError(
                f"the second pass over the calibration data has values in {low:g}..{high:g}, but the first had "
                f"{self.low:g}..{self.high:g}: both passes must see the same data"
            )
        self._same_batch = same_batch
        self._observe(flat)

    def next_pass(self) -> None:
        """End the first pass of two."""
        if self._pass >= self.passes:
            raise InputError(f"{type(self).__name__} takes {self.passes} pass(es) over the data, and has had them")
        self._pass += 1

    def range(self) -> tuple[float, float]:
        """``(low, high)``: what the quantised type should span; finite, and (0, 0) if no value came.

        Values outside it saturate. For symmetric types the larger magnitude of the two counts.
        """
        if self._pass < self.passes:
            raise InputError(f"{type(self).__name__} needs a second pass over the data before it knows the range")
        if self._counts[-1] != self._counts[0]:
            raise InputError(
                f"the second pass over the calibration data gave {self._counts[-1]} values, but the first gave "
                f"{self._counts[0]}: pass data that can be iterated twice, not a generator"
            )
        return (0.0, 0.0) if self.empty else self._range()

    @property
    def empty(self) -> bool:
        """Whether no value has come yet."""
        return self.high < self.low

    @property
    def one_sided(self) -> bool:
        """Whether no value has been negative, or none positive: after a ReLU, a sigmoid, a softmax."""
        return self.low >= 0 or self.high <= 0

    @abstractmethod
    def _observe(self, values: np.ndarray) -> None:
        """Take in ``values``: 1-d, not empty, all finite; ``low`` and ``high`` already cover them."""

    @abstractmethod
    def _range(self) -> tuple[float, float]:
        """The answer of :meth:`range`; at least one value has come."""


def _what_is_not_finite(values: np.ndarray) -> str:
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    found = " and ".join(f"{count} {name}" for count, name in ((nan, "NaN"), (infinite, "infinite")) if count)
    return f"{found} among {values.size} values: check the model's weights and the range of its inputs"
