"""The whole way: search, records, compile, results."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.compiler import lower_to_operators
from pipeline.runtime import load, read_manifest
from pipeline.tuning.api import TuneResult, network_tasks
from pipeline.tuning.database import Database
from pipeline.tuning.space import Space
from pipeline.tuning.task import Task, tasks_of
from schedules.convolution import default_configuration
from schedules.intrinsics.x86 import DOT_PRODUCTS
from schedules.template import Configuration
from tests.pipeline.tuning.problems import TARGET

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "digits_qdq.onnx"


def test_search_then_compile(tmp_path: Path) -> None:
    """A few trials with the real workers; the library knows of the records."""
    pytest.importorskip("xgboost")
    phases: list[str] = []
    result: TuneResult = pipeline.tune(
        DIGITS, TARGET, trials=2, records=tmp_path / "records", logs=tmp_path / "logs",
        watch=lambda phase, _tasks, _left: phases.append(phase),
    )  # fmt: skip
    assert all(entry.decided for entry in result.tasks)
    assert 0 < result.seconds <= result.default_seconds
    assert phases[-1] == "done"
    library = pipeline.compile(DIGITS, TARGET, output=tmp_path / "m.so", records=tmp_path / "records")
    assert read_manifest(library).tuned_kernels == len(result.tasks)


def test_results_do_not_depend_on_the_records(tmp_path: Path) -> None:
    """Every layer with another schedule than the default: the packed constants have to follow."""
    dot = DOT_PRODUCTS[TARGET.dot]

    def other(task: Task) -> Configuration:
        default = default_configuration(task.problem, dot)
        points = Space(task.problem, dot).configurations(random.Random(1))
        return next((point for point in points if point != default), default)

    tasks = tasks_of(lower_to_operators(DIGITS), TARGET)
    Database(tmp_path / TARGET.name, TARGET).keep({task: (other(task), 1e-3) for task in tasks})
    plain = load(pipeline.compile(DIGITS, TARGET, output=tmp_path / "plain.so", records=None))
    tuned = load(pipeline.compile(DIGITS, TARGET, output=tmp_path / "tuned.so", records=tmp_path))
    assert (plain.manifest.tuned_kernels, tuned.manifest.tuned_kernels) == (0, len(tasks))
    for seed in range(4):
        inputs = plain.random_inputs(seed)
        np.testing.assert_array_equal(plain(inputs), tuned(inputs))


def test_equal_layers_of_two_models_are_one_task() -> None:
    once = network_tasks([DIGITS], TARGET, None, lambda _phase, _tasks, _left: None)
    twice = network_tasks([DIGITS, DIGITS], TARGET, None, lambda _phase, _tasks, _left: None)
    assert [task.problem for task in once] == [task.problem for task in twice]
    assert [2 * task.weight for task in once] == [task.weight for task in twice]


def test_the_compiler_needs_no_xgboost() -> None:
    """The records are read without it: it is an extra."""
    code = "import sys, pipeline.compiler; sys.exit('xgboost' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
