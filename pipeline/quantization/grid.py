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

_FEWEST_VALUES = 16
"""Fewer distinct values lie on some grid by chance."""


def common_step(weight: np.ndarray) -> float | None:
    """The number that all entries of a float32 tensor are whole multiples of, -255 to 255 times; None for none."""
    magnitudes = np.unique(np.abs(weight).reshape(-1))
    magnitudes = magnitudes[magnitudes > 0].astype(np.float64)
    largest = magnitudes[-1] if magnitudes.size else 0.0
    # Two roundings of one multiple differ in the last place.
    distinct = magnitudes[np.diff(magnitudes, prepend=0.0) > largest * 1e-6]
    if not _FEWEST_VALUES <= distinct.size <= LARGEST_STEP:
        return None
    step = float(np.diff(distinct, prepend=0.0).min())
    multiples = np.rint(distinct / step)
    if multiples[-1] > LARGEST_STEP:
        return None
    step = float((distinct * multiples).sum() / (multiples * multiples).sum())
    off = np.abs(magnitudes / step - np.rint(magnitudes / step))
    return step if off.max() <= _TOLERANCE else None
