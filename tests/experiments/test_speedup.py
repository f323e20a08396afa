"""The speed comparison as a program: what it refuses, and that it goes on where it was stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from experiments import comparison, preparation, speedup, zoo
from experiments.engines import ENGINES
from experiments.machine import describe
from experiments.onnx_builder import GraphBuilder
from experiments.report import read_json
from pipeline.profiling.roofline import Roofline

QUICK = ["--engines", "onnxruntime-fp32", "--networks", "alexnet", "--rounds", "2", "--seconds", "0"]


@pytest.fixture
def tiny_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One convolution in the place of every network, and no measurement of the machine."""
    g = GraphBuilder("tiny", size=224)
    path = tmp_path / "tiny.onnx"
    onnx.save(g.finish(g.linear(g.flatten(g.global_average_pool(g.conv(g.input, 4, 3, stride=8))), 4, 10)), path)
    monkeypatch.setattr(zoo, "model_path", lambda _name, _kind="fp32": path)
    monkeypatch.setattr(preparation, "FOLDER", tmp_path / "build")
    roofline = Roofline("cpu", "llvm", 1, 10.0, ((1 << 20, 5.0),))
    monkeypatch.setattr(
        comparison, "find_roofline", lambda target, threads: replace(roofline, target=target.name, threads=threads)
    )


def test_this_machine_can_be_described() -> None:
    machine = describe(["numpy", "no-such-distribution"])
    assert machine.cores >= 1
    assert list(machine.versions) == ["numpy"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--target", "llvm-avx9"],
        ["--networks", "resnet51"],
        ["--threads", "0"],
        ["--isa", "sse2"],
        ["--clock", "cpu"],
        ["--isa", "avx2", "--target", "llvm-avx512-vnni"],
    ],
    ids=lambda arguments: arguments[0] + arguments[-1],
)
def test_bad_arguments_end_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = speedup.main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 2
    assert arguments[-1] in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_zoo")
def test_resume_measures_only_what_is_missing(tmp_path: Path) -> None:
    """A measurement that is killed after an hour must not begin anew."""
    arguments = [*QUICK, "--batch", "1", "--output", str(tmp_path / "out")]
    assert speedup.main([*arguments, "--threads", "1"]) == 0
    path = tmp_path / "out.json"
    earlier = read_json(path)
    assert speedup.main([*arguments, "--threads", "1", "2", "--resume"]) == 0
    cells = read_json(path).cells
    assert [cell.threads for cell in cells] == [1, 2]
    assert cells[0] == earlier.cells[0]
    endings = {".json", ".md", "-bars.png", "-roofline.png"}
    assert {f"out{ending}" for ending in endings} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.usefixtures("tiny_zoo")
def test_what_was_prepared_before_is_measured(tmp_path: Path) -> None:
    """Compiling disturbs a machine that measures, so the two may be apart; nothing prepared is no crash."""
    arguments = [*QUICK, "--batch", "1", "--threads", "1", "--output", str(tmp_path / "out")]
    assert speedup.main([*arguments, "--only", "measure"]) == 1
    assert speedup.main([*arguments, "--only", "prepare"]) == 0
    assert not (tmp_path / "out.md").exists()
    assert speedup.main([*arguments, "--only", "measure"]) == 0
    assert list(read_json(tmp_path / "out.json").cells[0].timings) == ["onnxruntime-fp32"]


@pytest.mark.usefixtures("tiny_zoo")
def test_results_of_other_settings_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*QUICK, "--batch", "1", "--threads", "1", "--output", str(tmp_path / "out")]
    assert speedup.main(arguments) == 0
    assert speedup.main([*arguments, "--resume", "--rounds", "3"]) == 2
    assert "leave out --resume" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_zoo")
def test_engine_that_cannot_run_a_network_is_left_out_with_a_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One engine's failure must not cost the others' figures."""
    monkeypatch.setattr(ENGINES["onnxruntime-int8"], "kind", "missing")
    good = zoo.model_path("alexnet")
    monkeypatch.setattr(zoo, "model_path", lambda _n, kind="fp32": good if kind == "fp32" else tmp_path / "no.onnx")
    arguments = ["--engines", "onnxruntime-fp32", "onnxruntime-int8", *QUICK[2:], "--batch", "1", "--threads", "1"]
    assert speedup.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    report = read_json(tmp_path / "out.json")
    assert list(report.cells[0].timings) == ["onnxruntime-fp32"]
    assert any("no.onnx" in remark for remark in report.remarks)


def test_engines_without_a_switch_are_left_out_at_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their AVX-512 figures beside AVX2 ones would be no comparison."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    held = {name for name, engine in ENGINES.items() if engine.unavailable("avx2") is None}
    assert held == {"octet", "openvino-int8", "openvino-fp32", "pytorch-int8", "pytorch-fp32"}
    assert not any(engine.unavailable("avx512-vnni") for engine in ENGINES.values())
