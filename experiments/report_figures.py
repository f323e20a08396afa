"""The results of the speed comparison as figures: bars of speed, and a roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.report import REFERENCE, Cell, Report
from experiments.report_tables import LABELS, counted, settings_of

FASTEST_FP32 = "fastest FP32 peer"

COLOURS = {
    "octet": "#c1272d",
    "openvino-int8": "#1f5fa8",
    "onnxruntime-int8": "#6fa8dc",
    "pytorch-int8": "#e69138",
    "ncnn-int8": "#8a9a5b",
    FASTEST_FP32: "#b7b7b7",
}
LEADER = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
"""The line from a network's name to its point."""

CACHED = 1 << 20
"""Bytes in use, for the slope of the second-level cache."""


def draw_bars(report: Report, path: Path) -> None:
    """A PNG: speed of the INT8 engines relative to the fastest peer, a panel for each batch size and thread count."""
    plt = _pyplot()
    settings = settings_of(report.cells)
    fig, axes = plt.subplots(
        len(settings), 1, figsize=(13, 0.9 + 2.9 * len(settings)), squeeze=False, layout="constrained"
    )
    for axis, (batch, threads) in zip(axes[:, 0], settings, strict=True):
        cells = [cell for cell in report.cells if (cell.batch, cell.threads) == (batch, threads)]
        _bar_panel(axis, cells, report)
        axis.set_title(f"batch {batch}, {counted(threads)}", fontsize=10, loc="left")
    handles = {label: bar for axis in axes[:, 0] for bar, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), ncols=len(handles), loc="outside lower center", frameon=False)
    fig.suptitle(
        f"Speed, fastest peer = 1; milliseconds on the bars, higher bars are faster\n{_machine(report)}", fontsize=11
    )
    _save(fig, path)


def draw_roofline(report: Report, path: Path) -> None:
    """A PNG: GMAC/s of Octet and of the fastest peer on each network, under what the machine can do.

    The abscissa is what the network does a byte: multiply-accumulates over the bytes that its operators read and write
    if nothing stays in a cache between two operators. A panel for each batch size and thread count.
    """
    plt = _pyplot()
    settings = settings_of(report.cells)
    batches, counts = (sorted(set(values)) for values in zip(*settings, strict=True))
    size = (1 + 6.5 * len(counts), 1.2 + 4.4 * len(batches))
    grid = {"squeeze": False, "sharex": True, "sharey": "col"}
    fig, axes = plt.subplots(len(batches), len(counts), figsize=size, layout="constrained", **grid)
    for batch, threads in settings:
        axis = axes[batches.index(batch), counts.index(threads)]
        _roof(axis, report, threads)
        _points(axis, [cell for cell in report.cells if (cell.batch, cell.threads) == (batch, threads)])
        axis.set(xscale="log", yscale="log", ylabel="GMAC/s")
        axis.set_title(f"batch {batch}, {counted(threads)}", fontsize=10, loc="left")
        axis.grid(visible=True, which="both", linewidth=0.3, alpha=0.6)
    for axis in axes[-1]:
        axis.set_xlabel("multiply-accumulates a byte, INT8")
    marks = {label: mark for axis in axes.flat for mark, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    fig.legend(marks.values(), marks.keys(), ncols=2, loc="outside lower center", frameon=False)
    fig.suptitle(f"Roofline: the networks under the measured peaks\n{_machine(report)}", fontsize=11)
    _save(fig, path)


def _bar_panel(axis: Any, cells: Sequence[Cell], report: Report) -> None:
    int8 = [name for name in report.engines if name in COLOURS]
    shown = [*int8, FASTEST_FP32] if any(cell.fastest_peer("fp32") for cell in cells) else int8
    width = 0.84 / len(shown)
    for number, name in enumerate(shown):
        places, heights, labels = [], [], []
        for place, cell in enumerate(cells):
            engine = cell.fastest_peer("fp32") if name == FASTEST_FP32 else name
            base = cell.fastest_peer() or REFERENCE
            speed = cell.ratio(base, engine) if engine else None
            if engine and speed is not None:
                places.append(place + (number - (len(shown) - 1) / 2) * width)
                heights.append(speed)
                median = cell.timings[engine].median
                labels.append(f"{median:.2f}" if median < 10 else f"{median:.1f}" if median < 100 else f"{median:.0f}")
        bars = axis.bar(places, heights, width * 0.94, label=LABELS.get(name, name), color=COLOURS[name])
        axis.bar_label(bars, labels, fontsize=7.5, padding=2, rotation=90)
    axis.axhline(1, color="black", linewidth=0.6, zorder=0)
    axis.set_xticks(range(len(cells)), [cell.network for cell in cells])
    axis.margins(x=0.01, y=0.28)
    axis.spines[["top", "right"]].set_visible(False)


def _roof(axis: Any, report: Report, threads: int) -> None:
    intensities = [cell.macs / cell.traffic for cell in report.cells]
    left, right = min(intensities) / 2, max(intensities) * 2
    rooflines = [roofline for roofline in report.rooflines if roofline.threads == threads]
    for roofline in rooflines:
        used = roofline.target == report.settings["target"]
        width, style = (1.4, "-") if used else (0.6, "--")
        axis.plot([left, right], [roofline.peak_gmacs] * 2, color="black", linewidth=width, linestyle=style)
        _note(axis, f"{roofline.target} {roofline.peak_gmacs:,.0f}", (left, roofline.peak_gmacs), (2, 1), va="bottom")
    own = report.roofline(threads)
    if own is None:
        return
    sizes = [CACHED, max(size for size, _ in own.bandwidths)]
    for size in sizes:
        bandwidth = own.bandwidth(size)
        end = min(right, own.peak_gmacs / bandwidth)
        if end > left:
            axis.plot([left, end], [left * bandwidth, end * bandwidth], color="grey", linewidth=1)
            text = f"{size / 2**20:.0f} MiB: {bandwidth:,.0f} GB/s"
            _note(axis, text, (left, left * bandwidth), (0, 14), va="bottom", color="grey", rotation=30)


def _note(axis: Any, text: str, at: tuple[float, float], offset: tuple[int, int], **style: Any) -> None:
    axis.annotate(text, at, xytext=offset, textcoords="offset points", fontsize=8, **style)


def _points(axis: Any, cells: Sequence[Cell]) -> None:
    """The points climb to the right: names stand right below and left above them in turns, and do not meet."""
    for number, cell in enumerate(sorted(cells, key=lambda cell: cell.macs / cell.traffic)):
        x = cell.macs / cell.traffic
        speeds = {name: cell.macs / timing.median / 1e6 for name, timing in cell.timings.items()}
        peer = cell.fastest_peer()
        if peer:
            colour = COLOURS["openvino-int8"]
            axis.scatter(x, speeds[peer], s=45, facecolors="none", edgecolors=colour, label="fastest peer", zorder=3)
        if REFERENCE in speeds:
            axis.scatter(x, speeds[REFERENCE], s=34, marker="D", color=COLOURS[REFERENCE], label="Octet", zorder=3)
        ends = [speeds[name] for name in (peer, REFERENCE) if name in speeds]
        if number % 2 == 0:
            _note(axis, cell.network, (x, max(ends)), (-6, 16), ha="right", va="bottom", arrowprops=LEADER)
        else:
            _note(axis, cell.network, (x, min(ends)), (8, -14), ha="left", va="top", arrowprops=LEADER)


def _machine(report: Report) -> str:
    machine = report.machine
    held = f", engines held to {report.settings['isa']}" if report.settings["isa"] else ""
    return (
        f"{machine.cpu} ({machine.family_model_stepping}), Octet for {report.settings['target']}{held}, {machine.date}"
    )


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _save(fig: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=120)
    _pyplot().close(fig)
