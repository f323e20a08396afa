"""The results that are kept with the project: a path of the machine that measured says nothing to anyone else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments import speedup

FOLDER = Path(speedup.__file__).with_name("results")
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in {".json", ".md"})


def test_there_are_results() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_no_result_names_a_folder_of_the_machine_it_was_measured_on(path: Path) -> None:
    assert not re.findall(r"(?<![\w.*)])/(?:\w+/)+\w+", path.read_text(encoding="utf-8"))
