"""What the cost model sees of a candidate: the problem, the template, its knobs and what they divide.

The columns are found as templates show their knobs, so that a new knob needs no change here. Trees split at one value
of one column at a time: products and quotients that decide the speed of a kernel get columns of their own.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from pipeline.tuning.space import configuration_of
from schedules.compute.conv2d import Conv2d, padded_channels
from schedules.intrinsics.x86 import DotProduct
from schedules.template import Configuration

MAX_COLUMNS = 256


class Columns:
    """A number for each feature, given out at its first use; shared by all tasks of a cost model."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def vector(self, features: dict[str, float]) -> npt.NDArray[np.float32]:
        """(MAX_COLUMNS,), NaN where there is no such feature."""
        row = np.full(MAX_COLUMNS, np.nan, np.float32)
        for name, value in features.items():
            number = self._numbers.setdefault(name, len(self._numbers))
            if number < MAX_COLUMNS:
                row[number] = value
        return row


def features_of(problem: Conv2d, dot: DotProduct, configuration: Configuration) -> dict[str, float]:
    """The features of a candidate by name."""
    oh, ow = problem.output_size
    blocks = padded_channels(problem.oc) // dot.lanes
    taps = problem.kernel[0] * problem.kernel[1]
    reduction = problem.ic // problem.groups * taps
    sizes = {
        "images": problem.n, "rows": oh, "columns": ow, "channel blocks": blocks, "reduction": reduction,
    }  # fmt: skip
    features = {
        **{name: math.log2(size) for name, size in sizes.items()},
        "taps": taps,
        "stride": problem.strides[1],
        "padded": any(problem.padding),
        "stages": len(problem.stages),
        "macs": math.log2(problem.macs),
        "weight bytes": math.log2(padded_channels(problem.oc) * reduction),
        "input bytes": math.log2(problem.n * problem.h * problem.w * problem.x_channels),
    }
    features[f"template {configuration.template}"] = 1.0
    knobs = {f"{configuration.template}.{name}": value for name, value in configuration.knobs}
    for name, value in knobs.items():
        features[name] = value
        if value > 1:
            for what, size in (("rows", oh), ("columns", ow), ("channel blocks", blocks)):
                features[f"{name} wasted {what}"] = -(-size // value) * value / size
    for (a, first), (b, second) in itertools.combinations(knobs.items(), 2):
        features[f"{a} * {b}"] = first * second
    return features


@derived_object
class CandidateFeatures(ms.feature_extractor.PyFeatureExtractor):
    """:func:`features_of` for MetaSchedule's cost model."""

    def __init__(self, dot: DotProduct, columns: Columns) -> None:
        super().__init__()
        self._dot, self._columns = dot, columns
        self._problems: dict[Any, Conv2d] = {}

    def register(self, context: Any, problem: Conv2d) -> None:
        """Say which problem the candidates of ``context`` belong to."""
        self._problems[_identity(context)] = problem

    def extract_from(self, context: Any, candidates: list[Any]) -> list[Any]:
        """(1, MAX_COLUMNS) float32 for each candidate."""
        problem = self._problems[_identity(context)]
        rows = [features_of(problem, self._dot, configuration_of(c.sch)) for c in candidates]
        return [tvm.runtime.tensor(self._columns.vector(row)[None]) for row in rows]


def _identity(context: Any) -> str:
    return str(context.task_name)
