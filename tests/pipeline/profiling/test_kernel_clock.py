"""The clock inside the virtual machine."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import LibraryError
from pipeline.profiling.kernel_clock import KernelClock, kernel_calls
from pipeline.runtime import load, read_manifest


@pytest.mark.parametrize("threads", [1, 2])
def test_times_are_those_of_the_run(digits: Path, threads: int) -> None:
    """Each call takes some time, all together no more than the run that they are in."""
    model = load(digits, threads)
    data = model.random_inputs()
    expected = model(data)
    calls = kernel_calls(model, data)
    assert [name for name in calls if name] == [kernel.name for kernel in read_manifest(digits).kernels]
    clock = KernelClock(len(calls))
    model.instrument(clock.instrument)
    for _ in range(3):
        clock.restart()
        before = time.perf_counter_ns()
        result = model(data)
        elapsed = time.perf_counter_ns() - before
        times = clock.nanoseconds()
        assert times.shape == (len(calls),)
        assert (times > 0).all()
        assert times.sum() <= elapsed
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("calls", "runs"), [(3, 2), (4, 1)], ids=["more than expected", "fewer"])
def test_other_number_of_calls(libraries: dict[str, Path], calls: int, runs: int) -> None:
    """Stamps beyond the end of the array would destroy memory; too few would be taken for those of another run."""
    model = load(libraries["affine"], 1)
    clock = KernelClock(calls)
    model.instrument(clock.instrument)
    for _ in range(runs):
        model(model.random_inputs())
    if runs == 1:
        clock = KernelClock(calls)
    with pytest.raises(LibraryError, match=f"and the one before {calls}"):
        clock.nanoseconds()
