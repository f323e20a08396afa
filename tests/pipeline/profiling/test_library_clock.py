"""The clock of a whole library: kernels that the virtual machine calls, and their steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.passes.images import MIN_IMAGES
from pipeline.profiling.kernel_clock import kernel_calls
from pipeline.profiling.library_clock import LibraryClock, flat
from pipeline.runtime import load, read_manifest


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_add_up_to_their_kernel(digits_batch: Path, threads: int) -> None:
    """Beside each other, threads spend more on the steps than the call takes."""
    model = load(digits_batch, threads)
    data = model.random_inputs()
    expected = model(data)
    kernels = read_manifest(digits_batch).kernels
    calls = kernel_calls(model, data)
    clock = LibraryClock(model, kernels, [name is not None for name in calls])
    with clock:
        result = model(data)
        times = clock.nanoseconds()
    np.testing.assert_array_equal(result, expected)
    assert len(times) == len(flat(kernels)) + 1
    assert (times > 0).all()
    assert times.sum() == pytest.approx(clock._calls.nanoseconds().sum())


def test_nothing_is_written_after_the_end(digits_batch: Path) -> None:
    """The array may be gone by then."""
    model = load(digits_batch, 1)
    (steps,) = [kernel.steps for kernel in model.manifest.kernels if kernel.steps]
    stamps = np.zeros((steps[0].images, len(steps) + 1, 2), np.int64)
    model.time_steps(stamps)
    model(model.random_inputs())
    model.time_steps(None)
    written = stamps.copy()
    nanoseconds = stamps @ np.array([1_000_000_000, 1])
    assert (np.diff(nanoseconds, axis=1) >= 0).all()
    assert (nanoseconds[:, 0] < nanoseconds[:, -1]).all()
    model(model.random_inputs())
    np.testing.assert_array_equal(stamps, written)


@pytest.mark.usefixtures("limits")
def test_profile_of_a_batch(digits: Path, digits_batch: Path) -> None:
    """It used to be one operator, the whole trunk of the network."""
    one, batch = (pipeline.profile(path, threads=1, warmup=0, seconds=0).operators for path in (digits, digits_batch))
    convolutions = [[o.kernel for o in operators if o.kernel.name.startswith("conv2d")] for operators in (one, batch)]
    assert [k.node for k in convolutions[1]] == [k.node for k in convolutions[0]]
    assert [k.macs * k.images for k in convolutions[1]] == [MIN_IMAGES * k.macs for k in convolutions[0]]
    step = next(o for o in batch if o.kernel.images > 1 and o.kernel.macs)
    assert step.gmacs == pytest.approx(step.kernel.macs * step.kernel.images / step.milliseconds / 1e6)
