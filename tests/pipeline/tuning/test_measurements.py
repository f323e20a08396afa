from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.tuning import measurements
from pipeline.tuning.measurements import Contest, Measurement, MeasurementLog
from schedules.template import Configuration

POINT, OTHER = Configuration("tile", (("a", 1), ("b", 2))), Configuration("tile", (("a", 2), ("b", 2)))
FIRST = Measurement("task", POINT, "p1", 1e-3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "logs" / "target.jsonl"
    MeasurementLog(path, 1).append(FIRST)
    return path


def test_what_was_appended_is_known_again(path: Path) -> None:
    MeasurementLog(path, 1).append(Measurement("task", OTHER, "p2", None))
    log = MeasurementLog(path, 1)
    assert {c: m.seconds for c, m in log.task("task").items()} == {POINT: 1e-3, OTHER: None}
    assert (log.seconds("p1"), log.seconds("p2")) == (1e-3, None)


def test_a_torn_line_costs_itself_only(path: Path) -> None:
    """A process killed while it writes, and another that appends behind that."""
    path.write_bytes(path.read_bytes() + b'\n{"format": 1, "task": "ta')
    MeasurementLog(path, 1).append(Measurement("task", OTHER, "p2", 2e-3))
    assert len(MeasurementLog(path, 1).task("task")) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"seconds": "fast"},
        {"seconds": -1.0},
        {"configuration": [1]},
        {"configuration": None},
        {"cpu": "another"},
        {"threads": 2},
    ],
    ids=lambda change: "-".join(map(str, next(iter(change.items())))),
)
def test_lines_that_do_not_hold_here_are_left_out(path: Path, change: dict) -> None:
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, **change}))
    log = MeasurementLog(path, 1)
    assert not log.task("task")
    assert log.seconds("p1") is None


def test_a_program_outlives_a_change_of_the_templates(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the kernel of a configuration has changed: only an equal kernel is still known."""
    monkeypatch.setattr(measurements, "templates_hash", lambda: "changed")
    log = MeasurementLog(path, 1)
    assert not log.task("task")
    assert log.seconds("p1") == 1e-3


def test_a_new_start_ignores_what_was(path: Path) -> None:
    assert not MeasurementLog(path, 1, resume=False).task("task")


def test_contests_are_known_again(path: Path) -> None:
    contest = Contest("task", (POINT, OTHER), OTHER, 1e-3, 0.05)
    MeasurementLog(path, 1).append(contest)
    assert MeasurementLog(path, 1).contest("task") == contest
