"""Results of the speed comparison as a Markdown table, as JSON and as a bar figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.machine import Machine
from experiments.measure import Timing

SAME_MACHINE = "Ratios compare engines on this one machine only; milliseconds of two machines do not compare."


@dataclass(frozen=True)
class Row:
    """One network at one thread count and batch size."""

    network: str
    threads: int
    batch: int
    macs: int
    """Multiply-accumulates of the whole batch."""
    timings: dict[str, Timing]
    """By engine name, the reference first."""

    def ratios(self, reference: str) -> dict[str, float]:
        """How many times the reference's time each other engine takes; empty where the reference was not measured."""
        if reference not in self.timings:
            return {}
        base = self.timings[reference]
        return {name: timing.times_slower_than(base) for name, timing in self.timings.items() if name != reference}


@dataclass(frozen=True)
class Report:
    machine: Machine
    settings: dict[str, Any]
    """What was asked for: target, rounds, AMX and so on."""
    peak_gmacs: float | None
    """What the target's dot-product instruction can do on one core; None where it has none."""
    reference: str
    rows: list[Row]
    preparation: dict[str, dict[str, float]]
    """By artefact: seconds and MiB that an engine which compiles ahead needed."""
    remarks: list[str]
    """Engines left out and why, failures, a busy machine."""

    def limit_ms(self, row: Row) -> float | None:
        """The time in which the target's dot-product instruction alone could do the row's work."""
        return row.macs / (self.peak_gmacs * row.threads) / 1e6 if self.peak_gmacs else None

    def to_json(self) -> dict[str, Any]:
        return {
            "note": SAME_MACHINE,
            "machine": self.machine.to_json(),
            "settings": self.settings,
            "peak_gmacs_per_core": self.peak_gmacs,
            "reference": self.reference,
            "results": [_row_to_json(row, self) for row in self.rows],
            "preparation": self.preparation,
            "remarks": self.remarks,
        }


def write_json(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")


def to_markdown(report: Report) -> str:
    """One table for each pair of thread count and batch size, the remarks below."""
    machine = report.machine
    parts = [
        f"{machine.cpu} (family-model-stepping {machine.family_model_stepping}), {machine.cores} cores, "
        f"{machine.date}, load {machine.load_average[0]:.2f}; "
        + ", ".join(f"{k} {v}" for k, v in machine.versions.items()),
    ]
    for threads, batch in settings_of(report.rows):
        rows = [row for row in report.rows if (row.threads, row.batch) == (threads, batch)]
        parts += [f"### {_threads(threads)}, batch {batch}", _table(rows, report)]
    if report.preparation:
        lines = [f"- {name}: {p['seconds']:.1f} s, {p['peak_mib']:,.0f} MiB" for name, p in report.preparation.items()]
        parts.append("Compiled ahead:\n" + "\n".join(lines))
    ratio = f"x: median over the rounds of the engine's time divided by {report.reference}'s; above 1, it is slower."
    notes = [f"ms: {report.settings['clock']} time; medians.", ratio, SAME_MACHINE, *report.remarks]
    parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def draw(report: Report, path: Path) -> None:
    """A PNG: speed of each engine on each network relative to the baseline, one panel per thread count and batch."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = settings_of(report.rows)
    fig, axes = plt.subplots(len(panels), 1, figsize=(11, 0.9 + 3.1 * len(panels)), squeeze=False, layout="constrained")
    for axis, (threads, batch) in zip(axes[:, 0], panels, strict=True):
        rows = [row for row in report.rows if (row.threads, row.batch) == (threads, batch)]
        _panel(axis, rows, f"{_threads(threads)}, batch {batch}", report.settings["clock"])
    axes[0, 0].legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.12), frameon=False)
    machine, target = report.machine, report.settings["target"]
    limited = ", without AMX" if report.settings["no_amx"] else ""
    fig.suptitle(
        f"Inference speed on {machine.cpu} ({machine.family_model_stepping}), {target}{limited}, {machine.date}\n"
        f"load average {machine.load_average[0]:.2f}, "
        + ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        fontsize=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def settings_of(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """The (threads, batch) pairs in the order of their first row."""
    return list(dict.fromkeys((row.threads, row.batch) for row in rows))


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _table(rows: Sequence[Row], report: Report) -> str:
    reference = report.reference
    engines = list(dict.fromkeys(name for row in rows for name in row.timings))
    peers = [name for name in engines if name != reference and any(reference in row.timings for row in rows)]
    header = ["network", "MMAC", "limit ms", *(f"{name} ms" for name in engines), f"{engines[0]} GMAC/s"]
    header += [f"x {name}" for name in peers]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in rows:
        first = row.timings.get(engines[0])
        ratios = row.ratios(reference)
        lines.append(
            [
                row.network,
                f"{row.macs / 1e6:,.0f}",
                _number(report.limit_ms(row)),
                *(_number(row.timings[name].median if name in row.timings else None) for name in engines),
                "–" if first is None else f"{row.macs / first.median / 1e6:,.0f}",
                *(_number(ratios.get(name)) for name in peers),
            ]
        )
    means = {name: [row.ratios(reference)[name] for row in rows if name in row.ratios(reference)] for name in peers}
    if len(rows) > 1 and peers:
        filler = [""] * (len(header) - 1 - len(peers))
        lines.append(
            ["geometric mean", *filler, *(_number(geometric_mean(means[n]) if means[n] else None) for n in peers)]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _panel(axis: Any, rows: Sequence[Row], title: str, clock: str) -> None:
    engines = list(dict.fromkeys(name for row in rows for name in row.timings))
    baseline = next((name for name in engines if name == "onnxruntime-int8"), engines[0])
    width = 0.8 / len(engines)
    for number, name in enumerate(engines):
        places, heights = [], []
        for place, row in enumerate(rows):
            if name in row.timings and baseline in row.timings:
                places.append(place + (number - (len(engines) - 1) / 2) * width)
                heights.append(row.timings[baseline].times_slower_than(row.timings[name]))
        bars = axis.bar(places, heights, width * 0.94, label=name)
        labels = [f"{row.timings[name].median:.1f}" for row in rows if name in row.timings and baseline in row.timings]
        axis.bar_label(bars, labels, fontsize=7, padding=1)
    axis.axhline(1, color="grey", linewidth=0.6)
    axis.set_xticks(range(len(rows)), [row.network for row in rows])
    axis.set_ylabel(f"speed, {baseline} = 1")
    axis.set_title(f"{title} (milliseconds of {clock} time on the bars; higher is faster)", fontsize=10, loc="left")
    axis.margins(y=0.12)
    axis.spines[["top", "right"]].set_visible(False)


def _row_to_json(row: Row, report: Report) -> dict[str, Any]:
    return {
        "network": row.network,
        "threads": row.threads,
        "batch": row.batch,
        "mmac": round(row.macs / 1e6, 1),
        "limit_ms": _rounded(report.limit_ms(row)),
        "engines": {
            name: {
                "median_ms": _rounded(timing.median),
                "best_ms": _rounded(timing.best),
                "gmacs": _rounded(row.macs / timing.median / 1e6),
                "rounds_ms": [_rounded(value) for value in timing.rounds],
            }
            for name, timing in row.timings.items()
        },
        "times_slower_than_reference": {name: _rounded(ratio) for name, ratio in row.ratios(report.reference).items()},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count != 1)
