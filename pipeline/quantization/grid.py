"""Weights that have been quantised before: exported from quantisation-aware training, or dequantised from another file.

Such weights are whole multiples of one number. Whoever takes that number for the scale loses nothing, while
``absmax / 127`` of each channel would round all of them a second time.
"""

from __future__ import annotations

import numpy as np

LARGEST_STEP = 255
"""A uint8 weight with its zero point at one end is so many steps from zero."""

_TOLERANCE = 2e-3
"""In steps: float32 rounding of ``(q - z) * s`` stays far below it, and chance far above."""

_GLANCE = 4096
"""Weights looked at first."""

_FEWEST_VALUES = 16
"""Fewer distinct values lie on some grid by chance."""


def common_step(weight: np.ndarray) -> float | None:
    """The number that all entries of a float32 tensor are whole multiples of, -255 to 255 times; None for none."""
    flat = weight.reshape(-1)
    if _distinct(flat[:: max(1, flat.size // _GLANCE)]).size > LARGEST_STEP:
        return None  # without sorting millions of weights
    distinct = _distinct(flat)
    if not _FEWEST_VALUES <= distinct.size <= LARGEST_STEP:
        return None
    step = float(np.diff(distinct, prepend=0.0).min())
    multiples = np.rint(distinct / step)
    if multiples[-1] > LARGEST_STEP:
        return None
    step = float((distinct * multiples).sum() / (multiples * multiples).sum())
    off = np.abs(distinct / step - np.rint(distinct / step))
    return step if off.max() <= _TOLERANCE else None


def _distinct(values: np.ndarray) -> np.ndarray:
    """The magnitudes above 0, in order; two roundings of one multiple, which differ in the last place, count once."""
    magnitudes = np.unique(np.abs(values)).astype(np.float64)
    largest = magnitudes[-1] if magnitudes.size else 0.0
    return magnitudes[np.diff(magnitudes, prepend=0.0) > largest * 1e-6]
