from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.cli.main import main
from pipeline.cli.tune import seconds
from pipeline.errors import TuneError
from pipeline.targets import DeployTarget
from pipeline.tuning import api

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "digits_qdq.onnx"


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-3", "1d", "m", "nan", "1e3", "9" * 400])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no time"):
        seconds(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trials", "0"], "give 1 or more"),
        (["--batch", "0"], "give 1 or more"),
        (["--threads", "0"], "threads=0"),
        (["--target", "llvm-avx9"], "unknown target"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_arguments_are_told(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", str(DIGITS), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_target_that_this_cpu_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It would be measured as a crash of every candidate."""
    monkeypatch.setattr(api, "supported_by_host", lambda _target: False)
    with pytest.raises(TuneError, match="cannot be tuned here"):
        pipeline.tune(DIGITS, "llvm", records=tmp_path)


def test_options_reach_the_search(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, Any] = {}

    def tune(models: Any, target: str | DeployTarget, **options: Any) -> api.TuneResult:
        seen.update(options, models=models, target=target)
        options["watch"]("searching", (), 61.0)
        return api.TuneResult("llvm", Path("tuning_logs/llvm"), ())

    monkeypatch.setattr(pipeline, "tune", tune, raising=False)
    arguments = [
        "--target",
        "llvm",
        "--trials",
        "5",
        "--budget",
        "10m",
        "--batch",
        "4",
        "--threads",
        "2",
        "--no-resume",
    ]
    assert main(["tune", "a.onnx", "b.onnx", *arguments]) == 0
    assert (seen["models"], seen["target"], seen["trials"]) == (["a.onnx", "b.onnx"], "llvm", 5)
    assert (seen["budget"], seen["batch"], seen["threads"], seen["resume"]) == (600, 4, 2, False)
    assert "1:01 left" in capsys.readouterr().err
