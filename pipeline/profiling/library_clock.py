"""The times of all kernels of a library: those that the virtual machine calls, and those that these call.

A kernel with steps runs them for one image after the other, on several threads at once. Its time is divided among the
steps as the time that all threads spent on them, so that the steps add up to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from pipeline.profiling.kernel_clock import KernelClock
from pipeline.runtime import Kernel
from pipeline.runtime.model import Model


def flat(kernels: Sequence[Kernel]) -> list[Kernel]:
    """The kernels, with their steps in the place of those that have any."""
    return [part for kernel in kernels for part in (kernel.steps or (kernel,))]


class LibraryClock:
    """Times what ``model`` runs within a ``with``; ``is_kernel`` says which of the machine's calls are ``kernels``."""

    def __init__(self, model: Model, kernels: Sequence[Kernel], is_kernel: Sequence[bool]) -> None:
        self._model, self._kernels, self._is_kernel = model, kernels, np.array(is_kernel)
        self._calls = KernelClock(len(is_kernel))
        model.instrument(self._calls.instrument)
        steps = next((kernel.steps for kernel in kernels if kernel.steps), ())
        """A library has one kernel with steps at most: the trunk of a batch."""
        self._stamps = np.zeros((steps[0].images, len(steps) + 1, 2), np.int64) if steps else None

    def __enter__(self) -> Self:
        self._calls.restart()
        if self._stamps is not None:
            self._model.time_steps(self._stamps)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stamps is not None:
            self._model.time_steps(None)

    def nanoseconds(self) -> npt.NDArray[np.float64]:
        """Of each of :func:`flat`'s kernels, and last of everything else that the virtual machine called.

        Raises:
            LibraryError: the number of calls is not that of the run before.
        """
        calls = self._calls.nanoseconds()
        times: list[float] = []
        for kernel, duration in zip(self._kernels, calls[self._is_kernel], strict=True):
            times += (duration * self._shares()).tolist() if kernel.steps else [float(duration)]
        return np.array([*times, float(calls[~self._is_kernel].sum())])

    def _shares(self) -> npt.NDArray[np.float64]:
        assert self._stamps is not None
        times = self._stamps[..., 0] * 1_000_000_000 + self._stamps[..., 1]
        spent = np.diff(times, axis=1).sum(axis=0)
        return spent / spent.sum()
