"""The two histograms against loops over values, and their independence of order and batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quantization.observers.histogram import FixedHistogram, GrowingHistogram
from tests.pipeline.quantization.observers.histograms import values

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def _grown(batches: list[np.ndarray]) -> GrowingHistogram:
    histogram = GrowingHistogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def _same(one: GrowingHistogram, other: GrowingHistogram) -> bool:
    return one.width == other.width and one.zeros == other.zeros and np.array_equal(one.counts, other.counts)


@pytest.mark.parametrize("name", values(3000))
def test_growing_histogram_counts_every_value_in_its_bin(name: str) -> None:
    sample = values(3000)[name]
    histogram = _grown([sample])
    expected = np.zeros_like(histogram.counts)
    for x in sample[sample != 0].astype(np.float64):
        place = int(np.searchsorted(histogram.edges, x, side="right")) - 1
        expected[place] += 1
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.zeros == (sample == 0).sum()


@pytest.mark.parametrize("name", values(3000))
def test_growing_histogram_resolves_the_largest_magnitude(name: str) -> None:
    sample = values(3000)[name]
    largest = float(np.abs(sample).max())
    width = _grown([sample]).width
    assert largest / GrowingHistogram.BINS < width <= 2 * largest / GrowingHistogram.BINS or width == largest == 0


@pytest.mark.parametrize("name", values(3000))
def test_growing_histogram_does_not_depend_on_order_or_batches(name: str) -> None:
    """Bins that are not multiples of a power of two would move counts when they are merged."""
    sample = values(3000)[name]
    whole = _grown([sample])
    by_magnitude = sample[np.argsort(np.abs(sample))]
    assert _same(whole, _grown(np.array_split(by_magnitude, 50)))
    assert _same(whole, _grown(np.array_split(by_magnitude[::-1], 7)))


@given(st.lists(st.lists(floats, max_size=6), max_size=6))
def test_growing_histogram_of_any_floats(batches: list[list[float]]) -> None:
    whole = np.array([x for batch in batches for x in batch], np.float32)
    histogram = _grown([np.array(batch, np.float32) for batch in batches])
    assert _same(histogram, _grown([whole]))
    assert histogram.counts.sum() + histogram.zeros == whole.size
    assert (histogram.counts >= 0).all()


def test_a_batch_larger_than_a_chunk_is_counted_whole() -> None:
    sample = np.linspace(-1, 3, 300_001, dtype=np.float32)
    assert _grown([sample]).counts.sum() + _grown([sample]).zeros == sample.size


@pytest.mark.parametrize("name", ["normal", "shifted", "relu", "heavy-tailed", "denormal", "huge"])
def test_fixed_histogram_counts_every_value_in_its_bin(name: str) -> None:
    sample = values(3000)[name]
    low, high = float(sample.min()), float(sample.max())
    histogram = FixedHistogram(low, high, 100)
    histogram.add(sample)
    expected = np.zeros(100, np.int64)
    for x in sample.tolist():
        expected[min(int((x - low) / ((high - low) / 100)), 99)] += 1
    np.testing.assert_array_equal(histogram.counts, expected)


def test_fixed_histogram_of_magnitudes_leaves_zeros_out() -> None:
    histogram = FixedHistogram(0.0, 4.0, 4)
    histogram.add_magnitudes(np.array([0, -0.0, 0.5, -1, 1.5, -4, 3], np.float32))
    np.testing.assert_array_equal(histogram.counts, [1, 2, 0, 2])
