from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.search import Curve, follow, overall, run, table, write
from pipeline.tuning.measure import Measurer
from pipeline.tuning.measurements import Measurement, MeasurementLog
from pipeline.tuning.search import Measured, RandomSearch
from pipeline.tuning.task import Task
from schedules.template import Configuration
from tests.pipeline.tuning.problems import TARGET, task


class Simulated(Measurer):
    """The default takes a second, the others from one down to a half."""

    def __init__(self, folder: Path) -> None:
        self.log = MeasurementLog(folder / "log.jsonl", 1)
        super().__init__(TARGET, 1, self.log, lambda _text: None)
        self.count: Counter[Configuration] = Counter()

    def measure(self, task: Task, configurations: Sequence[Configuration]) -> Measured:
        for configuration in configurations:
            if configuration not in self.known(task):
                self.count[configuration] += 1
                seconds = 1.0 if configuration == self.default(task) else 1 - len(self.count) / 400
                self.log.append(Measurement(task.key, configuration, str(configuration), seconds))
        return {c: s for c, s in self.known(task).items() if c in configurations}


CURVES = [
    Curve("conv_a x16", "resnet18", "guided", 0, (1.0, 1.2, 1.3)),
    Curve("conv_a x16", "resnet18", "random", 0, (1.0, 1.0, 1.1)),
]
CONFIRMED = {"conv_a x16": 1.02}


def test_a_curve_starts_at_the_default_and_only_rises(tmp_path: Path) -> None:
    best = follow(RandomSearch(task(), TARGET, 0), task(), Simulated(tmp_path), 12, lambda _count: None)
    assert len(best) == 12
    assert best[0] == 1.0
    assert best == sorted(best)
    assert best[-1] > 1


def test_searches_share_their_measurements(tmp_path: Path) -> None:
    """Else the clock's noise would decide which search is better."""
    pytest.importorskip("xgboost")
    measurer = Simulated(tmp_path)
    curves = run([("resnet18", task())], TARGET, measurer, 10, 2)
    assert Counter(curve.search for curve in curves) == {"guided": 2, "random": 2}
    assert set(measurer.count.values()) == {1}


def test_table_and_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write(CURVES, CONFIRMED, {"speed": 1.02}, {"target": "llvm", "threads": 1, "trials": 3, "seeds": 1}, tmp_path)
    assert json.loads((tmp_path / "search-llvm.json").read_text())["curves"][0]["best"] == [1.0, 1.2, 1.3]
    assert (tmp_path / "search-llvm.png").stat().st_size > 1000
    assert {path.name for path in tmp_path.iterdir()} == {"search-llvm.json", "search-llvm.png"}
    assert "1.300" in table(CURVES, CONFIRMED).splitlines()[1]


def test_layers_together_count_their_calls(tmp_path: Path) -> None:
    """A gain in a layer that is called once must not weigh like one in a layer that is called ten times."""
    measurer = Simulated(tmp_path)
    rare, often = task(), task(weight=3, oc=64)
    for each in (rare, often):
        measurer.measure(each, [measurer.default(each)])
    gains = {rare.key: 2.0, often.key: 1.0}
    together = overall([("resnet18", rare), ("resnet50", often)], [rare, often], measurer, gains)
    assert together == {"layers": 2, "share_of_products": 1.0, "speed": round(4 / 3.5, 4)}
