"""The demo from one end to the other: what `make demo` prints is what a new user judges Octet by."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from examples import demo

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
QUICK = ["--seconds", "0.1"]


def _table(text: str) -> dict[str, list[float]]:
    """The numbers of each line of the table: accuracy, latency, speed, size."""
    line = r"^  (Octet INT8|onnxruntime \w+) +([\d.]+) % +([\d.]+) ms +([\d.]+)x +([\d,]+) kB$"
    rows = re.findall(line, text, re.MULTILINE)
    return {name: [float(number.replace(",", "")) for number in numbers] for name, *numbers in rows}


def test_embedded_model_keeps_its_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([*QUICK, "--output", str(tmp_path / "digits.so")]) == 0
    text = capsys.readouterr().out
    table = _table(text)
    assert set(table) == {"onnxruntime FP32", "onnxruntime INT8", "Octet INT8"}
    assert abs(table["Octet INT8"][0] - table["onnxruntime FP32"][0]) < 1
    agreement = re.search(r"the same class for (\d+) of 360 samples .* at most (\d+) quantisation step", text)
    assert agreement is not None
    assert int(agreement[1]) >= 358
    assert int(agreement[2]) <= 4  # a difference of one step early on can grow through nine convolutions
    assert "in integer arithmetic: 15 of 15 operators" in text


def test_model_and_data_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Samples that do not fill a batch, and labels, must not upset the comparison."""
    with np.load(DIGITS / "heldout.npz", allow_pickle=False) as held_out:
        images, labels = held_out["images"][:10], held_out["labels"][:10]
    np.savez(tmp_path / "data.npz", image=images[:, None].astype(np.float32) / 255, labels=labels)
    arguments = [*QUICK, "--output", str(tmp_path / "mine.so"), "--batch", "4", "--data", str(tmp_path / "data.npz")]
    assert demo.main([*arguments, str(DIGITS / "digits_qdq.onnx")]) == 0
    text = capsys.readouterr().out
    assert set(_table(text)) == {"onnxruntime INT8", "Octet INT8"}
    assert "batch of 4" in text
    assert "of 8 samples" in text
    assert "random" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.onnx"], "absent.onnx"),
        (["--target", "cray-1"], "cray-1"),
        (["--data", "absent.npz"], "absent.npz"),
        (["--shape", "image"], "NAME=1,3,224,224"),
    ],
    ids=["model", "target", "data", "shape"],
)
def test_bad_arguments_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert demo.main([*QUICK, "--output", str(tmp_path / "m.so"), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("demo: ")
    assert message in captured.err
    assert captured.out == ""
