"""A small network to profile, limits that need no measuring, and a profile made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline
from pipeline.passes.images import MIN_IMAGES
from pipeline.profiling import Profile, Roofline, profiler
from pipeline.runtime import Kernel
from tests.conftest import REPOSITORY

LIMITS = Roofline("a CPU", "llvm-avx2", 1, 100.0, ((1 << 14, 64.0), (1 << 20, 16.0), (1 << 26, 4.0)))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded network for this CPU."""
    output = tmp_path_factory.mktemp("digits") / "digits.so"
    return pipeline.compile(REPOSITORY / "examples" / "digits" / "digits_qdq.onnx", output=output)


@pytest.fixture(scope="session")
def digits_batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for a batch whose images run one after the other."""
    output = tmp_path_factory.mktemp("digits") / "digits_batch.so"
    return pipeline.compile(REPOSITORY / "examples" / "digits" / "digits_qdq.onnx", output=output, batch=MIN_IMAGES)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured and no file of the user is read or written."""
    monkeypatch.setattr(profiler, "find_roofline", lambda *_arguments, **_options: LIMITS)


@pytest.fixture
def made_by_hand() -> Profile:
    """Three operators: one bound by each of the limits, and one by neither."""
    kernels = (
        Kernel("quantize_pack_1x3", "input", 0, 0, 6000, 2000),
        Kernel("conv2d_n1", "/conv1/Conv", 80_000_000, 50_000, 2000, 4000),
        Kernel("conv2d_n1_1", '/fc <&"> /Gemm', 1_000_000, 10_000_000, 4000, 1000),
    )
    return Profile(
        library="m.so", model_file="m.onnx", target="llvm-avx2", threads=1, batch=1, runs=64, interrupted=3,
        roofline=LIMITS, operators=profiler.operator_times(kernels, [0.5, 1.0, 2.0], LIMITS),
        machine_milliseconds=0.25, latency=4.0, latency_profiled=4.125,
    )  # fmt: skip
