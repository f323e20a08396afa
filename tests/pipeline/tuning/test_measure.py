"""The real thing on a small convolution: workers, compiler, clock."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.runtime.cpu import physical_cores
from pipeline.tuning.measure import Measurer
from pipeline.tuning.measurements import MeasurementLog
from pipeline.tuning.search import Measured
from pipeline.tuning.space import Space
from pipeline.tuning.worker import Message, Worker, WorkerError
from schedules.intrinsics.x86 import DOT_PRODUCTS
from schedules.template import Configuration
from tests.pipeline.tuning.problems import TARGET, task

TASK = task()


class Counting(Worker):
    """A runner that counts the kernels it is given, and fails for ``poison`` where there is one."""

    def __init__(self) -> None:
        super().__init__("pipeline.tuning.run_worker")
        self.batches: list[int] = []
        self.poison = ""

    def ask(self, request: Message, timeout: float) -> Message:
        self.batches.append(len(request["kernels"]))
        if self.poison and any(self.poison in library for library, _ in request["kernels"]):
            raise WorkerError("the worker crashed")
        return super().ask(request, timeout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def runner() -> Counting:
    return Counting()


@pytest.fixture(scope="module")
def measurer(folder: Path, runner: Counting) -> Iterator[Measurer]:
    made = Measurer(TARGET, 1, MeasurementLog(folder / "log.jsonl", 1), lambda _text: None, runner)
    yield made
    made.close()


@pytest.fixture(scope="module")
def points(measurer: Measurer) -> list[Configuration]:
    default = measurer.default(TASK)
    space = Space(TASK.problem, DOT_PRODUCTS[TARGET.dot])
    return [default, *[c for c in space.configurations(random.Random(0)) if c != default][:4]]


@pytest.fixture(scope="module")
def measured(measurer: Measurer, points: list[Configuration]) -> Measured:
    """The first three points."""
    return measurer.measure(TASK, points[:3])


def test_seconds_are_measured_and_logged(measured: Measured, folder: Path, points: list[Configuration]) -> None:
    assert set(measured) == set(points[:3])
    assert all(seconds is not None and 1e-8 < seconds < 1 for seconds in measured.values())
    logged = MeasurementLog(folder / "log.jsonl", 1).task(TASK.key)
    assert {c: logged[c].seconds for c in points[:3]} == measured


def test_known_configurations_are_not_run(measurer: Measurer, runner: Counting, measured: Measured) -> None:
    runner.batches.clear()
    assert measurer.measure(TASK, list(measured)) == measured
    assert not runner.batches


@pytest.mark.usefixtures("measured")
def test_an_equal_program_is_not_run_again(folder: Path, runner: Counting, points: list[Configuration]) -> None:
    """After a change of the templates that leaves this kernel as it is."""
    log = MeasurementLog(folder / "log.jsonl", 1)
    log._by_task.clear()
    measurer = Measurer(TARGET, 1, log, lambda _text: None, runner)
    runner.batches.clear()
    result = measurer.measure(TASK, points[:3])
    for builder in measurer._builders:
        builder.close()
    assert len(result) == 3
    assert not runner.batches


def test_a_crash_costs_one_candidate(measurer: Measurer, runner: Counting, points: list[Configuration]) -> None:
    log = measurer._log
    assert not measurer.known(TASK).keys() & set(points[3:])
    poisoned = measurer._build(TASK, [points[3]], Path("/nonexistent"))
    assert poisoned == {points[3]: None}, "a build that fails is no exception"
    runner.poison = program_of(measurer, points[3])
    result = measurer.measure(TASK, points[3:])
    runner.poison = ""
    assert result[points[3]] is None
    assert result[points[4]] is not None
    assert log.task(TASK.key)[points[3]].seconds is None


def program_of(measurer: Measurer, configuration: Configuration) -> str:
    request = measurer._request("schedule", TASK, configuration)
    return str(measurer._builders[0].ask(request, 60)["program"])


def test_contest_and_exactness(measurer: Measurer, points: list[Configuration]) -> None:
    ratios = measurer.contest(TASK, [points[1]])
    assert len(ratios[points[1]]) == len({1, physical_cores()})
    assert all(len(rounds) > 4 for rounds in ratios[points[1]])
    assert measurer.same_results(TASK, points[1])
