"""``octet profile``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.cli.main import main
from pipeline.profiling import Roofline, profiler
from tests.conftest import REPOSITORY

LIMITS = Roofline("a CPU", "native", 1, 100.0, ((1 << 14, 64.0), (1 << 26, 4.0)))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("digits") / "digits.so"
    return pipeline.compile(REPOSITORY / "examples" / "digits" / "digits_qdq.onnx", output=output)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the limits were to be measured again, for each time that they were asked for."""
    seen: list[bool] = []

    def find(_target: object, _threads: int, *, remeasure: bool, progress: object) -> Roofline:
        assert progress
        seen.append(remeasure)
        return LIMITS

    monkeypatch.setattr(profiler, "find_roofline", find)
    return seen


def profile(*arguments: object) -> int:
    return main(["profile", *map(str, arguments)])


QUICK = ("--threads", "1", "--warmup", "0", "--seconds", "0")


def test_prints_and_writes(digits: Path, asked: list[bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"--json": tmp_path / "p.json", "--plot": tmp_path / "p.svg"}
    assert profile(digits, *QUICK, "--remeasure", *(word for pair in files.items() for word in pair)) == 0
    assert asked == [True]
    out = capsys.readouterr().out
    data = json.loads(files["--json"].read_text())
    for operator in data["operators"]:
        assert f"  {operator['node']}  " in out
        assert operator["name"] in out
    assert "latency" in out.splitlines()[-1]
    assert files["--plot"].read_text().startswith("<svg")
    assert {entry.name for entry in tmp_path.iterdir()} == {"p.json", "p.svg"}


def test_data_and_top(digits: Path, asked: list[bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "x.npy"
    np.save(images, np.zeros((3, 1, 16, 16), np.float32))
    assert profile(digits, *QUICK, "--data", images, "--top", 2) == 0
    assert asked == [False]
    table = capsys.readouterr().out.split("\n\n")[1]
    assert len(table.splitlines()) == 1 + 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threads", "0"], "threads=0"),
        (["--top", "0"], "--top 0: give 1 or more"),
        (["--plot", "p.pdf"], "cannot draw p.pdf"),
        (["--seconds", "-1"], "seconds=-1.0"),
        (["--data", "/nonesuch"], "/nonesuch"),
        (["--json", "/nonesuch/p.json"], "cannot write /nonesuch/p.json"),
        (["--json", "p.svg", "--plot", "p.svg"], "the same file is read or written too"),
    ],
    ids=["threads", "top", "plot", "seconds", "data", "no folder", "one file twice"],
)
def test_refuses(
    digits: Path,
    asked: list[bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    """Before anything is measured."""
    monkeypatch.chdir(tmp_path)
    assert profile(digits, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not asked


def test_refuses_other_files(libraries: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert profile(tmp_path / "none.so") == 2
    assert "none.so: No such file" in capsys.readouterr().err
    assert profile(libraries["affine"]) == 2
    assert "compile the model again" in capsys.readouterr().err
