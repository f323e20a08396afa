"""The table of a search, while it runs and at the end."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.tuning.tuner import Progress

_HEADER = f"{'task':<60} {'calls':>5} {'trials':>6} {'default':>9} {'best':>9} {'gain':>7}"


def table(tasks: Sequence[Progress], rows: int | None = None) -> str:
    """The tasks with the most time first, at most ``rows`` of them, and their sum. Times are in microseconds a call."""
    started = [entry for entry in tasks if entry.default_seconds is not None]
    ordered = sorted(started, key=lambda e: -e.task.weight * (e.default_seconds or 0.0))
    lines = [_HEADER, *(_row(entry) for entry in ordered[:rows])]
    hidden = len(tasks) - min(len(ordered), len(ordered) if rows is None else rows)
    if hidden:
        lines.append(f"... and {hidden} more, {len(tasks) - len(started)} of them not begun")
    before = sum(e.task.weight * (e.default_seconds or 0.0) for e in started)
    after = sum(e.task.weight * found_seconds(e) for e in started)
    trials = sum(e.trials for e in tasks)
    calls = sum(e.task.weight for e in started)
    lines.append(_line("all of these, milliseconds a run", calls, trials, before * 1e3, after * 1e3, ""))
    return "\n".join(lines)


def found_seconds(entry: Progress) -> float:
    """Of a task: as decided, else the best so far, which a final comparison may not confirm."""
    return entry.contest.seconds if entry.contest else min(entry.best_seconds, entry.default_seconds or float("inf"))


def _row(entry: Progress) -> str:
    mark = "" if entry.decided else " ?"
    before, after = (entry.default_seconds or 0.0) * 1e6, found_seconds(entry) * 1e6
    return _line(entry.task.key, entry.task.weight, entry.trials, before, after, mark)


def _line(name: str, calls: int, trials: int, before: float, after: float, mark: str) -> str:
    gain = f"{before / after - 1:+.1%}" if after else ""
    short = name if len(name) <= 60 else f"{name[:57]}..."
    return f"{short:<60} {calls:>5} {trials:>6} {before:>9.1f} {after:>9.1f} {gain:>7}{mark}"


def duration(seconds: float) -> str:
    """As ``1:02:03`` or ``2:03``."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
