"""The tables, figures and the JSON file of the speed comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.engines import ENGINES
from experiments.report import peers, read_json, write_json
from experiments.report_figures import COLOURS, draw_bars, draw_roofline
from experiments.report_tables import LABELS, to_markdown
from tests.experiments.reports import MACHINE, make_cell, make_report


@pytest.fixture(scope="module")
def text() -> str:
    return to_markdown(make_report())


def test_gains_beside_pytorch_are_over_its_fp32(text: str) -> None:
    assert "| resnet50 | 1 | 1 | 200.00 | 40.00 | 5.00 | 25.00 | 8.00 |" in text


def test_fastest_peer_of_each_cell_decides_who_is_ahead(text: str) -> None:
    """The fastest one differs from cell to cell; here PyTorch, then OpenVINO."""
    assert "| 160 | PyTorch INT8 | 1.600 | yes |" in text
    assert "| 70 | OpenVINO INT8 | 0.800 | no |" in text
    assert "ahead of the fastest peer in 1 of 2 cells; geometric mean of the ratios 1.131" in text


def test_engine_that_failed_leaves_a_gap(text: str) -> None:
    """A missing engine must not shift columns nor stop the tables."""
    assert "| alexnet | 700 | 1.75 | – | 40.00 | – | – | – | – | OpenVINO INT8 | – | – |" in text


def test_int8_over_fp32_takes_the_fastest_fp32_peer(text: str) -> None:
    assert "| resnet50 | 1 | 1 | OpenVINO FP32 | 4.00 | 2.00 | 5.00 |" in text


def test_memory_is_compared_with_the_weights(text: str) -> None:
    assert "| Octet INT8 | 40.0 | 90.0 | 72.0 | 32.0 | 8.0 |" in text
    assert "| INT8 weights + 10 MiB |  |  |  | 34.0 | 10.0 |" in text


def test_ratio_of_an_engine_that_was_not_measured_is_none() -> None:
    cell = make_cell("resnet50", 1, {"octet": 2.0, "ncnn-int8": 3.0})
    assert cell.ratio("ncnn-int8") == pytest.approx(1.5)
    assert cell.ratio("openvino-int8") is None
    assert (cell.fastest_peer(), cell.fastest_peer("fp32")) == ("ncnn-int8", None)


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    """Else --resume would lose or change what an earlier call measured."""
    report, path = make_report(), tmp_path / "new" / "a.json"
    write_json(report, path)
    assert read_json(path) == report
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", ["{", "[]", '{"machine": {}}'], ids=["cut-off", "a-list", "older"])
def test_other_files_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"a\.json is not a result of this version"):
        read_json(path)


def test_results_hold_medians_and_ratios_for_other_programs(tmp_path: Path) -> None:
    write_json(make_report(), tmp_path / "a.json")
    data = json.loads((tmp_path / "a.json").read_text())
    first = data["results"][0]
    assert first["engines"]["pytorch-int8"]["variant"] == "TorchScript"
    assert first["times_slower_than_octet"]["openvino-int8"] == 2.0
    assert data["machine"]["load_average"] == [0.0]


@pytest.mark.parametrize("draw", [draw_bars, draw_roofline], ids=["bars", "roofline"])
def test_figures_are_drawn_with_gaps_in_the_results(draw, tmp_path: Path) -> None:
    draw(make_report(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_every_engine_has_a_label_and_every_int8_one_a_colour() -> None:
    assert set(LABELS) == set(ENGINES)
    assert {"octet", *peers("int8")} <= set(COLOURS)


def test_file_name_tells_cpus_apart_whose_name_is_hidden() -> None:
    assert MACHINE.slug == "intel-xeon-6-207-2"
