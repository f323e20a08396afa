"""The threshold with the least Kullback-Leibler divergence, as ncnn finds it."""

from __future__ import annotations

import numpy as np

from pipeline.quantization.observers.magnitude import MagnitudeObserver

EPSILON = 1e-4
"""Added to every bin of both distributions, whose counts sum to 1."""


class NcnnKLObserver(MagnitudeObserver):
    """Entropy calibration with levels of equal width, whose edges cut bins.

    With h the histogram of |x| in 2048 bins, zeros not counted, divided by its sum, and for every t from 128 up:

    1. ``P = h[0:t] + 1e-4``, and all outliers ``sum(h[t:])`` are added to its last bin;
    2. ``Q``: ``h[0:t]`` without the outliers is merged to 128 levels, each ``t / 128`` bins wide; a bin that a level's
       edge cuts counts for either side by its share. Then each level's mean is spread over its whole width, empty
       bins included, a cut bin again getting its shares of both, and 1e-4 is added everywhere;
    3. ``KL = sum(P * log(P / Q))``; neither is divided by its sum.

    The first t with the least KL wins, and the threshold is ``(t + 0.5) / 2048 * max|x|``. 128 is :attr:`levels`. A t
    below which no value lies is left out, and if that is every one (a constant), the whole range is kept.

    Source: QuantNet::quantize_KL in ncnn's tools/quantize/ncnn2table.cpp (in float32 there).
    """

    def _threshold(self, counts: np.ndarray) -> float | None:
        divergences = ncnn_divergences(counts, self.levels)
        best = int(np.argmin(divergences))
        return best + self.levels + 0.5 if np.isfinite(divergences[best]) else None


def ncnn_divergences(counts: np.ndarray, levels: int) -> np.ndarray:
    """The divergence of :class:`NcnnKLObserver` for each threshold ``levels .. counts.size - 1``, in float64.

    Infinity stands where no value lies below the threshold.
    """
    density = counts / counts.sum()
    threshold = np.arange(levels, counts.size)
    below = np.concatenate([[0.0], np.cumsum(density)])
    smoothed = density + EPSILON
    p_below = np.concatenate([[0.0], np.cumsum(smoothed)])
    p_log_p_below = np.concatenate([[0.0], np.cumsum(smoothed * np.log(smoothed))])
    outliers = below[-1] - below[threshold]

    # Level j spans bins edge[j] .. edge[j + 1], split here into whole bins and the share of the bin that is cut.
    edge, remainder = np.divmod(np.arange(levels + 1) * threshold[:, None], levels)
    share = remainder / levels
    cut_bin = np.minimum(edge, counts.size - 1)
    reached = below[edge] + share * density[cut_bin]
    q = np.diff(reached, axis=1) * (levels / threshold)[:, None]

    # Bins that lie within one level.
    first, end = edge[:, :-1] + (remainder[:, :-1] > 0), edge[:, 1:]
    inside = p_below[end] - p_below[first]
    inside[:, -1] += outliers
    cross = (inside * np.log(q + EPSILON)).sum(axis=1)
    # Bins that two levels share.
    left_share = share[:, 1:-1]
    mixed = left_share * q[:, :-1] + (1 - left_share) * q[:, 1:] + EPSILON
    cross += np.where(left_share > 0, smoothed[cut_bin[:, 1:-1]] * np.log(mixed), 0.0).sum(axis=1)

    last = smoothed[threshold - 1] + outliers
    divergence = p_log_p_below[threshold - 1] + last * np.log(last) - cross
    return np.where(below[threshold] > 0, divergence, np.inf)
