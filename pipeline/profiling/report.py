"""A profile as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from pipeline.profiling.profiler import COMPUTE, MEMORY, OVERHEAD, OperatorTime, Profile

_HEADER = ("ms", "share", "GMAC/s", "of peak", "GB/s", "of memory", "bound by", "operator", "kernel")
_LEFT = 6
"""Columns before this one are numbers."""


def to_text(result: Profile, top: int | None = None) -> str:
    """For people: the limits, the (``top``) operators from the slowest on, and what they all add up to."""
    limits = result.roofline
    speeds = ", ".join(f"{speed:.0f} at {_size(size)}" for size, speed in limits.bandwidths)
    how = f"batch {result.batch}, {result.threads} thread{'s' if result.threads > 1 else ''}, {result.runs} runs"
    if result.interrupted:
        how += f" (other programs interrupted {result.interrupted})"
    lines = [
        f"{result.library}: {result.model_file} for {result.target}, {how}",
        f"this machine: {limits.peak_gmacs:.0f} GMAC/s; reads in GB/s: {speeds}",
        *(["other programs ran while this was measured, so the limits are too low"] if limits.disturbed else []),
        "",
        *_table(result, top),
        "",
        *_sums(result),
    ]
    return "\n".join(lines)


def to_json(result: Profile) -> str:
    """For programs: everything there is, operators in the order of execution, times in milliseconds."""
    data = dataclasses.asdict(result)
    for entry, operator in zip(data["operators"], result.operators, strict=True):
        entry.update(entry.pop("kernel"), bound=operator.bound)
    sums = {name: getattr(result, name) for name in ("operator_milliseconds", "rest_milliseconds")}
    return json.dumps({**data, **sums}, indent=2) + "\n"


def _table(result: Profile, top: int | None) -> list[str]:
    rows = [_HEADER, *(_cells(operator, result.latency) for operator in result.by_time()[:top])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    return [
        "  ".join(
            cell.rjust(width) if i < _LEFT else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cells(operator: OperatorTime, latency: float) -> tuple[str, ...]:
    has_products = operator.kernel.macs > 0
    return (
        f"{operator.milliseconds:.4f}",
        _percent(operator.milliseconds / latency),
        f"{operator.gmacs:.1f}" if has_products else "",
        _percent(operator.of_peak) if has_products else "",
        f"{operator.gigabytes:.1f}",
        _percent(operator.of_bandwidth),
        operator.bound,
        operator.kernel.node,
        operator.kernel.name,
    )


def _sums(result: Profile) -> list[str]:
    rows: list[tuple[str, float, Any]] = []
    for bound in (COMPUTE, MEMORY, OVERHEAD):
        found = [operator.milliseconds for operator in result.operators if operator.bound == bound]
        rows.append((f"  bound by {bound}", sum(found), f"{len(found)} operators"))
    rows = [
        ("operators", result.operator_milliseconds, f"{len(result.operators)} calls of kernels"),
        *rows,
        ("virtual machine", result.machine_milliseconds, "memory and shapes, between the kernels"),
        ("rest", result.rest_milliseconds, "the call from Python, the copy of the outputs, and noise"),
        ("latency", result.latency, f"median without the profiler; {result.latency_profiled:.4f} ms with it"),
    ]
    return [
        f"{name:<19} {time:>9.4f} ms  {_percent(time / result.latency):>7}  {remark}" for name, time, remark in rows
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
