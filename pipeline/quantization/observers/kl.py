"""The threshold with the least Kullback-Leibler divergence, as TensorRT and Caffe-Int8 find it."""

from __future__ import annotations

import numpy as np

from pipeline.quantization.observers.magnitude import MagnitudeObserver

EPSILON = 1e-4
"""What smoothing puts into each empty bin, in counts."""

_ROWS = 64
"""Thresholds handled at once."""


class KLObserver(MagnitudeObserver):
    """Entropy calibration: how much information is lost if |x| is clipped at t bins and merged to 128 levels.

    With c the histogram of |x| in 2048 bins without its first, which holds the zeros, and for every t from 128 up:

    1. ``P = c[0:t]``, and all outliers ``sum(c[t:])`` are added to its last bin;
    2. ``Q``: ``c[0:t]``, this time without the outliers, is merged to 128 levels of ``t // 128`` bins, the last
       level taking what remains; each level's sum is then shared out evenly among those of its bins where P > 0;
    3. both are smoothed: each of the z empty bins gets 1e-4, each of the n others loses ``1e-4 * z / n``;
    4. ``KL = sum(p * log(p / q))``, where p and q are P and Q divided by their sums.

    The t with the least KL wins, and the threshold is the middle of its bin, ``(t + 0.5) / 2048 * max|x|``. If no t
    has a Q (all values near the maximum), the whole range is kept. 128 is :attr:`levels`, which follows the bits.

    Sources: S. Migacz, "8-bit Inference with TensorRT", GTC 2017; caffe-int8-convert-tool-dev.py of
    caffe-int8-convert-tools (without the first bin, the middle of the bin); the smoothing is the one documented there
    and in MXNet's quantization.py after J. Han et al., "Data Mining". Two things differ on purpose from
    Caffe-Int8's script. It histograms x instead of |x| and so ignores negative values; and it leaves Q's last bin
    empty by an index of -1 and then sets empty bins to 1e-4 without rescaling the others, which punishes outliers.
    """

    def _threshold(self, counts: np.ndarray) -> float | None:
        divergences = kl_divergences(counts[1:], self.levels)
        best = int(np.argmin(divergences))
        return best + self.levels + 0.5 if np.isfinite(divergences[best]) else None


def kl_divergences(counts: np.ndarray, levels: int) -> np.ndarray:
    """The divergence of :class:`KLObserver` for each threshold ``levels .. counts.size - 1``, in float64.

    ``counts``: at most 2048 integers, not all 0. Infinity stands where Q cannot be smoothed: it is all zero, or has
    a bin that would not stay positive.
    """
    length, total = counts.size, float(counts.sum())
    threshold = np.arange(levels, length)
    below = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])  # sum of the first i bins
    filled = np.concatenate([[0], np.cumsum(counts > 0)])  # how many of the first i bins are not empty

    outliers = total - below[threshold]
    last = counts[threshold - 1] + outliers
    p_filled = filled[threshold - 1] + (last > 0)
    p_loss = EPSILON * (threshold - p_filled) / p_filled  # below 1, the smallest count, as there are so few bins

    start = np.arange(levels) * (threshold // levels)[:, None]
    stop = np.append(start[:, 1:], threshold[:, None], axis=1)
    level = below[stop] - below[start]
    level_filled = filled[stop] - filled[start]
    # Outliers can fill P's last bin although no count is there.
    level_filled[:, -1] = filled[threshold - 1] - filled[start[:, -1]] + (last > 0)
    last_without_q = (last > 0) & (level[:, -1] == 0)

    q_filled = p_filled - last_without_q
    with np.errstate(divide="ignore", invalid="ignore"):
        q_loss = EPSILON * (threshold - q_filled) / q_filled
        q = np.where(level > 0, level / level_filled - q_loss[:, None], 1.0)
        malformed = (q_filled == 0) | (q <= 0).any(axis=1)
        log_q = np.log(q)

        # sum P log P - sum P log Q, the latter by levels, within which Q is constant. Empty bins cancel out.
        p_level = level - p_loss[:, None] * level_filled
        p_level[:, -1] += outliers
        cross = np.where(level > 0, p_level * log_q, 0.0).sum(axis=1)
        cross += np.where(last_without_q, (last - p_loss) * np.log(EPSILON), 0.0)
        divergence = (_entropy(counts, threshold, last, p_loss) - cross) / total + np.log(below[threshold] / total)
    return np.where(malformed, np.inf, divergence)


def _entropy(counts: np.ndarray, threshold: np.ndarray, last: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """``sum(P * log(P))`` over the bins of each smoothed P that were not empty."""
    index = np.flatnonzero(counts)
    values = counts[index].astype(np.float64)
    final = np.where(last > 0, last - loss, 1.0)
    result = final * np.log(final)
    for first in range(0, threshold.size, _ROWS):
        rows = slice(first, first + _ROWS)
        ends = np.searchsorted(index, threshold[rows] - 1)  # the last bin of each P is `final`
        smoothed = values[: ends[-1]] - loss[rows, None]
        terms = smoothed * np.log(smoothed)
        terms[np.arange(ends[-1]) >= ends[:, None]] = 0.0
        result[rows] += terms.sum(axis=1)
    return result
