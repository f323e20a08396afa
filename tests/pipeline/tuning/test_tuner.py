from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.tuning.database import Database
from pipeline.tuning.measure import Measurer, Times
from pipeline.tuning.measurements import Measurement, MeasurementLog
from pipeline.tuning.search import Measured, RandomSearch
from pipeline.tuning.task import Task
from pipeline.tuning.tuner import Tuner
from schedules.template import Configuration
from tests.pipeline.tuning.problems import TARGET, task

TASKS = [task(), task(weight=3, oc=16), task(h=1, w=1)]


class KilledError(Exception):
    """The search is killed here."""


class Simulated(Measurer):
    """Times that are a function of the configuration, and the number of times that each was asked for."""

    def __init__(self, log: MeasurementLog, stop_after: int | None = None) -> None:
        super().__init__(TARGET, 1, log, lambda _text: None)
        self.log, self.stop_after = log, stop_after
        self.count: Counter[tuple[str, Configuration]] = Counter()
        self.contests = 0
        self.exact = True
        self.contest_gain: float | None = None
        self.gain_on_all_cores = 1.0

    def seconds(self, configuration: Configuration) -> float | None:
        value = sum(ord(c) for c in str(configuration)) % 97
        return None if value < 3 else 1e-3 + value * 1e-5

    def measure(self, task: Task, configurations: Sequence[Configuration]) -> Measured:
        for configuration in configurations:
            if self.stop_after is not None and sum(self.count.values()) >= self.stop_after:
                raise KilledError
            self.count[task.key, configuration] += 1
            seconds = 1e-3 if configuration == self.default(task) else self.seconds(configuration)
            self.log.append(Measurement(task.key, configuration, str(configuration), seconds))
        return {c: s for c, s in self.known(task).items() if c in configurations}

    def contest(self, task: Task, finalists: Sequence[Configuration]) -> dict[Configuration, list[Times]]:
        self.contests += 1
        known = self.known(task)
        reference = known[self.default(task)] or 0.0
        own = {c: self.contest_gain or reference / (known[c] or 1.0) for c in finalists}
        return {c: [np.full(9, gain), np.full(9, self.gain_on_all_cores)] for c, gain in own.items()}

    def same_results(self, task: Task, configuration: Configuration) -> bool:  # noqa: ARG002
        return self.exact


class SlowDefault(Simulated):
    """The default is the slowest of all."""

    def measure(self, task: Task, configurations: Sequence[Configuration]) -> Measured:
        super().measure(task, configurations)
        if self.default(task) in configurations:
            self.log.append(Measurement(task.key, self.default(task), "default", 1.0))
        return {c: s for c, s in self.known(task).items() if c in configurations}


def tuner(measurer: Simulated, folder: Path) -> Tuner:
    database = Database(folder / "records", TARGET)
    return Tuner(
        TASKS, measurer, measurer.log, database, lambda of: RandomSearch(of, TARGET, 0),
        lambda _phase, _tasks, _left: None, lambda _text: None,
    )  # fmt: skip


def log(folder: Path) -> MeasurementLog:
    return MeasurementLog(folder / "log.jsonl", 1)


def test_every_task_is_searched_and_decided(tmp_path: Path) -> None:
    run = tuner(SlowDefault(log(tmp_path)), tmp_path)
    run.run(12, None, None)
    assert all(entry.decided and entry.contest and entry.contest.gain > 0 for entry in run.progress)
    assert all(entry.trials == 12 for entry in run.progress[:2])
    records = Database(tmp_path / "records", TARGET).records
    assert {key: record.configuration for key, record in records.items()} == {
        entry.task.key: entry.best for entry in run.progress
    }


def test_nothing_is_measured_twice(tmp_path: Path) -> None:
    measurer = Simulated(log(tmp_path))
    tuner(measurer, tmp_path).run(1000, None, None)
    assert set(measurer.count.values()) == {1}


@pytest.mark.parametrize("stop", [0, 1, 7, 8, 13, 30])
def test_killed_and_resumed(tmp_path: Path, stop: int) -> None:
    """Wherever it is killed: the measurements of both runs together are those of one."""
    first = Simulated(log(tmp_path), stop_after=stop)
    with pytest.raises(KilledError):
        tuner(first, tmp_path).run(16, None, None)
    second = Simulated(log(tmp_path))
    tuner(second, tmp_path).run(16, None, None)
    whole = Simulated(log(tmp_path / "other"))
    tuner(whole, tmp_path / "other").run(16, None, None)
    assert sum(first.count.values()) == stop
    assert set((first.count + second.count).values()) == {1}
    assert sum((first.count + second.count).values()) == sum(whole.count.values())


def test_a_finished_search_has_nothing_left_to_do(tmp_path: Path) -> None:
    tuner(SlowDefault(log(tmp_path)), tmp_path).run(16, None, None)
    again = SlowDefault(log(tmp_path))
    tuner(again, tmp_path).run(16, None, None)
    assert not again.count
    assert not again.contests


def test_more_trials_go_on_from_the_records(tmp_path: Path) -> None:
    tuner(Simulated(log(tmp_path)), tmp_path).run(4, None, None)
    again = Simulated(log(tmp_path))
    run = tuner(again, tmp_path)
    run.run(10, None, None)
    assert sum(again.count.values()) == sum(entry.trials for entry in run.progress) - 4 * len(TASKS)


def test_the_default_wins_against_noise(tmp_path: Path) -> None:
    """A winner of half a percent is what the noise of the machine makes of an equal one."""
    measurer = SlowDefault(log(tmp_path))
    measurer.contest_gain = 1.005
    run = tuner(measurer, tmp_path)
    run.run(8, None, None)
    assert all(entry.contest and entry.contest.winner == entry.default for entry in run.progress)
    assert len(Database(tmp_path / "records", TARGET).records) == len(TASKS)


@pytest.mark.parametrize(("gain", "kept"), [(0.995, True), (0.95, False)])
def test_winners_that_are_slower_on_all_cores_are_not_kept(gain: float, kept: bool, tmp_path: Path) -> None:
    """The fastest schedules of one thread made MobileNet-V2 a quarter slower with two: a library is for any number."""
    measurer = SlowDefault(log(tmp_path))
    measurer.gain_on_all_cores = gain
    run = tuner(measurer, tmp_path)
    run.run(8, None, None)
    assert all(entry.contest and (entry.contest.winner != entry.default) == kept for entry in run.progress)


def test_inexact_winners_are_not_kept(tmp_path: Path) -> None:
    measurer = SlowDefault(log(tmp_path))
    run = tuner(measurer, tmp_path)
    measurer.exact = False
    run.run(8, None, None)
    assert all(entry.contest and entry.contest.winner == entry.default for entry in run.progress)


def test_time_goes_to_the_tasks_that_matter(tmp_path: Path) -> None:
    """Of two tasks without any gain, the one with three times the time gets more rounds before the trials run out."""
    measurer = Simulated(log(tmp_path), stop_after=60)
    run = tuner(measurer, tmp_path)
    with pytest.raises(KilledError):
        run.run(1000, None, None)
    light, heavy, _ = run.progress
    assert heavy.rounds > light.rounds >= 1


def test_a_budget_that_is_over_still_decides(tmp_path: Path) -> None:
    """What needs no comparison becomes a record at once; the rest waits for the next run."""
    run = tuner(SlowDefault(log(tmp_path)), tmp_path)
    run._round(run.progress[0], 8)
    run._round(run.progress[1], 1)
    again = tuner(SlowDefault(log(tmp_path)), tmp_path)
    again.run(8, None, 1e-9)
    assert [entry.decided for entry in again.progress] == [False, True, False]
    assert again.progress[2].trials == 0
    last = tuner(SlowDefault(log(tmp_path)), tmp_path)
    last.run(8, None, None)
    assert all(entry.decided for entry in last.progress)
