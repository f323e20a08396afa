from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import pytest
from tvm.s_tir import meta_schedule as ms

from pipeline.errors import TuneError
from pipeline.targets import resolve
from pipeline.tuning.database import Database
from pipeline.tuning.records import RECORDS, TARGET, WORKLOADS, Records, find_records, read_records
from pipeline.tuning.space import Space, configuration_of, workload
from pipeline.tuning.task import Task
from schedules.convolution import default_configuration
from schedules.intrinsics.x86 import DOT_PRODUCTS
from schedules.template import Configuration
from tests.pipeline.tuning import problems
from tests.pipeline.tuning.problems import task

DOT = DOT_PRODUCTS[problems.TARGET.dot]
FIRST, SECOND = task(), task(n=2)


def other_than_default(of: Task) -> Configuration:
    default = default_configuration(of.problem, DOT)
    return next(c for c in Space(of.problem, DOT).configurations(random.Random(0)) if c != default)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Records of two tasks."""
    folder = tmp_path / "llvm"
    winners = {of: (other_than_default(of), 1e-3) for of in (FIRST, SECOND)}
    Database(folder, problems.TARGET).keep(winners)
    return folder


def test_the_compiler_gets_what_was_kept(folder: Path) -> None:
    records = read_records(folder, problems.TARGET)
    real = problems.problem(x_zero_point=3)
    assert records.configure(real, DOT) == other_than_default(FIRST)
    assert records.tuned == 1


def test_without_a_record_the_default(folder: Path) -> None:
    records = read_records(folder, problems.TARGET)
    unknown = problems.problem(n=3)
    assert records.configure(unknown, DOT) == default_configuration(unknown, DOT)
    assert records.tuned == 0


def test_metaschedule_reads_the_files(folder: Path) -> None:
    """They are its own format: workloads are found by structure, and traces can be replayed."""
    database = ms.database.JSONDatabase(work_dir=str(folder))
    assert len(database) == 2
    found = database.query_schedule(workload(SECOND.problem), problems.TARGET.tvm_target(), "main")
    assert configuration_of(found) == other_than_default(SECOND)


def test_a_new_record_replaces_the_old_one(folder: Path) -> None:
    default = default_configuration(FIRST.problem, DOT)
    Database(folder, problems.TARGET).keep({FIRST: (default, 5e-4), task(n=4): (other_than_default(task(n=4)), 1.0)})
    database = Database(folder, problems.TARGET)
    assert len(database.records) == len((folder / WORKLOADS).read_text().splitlines()) == 3
    assert database.records[FIRST.key].configuration == default
    assert database.records[SECOND.key].configuration == other_than_default(SECOND)
    assert len(ms.database.JSONDatabase(work_dir=str(folder))) == 3


def test_nothing_half_written_is_left(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {TARGET, WORKLOADS, RECORDS}


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_kill_between_the_files_leaves_valid_records(
    folder: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three files cannot be replaced at once."""
    replace, calls = Path.replace, iter(range(10))

    def killed(path: Path, target: Path) -> Path:
        if next(calls) == written:
            raise KeyboardInterrupt
        return replace(path, target)

    database = Database(folder, problems.TARGET)
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        database.keep({task(n=4): (other_than_default(task(n=4)), 1.0)})
    monkeypatch.undo()
    assert len(read_records(folder, problems.TARGET)) in (2, 3)
    assert len(ms.database.JSONDatabase(work_dir=str(folder))) in (2, 3)
    assert {path.name for path in folder.iterdir()} == {TARGET, WORKLOADS, RECORDS}


def test_records_of_another_target_are_refused(folder: Path) -> None:
    with pytest.raises(TuneError, match=r"are of 'llvm', not of 'llvm-avx2'"):
        find_records(resolve("llvm-avx2"), folder)
    with pytest.raises(TuneError, match="not of 'llvm-avx2'"):
        Database(folder, resolve("llvm-avx2"))


def test_folder_without_records(tmp_path: Path) -> None:
    with pytest.raises(TuneError, match="holds no records for llvm"):
        find_records(problems.TARGET, tmp_path)


def test_default_folder_need_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not len(find_records(problems.TARGET, "tuning_logs"))


def test_default_folder_is_found_where_the_user_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    folder.rename(folder.parent / "tuning_logs")
    (folder.parent / "tuning_logs").rename(folder)
    (folder.parent / "tuning_logs").mkdir()
    folder.rename(folder.parent / "tuning_logs" / "llvm")
    assert len(find_records(problems.TARGET, "tuning_logs")) == 2


DAMAGES = {
    "not-json": "[0,",
    "deep": "[" * 100_000,
    "no-list": "7",
    "short": "[0,[]]",
    "index-is-text": '["0",[[[],[]],[0.001],{},[]]]',
    "no-task": "[0,[[[],[]],[0.001],{},[]]]",
    "no-time": '[0,[[[["Annotate",["b0","\\"t\\""],["octet.task"],[]]],[]],[],{},[]]]',
    "negative-time": '[0,[[[["Annotate",["b0","\\"t\\""],["octet.task"],[]]],[]],[-1],{},[]]]',
    "decision-outside": '[0,[[[["SampleCategorical",[],[[1],[1.0]],["v0"]]],[[0,9]]],[0.001],{},[]]]',
    "decision-negative": '[0,[[[["SampleCategorical",[],[[1],[1.0]],["v0"]]],[[0,-1]]],[0.001],{},[]]]',
}


@pytest.mark.parametrize("line", DAMAGES.values(), ids=DAMAGES)
def test_damaged_records_are_refused(folder: Path, line: str) -> None:
    """Records come from repositories and mails: every line is checked before it steers the compiler."""
    with (folder / RECORDS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(TuneError, match=r"database_tuning_record.json is damaged: line 3"):
        read_records(folder, problems.TARGET)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "target": 3}', '{"target": "llvm"}'])
def test_damaged_target_is_refused(folder: Path, text: str) -> None:
    (folder / TARGET).write_text(text)
    with pytest.raises(TuneError, match=TARGET):
        read_records(folder, problems.TARGET)


def test_a_record_outside_the_space_is_not_used(folder: Path) -> None:
    """The templates have changed since, or somebody changed the file: no such knobs reach a template."""
    path = folder / RECORDS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for instruction in lines[0][1][0][0]:
        if instruction[0] == "SampleCategorical":
            instruction[2][0] = [1000 + value for value in instruction[2][0]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = read_records(folder, problems.TARGET)
    with pytest.warns(UserWarning, match="tune again"):
        assert records.configure(FIRST.problem, DOT) == default_configuration(FIRST.problem, DOT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records.configure(FIRST.problem, DOT)


def test_a_record_that_beat_another_default_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A better template has come since: what was fast before may be slower than what everybody gets by default."""
    newer = Configuration("newer-template")
    monkeypatch.setattr("pipeline.tuning.records.default_configuration", lambda _problem, _dot: newer)
    records = read_records(folder, problems.TARGET)
    with pytest.warns(UserWarning, match="older version"):
        assert records.configure(FIRST.problem, DOT) == newer
    assert records.tuned == 0


def test_no_records_at_all() -> None:
    assert find_records(problems.TARGET, None).configure(FIRST.problem, DOT) == Records({}).configure(
        FIRST.problem, DOT
    )
