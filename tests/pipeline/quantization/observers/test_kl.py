"""The three KL observers against slow, literal versions of their formulas."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pipeline.quantization.observers import KLObserver, NcnnKLObserver, PaddleKLObserver
from pipeline.quantization.observers.kl import kl_divergences
from pipeline.quantization.observers.kl_ncnn import ncnn_divergences
from pipeline.quantization.observers.kl_paddle import paddle_divergences
from pipeline.quantization.observers.magnitude import MagnitudeObserver
from tests.pipeline.quantization.observers import literal
from tests.pipeline.quantization.observers.histograms import histograms, values

SMALL = histograms(150)
FULL = histograms(2048)
names = pytest.mark.parametrize("name", SMALL)
levels_of = pytest.mark.parametrize("levels", [2, 8, 16, 31])


def _some_thresholds(start: int, stop: int, levels: int) -> list[int]:
    """The ends, both sides of a change of ``threshold // levels``, and a few between."""
    return sorted({start, start + 1, 5 * levels - 1, 5 * levels, stop - 1, *range(start, stop, 311)})


@names
@levels_of
def test_kl_is_literal_at_every_threshold(name: str, levels: int) -> None:
    counts = SMALL[name]
    expected = [literal.kl_divergence(counts.tolist(), t, levels) for t in range(levels, counts.size)]
    np.testing.assert_allclose(kl_divergences(counts, levels), expected, rtol=1e-9, atol=1e-12)


@names
@pytest.mark.parametrize("levels", [128, 256])
def test_kl_is_literal_on_2047_bins(name: str, levels: int) -> None:
    counts = FULL[name][1:]
    got = kl_divergences(counts, levels)
    for t in _some_thresholds(levels, counts.size, levels):
        expected = literal.kl_divergence(counts.tolist(), t, levels)
        assert got[t - levels] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@names
@levels_of
def test_ncnn_is_literal_at_every_threshold(name: str, levels: int) -> None:
    counts = SMALL[name]
    got = ncnn_divergences(counts, levels)
    for t, divergence in zip(range(levels, counts.size), got, strict=True):
        if counts[:t].any():
            assert divergence == pytest.approx(literal.ncnn_divergence(counts.tolist(), t, levels), rel=1e-9)
        else:
            assert divergence == np.inf


@names
def test_ncnn_is_literal_on_2048_bins(name: str) -> None:
    counts = FULL[name]
    got = ncnn_divergences(counts, 128)
    for t in _some_thresholds(128, 2048, 128):
        if counts[:t].any():
            assert got[t - 128] == pytest.approx(literal.ncnn_divergence(counts.tolist(), t, 128), rel=1e-9)


@names
@levels_of
def test_paddle_is_literal_at_every_threshold(name: str, levels: int) -> None:
    counts = SMALL[name]
    expected = [literal.paddle_divergence(counts.tolist(), t, levels) for t in range(90, counts.size)]
    np.testing.assert_allclose(paddle_divergences(counts, levels, 90), expected, rtol=1e-9, atol=1e-12)


@names
def test_paddle_is_literal_on_2048_bins(name: str) -> None:
    counts = FULL[name]
    got = paddle_divergences(counts, 255, 1228)
    for t in _some_thresholds(1228, 2048, 255):
        if t >= 1228:
            expected = literal.paddle_divergence(counts.tolist(), t, 255)
            assert got[t - 1228] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def _range_of(observer: MagnitudeObserver, sample: np.ndarray) -> tuple[float, float]:
    observer.observe(sample)
    observer.next_pass()
    observer.observe(sample)
    return observer.range()


def _histogram_of_magnitudes(sample: np.ndarray) -> np.ndarray:
    """2048 bins as a loop over values, without zeros."""
    counts = np.zeros(2048, np.int64)
    largest = float(np.abs(sample).max())
    for x in sample.tolist():
        if x:
            counts[min(int(abs(x) / (largest / 2048)), 2047)] += 1
    return counts


@pytest.mark.parametrize("name", ["normal", "relu", "heavy-tailed"])
def test_kl_thresholds_are_in_the_middle_of_the_best_bin(name: str) -> None:
    sample = values()[name]
    counts = _histogram_of_magnitudes(sample)
    width = float(np.abs(sample).max()) / 2048
    low, high = float(sample.min()), float(sample.max())

    best = 128 + int(np.argmin(kl_divergences(counts[1:], 128)))
    threshold = (best + 0.5) * width
    assert _range_of(KLObserver(symmetric=True), sample) == pytest.approx((max(low, -threshold), min(high, threshold)))

    best = 128 + int(np.argmin(ncnn_divergences(counts, 128)))
    threshold = (best + 0.5) * width
    assert _range_of(NcnnKLObserver(symmetric=True), sample) == pytest.approx(
        (max(low, -threshold), min(high, threshold))
    )


@pytest.mark.parametrize(("name", "start"), [("normal", 1228), ("relu", 1432)])
def test_paddle_starts_at_its_part_of_the_range_and_counts_zeros(name: str, start: int) -> None:
    sample = values()[name]
    counts = _histogram_of_magnitudes(sample)
    counts[0] += int((sample == 0).sum())
    divergences = [literal.paddle_divergence(counts.tolist(), t, 255) for t in range(start, 2048, 1)]
    threshold = (start + int(np.argmin(divergences)) + 0.5) * float(np.abs(sample).max()) / 2048
    assert _range_of(PaddleKLObserver(symmetric=True), sample)[1] == pytest.approx(min(threshold, sample.max()))


def test_paddle_falls_back_to_the_last_filled_bin_below_its_start() -> None:
    """No bin above the start but the very last is filled."""
    sample = np.append(np.linspace(0, 0.3, 5000, dtype=np.float32), np.float32(1))
    low, high = _range_of(PaddleKLObserver(symmetric=True), sample)
    assert low == 0
    assert high == pytest.approx((int(np.float32(0.3) * 2048) + 0.5) / 2048)


@pytest.mark.parametrize("observer", [KLObserver, NcnnKLObserver, PaddleKLObserver])
def test_a_constant_is_not_clipped_away(observer: type[MagnitudeObserver]) -> None:
    """With everything in the last bin no threshold is better than another, and the first would cut 15/16 off."""
    assert _range_of(observer(symmetric=True), np.full(100, 5, np.float32)) == (5, 5)
    assert _range_of(observer(symmetric=False), np.array([-0.5, 0, 0], np.float32)) == (-0.5, 0)


@pytest.mark.parametrize("observer", [KLObserver, NcnnKLObserver])
def test_an_unsigned_type_has_twice_the_levels(observer: type[MagnitudeObserver]) -> None:
    relu, normal = values()["relu"], values()["normal"]
    for symmetric, sample, levels in [(True, relu, 8), (False, relu, 16), (True, normal, 8), (False, normal, 8)]:
        watching = observer(symmetric=symmetric, bits=4)
        _range_of(watching, sample)
        assert watching.levels == levels


def test_outliers_are_clipped() -> None:
    """What the observers are for: one value far out does not coarsen the steps of all others."""
    rng = np.random.default_rng(0)
    sample = np.append(rng.normal(size=100_000), 20).astype(np.float32)
    assert _range_of(KLObserver(symmetric=True), sample)[1] < 6
    assert _range_of(NcnnKLObserver(symmetric=True), sample)[1] < 6
    assert _range_of(PaddleKLObserver(symmetric=True), sample)[1] < 13


@pytest.mark.parametrize("levels", [2, 128, 256])
def test_kl_of_all_thresholds_takes_well_under_a_second(levels: int) -> None:
    counts = FULL["random"]
    start = time.process_time()
    kl_divergences(counts[1:], levels)
    ncnn_divergences(counts, levels)
    assert time.process_time() - start < 1
