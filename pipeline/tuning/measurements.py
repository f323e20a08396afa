"""The log of all measurements: one JSON object a line, appended whole, so that nothing is lost when a search is killed.

It lies in a build folder and is a cache of this machine, nothing to be shipped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import schedules
from pipeline.errors import TuneError
from pipeline.passes import kernel_lowering, stack_buffers, work_stealing
from pipeline.runtime.cpu import cpu_name
from pipeline.tuning.task import configuration_from_json, configuration_to_json
from schedules.template import Configuration

FORMAT = 1


@dataclass(frozen=True)
class Measurement:
    """What came of one configuration of a task."""

    task: str
    configuration: Configuration
    program: str
    """Hash of the scheduled kernel; empty where there is none, because the template failed."""
    seconds: float | None
    """None where it could not be compiled or run."""


@dataclass(frozen=True)
class Contest:
    """The last comparison of a task's best with its default: who took part and who won."""

    task: str
    finalists: tuple[Configuration, ...]
    winner: Configuration
    seconds: float
    gain: float
    """Default's time by winner's, less 1."""


class MeasurementLog:
    """What was measured for one target and thread count, on this CPU. Without ``resume``, earlier lines are ignored."""

    def __init__(self, path: Path, threads: int, *, resume: bool = True) -> None:
        self._path, self._threads = path, threads
        self._by_program: dict[str, float] = {}
        self._by_task: dict[str, dict[Configuration, Measurement]] = {}
        self._contests: dict[str, Contest] = {}
        for entry, current in self._read() if resume else ():
            self._note(entry, current)

    def seconds(self, program: str) -> float | None:
        """Of a program, whatever the configuration that makes it; None where it has not been measured."""
        return self._by_program.get(program)

    def task(self, key: str) -> dict[Configuration, Measurement]:
        """What is known of a task from kernels of today's templates."""
        return dict(self._by_task.get(key, {}))

    def contest(self, key: str) -> Contest | None:
        """The last one of a task, with kernels of today's templates."""
        return self._contests.get(key)

    def append(self, entry: Measurement | Contest) -> None:
        """Add to the file, in one write.

        Raises:
            TuneError: the file cannot be written.
        """
        fields = {
            "format": FORMAT, "threads": self._threads, "cpu": cpu_name(), "templates": templates_hash(),
            **_json(entry),
        }  # fmt: skip
        line = b"\n" + json.dumps(fields).encode()  # the line before may be torn
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise TuneError(f"cannot write the log of measurements {self._path}: {error.strerror}") from error
        self._note(entry, current=True)

    def _note(self, entry: Measurement | Contest, current: bool) -> None:
        if isinstance(entry, Contest):
            if current:
                self._contests[entry.task] = entry
            return
        if entry.program and entry.seconds is not None:
            self._by_program[entry.program] = entry.seconds
        if current:
            self._by_task.setdefault(entry.task, {})[entry.configuration] = entry

    def _read(self) -> Iterator[tuple[Measurement | Contest, bool]]:
        """The entries of this CPU and thread count, and whether they are of today's templates.

        A line that a killed process left unfinished, or that something else damaged, is left out.
        """
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise TuneError(f"cannot read the log of measurements {self._path}: {error.strerror}") from error
        for line in lines:
            fields = _fields(line)
            if fields is not None and (fields.get("threads"), fields.get("cpu")) == (self._threads, cpu_name()):
                entry = _entry(fields)
                if entry is not None:
                    yield entry, fields.get("templates") == templates_hash()


def _fields(line: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) and fields.get("format") == FORMAT else None


def _json(entry: Measurement | Contest) -> dict[str, Any]:
    if isinstance(entry, Measurement):
        return {
            "task": entry.task, "configuration": configuration_to_json(entry.configuration), "program": entry.program,
            "seconds": entry.seconds,
        }  # fmt: skip
    return {
        "task": entry.task, "finalists": [configuration_to_json(c) for c in entry.finalists],
        "winner": configuration_to_json(entry.winner), "seconds": entry.seconds, "gain": entry.gain,
    }  # fmt: skip


def _entry(fields: dict[str, Any]) -> Measurement | Contest | None:
    try:
        task, seconds = str(fields["task"]), fields["seconds"]
        if "finalists" not in fields:
            time = None if seconds is None else _positive(seconds)
            return Measurement(task, configuration_from_json(fields["configuration"]), str(fields["program"]), time)
        finalists = tuple(configuration_from_json(value) for value in fields["finalists"])
        winner, gain = configuration_from_json(fields["winner"]), float(fields["gain"])
        return Contest(task, finalists, winner, _positive(seconds), gain)
    except (ValueError, KeyError, TypeError):
        return None


def _positive(value: Any) -> float:
    if not isinstance(value, float) or not 0 < value < math.inf:
        raise ValueError(value)
    return value


@cache
def templates_hash() -> str:
    """Of everything that makes code of a configuration: the schedules' and the lowering's sources, TVM's version."""
    digest = sha256(version("apache-tvm").encode())
    for module in (kernel_lowering, stack_buffers, work_stealing):
        digest.update(Path(str(module.__file__)).read_bytes())
    folder = Path(schedules.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
