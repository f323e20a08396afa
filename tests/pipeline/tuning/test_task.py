from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.compiler import lower_to_operators
from pipeline.tuning.task import (
    Task,
    canonical,
    merged,
    problem_from_json,
    problem_to_json,
    task_key,
    tasks_of,
)
from schedules.compute.arithmetic import Output
from schedules.compute.stages import Add, Lookup, Requantize
from tests.pipeline.tuning.problems import TARGET, problem

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "digits_qdq.onnx"
ADD = Add(3, 5, 0.25, 1, 2, Output(zero_point=9))


@pytest.mark.parametrize(
    "changes",
    [
        {"x_zero_point": 3},
        {"output": Output(zero_point=31, qmin=31)},
    ],
    ids=["input-zero-point", "output-range"],
)
def test_equal_work_is_one_task(changes: dict) -> None:
    """Networks never share zero points: tasks that kept them would be searched again for every layer."""
    assert canonical(problem(**changes)) == canonical(problem())
    assert task_key(problem(**changes)) == task_key(problem())


def test_scales_of_stages_do_not_make_tasks() -> None:
    other = Add(7, 9, 0.5, 4, 4, Output(zero_point=3))
    assert canonical(problem(stages=(ADD,))) == canonical(problem(stages=(other,)))


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": (ADD,)},
        {"window_sum": True},
        {"padding": (1, 1, 2, 1)},
        {"padding": (1, 1, 1, 2)},
        {"x_channels": 32},
        {"weight_dtype": "int16"},
        {"output": Output("int32")},
        {"n": 2},
        {"dilation": (2, 2)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_work_is_another_task(changes: dict) -> None:
    """A key that misses a field would give a layer the record of another one."""
    assert task_key(problem(**changes)) != task_key(problem())


def test_key_is_that_of_the_canonical_problem() -> None:
    """The compiler looks up real problems, and the records hold canonical ones."""
    real = problem(stages=(ADD, Requantize(0.5, 1, Output())), x_zero_point=5, output=Output(zero_point=4))
    assert task_key(real) == task_key(canonical(real))


def test_json_round_trip() -> None:
    full = problem(stages=(ADD, Lookup(), Requantize(0.5, 1, Output())), window_sum=True)
    assert problem_from_json(problem_to_json(full)) == full


def test_weights_of_equal_tasks_add_up() -> None:
    first, second = canonical(problem()), canonical(problem(n=2))
    assert merged([Task(first, 1), Task(second, 3), Task(first, 2)]) == [Task(first, 3), Task(second, 3)]


def test_tasks_of_a_network() -> None:
    tasks = tasks_of(lower_to_operators(DIGITS), TARGET)
    assert len({task.key for task in tasks}) == len(tasks) > 2
    assert all(task.problem == canonical(task.problem) for task in tasks)
