"""The threshold with the least Kullback-Leibler divergence, as PaddlePaddle finds it."""

from __future__ import annotations

import numpy as np

from pipeline.quantization.observers.magnitude import MagnitudeObserver

SIGNED_START, UNSIGNED_START = 0.6, 0.7
"""Where the search starts, in parts of the range."""


class PaddleKLObserver(MagnitudeObserver):
    """Entropy calibration with 255 levels, whose search starts late: at most 40 % of the range can be cut off.

    With c the histogram of |x| in 2048 bins, zeros in the first, and for every t from ``int(0.6 * 2047)``, or
    ``int(0.7 * 2047)`` if no value is negative, to 2047 where ``c[t - 1] > 0``:

    1. ``P = c[0:t]``, and all outliers ``sum(c[t:])`` are added to its last bin;
    2. ``Q``: ``c[0:t]`` without the outliers is merged to 255 levels of ``t // 255`` bins, the last level taking what
       remains; each level's sum is then shared out evenly among those of its bins where P > 0;
    3. ``KL = sum(p * log(p / q))`` over the bins where P > 0, p and q being P and Q divided by their sums.

    The first t with the least KL wins, and the threshold is ``(t + 0.5) / 2048 * max|x|``. Without any such t it is the
    last filled bin below the start; if that is the first one, the whole range is kept. 255 is ``2**bits - 1``.

    Source: GetKLScalingFactor in PaddlePaddle's mkldnn_quantizer.cc, and cal_kl_threshold.py for its computation in
    floating point (the C++ one rounds divergences to integers). Magnitudes are histogrammed as in Paddle's Python.
    The C++ lays the signed histogram over -max|x|..max|x| and measures the threshold from its left end, so that it is
    always above max|x|, which wastes resolution: its own test expects 0.0899 for values of at most 0.0630.
    """

    def _threshold(self, counts: np.ndarray) -> float | None:
        counts = counts.copy()
        counts[0] += self.zeros
        start = int((counts.size - 1) * (SIGNED_START if self.low < 0 else UNSIGNED_START))
        divergences = paddle_divergences(counts, 2**self.bits - 1, start)
        best = int(np.argmin(divergences))
        if np.isfinite(divergences[best]):
            return start + best + 0.5
        fallback = int(np.flatnonzero(counts[: start + 1])[-1]) if counts[: start + 1].any() else 0
        return fallback + 0.5 if fallback else None


def paddle_divergences(counts: np.ndarray, levels: int, start: int) -> np.ndarray:
    """The divergence of :class:`PaddleKLObserver` for each threshold ``start .. counts.size - 1``, in float64.

    Infinity stands for those that are left out.
    """
    threshold = np.arange(start, counts.size)
    total = float(counts.sum())
    terms = np.where(counts > 0, counts * np.log(np.maximum(counts, 1)), 0.0)
    entropy_below = np.concatenate([[0.0], np.cumsum(terms)])
    below = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    filled = np.concatenate([[0], np.cumsum(counts > 0)])
    outliers = total - below[threshold]
    last = counts[threshold - 1] + outliers

    first = np.arange(levels) * (threshold // levels)[:, None]
    end = np.append(first[:, 1:], threshold[:, None], axis=1)
    q_level = below[end] - below[first]
    level_filled = filled[end] - filled[first]
    p_level = q_level.copy()
    p_level[:, -1] += outliers
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = np.where(q_level > 0, p_level * np.log(q_level / level_filled), 0.0).sum(axis=1)
        p_log_p = entropy_below[threshold - 1] + last * np.log(last)
        divergence = (p_log_p - cross) / total + np.log(below[threshold] / total)
    return np.where(counts[threshold - 1] > 0, divergence, np.inf)
