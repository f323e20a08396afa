""":func:`tune`: search the schedules of networks for a target, and keep the best."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import targets
from pipeline.compiler import lower_to_operators
from pipeline.errors import InputError, TuneError
from pipeline.runtime.threads import reserve
from pipeline.targets import DeployTarget, supported_by_host
from pipeline.tuning import LOGS_FOLDER, RECORDS_FOLDER, TRIALS
from pipeline.tuning.database import Database
from pipeline.tuning.measure import Measurer
from pipeline.tuning.measurements import MeasurementLog
from pipeline.tuning.search import CostModel, GuidedSearch
from pipeline.tuning.task import Task, merged, tasks_of
from pipeline.tuning.tuner import Progress, Tuner, Watch
from pipeline.tuning.worker import Worker


@dataclass(frozen=True)
class TuneResult:
    """What a search has found."""

    target: str
    folder: Path
    tasks: tuple[Progress, ...]

    @property
    def default_seconds(self) -> float:
        """Of all convolutions of the networks with their default schedules."""
        return sum(e.task.weight * (e.default_seconds or 0.0) for e in self.tasks)

    @property
    def seconds(self) -> float:
        """The same with the records; a task that is undecided counts with its default."""
        return sum(
            e.task.weight * (e.contest.seconds if e.contest else e.default_seconds or 0.0) for e in self.tasks
        )  # fmt: skip


def tune(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    target: str | DeployTarget = targets.NATIVE,
    *,
    batch: int | None = None,
    trials: int = TRIALS,
    budget: float | None = None,
    task_budget: float | None = None,
    threads: int = 1,
    records: str | os.PathLike[str] = RECORDS_FOLDER,
    logs: str | os.PathLike[str] = LOGS_FOLDER,
    resume: bool = True,
    seed: int = 0,
    watch: Watch | None = None,
    warn: Callable[[str], None] | None = None,
    runner: Worker | None = None,
) -> TuneResult:
    """Search the schedules of the convolutions and fully connected layers of ``models``.

    Args:
        models: one quantised ONNX file or several; layers of equal work are searched once.
        target: as for :func:`pipeline.compile`; this machine has to run its code.
        batch: value of a symbolic first dimension (1 if not given).
        trials: measurements a task at most, those of earlier runs included.
        budget: seconds for everything; none for as long as it takes.
        task_budget: seconds of searching a task at most, in this run.
        threads: that a kernel runs on while it is measured.
        records: folder of the records, one folder a target in it.
        logs: folder of the measurements, from which a later run goes on.
        resume: go on from the measurements of earlier runs.
        seed: of everything that is drawn.
        watch: called before each round; see :data:`pipeline.tuning.tuner.Watch`.
        warn: called with what went wrong without ending the search.
        runner: the process that times candidates, if not one of our own.

    Raises:
        ModelError, UnsupportedOperatorError: as for :func:`pipeline.compile`.
        TargetError: no such target.
        TuneError: this CPU does not run it, XGBoost is missing, or the records are damaged or of another target.
        InputError: a number makes no sense.
    """
    deploy = targets.resolve(target)
    if not supported_by_host(deploy):
        raise TuneError(f"{deploy.name} cannot be tuned here: this CPU does not run its code; tune on one that does")
    reserve(threads)
    if trials < 1:
        raise InputError(f"trials={trials}: give 1 or more")
    for name, value in (("budget", budget), ("task_budget", task_budget)):
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name}={value}: give a positive number of seconds")
    tell_watch, tell = watch or (lambda _phase, _tasks, _left: None), warn or (lambda _text: None)
    model = CostModel(deploy, seed)
    folder = Path(records) / deploy.name
    database = Database(folder, deploy)
    log = MeasurementLog(Path(logs) / f"{deploy.name}.jsonl", threads, resume=resume)
    tasks = network_tasks([models] if isinstance(models, (str, os.PathLike)) else models, deploy, batch, tell_watch)
    with contextlib.closing(Measurer(deploy, threads, log, tell, runner)) as measurer:
        tuner = Tuner(
            tasks, measurer, log, database, lambda task: GuidedSearch(task, deploy, seed, model), tell_watch, tell
        )
        tuner.run(trials, task_budget, budget)
        return TuneResult(deploy.name, folder, tuple(tuner.progress))


def network_tasks(
    models: Sequence[str | os.PathLike[str]], target: DeployTarget, batch: int | None, watch: Watch
) -> list[Task]:
    """The tasks of all ``models`` together."""
    found: list[Task] = []
    for model in models:
        watch(f"reading {Path(model).name}", (), None)
        found += tasks_of(lower_to_operators(model, batch=batch), target)
    return merged(found)
