"""Small convolutions for the tests of the search."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.targets import DeployTarget, resolve
from pipeline.tuning.task import Task, canonical
from schedules.compute.arithmetic import Output
from schedules.compute.conv2d import Conv2d

TARGET: DeployTarget = resolve("llvm")
"""Every x86 CPU runs it."""

SMALL = Conv2d(
    n=1, h=6, w=6, ic=16, oc=32, x_channels=16, kernel=(3, 3), strides=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1),
    groups=1, x_zero_point=128, weight_dtype="int8", window_sum=False, output=Output(),
)  # fmt: skip


def problem(**changes: Any) -> Conv2d:
    """A small convolution."""
    return replace(SMALL, **changes)


def task(weight: int = 1, **changes: Any) -> Task:
    """The task of a small convolution."""
    return Task(canonical(problem(**changes)), weight)
