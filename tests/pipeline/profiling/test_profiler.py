"""From times to a profile, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.errors import InputError, LibraryError
from pipeline.profiling import Roofline, profiler
from pipeline.profiling.profiler import operator_times, typical
from pipeline.runtime import Kernel, load, read_manifest
from pipeline.runtime.library import append_manifest
from tests.pipeline.profiling.conftest import LIMITS


@pytest.mark.usefixtures("limits")
def test_profile_of_a_network(digits: Path) -> None:
    """Every kernel of the manifest, in order; and the parts are the whole."""
    told: list[tuple[str, float]] = []
    result = pipeline.profile(digits, threads=1, warmup=0.0, seconds=0.0, progress=lambda *update: told.append(update))
    assert [operator.kernel for operator in result.operators] == list(read_manifest(digits).kernels)
    assert [operator.position for operator in result.operators] == list(range(len(result.operators)))
    assert all(operator.milliseconds > 0 for operator in result.operators)
    assert result.runs == profiler.MIN_RUNS
    parts = result.operator_milliseconds + result.machine_milliseconds + result.rest_milliseconds
    assert parts == pytest.approx(result.latency, rel=1e-12)
    times = [operator.milliseconds for operator in result.by_time()]
    assert times == sorted(times, reverse=True)
    assert (result.library, result.model_file, result.threads, result.batch) == ("digits.so", "digits_qdq.onnx", 1, 1)
    assert told[-1] == ("timing", 1.0)


@pytest.mark.usefixtures("limits")
def test_data_of_the_caller(digits: Path) -> None:
    """By position and by name; the wrong shape is refused as a call refuses it."""
    image = np.zeros((1, 1, 16, 16), np.float32)
    for inputs in (image, {"image": image}):
        assert pipeline.profile(digits, threads=1, inputs=inputs, warmup=0, seconds=0).runs
    with pytest.raises(InputError, match=r"shape \(16, 16\)"):
        pipeline.profile(digits, inputs=image[0, 0])


def test_typical_times_add_up_to_typical_runs() -> None:
    """The middle of five runs is the one with the total 50; each call alone has another median."""
    samples = np.array([[1, 9], [80, 10], [10, 40], [20, 0], [1, 899]])
    assert typical(samples).tolist() == [10, 40]
    assert typical(samples[:4]).tolist() == [(10 + 20) / 2, (40 + 0) / 2]


def kernel(macs: int, weights: int, activations: int) -> Kernel:
    return Kernel("k", "n", macs, weights, activations // 2, activations // 2)


def test_speeds_and_shares() -> None:
    """100 M products in 2 ms are 50 GMAC/s; 1 MiB of weights at the bandwidth of 64 MiB, 16 KiB at that of 16 KiB."""
    kernels = [kernel(100_000_000, 1 << 20, 1 << 14), kernel(0, 63 << 20, 1 << 20)]
    first, second = operator_times(kernels, [2.0, 40.0], LIMITS)
    assert first.gmacs == pytest.approx(50)
    assert first.of_peak == pytest.approx(0.5)
    assert first.gigabytes == pytest.approx((65 << 14) / 2e6)
    assert first.of_bandwidth == pytest.approx(((1 << 20) / 4.0 + (1 << 14) / 64.0) / 2e6, rel=1e-3)
    assert (second.gmacs, second.of_peak) == (0, 0)
    assert second.of_bandwidth == pytest.approx(((63 << 20) / 4.0 + (1 << 20) / 16.0) / 40e6, rel=1e-3)


BOUNDS = {
    "products": (60_000_000, 1000, "compute"),
    "weights": (1_000_000, 16_000_000, "memory"),
    "both, products first": (90_000_000, 4_000_000, "compute"),
    "neither": (20_000_000, 3_000_000, "overhead"),
    "nothing to do": (0, 0, "overhead"),
}


@pytest.mark.parametrize(("macs", "weights", "bound"), BOUNDS.values(), ids=BOUNDS)
def test_what_bounds_an_operator(macs: int, weights: int, bound: str) -> None:
    """In 1 ms, the limits allow 100 M products or some 16 MB."""
    limits = dataclasses.replace(LIMITS, bandwidths=((1 << 14, 16.0),))
    (operator,) = operator_times([kernel(macs, weights, 2000)], [1.0], limits)
    assert operator.bound == bound


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 64), (1 << 14, 64), (1 << 17, 32), (1 << 20, 16), (1 << 23, 8), (1 << 26, 4), (1 << 30, 4)],
)
def test_bandwidth_between_the_measured_sizes(size: int, expected: float) -> None:
    assert LIMITS.bandwidth(size) == pytest.approx(expected)


def test_one_bandwidth_alone() -> None:
    assert Roofline("", "", 1, 1.0, ((1 << 14, 5.0),)).bandwidth(1 << 20) == 5.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threads": 0}, InputError, "threads=0"),
        ({"warmup": -1.0}, InputError, r"warmup=-1.0: give a number of seconds"),
        ({"seconds": float("nan")}, InputError, "seconds=nan"),
    ],
    ids=["threads", "warmup", "seconds"],
)
def test_numbers_without_sense(digits: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pipeline.profile(digits, **options)


def test_not_a_library(tmp_path: Path) -> None:
    path = tmp_path / "m.so"
    path.write_text("text")
    with pytest.raises(LibraryError, match="is not an Octet library"):
        pipeline.profile(path)


def test_library_without_a_table(libraries: dict[str, Path]) -> None:
    """It is told apart from a damaged one, and the remedy is said."""
    with pytest.raises(LibraryError, match=r"holds no table of its kernels.*compile the model again"):
        pipeline.profile(libraries["affine"])


@pytest.mark.usefixtures("limits")
def test_table_of_another_program(digits: Path, tmp_path: Path) -> None:
    """Times under the names of other operators would be worse than none."""
    data = digits.read_bytes()
    length = int.from_bytes(data[-16:-8], "little")
    path = tmp_path / "m.so"
    path.write_bytes(data[: -16 - length])
    manifest = read_manifest(digits)
    append_manifest(path, dataclasses.replace(manifest, kernels=manifest.kernels[1:]))
    load(path)
    with pytest.raises(LibraryError, match="runs other kernels than its manifest lists"):
        pipeline.profile(path)
