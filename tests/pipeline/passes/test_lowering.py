"""The dump of the module after each phase: where it cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest
import tvm

from pipeline.errors import CompileError
from pipeline.passes.lowering import IRDump


def test_folder_of_the_dump_is_a_file(tmp_path: Path) -> None:
    """It was a bare FileExistsError."""
    place = tmp_path / "ir"
    place.write_text("mine")
    with pytest.raises(CompileError, match=rf"cannot write the IR to {place}: File exists; give another folder"):
        IRDump(place)
    assert place.read_text() == "mine"


def test_file_of_the_dump_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "00-import.py").mkdir()
    with pytest.raises(CompileError, match=r"00-import\.py: Is a directory"):
        IRDump(tmp_path).write("import", tvm.IRModule())
