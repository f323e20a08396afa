"""Writing a library: all of it, or nothing."""

from __future__ import annotations

import stat
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import pipeline
import pipeline.package
from pipeline.errors import CompileError, LibraryError
from pipeline.package import package
from pipeline.runtime import read_manifest
from pipeline.targets import PRESETS
from tests.pipeline.conftest import AFFINE, SHA


def pack(executable: Any, output: str | Path, **options: Any) -> Path:
    return package(executable, PRESETS["llvm"], AFFINE, model_sha256=SHA, output=output, **options)


def test_manifest_says_what_was_compiled(affine_executable, tmp_path):
    path = pack(
        affine_executable, str(tmp_path / "m.so"), model_file="folder/net.onnx", integer_operators=5,
        float_operators=1, input_alignment=16, options={"pure_int8": False},
    )  # fmt: skip
    manifest = read_manifest(path)
    assert (manifest.model_file, manifest.model_sha256, manifest.target) == ("net.onnx", SHA, "llvm")
    assert (manifest.inputs, manifest.outputs) == (AFFINE.inputs, AFFINE.outputs)
    assert (manifest.integer_operators, manifest.float_operators, manifest.input_alignment) == (5, 1, 16)
    assert manifest.octet_version == pipeline.__version__
    assert (manifest.tvm_version, manifest.tvm_ffi_version) == (version("apache-tvm"), version("apache-tvm-ffi"))
    assert manifest.options == {"pure_int8": False}
    assert manifest.cpu_features == ("sse2",)


def test_nothing_else_is_left_and_the_file_is_readable(affine_executable, tmp_path):
    """A temporary file's mode (owner only) would make the library useless to the user that serves it."""
    path = pack(affine_executable, tmp_path / "m.so")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.so"]
    assert path.stat().st_mode & stat.S_IRGRP


@pytest.mark.parametrize("fault", ["linker", "manifest", "disk"])
def test_failure_keeps_what_was_there(affine_executable, tmp_path, monkeypatch, fault):
    """A half-written library, or the loss of the last good one, is worse than the error."""
    output = tmp_path / "m.so"
    output.write_bytes(b"last good one")

    def fail(*_arguments):
        raise {"disk": OSError(28, "No space left on device"), "manifest": LibraryError("bad")}[fault]

    if fault == "linker":
        monkeypatch.setenv("CXX", "/bin/false")
    else:
        monkeypatch.setattr(pipeline.package, "append_manifest", fail)
    message = {"linker": "linking with /bin/false failed", "disk": "No space left on device", "manifest": "bad"}[fault]
    with pytest.raises((CompileError, LibraryError), match=message):
        pack(affine_executable, output)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.so"]
    assert output.read_bytes() == b"last good one"


def test_no_compiler(affine_executable, tmp_path, monkeypatch):
    """TVM's own complaint is an AttributeError on None."""
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match=r"no C compiler found; install gcc \(`apt install gcc`"):
        pack(affine_executable, tmp_path / "m.so")
    monkeypatch.setenv("CXX", "nonesuch-g++")
    with pytest.raises(CompileError, match="'nonesuch-g\\+\\+', which CXX or CC names, is not there"):
        pack(affine_executable, tmp_path / "m.so")


def test_relative_output(affine_executable, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pack(affine_executable, "m.so") == Path("m.so")
    assert read_manifest(Path("m.so")).target == "llvm"
