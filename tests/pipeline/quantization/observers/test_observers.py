"""What every observer must do: finite ranges, any batches, clear errors, bounded memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.quantization.observers import OBSERVERS, Observer
from pipeline.quantization.parameters import parameters_for_range
from tests.pipeline.quantization.observers.histograms import values

VALUES = values(2000)
each_observer = pytest.mark.parametrize("name", OBSERVERS)
each_symmetry = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])


def _observed(observer: Observer, *batches: np.ndarray) -> tuple[float, float]:
    for number in range(observer.passes):
        if number:
            observer.next_pass()
        for batch in batches:
            observer.observe(batch)
    return observer.range()


@each_observer
@each_symmetry
@pytest.mark.parametrize("data", VALUES)
def test_ranges_lie_within_the_values_and_give_usable_parameters(name: str, symmetric: bool, data: str) -> None:
    sample = VALUES[data]
    for bits in (8, 5, 2):
        low, high = _observed(OBSERVERS[name](symmetric=symmetric, bits=bits), sample)
        assert min(float(sample.min()), 0) <= low <= high <= max(float(sample.max()), 0)
        parameters = parameters_for_range(low, high, symmetric=symmetric, dtype="uint8", bits=bits)
        assert np.isfinite(parameters.scale)
        assert parameters.scale >= np.finfo(np.float32).tiny
        if sample.any():
            assert high > low or low != 0, "all values would become 0"


@pytest.mark.parametrize("name", [name for name in OBSERVERS if name != "moving-average"])
@each_symmetry
@pytest.mark.parametrize("data", VALUES)
def test_batches_and_order_do_not_matter(name: str, symmetric: bool, data: str) -> None:
    """A moving average depends on both by its formula."""
    sample = VALUES[data]
    whole = _observed(OBSERVERS[name](symmetric=symmetric), sample)
    shuffled = np.random.default_rng(0).permutation(sample)
    parts = _observed(OBSERVERS[name](symmetric=symmetric), *np.array_split(shuffled, 7))
    if name.startswith("aciq"):  # sums of real numbers round differently
        assert parts == pytest.approx(whole, rel=1e-6)
    else:
        assert parts == whole


@each_observer
def test_the_same_batches_give_the_same_bits(name: str) -> None:
    batches = np.array_split(VALUES["normal"], 5)
    assert _observed(OBSERVERS[name](symmetric=False), *batches) == _observed(
        OBSERVERS[name](symmetric=False), *batches
    )


@each_observer
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([np.nan, 1], "1 NaN among 2 values"),
        ([np.inf, 1, -np.inf], "2 infinite among 3 values"),
        ([np.nan, np.inf, np.nan], "2 NaN and 1 infinite among 3 values"),
    ],
    ids=["nan", "infinite", "both"],
)
def test_values_that_are_not_finite_are_refused(name: str, bad: list[float], message: str) -> None:
    observer = OBSERVERS[name](symmetric=True)
    observer.observe(np.ones(3, np.float32))
    with pytest.raises(InputError, match=message):
        observer.observe(np.array(bad, np.float32))


@each_observer
def test_no_values_give_an_empty_range(name: str) -> None:
    """A tensor of no elements, such as the boxes of an image without objects."""
    assert _observed(OBSERVERS[name](symmetric=False), np.zeros((0, 4), np.float32)) == (0, 0)


@each_observer
@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "uint8", "bool"])
def test_any_real_type_and_shape(name: str, dtype: str) -> None:
    sample = (np.arange(240).reshape(2, 3, 40) % 2).astype(dtype)[:, ::2, ::-1]
    low, high = _observed(OBSERVERS[name](symmetric=False), sample)
    assert low == 0
    assert 0.5 < high <= 1


@each_observer
def test_a_scalar(name: str) -> None:
    assert _observed(OBSERVERS[name](symmetric=False), np.array(-2, np.float32))[0] == pytest.approx(-2)


@each_observer
def test_values_are_left_alone(name: str) -> None:
    sample = VALUES["normal"].copy()
    sample.flags.writeable = False
    _observed(OBSERVERS[name](symmetric=True), sample)
    np.testing.assert_array_equal(sample, VALUES["normal"])


@each_observer
def test_memory_does_not_grow_with_the_data(name: str) -> None:
    batch = np.random.default_rng(0).normal(size=200_000).astype(np.float32)

    def peak(batches: int) -> int:
        tracemalloc.start()
        observer = OBSERVERS[name](symmetric=True)
        for _ in range(observer.passes):
            for factor in range(1, batches + 1):
                observer.observe(batch * np.float32(factor))
            if observer.passes == 2 and observer._pass == 1:
                observer.next_pass()
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(1)
    assert peak(12) < peak(3) + 100_000


@pytest.mark.parametrize("name", [name for name, observer in OBSERVERS.items() if observer.passes == 2])
class TestTwoPasses:
    def test_the_range_needs_both(self, name: str) -> None:
        observer = OBSERVERS[name](symmetric=True)
        observer.observe(VALUES["normal"])
        with pytest.raises(InputError, match="needs a second pass"):
            observer.range()

    def test_a_generator_that_is_used_up_is_noticed(self, name: str) -> None:
        observer = OBSERVERS[name](symmetric=True)
        observer.observe(VALUES["normal"])
        observer.next_pass()
        with pytest.raises(InputError, match="not a generator"):
            observer.range()

    def test_other_data_in_the_second_pass_is_noticed(self, name: str) -> None:
        observer = OBSERVERS[name](symmetric=True)
        observer.observe(VALUES["normal"])
        observer.next_pass()
        with pytest.raises(InputError, match="both passes must see the same data"):
            observer.observe(VALUES["normal"] * 2)

    def test_there_is_no_third(self, name: str) -> None:
        observer = OBSERVERS[name](symmetric=True)
        observer.next_pass()
        with pytest.raises(InputError, match="takes 2 pass"):
            observer.next_pass()


@each_observer
@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range_are_refused(name: str, bits: int) -> None:
    with pytest.raises(InputError, match=f"{bits} bits"):
        OBSERVERS[name](symmetric=True, bits=bits)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("percentile", "percentile", 50),
        ("percentile", "percentile", 101),
        ("moving-average", "averaging_constant", 0),
        ("moving-average", "averaging_constant", 1.5),
        ("mse", "steps", 1),
    ],
)
def test_options_without_sense_are_refused(name: str, option: str, value: float) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(InputError, match=str(value)):
        OBSERVERS[name](symmetric=True, **options)
