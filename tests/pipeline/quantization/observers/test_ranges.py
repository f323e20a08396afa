"""Percentile, moving average, L2 histogram, MSE and ACIQ against slow, literal versions of their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.quantization.observers import (
    AciqLaplaceObserver,
    AciqObserver,
    HistogramL2Observer,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
)
from pipeline.quantization.observers.aciq import GAUSSIAN_ALPHA, LAPLACE_ALPHA
from pipeline.quantization.observers.histogram_l2 import quantization_error, search_bins
from pipeline.quantization.observers.mse import squared_error_integral
from pipeline.quantization.parameters import parameters_for_range
from tests.pipeline.quantization.observers import literal
from tests.pipeline.quantization.observers.histograms import histograms, values

VALUES = values()


def _observed(observer: Observer, *batches: np.ndarray) -> tuple[float, float]:
    for number in range(observer.passes):
        if number:
            observer.next_pass()
        for batch in batches:
            observer.observe(batch)
    return observer.range()


@pytest.mark.parametrize("name", VALUES)
def test_minmax_is_the_range_of_all_batches(name: str) -> None:
    sample = VALUES[name]
    batches = np.array_split(sample, 3)
    assert _observed(MinMaxObserver(symmetric=False), *batches) == (sample.min(), sample.max())


def test_moving_average_is_literal() -> None:
    batches = np.array_split(VALUES["normal"], 20)
    low, high = float(batches[0].min()), float(batches[0].max())
    for batch in batches[1:]:
        low = 0.9 * low + 0.1 * float(batch.min())
        high = 0.9 * high + 0.1 * float(batch.max())
    got = _observed(MovingAverageObserver(symmetric=False, averaging_constant=0.1), *batches)
    assert got == pytest.approx((low, high))
    assert MovingAverageObserver(symmetric=True).averaging_constant == 0.01


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("percentile", [99.99, 99, 75, 100])
def test_percentile_of_magnitudes_is_off_by_at_most_a_bin(name: str, percentile: float) -> None:
    sample = VALUES[name].astype(np.float64)
    low, high = _observed(PercentileObserver(symmetric=True, percentile=percentile), VALUES[name])
    exact = [np.percentile(np.abs(sample), percentile, method=rule) for rule in ("lower", "higher")]
    bin_width = np.abs(sample).max() / 2048
    assert exact[0] - bin_width <= max(-low, high) <= exact[1] + bin_width


@pytest.mark.parametrize("name", ["normal", "shifted", "heavy-tailed", "swish", "laplace", "relu", "negative"])
@pytest.mark.parametrize("percentile", [99.99, 98])
def test_asymmetric_percentile_cuts_half_at_either_end_or_all_at_one(name: str, percentile: float) -> None:
    sample = VALUES[name].astype(np.float64)
    got = _observed(PercentileObserver(symmetric=False, percentile=percentile), VALUES[name])
    cut = 100 - percentile
    if name in ("relu", "shifted"):
        parts = [0.0, percentile]
    elif name == "negative":
        parts = [cut, 100.0]
    else:
        parts = [cut / 2, 100 - cut / 2]
    bin_width = np.abs(sample).max() / 2048
    for bound, part in zip(got, parts, strict=True):
        exact = [np.percentile(sample, part, method=rule) for rule in ("lower", "higher")]
        assert exact[0] - bin_width <= bound <= exact[1] + bin_width


def test_percentile_interpolates_within_a_bin() -> None:
    """Without interpolation the answer would be a multiple of 1/2048."""
    sample = np.linspace(0, 0.999, 100_000, dtype=np.float32)
    assert _observed(PercentileObserver(symmetric=True, percentile=90), sample)[1] == pytest.approx(0.8991, abs=2e-5)


@pytest.mark.parametrize("name", histograms(64))
@pytest.mark.parametrize("levels", [4, 16, 256])
def test_l2_search_takes_the_steps_of_pytorch(name: str, levels: int) -> None:
    counts = histograms(64)[name]
    assert search_bins(counts, levels) == literal.l2_search(counts.tolist(), levels)


@pytest.mark.parametrize("name", histograms(40))
@pytest.mark.parametrize(("first", "last"), [(0, 39), (5, 30), (38, 39), (7, 7)])
def test_l2_error_is_that_of_values_spread_over_bins(name: str, first: int, last: int) -> None:
    counts = histograms(40)[name]
    got = quantization_error(counts, first, last, 16)
    assert got == pytest.approx(literal.l2_error(counts.tolist(), first, last, 16), rel=2e-3)
    assert got == pytest.approx(literal.l2_integral(counts.tolist(), first, last, 16), rel=1e-9)


BINS = np.arange(2048)


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        (np.exp(-((BINS - 900) ** 2) / (2 * 250**2)), (0, 1882)),
        (np.exp(-BINS / 150), (0, 1613)),
        (1 / (1 + (np.abs(BINS - 1100) / 20) ** 3), (183, 1999)),
    ],
    ids=["gaussian", "exponential", "heavy-tailed"],
)
def test_l2_search_finds_what_pytorch_finds(heights: np.ndarray, expected: tuple[int, int]) -> None:
    """The bins that HistogramObserver of PyTorch 2.13 keeps of the same histograms."""
    assert search_bins(np.round(1e6 * heights).astype(np.int64), 256) == expected


@pytest.mark.parametrize("name", ["normal", "relu", "heavy-tailed", "swish"])
def test_l2_range_is_that_of_the_bins_kept(name: str) -> None:
    sample = VALUES[name]
    low, high = min(float(sample.min()), 0), max(float(sample.max()), 0)
    counts = np.zeros(2048, np.int64)
    for x in sample.tolist():
        counts[min(int((x - low) / ((high - low) / 2048)), 2047)] += 1
    first, last = search_bins(counts, 256)
    width = (high - low) / 2048
    got = _observed(HistogramL2Observer(symmetric=False), sample)
    assert got == pytest.approx((low + width * first, low + width * (last + 1)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("below", "above"), [(3, 3), (0, 7), (5, 2), (4, 0)])
def test_mse_integral_is_that_of_the_rounding_error(below: int, above: int) -> None:
    x = np.linspace(-6, 9, 150_001)
    error = (x - np.clip(np.rint(x / 0.8), -below, above) * 0.8) ** 2
    for start, stop in [(-6, 9), (-0.3, 0.2), (0.5, 2.5), (-5, -3)]:
        inside = (start <= x) & (x < stop)
        exact = np.diff(squared_error_integral(np.array([start, stop], float), 0.8, below, above))[0]
        assert exact == pytest.approx(error[inside].sum() * 1e-4, rel=1e-3, abs=1e-4)


def _squared_error(sample: np.ndarray, low: float, high: float, *, symmetric: bool, bits: int) -> float:
    parameters = parameters_for_range(low, high, symmetric=symmetric, dtype="int8", bits=bits)
    return float(np.square(sample - parameters.dequantize(parameters.quantize(sample)), dtype=np.float64).sum())


@pytest.mark.parametrize("name", ["normal", "shifted", "relu", "negative", "swish", "heavy-tailed", "laplace"])
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_mse_finds_the_best_range_of_its_grid(name: str, bits: int, symmetric: bool) -> None:
    """The error is measured on the values themselves, quantised with the parameters that a model gets."""
    sample = VALUES[name]
    low, high = min(float(sample.min()), 0), max(float(sample.max()), 0)
    factors = np.arange(1, 101) / 100
    grid = [_squared_error(sample, low * f, high * f, symmetric=symmetric, bits=bits) for f in factors]
    found = _squared_error(
        sample, *_observed(MSEObserver(symmetric=symmetric, bits=bits), sample), symmetric=symmetric, bits=bits
    )
    assert found <= min(grid) * 1.01


def test_mse_moves_the_ends_of_an_asymmetric_range_apart() -> None:
    """With one common factor the few values of the short side would pay for outliers on the long one."""
    rng = np.random.default_rng(0)
    sample = np.concatenate([rng.uniform(-1, 2, 100_000), [60.0]]).astype(np.float32)
    low, high = _observed(MSEObserver(symmetric=False, bits=4), sample)
    assert low < -0.8
    assert high < 30


def _gaussian_error(alpha: float, bits: int) -> float:
    clipped = (alpha**2 + 1) * math.erfc(alpha / math.sqrt(2)) - alpha * math.sqrt(2 / math.pi) * math.exp(
        -(alpha**2) / 2
    )
    return clipped + alpha**2 / (3 * 4**bits)


def _laplace_error(alpha: float, bits: int) -> float:
    return 2 * math.exp(-alpha) + alpha**2 / (3 * 4**bits)


@pytest.mark.parametrize(
    ("table", "error"),
    [(GAUSSIAN_ALPHA, _gaussian_error), (LAPLACE_ALPHA, _laplace_error)],
    ids=["gaussian", "laplace"],
)
@pytest.mark.parametrize("bits", range(2, 10))
def test_each_alpha_minimises_its_error(
    table: dict[int, float], error: Callable[[float, int], float], bits: int
) -> None:
    alpha = table[bits]
    assert error(alpha, bits) < error(alpha - 1e-3, bits)
    assert error(alpha, bits) < error(alpha + 1e-3, bits)


@pytest.mark.parametrize("bits", [8, 4])
def test_aciq_is_literal(bits: int) -> None:
    sample = VALUES["normal"].astype(np.float64) * 2 + 0.1
    batches = np.array_split(sample, 3)
    mean, reach = sample.mean(), GAUSSIAN_ALPHA[bits] * sample.std()
    expected = (max(sample.min(), mean - reach), min(sample.max(), mean + reach))
    assert _observed(AciqObserver(symmetric=False, bits=bits), *batches) == pytest.approx(expected, rel=1e-9)

    reach = LAPLACE_ALPHA[bits] * np.abs(sample - mean).mean()
    expected = (max(sample.min(), mean - reach), min(sample.max(), mean + reach))
    assert _observed(AciqLaplaceObserver(symmetric=False, bits=bits), *batches) == pytest.approx(expected, rel=1e-9)


def test_aciq_of_one_sided_values_has_one_bit_more_if_asymmetric() -> None:
    sample = VALUES["relu"].astype(np.float64)
    for symmetric, bits in [(True, 4), (False, 5)]:
        expected = sample.mean() + GAUSSIAN_ALPHA[bits] * sample.std()
        assert _observed(AciqObserver(symmetric=symmetric, bits=4), sample) == pytest.approx((0, expected))


def test_aciq_does_not_lose_a_small_deviation_beside_a_large_mean() -> None:
    """As a difference of two sums of squares the variance would be rounding noise."""
    sample = 1e8 + VALUES["normal"].astype(np.float64)
    observer = AciqObserver(symmetric=False)
    for batch in np.array_split(sample, 5):
        observer.observe(batch)
    low, high = observer.range()
    assert high - sample.mean() == pytest.approx(4.21632993 * sample.std(), rel=1e-3) or high == sample.max()
    assert low == sample.min() or low > 1e8 - 10
