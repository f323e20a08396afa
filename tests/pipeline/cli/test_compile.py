"""``octet compile`` hands its options to the API and says what came out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import pipeline
from pipeline.cli.main import main
from pipeline.runtime import cpu


@pytest.fixture
def calls(monkeypatch, libraries):
    """What ``pipeline.compile`` was called with; it writes a library that was made before."""
    seen = []

    def fake(model, target, *, output, progress, **options):
        progress("lowering", 0.5)
        seen.append({"model": model, "target": target, "output": output, **options})
        return Path(shutil.copy(libraries["affine"], output))

    monkeypatch.setattr(pipeline, "compile", fake, raising=False)
    return seen


def test_defaults(calls, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compile", "folder/net.onnx"]) == 0
    (call,) = calls
    assert call["output"] == "net.so"
    assert (call["batch"], call["shapes"], call["pure_int8"], call["dump_ir"]) == (None, None, False, None)
    out = capsys.readouterr()
    assert "net.so: 0.0 MB for llvm" in out.out
    assert "1 integer and 2 float operators" in out.out
    assert "`octet inspect folder/net.onnx`" in out.out
    assert out.err == ""


def test_every_option_arrives(calls, tmp_path):
    output = str(tmp_path / "o.so")
    arguments = ["--target", "llvm", "-o", output, "--batch", "4", "--shape", "a=1,3,8,8", "--shape", "b=c=2,5"]
    assert main(["compile", "m.onnx", *arguments, "--pure-int8", "--dump-ir", "ir"]) == 0
    assert calls == [
        {
            "model": "m.onnx", "target": "llvm", "output": output, "batch": 4,
            "shapes": {"a": (1, 3, 8, 8), "b=c": (2, 5)}, "pure_int8": True, "dump_ir": "ir",
            "records": "tuning_logs",
        }
    ]  # fmt: skip


def test_phases_with_verbose(calls, tmp_path, capsys):
    """In a log file there is no bar; silence for minutes looks like a hang."""
    assert main(["compile", "m.onnx", "-o", str(tmp_path / "o.so"), "--verbose"]) == 0
    assert len(calls) == 1
    assert "s  lowering\n" in capsys.readouterr().err


def test_library_for_another_machine_is_said_so(calls, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cpu, "host_features", lambda: frozenset({"sse2"}))
    assert main(["compile", "m.onnx", "--target", "llvm-avx2", "-o", str(tmp_path / "o.so")]) == 0
    assert calls[0]["target"] == "llvm-avx2"
    assert "this machine's CPU cannot run it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "records"), [(["--records", "there"], "there"), (["--no-records"], None)], ids=["folder", "none"]
)
def test_records_of_a_search(calls, tmp_path, arguments, records):
    assert main(["compile", "m.onnx", "-o", str(tmp_path / "o.so"), *arguments]) == 0
    assert calls[0]["records"] == records
