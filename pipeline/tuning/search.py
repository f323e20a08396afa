"""The order in which the configurations of a task are tried.

:class:`GuidedSearch` is MetaSchedule's evolutionary search, steered by its XGBoost cost model, which learns from the
measurements of all tasks; :class:`RandomSearch` is what it has to beat. Neither proposes a configuration twice, and
both end when all have been measured.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Protocol

from tvm.s_tir import meta_schedule as ms

from pipeline.errors import TuneError
from pipeline.targets import DeployTarget
from pipeline.tuning.features import CandidateFeatures, Columns
from pipeline.tuning.space import Admitted, DrawKnob, Space, configuration_of, workload
from pipeline.tuning.task import Task
from schedules.convolution import default_configuration
from schedules.intrinsics.x86 import DOT_PRODUCTS
from schedules.template import Configuration

POPULATION, GENERATIONS = 48, 3
"""Of the evolutionary search. Spaces of hundreds of points need no more, and a round costs a fifth of a second."""

GENERATED = 8
"""Configurations that the evolution picks at a time."""

WARM_UP = 16
"""Measurements, of all tasks together, below which the cost model draws lots."""

MAX_ROUNDS = 1_000_000

Measured = Mapping[Configuration, float | None]
"""Seconds of each configuration; None where it could not be built or run."""


class Search(Protocol):
    """A way through the space of one task."""

    def propose(self, count: int) -> list[Configuration]:
        """Up to ``count`` configurations to measure next, none of them twice; none at all at the end."""

    def observe(self, measured: Measured) -> None:
        """Take in measurements, asked for or known from an earlier run."""


class RandomSearch:
    """The default configuration, then all others in random order."""

    def __init__(self, task: Task, target: DeployTarget, seed: int) -> None:
        self.space = Space(task.problem, DOT_PRODUCTS[target.dot])
        default = default_configuration(task.problem, self.space.dot)
        points = self.space.configurations(random.Random(f"{seed} {task.key}"))
        self._waiting = dict.fromkeys([default, *points])

    def propose(self, count: int) -> list[Configuration]:
        """The next of the list."""
        chosen = list(self._waiting)[:count]
        for point in chosen:
            del self._waiting[point]
        return chosen

    def observe(self, measured: Measured) -> None:
        """Leave out what is known."""
        for point in measured:
            self._waiting.pop(point, None)


class GuidedSearch:
    """Evolutionary search with a cost model, and what it left over in random order.

    The first configuration is the default one.
    """

    def __init__(self, task: Task, target: DeployTarget, seed: int, model: CostModel) -> None:
        self._rest = RandomSearch(task, target, seed)
        self._model = model
        self._target = target.tvm_target()
        space, self._space = self._rest.space, self._rest.space
        module = workload(task.problem)
        generator = ms.space_generator.ScheduleFn(
            space.design_spaces, sch_rules=[], postprocs=[Admitted(space)], mutator_probs={DrawKnob(seed): 1.0}
        )
        strategy = ms.search_strategy.EvolutionarySearch(
            population_size=POPULATION, init_min_unmeasured=POPULATION // 2, genetic_num_iters=GENERATIONS
        )
        self._context = ms.TuneContext(
            mod=module, target=self._target, space_generator=generator, search_strategy=strategy, task_name=task.key,
            num_threads=1, rand_state=1 + seed,
        )  # fmt: skip
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(module)
        self._model.register(self._context, task)
        self._seen: set[Configuration] = set()
        self._waiting: list[Configuration] = []
        self._started = False

    def propose(self, count: int) -> list[Configuration]:
        """The default; then what the evolution picks, filled up from the rest of the space."""
        chosen = [] if self._seen else self._rest.propose(1)
        self._seen.update(chosen)
        if len(self._waiting) < count - len(chosen):
            self._waiting += self._evolved()
        wanted = count - len(chosen)
        chosen += self._waiting[:wanted]
        self._waiting = self._waiting[wanted:]
        chosen += self._rest.propose(count - len(chosen))
        self._seen.update(chosen)
        return chosen

    def _evolved(self) -> list[Configuration]:
        if not self._started:
            spaces = self._context.generate_design_space()
            self._context.pre_tuning(MAX_ROUNDS, GENERATED, spaces, self._database, self._model.model)
            self._started = True
        candidates = self._context.generate_measure_candidates() or []
        self._context.notify_runner_results(candidates, [ms.runner.RunnerResult(None, "pending") for _ in candidates])
        found = dict.fromkeys(configuration_of(candidate.sch) for candidate in candidates)
        fresh = [point for point in found if point not in self._seen]
        self._seen.update(fresh)
        self._rest.observe(dict.fromkeys(fresh))
        return fresh

    def observe(self, measured: Measured) -> None:
        """Teach the model, and put the records where the evolution starts from."""
        self._seen.update(measured)
        self._waiting = [point for point in self._waiting if point not in measured]
        self._rest.observe(measured)
        candidates, results = [], []
        for point, seconds in measured.items():
            schedule = self._space.schedule(point)
            arguments = ms.arg_info.ArgInfo.from_entry_func(schedule.mod, False)
            candidates.append(ms.MeasureCandidate(schedule, arguments))
            results.append(ms.runner.RunnerResult(None if seconds is None else [seconds], "" if seconds else "failed"))
            if seconds is not None:
                record = ms.database.TuningRecord(
                    schedule.trace, self._workload, [seconds], self._target, arguments
                )  # fmt: skip
                self._database.commit_tuning_record(record)
        self._model.update(self._context, candidates, results)


class CostModel:
    """MetaSchedule's XGBoost model over :mod:`pipeline.tuning.features`, one for all tasks of a run. Never saved."""

    def __init__(self, target: DeployTarget, seed: int) -> None:
        try:
            import xgboost  # noqa: F401
        except ImportError:
            raise TuneError(
                "the search needs XGBoost: pip install xgboost-cpu (the package called xgboost is the same library "
                "with half a gigabyte of GPU code)"
            ) from None
        from tvm.s_tir.meta_schedule.cost_model.xgb_model import XGBConfig, XGBModel

        self._features = CandidateFeatures(DOT_PRODUCTS[target.dot], Columns())
        self.model: Any = XGBModel(
            extractor=self._features,
            config=XGBConfig(max_depth=6, seed=seed, nthread=1),
            num_warmup_samples=WARM_UP,
            early_stopping_rounds=20,
            verbose_eval=0,
        )

    def register(self, context: Any, task: Task) -> None:
        """Make the task's problem known to the features."""
        self._features.register(context, task.problem)

    def update(self, context: Any, candidates: list[Any], results: list[Any]) -> None:
        """Learn from measurements; retrains when they are a fifth more than at the last training."""
        if candidates:
            self.model.update(context, candidates, results)
