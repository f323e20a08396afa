"""``octet bench`` and ``octet inspect``."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

import pipeline
from pipeline.cli.main import main


def test_bench(libraries, tmp_path, capsys):
    result = tmp_path / "r.json"
    arguments = ["--threads", "1", "--warmup", "0", "--seconds", "0.05", "--json", str(result)]
    assert main(["bench", str(libraries["affine"]), *arguments]) == 0
    out = capsys.readouterr().out
    for word in ("affine.onnx", "threads     1", "batch       4", "p50", "p90", "p99", "throughput"):
        assert word in out
    data = json.loads(result.read_text())
    assert data["library"] == "affine.so"
    assert data["p50"] <= data["p90"] <= data["p99"]
    assert data["throughput"] == pytest.approx(4e3 / data["mean"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threads", "0"], "threads=0"),
        (["--seconds", "-1"], "seconds=-1.0"),
        (["--seconds", "0", "--warmup", "0", "--json", "/nonesuch/r.json"], "cannot write /nonesuch/r.json"),
    ],
    ids=["threads", "seconds", "json"],
)
def test_bench_refuses(libraries, capsys, arguments, words):
    assert main(["bench", str(libraries["affine"]), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_inspect_library(libraries, capsys):
    assert main(["inspect", str(libraries["pair"])]) == 0
    out = capsys.readouterr().out
    assert "compiled from  pair.onnx" in out
    assert "input          a: int8[2, 3], scale 0.5, zero point 3" in out
    assert "1 integer, 2 float" in out
    assert "can run it" in out
    assert main(["inspect", str(libraries["pair"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_file"] == "pair.onnx"


@dataclass(frozen=True)
class Report:
    name: str
    op_type: str
    kind: str
    reason: str
    shape: tuple[int, ...]


REPORTS = [
    Report("/conv1/Conv", "Conv", "integer", "int8 weights and activations", (1, 16, 32, 32)),
    Report("/sm", "Softmax", "float", "no scale on its output", (1, 10)),
]


def test_inspect_model(monkeypatch, tmp_path, capsys):
    seen = []

    def fake(*arguments, **options):
        seen.append((arguments, options))
        return REPORTS

    monkeypatch.setattr(pipeline, "inspect", fake, raising=False)
    model = tmp_path / "m.onnx"
    model.write_bytes(b"\x08\x08")
    assert main(["inspect", str(model), "--batch", "1"]) == 0
    assert seen == [((str(model),), {"batch": 1, "shapes": None})]
    assert capsys.readouterr().out == (
        "operator     type     runs as  shape       why\n"
        "/conv1/Conv  Conv     integer  1x16x32x32  int8 weights and activations\n"
        "/sm          Softmax  float    1x10        no scale on its output\n"
        "\n"
        "1 integer operators, 1 float\n"
    )
    assert main(["inspect", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["reason"] == "no scale on its output"


def test_inspect_refuses(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "none")]) == 2
    library = tmp_path / "libc.so"
    library.write_bytes(b"\x7fELF" + bytes(1000))
    assert main(["inspect", str(library)]) == 2
    err = capsys.readouterr().err
    assert "none: No such file" in err
    assert "without Octet's manifest" in err
