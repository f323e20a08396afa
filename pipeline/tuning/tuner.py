"""The loop over the tasks: which one is searched next, when one is done, and who wins in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.tuning.database import Database
from pipeline.tuning.measure import Measurer
from pipeline.tuning.measurements import Contest, MeasurementLog
from pipeline.tuning.search import Measured, Search
from pipeline.tuning.task import Task
from schedules.template import Configuration

BATCH = 8
"""Configurations that a search proposes at a time."""

FIRST_HOPE, FADING, MOMENTUM = 0.05, 1.0, 0.5
"""The gain hoped for from the next round of a task: ``FIRST_HOPE / (1 + FADING * rounds)``, plus this share of what
the last round gained."""

FINALISTS = 3
NOISE = 0.01
"""A record has to be so much faster than the default, and faster at all in three quarters of the rounds; with another
number of threads it may not be slower than by so much."""

PROMISING = 0.995
"""Of the default's time: what is not below it in the search is not compared again."""

FINAL_SECONDS, FINAL_SHARE = 2.0, 0.4
"""The first guess of what a final comparison takes, and the share of the budget that is kept for them at most."""


@dataclass
class Progress:
    """How far a task is."""

    task: Task
    default: Configuration
    trials: int = 0
    """Configurations whose time is known, those from earlier runs included."""
    default_seconds: float | None = None
    best: Configuration | None = None
    best_seconds: float = float("inf")
    rounds: int = 0
    last_gain: float = 0.0
    spent: float = 0.0
    """Seconds of searching in this run."""
    searched: bool = False
    """Nothing is left to be tried, or to be tried for."""
    contest: Contest | None = None
    search: Search | None = None
    measured: dict[Configuration, float | None] = field(default_factory=dict)

    @property
    def hope(self) -> float:
        """Seconds of all networks together that another round may save."""
        if self.default_seconds is None:
            return float("inf")
        gain = FIRST_HOPE / (1 + FADING * self.rounds) + MOMENTUM * self.last_gain
        return self.task.weight * self.best_seconds * gain

    def take(self, measured: Measured) -> None:
        """Note measurements."""
        self.measured.update(measured)
        self.trials = len(self.measured)
        self.default_seconds = self.measured.get(self.default) or self.default_seconds
        good = {c: seconds for c, seconds in self.measured.items() if seconds is not None}
        if good:
            self.best = min(good, key=lambda c: good[c])
            self.best_seconds = good[self.best]

    def finalists(self) -> tuple[Configuration, ...]:
        """The best few that seem faster than the default."""
        if self.default_seconds is None:
            return ()
        limit = PROMISING * self.default_seconds
        good = sorted((s, str(c), c) for c, s in self.measured.items() if s is not None and s < limit)
        return tuple(c for _, _, c in good[:FINALISTS])

    @property
    def decided(self) -> bool:
        """Whether the winner is known, and no measurement has come since that may change it."""
        return self.contest is not None and set(self.finalists()) <= set(self.contest.finalists)


Watch = Callable[[str, Sequence[Progress], float | None], None]
"""Takes what is being done, the tasks, and the seconds that are left to do, if that can be told."""


class Tuner:
    """Searches ``tasks`` and keeps the winners in ``database``. ``search_of`` starts the search of a task."""

    def __init__(
        self,
        tasks: Sequence[Task],
        measurer: Measurer,
        log: MeasurementLog,
        database: Database,
        search_of: Callable[[Task], Search],
        watch: Watch,
        warn: Callable[[str], None],
    ) -> None:
        self._measurer, self._log, self._database = measurer, log, database
        self._search_of, self._watch, self._warn = search_of, watch, warn
        self.progress = [Progress(task, measurer.default(task)) for task in tasks]
        for entry in self.progress:
            entry.take(measurer.known(entry.task))
            entry.contest = log.contest(entry.task.key)
        self._final_seconds = FINAL_SECONDS
        self._round_seconds: list[float] = []

    def run(self, trials: int, task_seconds: float | None, budget: float | None) -> None:
        """Search until every task has ``trials`` measurements or is exhausted, or the time is over; then decide.

        A task that is done is decided at once, the others at the end, the most important first.
        """
        deadline = None if budget is None else time.monotonic() + budget
        while True:
            for entry in self.progress:
                entry.searched |= entry.trials >= trials or (task_seconds is not None and entry.spent >= task_seconds)
            open_tasks = [entry for entry in self.progress if not entry.searched]
            contests = sum(not entry.decided and bool(entry.finalists()) for entry in self.progress)
            left = None if deadline is None else deadline - time.monotonic()
            reserve = min(contests * self._final_seconds, FINAL_SHARE * (budget or 0))
            if not open_tasks or (left is not None and left <= reserve):
                break
            self._watch("searching", self.progress, self._remaining(open_tasks, trials, left))
            entry = max(open_tasks, key=lambda e: (e.hope, e.task.weight * e.task.problem.macs))
            self._round(entry, trials)
            if entry.searched and not entry.decided:
                self._decide(entry)
        self._finish(deadline)

    def _round(self, entry: Progress, trials: int) -> None:
        start = time.monotonic()
        if entry.search is None:
            entry.search = self._search_of(entry.task)
            entry.search.observe(entry.measured)
        proposed = entry.search.propose(min(BATCH, trials - entry.trials))
        if not proposed:
            entry.searched = True
            return
        before = entry.best_seconds
        measured = self._measurer.measure(entry.task, proposed)
        entry.search.observe(measured)
        entry.take(measured)
        entry.last_gain = 0.0 if before == float("inf") else 1 - entry.best_seconds / before
        entry.rounds += 1
        entry.spent += time.monotonic() - start
        self._round_seconds = [*self._round_seconds[-20:], time.monotonic() - start]

    def _remaining(self, open_tasks: Sequence[Progress], trials: int, left: float | None) -> float | None:
        if not self._round_seconds:
            return left
        rounds = sum(-(-(trials - entry.trials) // BATCH) for entry in open_tasks)
        seconds = rounds * float(np.mean(self._round_seconds)) + len(open_tasks) * self._final_seconds
        return seconds if left is None else min(seconds, left)

    def _finish(self, deadline: float | None) -> None:
        """Decide what is undecided: first where nothing is to be compared, then the tasks with the most time."""
        undecided = [e for e in self.progress if not e.decided and e.default_seconds is not None]
        undecided.sort(key=lambda e: (bool(e.finalists()), -e.task.weight * (e.default_seconds or 0.0)))
        for number, entry in enumerate(undecided):
            if deadline is not None and entry.finalists() and time.monotonic() >= deadline:
                self._warn(f"{len(undecided) - number} tasks are left to be decided: go on with another run")
                break
            self._watch("comparing the best", self.progress, (len(undecided) - number) * self._final_seconds)
            self._decide(entry)
        self._watch("done", self.progress, 0.0)

    def _decide(self, entry: Progress) -> None:
        """Compare the best few with the default, and keep the fastest that is exact."""
        assert entry.default_seconds is not None
        start = time.monotonic()
        finalists = entry.finalists()
        winner, gain = entry.default, 0.0
        if finalists:
            ratios = self._measurer.contest(entry.task, finalists)
            ranked = sorted(ratios, key=lambda c: -float(np.median(ratios[c][0])))
            for configuration in ranked:
                own, *others = ratios[configuration]
                middle, low = np.median(own), np.quantile(own, 0.25)
                if middle < 1 + NOISE or low <= 1 or any(np.median(other) < 1 - NOISE for other in others):
                    continue
                if not self._measurer.same_results(entry.task, configuration):
                    self._warn(f"{entry.task.key}: {configuration} gives other results than the default: not kept")
                    continue
                winner, gain = configuration, float(middle) - 1
                break
            self._final_seconds += 0.2 * (time.monotonic() - start - self._final_seconds)
        seconds = entry.default_seconds / (1 + gain)
        self._database.keep({entry.task: (winner, seconds)})
        entry.contest = Contest(entry.task.key, finalists, winner, seconds, gain)
        self._log.append(entry.contest)
