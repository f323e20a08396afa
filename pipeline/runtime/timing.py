"""Latency and throughput of repeated calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.errors import InputError

MAX_CALLS = 1_000_000
_REPORT_EVERY = 0.2  # seconds


@dataclass(frozen=True)
class Timing:
    """Latency of one call in milliseconds, over ``calls`` calls one after the other."""

    calls: int
    threads: int
    batch: int
    """Samples in one call: the first dimension of the first input."""
    p50: float
    p90: float
    p99: float
    mean: float
    minimum: float

    @property
    def throughput(self) -> float:
        """Samples a second."""
        return 1e3 * self.batch / self.mean

    def __str__(self) -> str:
        return (
            f"p50 {self.p50:.3f} ms, p90 {self.p90:.3f}, p99 {self.p99:.3f}, mean {self.mean:.3f}; "
            f"{self.throughput:.1f} samples/s ({self.calls} calls, batch {self.batch}, threads {self.threads})"
        )


def measure(
    call: Callable[[], object],
    *,
    warmup: float,
    seconds: float,
    repeat: int | None,
    batch: int,
    threads: int,
    progress: Callable[[float], None] | None = None,
) -> Timing:
    """Time ``call``: see :meth:`pipeline.runtime.Model.time`.

    Raises:
        InputError: a duration is negative or not finite, or ``repeat`` is not from 1 to :data:`MAX_CALLS`.
    """
    for name, value in (("warmup", warmup), ("seconds", seconds)):
        if not 0 <= value < float("inf"):
            raise InputError(f"{name}={value!r}: give a number of seconds, 0 or more")
    if repeat is not None and not 1 <= repeat <= MAX_CALLS:
        raise InputError(f"repeat={repeat!r}: give a whole number from 1 to {MAX_CALLS}")
    call()
    stop = time.perf_counter() + warmup
    while time.perf_counter() < stop:
        call()
    samples: list[float] = []
    start = report = time.perf_counter()
    done = 0.0
    while done < 1.0:
        before = time.perf_counter()
        call()
        after = time.perf_counter()
        samples.append(after - before)
        of_calls = len(samples) / (repeat or MAX_CALLS)
        of_time = (after - start) / seconds if seconds else 1.0
        done = of_calls if repeat else max(of_calls, of_time)
        if progress and after - report > _REPORT_EVERY:
            progress(min(done, 1.0))
            report = after
    milliseconds = 1e3 * np.array(samples)
    p50, p90, p99 = (float(value) for value in np.percentile(milliseconds, (50, 90, 99)))
    return Timing(len(samples), threads, batch, p50, p90, p99, float(milliseconds.mean()), float(milliseconds.min()))
