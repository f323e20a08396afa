"""``octet tune``: search the schedules of networks for a target."""

from __future__ import annotations

import argparse
import math
import re
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pipeline
from pipeline.errors import InputError
from pipeline.targets import NATIVE, PRESETS
from pipeline.tuning import LOGS_FOLDER, RECORDS_FOLDER, TRIALS

if TYPE_CHECKING:
    from pipeline.tuning.tuner import Progress

HELP = "search for faster schedules of a model's layers on this machine"
DESCRIPTION = """\
Tries other schedules for the convolutions and fully connected layers of one or more
networks, measures them on this machine, and keeps those that beat the default by more
than noise and give the same bits. Every later `octet compile` for the target uses them.
Layers of equal work are searched once, whatever network they come from.
All measurements are logged at once: after an interruption, or with more trials, the same
command goes on from there. docs/tune.md tells the whole story. Needs XGBoost:
pip install xgboost-cpu."""
EPILOG = f"""\
targets: {", ".join([NATIVE, *PRESETS])}

examples:
  octet tune model.onnx                              for this machine, until nothing is left to try
  octet tune model.onnx --budget 10m                 in ten minutes; again for ten more
  octet tune *.onnx --target llvm-avx2 --trials 200
  octet tune model.onnx --batch 32 --threads 2       as it will be run
"""

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_ROWS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL.onnx", help="the quantised networks")
    parser.add_argument("--target", default=NATIVE, metavar="NAME", help="hardware to tune for (default: native)")
    parser.add_argument("--batch", type=int, metavar="N", help="value of a symbolic first dimension (default: 1)")
    parser.add_argument("--trials", type=int, default=TRIALS, metavar="N", help=f"schedules a task (default: {TRIALS})")
    parser.add_argument("--budget", type=seconds, metavar="TIME", help="stop after 90s, 10m, 2h (default: no limit)")
    parser.add_argument("--task-budget", type=seconds, metavar="TIME", help="the same for each task")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of a call (default: 1)")
    parser.add_argument(
        "--records", default=RECORDS_FOLDER, metavar="DIR", help=f"where the winners go (default: {RECORDS_FOLDER})"
    )
    parser.add_argument(
        "--logs", default=LOGS_FOLDER, metavar="DIR", help=f"where the measurements go (default: {LOGS_FOLDER})"
    )
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True,
        help="go on from the measurements of earlier runs (default: yes)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: 0)")


def seconds(text: str) -> float:
    """A time such as ``90``, ``90s``, ``10m`` or ``1.5h`` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match or not 0 < (value := float(match[1]) * _UNITS[match[2]]) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90s, 10m or 2h")
    return value


def main(options: argparse.Namespace) -> None:
    from pipeline.tuning.report import table

    if options.batch is not None and options.batch < 1:
        raise InputError(f"--batch {options.batch}: give 1 or more")
    live = _Live(verbose=options.verbose)
    try:
        result = pipeline.tune(
            options.models,
            options.target,
            batch=options.batch,
            trials=options.trials,
            budget=options.budget,
            task_budget=options.task_budget,
            threads=options.threads,
            records=options.records,
            logs=options.logs,
            resume=options.resume,
            seed=options.seed,
            watch=live.watch,
            warn=live.warn,
        )
    finally:
        live.clear()
    print(table(result.tasks))
    undecided = sum(not entry.decided for entry in result.tasks)
    faster = sum(entry.contest is not None and entry.contest.winner != entry.default for entry in result.tasks)
    print(f"{faster} of {len(result.tasks)} tasks are faster than by default; records in {result.folder}")
    if undecided:
        print(f"{undecided} tasks have no final result yet (marked ?): run the same command again to go on")


class _Live:
    """A table on stderr that is drawn over itself; a line for each round where that is no terminal."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self._drawn = 0
        self._warned = 0

    def watch(self, phase: str, tasks: Sequence[Progress], left: float | None) -> None:
        """Show how far the search is."""
        from pipeline.tuning.report import duration, found_seconds, table

        eta = "" if left is None else f", {duration(left)} left"
        status = f"{duration(time.monotonic() - self._start)}  {phase}{eta}"
        if self._terminal:
            self.clear()
            width = shutil.get_terminal_size().columns
            lines = [line[: width - 1] for line in [*table(tasks, _ROWS).splitlines(), status]]
            print("\n".join(lines), file=sys.stderr, flush=True)
            self._drawn = len(lines)
            return
        begun = [entry for entry in tasks if entry.default_seconds is not None]
        before = sum(e.task.weight * (e.default_seconds or 0.0) for e in begun)
        after = sum(e.task.weight * found_seconds(e) for e in begun)
        gain = f", {before / after - 1:+.1%}" if after else ""
        trials = sum(entry.trials for entry in tasks)
        print(f"{status}; {len(begun)} of {len(tasks)} tasks, {trials} trials{gain}", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Show what went wrong: the first time, and always with --verbose."""
        self._warned += 1
        if self._verbose or self._warned == 1:
            self.clear()
            more = "" if self._verbose else " (more of these with --verbose)"
            print(f"octet: {text}{more}", file=sys.stderr)

    def clear(self) -> None:
        """Remove the table from the terminal."""
        if self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="", file=sys.stderr, flush=True)
            self._drawn = 0
