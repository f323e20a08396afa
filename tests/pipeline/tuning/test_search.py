from __future__ import annotations

import random
import sys

import pytest
from tvm.s_tir import meta_schedule as ms

from pipeline.errors import TuneError
from pipeline.tuning.search import CostModel, GuidedSearch, RandomSearch, Search
from pipeline.tuning.space import Space, configuration_of, workload
from pipeline.tuning.task import Task
from schedules.convolution import default_configuration
from schedules.intrinsics.x86 import DOT_PRODUCTS
from tests.pipeline.tuning.problems import TARGET, task

DOT = DOT_PRODUCTS[TARGET.dot]


def searches(for_task: Task) -> dict[str, Search]:
    pytest.importorskip("xgboost")
    return {
        "guided": GuidedSearch(for_task, TARGET, 0, CostModel(TARGET, 0)),
        "random": RandomSearch(for_task, TARGET, 0),
    }


def test_missing_xgboost_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice named an extra of the package `octet`, which on PyPI is somebody else's."""
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(TuneError, match="pip install xgboost-cpu "):
        CostModel(TARGET, 0)


def seconds(configuration: object) -> float:
    return 1e-3 + len(str(configuration)) * 1e-5


def test_a_configuration_survives_the_trace() -> None:
    """The trace is what the records hold."""
    space = Space(task().problem, DOT)
    points = space.configurations(random.Random(0))
    assert len(points) > 10
    assert [configuration_of(space.schedule(point)) for point in points] == points


def test_configurations_are_valid_and_different() -> None:
    space = Space(task().problem, DOT)
    points = space.configurations(random.Random(0))
    assert len(set(points)) == len(points) <= space.combinations
    assert all(map(space.admits, points))


def test_workloads_of_different_tasks_differ() -> None:
    """MetaSchedule's database tells workloads apart by their structure."""
    database = ms.database.MemoryDatabase()
    database.commit_workload(workload(task().problem))
    assert database.has_workload(workload(task().problem))
    assert not database.has_workload(workload(task(n=2).problem))


@pytest.mark.parametrize("kind", ["guided", "random"])
def test_whole_space_without_repetition(kind: str) -> None:
    """MetaSchedule alone goes on proposing what was measured, or ends early, in spaces this small."""
    search = searches(task())[kind]
    proposed = []
    while batch := search.propose(8):
        proposed += batch
        search.observe({point: seconds(point) for point in batch})
    space = Space(task().problem, DOT)
    assert len(set(proposed)) == len(proposed)
    assert set(proposed) == set(space.configurations(random.Random(1)))


@pytest.mark.parametrize("kind", ["guided", "random"])
def test_default_comes_first(kind: str) -> None:
    """Whatever ends the search early, the default has been measured."""
    assert searches(task())[kind].propose(4)[0] == default_configuration(task().problem, DOT)


@pytest.mark.parametrize("kind", ["guided", "random"])
def test_known_measurements_are_not_asked_for(kind: str) -> None:
    """A search that is resumed."""
    points = Space(task().problem, DOT).configurations(random.Random(0))
    search = searches(task())[kind]
    search.observe({point: seconds(point) for point in points[:-3]})
    assert set(search.propose(8)) == set(points[-3:])


def test_failed_candidates_do_not_end_the_search() -> None:
    search = searches(task())["guided"]
    first = search.propose(8)
    search.observe(dict.fromkeys(first))
    assert search.propose(8)
