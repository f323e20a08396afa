"""What a search has found for a target, as the compiler reads it: without MetaSchedule, and trusting nothing.

A folder of records holds ``target.json`` and MetaSchedule's two files, one JSON value a line. The choice of a record is
in its trace: the task and the template as annotations, the knobs as ``sample_categorical`` with their decisions.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipeline
from pipeline.errors import TuneError
from pipeline.targets import DeployTarget
from pipeline.tuning import RECORDS_FOLDER
from pipeline.tuning.task import task_key
from schedules.compute.conv2d import Conv2d
from schedules.convolution import default_configuration, is_valid
from schedules.intrinsics.x86 import DotProduct
from schedules.template import Configuration

TARGET, WORKLOADS, RECORDS = "target.json", "database_workload.json", "database_tuning_record.json"
FORMAT = 1

TASK, TEMPLATE, KNOB, RIVAL = "octet.task", "octet.template", "octet.knob.", "octet.default"
"""Annotations of a trace: the task, the template, each knob by its name, and the default that the record was compared
with."""

MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Record:
    """The best configuration of a task, its seconds, and the default that it was compared with, as text."""

    task: str
    configuration: Configuration
    seconds: float
    default: str


class Records:
    """Chooses the schedules of convolutions: the record of their task where there is one, else the default."""

    def __init__(self, records: Mapping[str, Record], where: str = "") -> None:
        self._records, self._where = records, where
        self._warned = False
        self._tuned: set[Conv2d] = set()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def tuned(self) -> int:
        """How many different problems got their configuration from a record."""
        return len(self._tuned)

    def configure(self, problem: Conv2d, dot: DotProduct) -> Configuration:
        """See ``pipeline.passes.emit_kernels.Configure``. Warns once where records are too old to be used.

        They are when the templates no longer have such knobs, or by now prefer another default, which nobody has
        compared them with.
        """
        default = default_configuration(problem, dot)
        record = self._records.get(task_key(problem))
        if record is None:
            return default
        if record.default == str(default) and is_valid(problem, dot, record.configuration):
            self._tuned.add(problem)
            return record.configuration
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._where}: the record of {record.task} ({record.configuration}) is of an older version of Octet; "
                "it is not used, nor are others like it: tune again",
                stacklevel=2,
            )
        return default


def find_records(target: DeployTarget, folder: str | os.PathLike[str] | None) -> Records:
    """The records of ``target`` in ``folder``, or in its folder of the target's name; none where ``folder`` is None.

    For :data:`pipeline.tuning.RECORDS_FOLDER`, in the current folder or else beside the package, there need be none.

    Raises:
        TuneError: there are none in a folder that was named, or they are damaged or of another target.
    """
    if folder is None:
        return Records({})
    if str(folder) == RECORDS_FOLDER:
        places = [Path(RECORDS_FOLDER), Path(pipeline.__file__).parents[1] / RECORDS_FOLDER]
        found = next((place / target.name for place in places if (place / target.name / TARGET).is_file()), None)
        return read_records(found, target) if found else Records({})
    given = Path(folder)
    for place in (given, given / target.name):
        if (place / TARGET).is_file():
            return read_records(place, target)
    raise TuneError(f"{given} holds no records for {target.name}: no {TARGET} in it, nor in {given / target.name}")


def read_records(folder: Path, target: DeployTarget) -> Records:
    """The records in ``folder``.

    Raises:
        TuneError: they are damaged or of another target.
    """
    check_target(folder, target)
    path = folder / RECORDS
    return Records({record.task: record for record, _ in parse_records(path)}, str(path))


def check_target(folder: Path, target: DeployTarget) -> dict[str, Any]:
    """What ``target.json`` says.

    Raises:
        TuneError: it is damaged, or the records are of another target or of another version of the format.
    """
    path = folder / TARGET
    try:
        fields = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON ({error})") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("target"), str):
        raise _damaged(path, "it does not name a target")
    if fields.get("format") != FORMAT:
        raise TuneError(f"{path} has format {fields.get('format')!r:.20} and this Octet reads {FORMAT}; tune again")
    if fields["target"] != target.name:
        raise TuneError(
            f"the records in {folder} are of {fields['target']!r:.60}, not of {target.name!r}: what is fast on one is "
            "not on another; name another folder, or tune for this target"
        )
    return fields


def parse_records(path: Path) -> Iterator[tuple[Record, Any]]:
    """The records of MetaSchedule's file, each with its JSON value.

    Raises:
        TuneError: a line is not what MetaSchedule writes for a workload of ours.
    """
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            yield _record(value), value
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise _damaged(path, f"line {number}: {type(error).__name__}: {error!s:.80}") from None


def _record(value: Any) -> Record:
    index, ((instructions, decisions), seconds, _target, _arguments) = value
    if not isinstance(index, int) or not 0 < (time := float(seconds[0])) < float("inf"):
        raise ValueError("the index or the time makes no sense")
    chosen = {int(at): int(decision) for at, decision in decisions}
    drawn: dict[str, int] = {}
    annotations: dict[str, str | int] = {}
    for at, (kind, inputs, attributes, outputs) in enumerate(instructions):
        if kind == "SampleCategorical":
            if chosen[at] < 0:
                raise ValueError("a decision is negative")
            drawn[outputs[0]] = int(attributes[0][chosen[at]])
        elif kind == "Annotate":
            text = inputs[1]
            annotations[attributes[0]] = drawn[text] if text in drawn else str(json.loads(text))
    knobs = {name[len(KNOB) :]: number for name, number in annotations.items() if name.startswith(KNOB)}
    if not all(isinstance(number, int) for number in knobs.values()):
        raise ValueError("a knob is not a number")
    configuration = Configuration(
        str(annotations[TEMPLATE]), tuple(sorted((name, int(number)) for name, number in knobs.items()))
    )
    return Record(str(annotations[TASK]), configuration, time, str(annotations[RIVAL]))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _damaged(path, f"it has more than {MAX_BYTES >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TuneError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise _damaged(path, "it is not text") from None


def _damaged(path: Path, what: str) -> TuneError:
    return TuneError(f"{path} is damaged: {what}; restore or delete its folder, or compile without records")
