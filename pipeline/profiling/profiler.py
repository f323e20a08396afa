"""The time of each operator of a library, beside what the machine could do at best."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import targets
from pipeline.errors import InputError, LibraryError
from pipeline.profiling.kernel_clock import kernel_calls
from pipeline.profiling.library_clock import LibraryClock, flat
from pipeline.profiling.roofline import Roofline, find_roofline
from pipeline.runtime import Kernel, read_manifest
from pipeline.runtime.model import load_several

COMPUTE, MEMORY, OVERHEAD = "compute", "memory", "overhead"

FAR = 0.25
"""An operator that needs less than this share of its time for its products, and for its bytes, is bound by neither."""

MIN_RUNS = 8

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class OperatorTime:
    """One call of a kernel: what it had to do, and how long that took."""

    position: int
    """In the order of execution, from 0."""
    kernel: Kernel
    milliseconds: float
    """Of all images, where it runs for one after the other."""
    gmacs: float
    """10^9 multiply-accumulates a second."""
    gigabytes: float
    """10^9 bytes of tensors, read or written, a second."""
    of_peak: float
    """Share of the peak of the target's dot product: the time its products need at least, by its time."""
    of_bandwidth: float
    """The same of its bytes: weights at the bandwidth for all that the network uses, because it comes back to them in
    the next run only; activations at that for their own size, because the operator before has just written them."""

    @property
    def bound(self) -> str:
        """``compute`` or ``memory``, whichever is nearer to its limit; ``overhead`` where it is far from both."""
        if max(self.of_peak, self.of_bandwidth) < FAR:
            return OVERHEAD
        return COMPUTE if self.of_peak >= self.of_bandwidth else MEMORY


@dataclass(frozen=True)
class Profile:
    """Where the time of a call goes, in milliseconds."""

    library: str
    model_file: str
    target: str
    threads: int
    batch: int
    runs: int
    """Runs with the profiler that count."""
    interrupted: int
    """Runs of both kinds in which another program took a CPU: left out, unless there were hardly any others."""
    roofline: Roofline
    operators: tuple[OperatorTime, ...]
    """In the order of execution."""
    machine_milliseconds: float
    """What TVM's virtual machine does between kernels: memory, shapes."""
    latency: float
    """Of a whole call without the profiler: the median."""
    latency_profiled: float
    """The same while the profiler took the times."""

    @property
    def operator_milliseconds(self) -> float:
        """Of all operators."""
        return sum(operator.milliseconds for operator in self.operators)

    @property
    def rest_milliseconds(self) -> float:
        """The latency without operators and virtual machine: the call from Python, and the copy of the outputs."""
        return self.latency - self.operator_milliseconds - self.machine_milliseconds

    def by_time(self) -> list[OperatorTime]:
        """The operators, slowest first."""
        return sorted(self.operators, key=lambda operator: (-operator.milliseconds, operator.position))


def profile(
    library: str | os.PathLike[str],
    *,
    threads: int | None = None,
    inputs: Any = None,
    warmup: float = 0.5,
    seconds: float = 4.0,
    remeasure: bool = False,
    progress: Progress | None = None,
) -> Profile:
    """Time each operator of a library, warm and in the order of the network. This runs its code: trust it first.

    Args:
        library: what :func:`pipeline.compile` wrote.
        threads: how many threads a call runs on (default: this machine's physical cores).
        inputs: an array, or a dict by input name, as for a call of the model; random data if not given.
        warmup: seconds of calls that do not count.
        seconds: of calls that count, half of them without the profiler, in turns.
        remeasure: measure the limits of this machine even if they are known; see :mod:`pipeline.profiling.roofline`.
        progress: called with what is being done and the share of it that is, 0 to 1.

    Raises:
        LibraryError: as for :func:`pipeline.load`, or the library holds no table of its kernels or runs others.
        InputError: the inputs or a number make no sense.
    """
    for name, value in (("warmup", warmup), ("seconds", seconds)):
        if not 0 <= value < float("inf"):
            raise InputError(f"{name}={value!r}: give a number of seconds, 0 or more")
    tell = progress or (lambda _phase, _share: None)
    path = Path(library)
    manifest = read_manifest(path)
    if not manifest.kernels:
        raise LibraryError(
            f"{path} holds no table of its kernels: it was compiled before Octet had a profiler, or has none; "
            "compile the model again"
        )
    plain, instrumented = load_several(path, threads, 2)
    data = plain.random_inputs() if inputs is None else inputs
    calls = kernel_calls(instrumented, data)
    if [name for name in calls if name is not None] != [kernel.name for kernel in manifest.kernels]:
        raise LibraryError(f"{path} runs other kernels than its manifest lists; compile the model again")
    limits = find_roofline(
        targets.resolve(manifest.target), plain.threads, remeasure=remeasure,
        progress=lambda share: tell("measuring this machine", share),
    )  # fmt: skip
    clock = LibraryClock(instrumented, manifest.kernels, [name is not None for name in calls])
    runs = _alternate(
        lambda: plain(data), lambda: instrumented(data), clock, warmup, seconds, lambda share: tell("timing", share)
    )
    undisturbed = [[run for run in kind if not run.interrupted] for kind in runs]
    usual, profiled = (clean if len(clean) >= MIN_RUNS else kind for clean, kind in zip(undisturbed, runs, strict=True))
    milliseconds = typical(np.array([run.calls for run in profiled])) / 1e6
    shape = manifest.inputs[0].shape if manifest.inputs else ()
    return Profile(
        library=path.name,
        model_file=manifest.model_file,
        target=manifest.target,
        threads=plain.threads,
        batch=max(1, shape[0]) if len(shape) > 1 else 1,
        runs=len(profiled),
        interrupted=sum(run.interrupted for kind in runs for run in kind),
        roofline=limits,
        operators=operator_times(flat(manifest.kernels), milliseconds[:-1], limits),
        machine_milliseconds=float(milliseconds[-1]),
        latency=float(np.median([run.nanoseconds for run in usual])) / 1e6,
        latency_profiled=float(np.median([run.nanoseconds for run in profiled])) / 1e6,
    )


def typical(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean duration of each call over the middle fifth of the runs, by their total: (runs, calls) -> (calls,).

    These are the runs around the median. The medians of single calls would not add up to it where the machine's speed
    varies from run to run.
    """
    order = np.argsort(samples.sum(axis=1), kind="stable")
    aside = 2 * len(order) // 5
    middle: npt.NDArray[np.float64] = samples[order[aside : len(order) - aside]].mean(axis=0)
    return middle


def operator_times(
    kernels: Sequence[Kernel], milliseconds: Sequence[float] | npt.NDArray[np.float64], limits: Roofline
) -> tuple[OperatorTime, ...]:
    """Each kernel with its time, all images together, against ``limits``."""
    in_use = sum(k.weight_bytes for k in kernels) + max(k.read_bytes + k.written_bytes for k in kernels)
    result = []
    for position, (kernel, time_ms) in enumerate(zip(kernels, milliseconds, strict=True)):
        seconds = max(float(time_ms), 1e-6) / 1e3 / kernel.images
        activations = kernel.read_bytes + kernel.written_bytes
        at_least = kernel.weight_bytes / limits.bandwidth(in_use) + activations / limits.bandwidth(activations)
        result.append(
            OperatorTime(
                position=position,
                kernel=kernel,
                milliseconds=float(time_ms),
                gmacs=kernel.macs / seconds / 1e9,
                gigabytes=(kernel.weight_bytes + activations) / seconds / 1e9,
                of_peak=kernel.macs / seconds / 1e9 / limits.peak_gmacs,
                of_bandwidth=at_least / 1e9 / seconds,
            )
        )
    return tuple(result)


@dataclass(frozen=True)
class _Run:
    nanoseconds: int
    interrupted: bool
    """Whether the system took a CPU from one of the threads to give it to another program."""
    calls: npt.NDArray[np.float64]
    """Nanoseconds of each kernel, and of the virtual machine; none without the clock."""


def _alternate(
    plain: Callable[[], object],
    timed: Callable[[], object],
    clock: LibraryClock,
    warmup: float,
    seconds: float,
    progress: Callable[[float], None],
) -> tuple[list[_Run], list[_Run]]:
    """Runs without and with the clock, in turns."""
    usual, profiled = [], []
    none = np.array([])
    start = time.perf_counter()
    while True:
        first = _run(plain, lambda: none)
        with clock:
            second = _run(timed, clock.nanoseconds)
        now = time.perf_counter() - start
        if now >= warmup:
            usual.append(first)
            profiled.append(second)
        progress(min(1.0, now / (warmup + seconds)) if seconds else 1.0)
        if now >= warmup + seconds and len(usual) >= MIN_RUNS:
            return usual, profiled


def _run(call: Callable[[], object], calls: Callable[[], npt.NDArray[np.float64]]) -> _Run:
    switches = _involuntary_switches()
    start = time.perf_counter_ns()
    call()
    nanoseconds = time.perf_counter_ns() - start
    return _Run(nanoseconds, _involuntary_switches() > switches, calls())


def _involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
