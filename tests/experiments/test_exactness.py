"""The table of speed and accuracy on AVX2, and what is left out of it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from experiments import exactness, zoo
from experiments.exactness import Accuracy, Row, Speed
from experiments.onnx_builder import GraphBuilder
from pipeline.targets import resolve, supported_by_host
from tests.experiments.reports import MACHINE

ROW = Row(Accuracy(10_000, 91.69, 91.68, 90.97, 0.03, 3.7, 0.5, ["llvm-amx", "llvm-avx2"], True), Speed(0.5, 0.6, 1.2))

needs_avx2 = pytest.mark.skipif(not supported_by_host(resolve("llvm-avx2")), reason="this CPU has no AVX2")


@pytest.fixture
def tiny_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One quantised convolution in the place of every network; few images."""
    g = GraphBuilder("tiny", size=224)
    onnx.save(
        g.finish(g.linear(g.flatten(g.global_average_pool(g.conv(g.input, 8, 3, stride=8))), 8, 10)), tmp_path / "f"
    )
    zoo._quantize(tmp_path / "f", tmp_path / "tiny.onnx")
    monkeypatch.setattr(zoo, "model_path", lambda _name, _kind="qdq": tmp_path / "tiny.onnx")
    monkeypatch.setattr(exactness, "LIBRARIES", tmp_path / "libraries")
    monkeypatch.setattr(exactness, "targets", lambda: ["llvm", "llvm-avx2"])


def test_speed_and_accuracy_stand_in_one_row() -> None:
    text = exactness.to_markdown({"resnet20": ROW}, MACHINE, ["left out"])
    expected = "| resnet20 | 0.50 | 0.60 | 1.20 | 10,000 | 91.69 | 91.68 | 90.97 | 0.03 % | 3.70 % | 0.50 % | yes |"
    assert expected in text
    assert text.endswith("- left out")


def test_half_that_was_not_measured_is_empty() -> None:
    text = exactness.to_markdown({"a": Row(speed=ROW.speed), "b": Row(accuracy=ROW.accuracy)}, MACHINE, [])
    assert "| a | 0.50 | 0.60 | 1.20 | – |" in text
    assert "| b | – | – | – | 10,000 |" in text


def test_rows_come_back_from_the_file(tmp_path: Path) -> None:
    """--only keeps the other half of an earlier call."""
    rows = {"a": ROW, "b": Row(speed=ROW.speed)}
    exactness.write_json(tmp_path / "e.json", rows, MACHINE, {}, [])
    assert exactness.read_json(tmp_path / "e.json") == rows


@needs_avx2
@pytest.mark.usefixtures("tiny_zoo")
def test_halves_are_measured_apart_and_missing_models_are_remarks(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "e.json"
    arguments = ["resnet18", "resnet20-cifar10/model_qdq_ort_s8u8_minmax", "--shared", str(tmp_path / "none")]
    arguments += ["--images", "3", "--rounds", "2", "--seconds", "0", "--json", str(path)]
    assert exactness.main([*arguments, "--only", "accuracy"]) == 0
    accuracy = exactness.read_json(path)["resnet18"].accuracy
    assert accuracy is not None
    assert accuracy.same_bits
    assert (accuracy.images, accuracy.top1_octet) == (3, None)
    assert exactness.main([*arguments, "--only", "speed"]) == 0
    rows = exactness.read_json(path)
    assert list(rows) == ["resnet18"]
    assert rows["resnet18"].accuracy == accuracy
    assert rows["resnet18"].speed is not None
    assert "third-party data" in path.with_suffix(".md").read_text()


def test_unknown_model_ends_with_code_2() -> None:
    with pytest.raises(SystemExit, match="2"):
        exactness.main(["resnet51"])
