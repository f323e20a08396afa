"""Candidates in, seconds out: compiled by some workers at once, timed by another with nothing beside it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import TuneError
from pipeline.runtime.cpu import physical_cores
from pipeline.targets import DeployTarget
from pipeline.tuning.measurements import Measurement, MeasurementLog
from pipeline.tuning.search import Measured
from pipeline.tuning.task import Task, configuration_to_json, problem_to_json
from pipeline.tuning.worker import Message, Worker, WorkerError
from schedules.convolution import default_configuration
from schedules.intrinsics.x86 import DOT_PRODUCTS
from schedules.template import Configuration

BUILD_TIMEOUT, RUN_TIMEOUT = 90.0, 60.0
"""Seconds that compiling one candidate, and running a batch, may take on a busy machine."""

ROUNDS, SECONDS = 3, 0.008
"""Turns of a candidate in a batch, and how long each takes at least."""

FINAL_ROUNDS, FINAL_SECONDS = 12, 0.012
"""The same of the last comparison with the default schedule."""

Times = npt.NDArray[np.float64]
"""Seconds of a candidate in each round."""


@dataclass(frozen=True)
class _Built:
    """A candidate that is ready to run; no files where its program has been measured before."""

    program: str
    files: tuple[str, str] | None


class Measurer:
    """Measures configurations of tasks, each program once; :meth:`close` it at the end.

    ``warn`` is told of every candidate that fails, with the reason.
    """

    def __init__(
        self,
        target: DeployTarget,
        threads: int,
        log: MeasurementLog,
        warn: Callable[[str], None],
        runner: Worker | None = None,
    ) -> None:
        self._target, self._log, self._warn = target, log, warn
        self._thread_counts = tuple(dict.fromkeys((threads, physical_cores())))
        self._builders = [Worker("pipeline.tuning.build_worker") for _ in range(physical_cores())]
        self._runner = runner or Worker("pipeline.tuning.run_worker")

    def close(self) -> None:
        """End the workers."""
        for worker in (*self._builders, self._runner):
            worker.close()

    def default(self, task: Task) -> Configuration:
        """What the task's kernel would be without a search."""
        return default_configuration(task.problem, DOT_PRODUCTS[self._target.dot])

    def known(self, task: Task) -> Measured:
        """The measurements of a task in the log that still hold."""
        return {c: entry.seconds for c, entry in self._log.task(task.key).items()}

    def measure(self, task: Task, configurations: Sequence[Configuration]) -> Measured:
        """Seconds of each configuration; None where it fails. A program that has been measured is not run again.

        The default runs along, so that changes of the machine's speed cancel: the seconds of the others are the ratio
        to it, times its own at its first measurement.

        Raises:
            TuneError: the default itself fails.
        """
        default, known = self.default(task), self.known(task)
        wanted = [c for c in dict.fromkeys(configurations) if c not in known]
        if wanted:
            self._measure(task, default, known, wanted)
        return {c: s for c, s in self.known(task).items() if c in configurations}

    def _measure(self, task: Task, default: Configuration, known: Measured, wanted: Sequence[Configuration]) -> None:
        with tempfile.TemporaryDirectory(prefix="octet-tune-") as folder:
            built = self._build(task, list(dict.fromkeys([default, *wanted])), Path(folder), default)
            programs = {c: candidate.program if candidate else "" for c, candidate in built.items()}
            fresh = {b.program: c for c, b in built.items() if b is not None and b.files and c != default}
            reference = known.get(default) or self._log.seconds(programs[default])
            times: dict[Configuration, Times] = {}
            if fresh or reference is None:
                times = self._compared(
                    task, default, list(fresh.values()), built, ROUNDS, SECONDS, self._thread_counts[0]
                )
                reference = reference or float(np.median(times[default]))
        found = {p: reference * float(np.median(times[c] / times[default])) for p, c in fresh.items() if c in times}
        for configuration in wanted:
            program = programs[configuration]
            seconds = reference if configuration == default else found.get(program, self._log.seconds(program))
            self._log.append(Measurement(task.key, configuration, program, seconds))

    def contest(self, task: Task, finalists: Sequence[Configuration]) -> dict[Configuration, list[Times]]:
        """How often as fast as the default each finalist is, in many alternating rounds; without those that fail.

        With the measurer's number of threads first, then with one a core: a library may be loaded with any number, and
        the fastest schedule of one thread may leave another without work.
        """
        default = self.default(task)
        with tempfile.TemporaryDirectory(prefix="octet-tune-") as folder:
            built = self._build(task, [default, *finalists], Path(folder))
            all_times = [
                self._compared(task, default, finalists, built, FINAL_ROUNDS, FINAL_SECONDS, threads)
                for threads in self._thread_counts
            ]
        return {
            c: [times[default] / times[c] for times in all_times]
            for c in finalists
            if all(c in times for times in all_times)
        }

    def same_results(self, task: Task, configuration: Configuration) -> bool:
        """Whether ``configuration`` gives the bits of the default, on random and on extreme data."""
        builder = self._builders[0]
        try:
            builder.ask(self._request("schedule", task, configuration), BUILD_TIMEOUT)
            request = self._request("compare", task, self.default(task))
            return bool(builder.ask(request, 2 * BUILD_TIMEOUT)["same"])
        except WorkerError as error:
            self._warn(f"{task.key}: {configuration}: {error}")
            return False

    # Compiling.

    def _request(self, what: str, task: Task, configuration: Configuration) -> Message:
        return {
            "do": what, "problem": problem_to_json(task.problem), "target": self._target.name,
            "configuration": configuration_to_json(configuration),
        }  # fmt: skip

    def _build(
        self, task: Task, configurations: Sequence[Configuration], folder: Path, always: Configuration | None = None
    ) -> dict[Configuration, _Built | None]:
        """All ``configurations``, None where one fails; ``always`` with its files, others if they are to be run.

        ``always`` None: all of them with their files.
        """

        def work(number: int) -> list[tuple[Configuration, _Built | None]]:
            mine = configurations[number :: len(self._builders)]
            return [
                (c, self._build_one(self._builders[number], task, c, folder, always is None or c == always))
                for c in mine
            ]

        with ThreadPoolExecutor(len(self._builders)) as pool:
            done = dict(entry for part in pool.map(work, range(len(self._builders))) for entry in part)
        return {c: done[c] for c in configurations}

    def _build_one(
        self, builder: Worker, task: Task, configuration: Configuration, folder: Path, always: bool
    ) -> _Built | None:
        try:
            request = self._request("schedule", task, configuration)
            program = str(builder.ask(request, BUILD_TIMEOUT)["program"])
            library, arguments = str(folder / f"{program}.so"), str(folder / f"{program}.npz")
            if not always and (self._log.seconds(program) is not None or Path(library).exists()):
                return _Built(program, None)
            builder.ask({"do": "compile", "library": library, "arguments": arguments}, BUILD_TIMEOUT)
        except WorkerError as error:
            self._warn(f"{task.key}: {configuration}: {error}")
            return None
        return _Built(program, (library, arguments))

    # Running.

    def _compared(
        self,
        task: Task,
        default: Configuration,
        others: Sequence[Configuration],
        built: dict[Configuration, _Built | None],
        rounds: int,
        seconds: float,
        threads: int,
    ) -> dict[Configuration, Times]:
        """The default and ``others`` in turns. When one of them ends the run, each of them alone beside the default."""

        def run(batch: Sequence[Configuration]) -> dict[Configuration, Times]:
            files = [entry.files for c in batch if (entry := built[c]) is not None]
            request = {"kernels": files, "threads": threads, "rounds": rounds, "seconds": seconds}
            answer = self._runner.ask(request, RUN_TIMEOUT)["seconds"]
            return {c: np.array(times) for c, times in zip(batch, answer, strict=True)}

        def run_beside(other: Configuration) -> dict[Configuration, Times]:
            try:
                return run([default, other])
            except WorkerError as error:
                self._warn(f"{task.key}: {other}: {error}")
                return {}

        others = [c for c in others if (entry := built[c]) is not None and entry.files]
        if others:
            with contextlib.suppress(WorkerError):
                return run([default, *others])
        pairs = [(other, run_beside(other)) for other in others]
        try:
            if built[default] is None:
                raise WorkerError("it does not compile")
            alone = run([default])[default]
        except WorkerError as error:
            raise TuneError(f"the default schedule of {task.key} fails on {self._target.name}: {error}") from None
        ratios = {other: pair[other] / pair[default] for other, pair in pairs if pair}
        return {default: alone, **{other: alone * ratio for other, ratio in ratios.items()}}
