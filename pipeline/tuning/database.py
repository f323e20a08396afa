"""Writes the records of a target: the two files of MetaSchedule's JSON database, and ``target.json`` beside them.

The record of a task replaces the one before it; workloads keep their numbers. Each file is replaced as a whole, the
workloads first and ``target.json`` last, so that at every moment the records refer to what is there.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tvm.s_tir import meta_schedule as ms

import pipeline
from pipeline.errors import TuneError
from pipeline.runtime.cpu import cpu_name
from pipeline.targets import DeployTarget
from pipeline.tuning.records import FORMAT, RECORDS, RIVAL, TARGET, WORKLOADS, Record, check_target, parse_records
from pipeline.tuning.space import BLOCK, Space, workload
from pipeline.tuning.task import Task
from schedules.convolution import default_configuration
from schedules.intrinsics.x86 import DOT_PRODUCTS
from schedules.template import Configuration


class Database:
    """The records of one target in a folder, which need not exist."""

    def __init__(self, folder: Path, target: DeployTarget) -> None:
        """Read what is there.

        Raises:
            TuneError: the records are damaged or of another target.
        """
        self._folder, self._target = folder, target
        self._dot = DOT_PRODUCTS[target.dot]
        self._workloads: list[str] = []
        self._values: dict[str, Any] = {}
        self.records: dict[str, Record] = {}
        if (folder / TARGET).is_file():
            check_target(folder, target)
            self._workloads = (folder / WORKLOADS).read_text(encoding="utf-8").splitlines()
            for record, value in parse_records(folder / RECORDS):
                self._values[record.task] = value
                self.records[record.task] = record

    def keep(self, winners: Mapping[Task, tuple[Configuration, float]]) -> None:
        """Add the configuration and seconds of tasks, and write the files.

        Raises:
            TuneError: the folder cannot be written.
        """
        for task, (configuration, seconds) in winners.items():
            default = str(default_configuration(task.problem, self._dot))
            self.records[task.key] = Record(task.key, configuration, seconds, default)
            self._values[task.key] = self._value(task, configuration, seconds, default)
        header = {
            "format": FORMAT, "target": self._target.name, "cpu": cpu_name(),
            "octet": pipeline.__version__, "tvm": version("apache-tvm"),
        }  # fmt: skip
        lines = [json.dumps(value, separators=(",", ":")) for value in self._values.values()]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._replace(WORKLOADS, "".join(f"{line}\n" for line in self._workloads))
            self._replace(RECORDS, "".join(f"{line}\n" for line in lines))
            self._replace(TARGET, json.dumps(header, indent=1) + "\n")
        except OSError as error:
            raise TuneError(f"cannot write the records in {self._folder}: {error.strerror or error}") from error

    def _value(self, task: Task, configuration: Configuration, seconds: float, default: str) -> list[Any]:
        entry = ms.database.Workload(workload(task.problem))
        line = json.dumps(entry.as_json(), separators=(",", ":"))
        if line not in self._workloads:
            self._workloads.append(line)
        schedule = Space(task.problem, self._dot).schedule(configuration)
        schedule.annotate(schedule.get_sblock(BLOCK), RIVAL, default)
        arguments = ms.arg_info.ArgInfo.from_entry_func(schedule.mod, False)
        target: Any = self._target.tvm_target(num_cores=1)
        record = ms.database.TuningRecord(schedule.trace, entry, [seconds], target, arguments)
        return [self._workloads.index(line), record.as_json()]

    def _replace(self, name: str, text: str) -> None:
        partial = self._folder / f".{name}.{secrets.token_hex(4)}"
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._folder / name)
        finally:
            partial.unlink(missing_ok=True)
