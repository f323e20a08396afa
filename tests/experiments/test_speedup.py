"""What the speed comparison writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import speedup
from experiments.machine import Machine, describe
from experiments.measure import Timing
from experiments.peak import peak_gmacs
from experiments.report import Report, Row, draw, to_markdown, write_json
from pipeline.targets import PRESETS

MACHINE = Machine(
    "Intel(R) Xeon(R) CPU @ 2.1GHz", "6-207-2", 2, ("avx2",), {"octet": "0.1"}, "abc", "2026-01-01", (0.0,)
)


@pytest.fixture
def report() -> Report:
    rows = [
        Row("resnet50", 1, 1, 4_000_000_000, {"octet": Timing((25.0, 25.0)), "onnxruntime-int8": Timing((50.0, 50.0))}),
        Row("alexnet", 1, 1, 700_000_000, {"octet": Timing((10.0, 10.0)), "onnxruntime-int8": Timing((80.0, 80.0))}),
        Row("alexnet", 2, 1, 700_000_000, {"onnxruntime-int8": Timing((40.0, 40.0))}),
    ]
    settings = {"target": "llvm-avx2", "rounds": 2, "seconds_per_slice": 0.1, "no_amx": False, "clock": "wall"}
    return Report(
        MACHINE, settings, 200.0, "octet", rows, {"octet alexnet": {"seconds": 9.0, "peak_mib": 900.0}}, ["busy"]
    )


def test_table_has_medians_ratios_and_their_mean(report: Report) -> None:
    text = to_markdown(report)
    assert "| resnet50 | 4,000 | 20.00 | 25.00 | 50.00 | 160 | 2.00 |" in text
    assert "| geometric mean |  |  |  |  |  | 4.00 |" in text
    assert "### 2 threads, batch 1" in text
    assert "- busy" in text


def test_engine_that_failed_on_a_network_leaves_a_gap(report: Report) -> None:
    """A missing engine must not shift columns nor stop the table."""
    gap = Row("resnet18", 1, 1, 1_800_000_000, {"onnxruntime-int8": Timing((9.0, 9.0))})
    report.rows.append(gap)
    assert "| resnet18 | 1,800 | 9.00 | – | 9.00 | – | – |" in to_markdown(report)


def test_json_and_figure_are_written(report: Report, tmp_path: Path) -> None:
    write_json(report, tmp_path / "new" / "a.json")
    data = json.loads((tmp_path / "new" / "a.json").read_text())
    assert data["results"][0]["times_slower_than_reference"] == {"onnxruntime-int8": 2.0}
    assert data["results"][0]["engines"]["octet"]["rounds_ms"] == [25.0, 25.0]
    assert data["machine"]["load_average"] == [0.0]
    draw(report, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_file_name_tells_cpus_apart_whose_name_is_hidden() -> None:
    assert MACHINE.slug == "intel-xeon-6-207-2"


def test_this_machine_can_be_described() -> None:
    machine = describe(["numpy", "no-such-distribution"])
    assert machine.cores >= 1
    assert list(machine.versions) == ["numpy"]


@pytest.mark.parametrize(
    "arguments", [["--target", "llvm-avx9"], ["--networks", "resnet51"], ["--threads", "0"], ["--clock", "cpu"]]
)
def test_bad_arguments_end_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = speedup.main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 2
    assert arguments[1] in capsys.readouterr().err


@pytest.mark.parametrize("target", PRESETS.values(), ids=lambda target: target.name)
def test_peak_is_plausible_where_there_is_one(target) -> None:
    peak = peak_gmacs(target)
    assert peak is None or 1 < peak < 5000
    assert target.dot != "none" or peak is None
