"""The figures of a tensor against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.comparison.matching import Quantised
from pipeline.comparison.statistics import BINS, MAX_DECIBEL, Statistics
from pipeline.errors import InputError


def entry(scale=(0.5,), zero_point=(0,), low=0, high=255, axis=1) -> Quantised:
    return Quantised("y", np.array(scale, "float32"), np.array(zero_point, "int64"), low, high, axis)


def statistics(expected, actual, quantised: Quantised | None = None) -> Statistics:
    found = Statistics("t", quantised or entry())
    found.update(np.asarray(expected, "float32"), np.asarray(actual, "float32"), np.asarray(expected, "float32"))
    return found


def test_definitions():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4)).astype("float32")
    y = x + rng.standard_normal(x.shape).astype("float32") / 10
    found = Statistics("t", entry())
    for i in range(2):
        found.update(x[i], y[i], y[i] - np.float32(0.5))
    wide, error = x.astype("float64"), y.astype("float64") - x
    assert found.sqnr == pytest.approx(10 * np.log10((wide**2).sum() / (error**2).sum()))
    assert found.cosine == pytest.approx(np.vdot(wide, y) / np.linalg.norm(wide) / np.linalg.norm(y.astype("float64")))
    assert found.max_error == np.abs(error).max()
    assert found.max_error_steps == pytest.approx(2 * found.max_error)
    assert found.added == pytest.approx(24 * 0.25 / (wide**2).sum(), rel=1e-5)
    assert found.count == 24
    assert found.histogram.sum(axis=1).tolist() == [24, 24]


@pytest.mark.parametrize(
    ("expected", "actual", "sqnr", "cosine"),
    [([1, 2], [1, 2], MAX_DECIBEL, 1.0), ([0, 0], [0, 0], MAX_DECIBEL, 1.0), ([0, 0], [1, 0], -MAX_DECIBEL, 0.0),
     ([1, 2], [0, 0], 0.0, 0.0)],
    ids=["exact", "both zero", "zero signal", "dead"],
)  # fmt: skip
def test_degenerate_tensors(expected, actual, sqnr, cosine):
    """No infinity and no NaN, which JSON cannot hold."""
    found = statistics(expected, actual)
    assert found.sqnr == pytest.approx(sqnr)
    assert found.cosine == pytest.approx(cosine)


def test_saturation_is_not_a_zero_of_relu():
    """Code 0 is the end of the range of u8 and yet where a Relu puts half of its values."""
    x = [0.0, 0.0, 127.4, 127.5, 127.6, 127.8, 200.0, -3.0]
    assert statistics(x, np.clip(np.rint(np.array(x) * 2) / 2, 0, 127.5)).saturated == 3


def test_saturation_by_channel():
    x = np.array([[[9.0], [9.0]], [[1.0], [-9.0]]])
    quantised = entry(scale=(1.0, 0.01), zero_point=(0, 0), low=-128, high=127, axis=1)
    y = np.clip(np.rint(x / [[1.0], [0.01]]), -128, 127) * [[1.0], [0.01]]
    found = statistics(x, y, quantised)
    assert found.saturated == 2
    assert found.saturation == 0.5
    assert found.span == (-128.0, 127.0)


def test_outliers_are_in_the_last_bins():
    found = statistics([-1e30, 1e30, 0.0], [0, 127.5, 0])
    assert found.histogram[0][[0, BINS - 1]].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("expected", "actual", "message"),
    [([1, 2], [1], "'t' has 2 elements in one model, 1"), ([np.nan], [1], "'t' of the float model holds NaN"),
     ([1], [np.inf], "'t' of the compiled model holds NaN")],
    ids=["size", "nan", "infinity"],
)  # fmt: skip
def test_refused(expected, actual, message):
    with pytest.raises(InputError, match=message):
        statistics(expected, actual)
