"""Histograms and values that a formula may stumble over."""

from __future__ import annotations

import numpy as np


def _spikes(bins: int, *places: float) -> np.ndarray:
    counts = np.zeros(bins, np.int64)
    for place in places:
        counts[int(place * (bins - 1))] += 1000
    return counts


def histograms(bins: int) -> dict[str, np.ndarray]:
    """Histograms of ``bins`` bins by name; the last bin is filled, as that of the largest magnitude always is."""
    rng = np.random.default_rng(bins)
    x = np.arange(bins) / bins
    shapes = {
        "random": rng.integers(0, 1000, bins),
        "half-normal": rng.poisson(1e5 * np.exp(-((4 * x) ** 2) / 2)),
        "heavy-tailed": rng.poisson(1e4 / (1 + (60 * x) ** 3)),
        "exponential": rng.poisson(3e4 * np.exp(-12 * x)),
        "sparse": np.where(rng.random(bins) < 0.05, rng.integers(1, 9, bins), 0),
        "far-outlier": rng.poisson(500.0 * (x < 0.02)),
        "two-values": _spikes(bins, 0.3, 1.0),
        "constant": _spikes(bins, 1.0),
        "few": np.where(rng.random(bins) < 0.002, 1, 0),
        "growing": rng.poisson(1e4 * x**3),
        "full-then-empty": np.where(x < 0.5, 100, 0),
    }
    for counts in shapes.values():
        counts[-1] = max(counts[-1], 1)
    return {name: np.asarray(counts, np.int64) for name, counts in shapes.items()}


def values(count: int = 20_000) -> dict[str, np.ndarray]:
    """Values of many distributions by name, float32."""
    rng = np.random.default_rng(count)
    normal = rng.normal(size=count)
    samples = {
        "normal": normal,
        "shifted": normal * 0.1 + 3,
        "relu": np.maximum(normal, 0),
        "negative": -np.abs(normal),
        "relu6": np.clip(normal * 3 + 2, 0, 6),
        "swish": normal * 4 / (1 + np.exp(-normal * 4)),
        "heavy-tailed": rng.standard_t(2, size=count),
        "laplace": rng.laplace(size=count),
        "bytes": rng.integers(0, 256, count),
        "two-values": rng.integers(0, 2, count) * 0.7,
        "constant": np.full(count, 5.0),
        "negative-constant": np.full(count, -0.3),
        "zeros": np.zeros(count),
        "one-value": np.array([1.5]),
        "one-outlier": np.append(normal[:1000] * 1e-3, 1000.0),
        "denormal": normal[:1000] * 1e-40,
        "huge": normal[:1000] * 1e37,
    }
    return {name: sample.astype(np.float32) for name, sample in samples.items()}
