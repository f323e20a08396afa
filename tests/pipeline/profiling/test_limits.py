"""The programs that measure the machine: they do what they are timed for."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import tvm

from pipeline.profiling import limits
from pipeline.targets import DeployTarget, supported_by_host
from schedules.intrinsics.x86 import DOT_PRODUCTS
from tests.octet_runner import each_target, each_vector_target

THREADS, ROUNDS = 2, 3
Array = np.ndarray


def run(function: Any, target: DeployTarget, *arguments: Any) -> None:
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    tvm.tirx.build(module, target=target.tvm_target())["main"](*arguments)


@each_vector_target
def test_dot_products_are_all_computed(target: DeployTarget) -> None:
    """A compiler that sees through the loop would leave most of the products out, and the peak would be a fiction."""
    dot, chains = DOT_PRODUCTS[target.dot], limits.CHAINS[target.dot]
    x = limits._random((THREADS, limits.STEPS, dot.depth), dot.x_dtype)
    weight = limits._random((chains, dot.lanes, dot.depth), dot.weight_dtype)
    result = limits._random((THREADS, chains, dot.lanes), "int32")
    run(limits._vector_peak(dot, chains, THREADS, ROUNDS), target, x, weight, result)
    wide = ROUNDS * np.einsum("tsk,clk->tcl", x.astype(np.int64), weight.astype(np.int64))
    np.testing.assert_array_equal(result, wide.astype(np.int32))


def test_matrix_products_are_all_computed() -> None:
    target = next(t for t in _targets() if t.dot == "amx")
    if not supported_by_host(target):
        pytest.skip(f"this CPU cannot run {target.name}")
    x, result = limits._random((THREADS, 16, 64), "uint8"), limits._random((THREADS, 16, 16), "int32")
    run(limits._matrix_peak(THREADS, ROUNDS), target, x, result)
    for own, sums in zip(x.astype(np.int64), result, strict=True):
        weight = own.reshape(16, 16, 4).astype(np.int8).astype(np.int64)
        expected = ROUNDS * np.einsum("mkd,knd->mn", own.reshape(16, 16, 4), weight)
        np.testing.assert_array_equal(sums, expected)


def _targets() -> list[DeployTarget]:
    from pipeline.targets import PRESETS

    return list(PRESETS.values())


@each_vector_target
def test_every_byte_is_read_every_time(target: DeployTarget) -> None:
    values = limits._random((THREADS, 5, limits.VECTORS, limits.LANES), "int32")
    result = limits._random((THREADS, limits.VECTORS, limits.LANES), "int32")
    run(limits._read(THREADS), target, values, ROUNDS, result)
    np.testing.assert_array_equal(result, (ROUNDS * values.sum(axis=1, dtype=np.int64)).astype(np.int32))


@each_target
def test_measures(target: DeployTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PATIENCE", 0.0)
    monkeypatch.setattr(limits, "ROUNDS", {target.dot: 1})
    monkeypatch.setattr(limits, "SIZES", (1 << 14, 1 << 16))
    monkeypatch.setattr(limits, "SHORTEST_READ", 1 << 16)
    told: list[float] = []
    assert limits.peak_gmacs(target, 1).value > 0
    (small, first), (large, second) = limits.bandwidths(target, 1, told.append)
    assert (small, large) == (1 << 14, 1 << 16)
    assert first.value > 0
    assert second.value > 0
    assert told == [0.5, 1.0]


@pytest.mark.parametrize("share", [1.0, 0.5], ids=["alone", "beside another program"])
def test_disturbed_slices_do_not_count(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """A limit that was measured on half a CPU makes slow operators look good."""
    clock = {"wall": 0.0, "cpu": 0.0}
    slices = iter([1.0, share] * 1000)

    def work() -> None:
        part = next(slices)
        clock["wall"] += 0.01 / part
        clock["cpu"] += 0.01

    monkeypatch.setattr(time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(time, "process_time", lambda: clock["cpu"])
    assert limits._speed(work, 10_000_000, 1).value == pytest.approx(1.0)
    assert not limits._speed(work, 10_000_000, 1).disturbed
    slices = iter([0.5] * 1000)
    assert limits._speed(work, 10_000_000, 1).disturbed
