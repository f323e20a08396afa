"""Results of the accuracy study: as a Markdown table, as JSON, as a figure, and what they decide."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.accuracy_rows import DEFAULT, MINMAX, NARROW_BITS, ONNXRUNTIME, PEERS, REFERENCE, STUDIES, Row
from experiments.machine import describe

# What the quantiser promises for its defaults, on all images: a top-1 in percent, or a loss of at most MAX_LOSS.
LEAST_TOP1 = {"resnet20-cifar10": 91.6, "mlperf-ic-resnet8": 87.0}
MAX_LOSS = 0.8


Counts = tuple[int, ...]
"""Images, a number for each split of the set into those to calibrate on and those to test with."""


@dataclass(frozen=True)
class Score:
    """How a network did on the test images."""

    images: int
    """Of the set: each is tested once a split."""
    right: Counts
    same_class: Counts
    """Images that the FP32 model gives the same class."""
    sqnr_db: float
    """Of the output of the network against the FP32 model's; less noisy than counts of few images."""
    folds: int = 1
    """Of a split."""
    calibration_images: int = 0
    """A fold."""
    quantize_seconds: float = 0.0
    """All folds together."""
    library_right: Counts | None = None
    """The compiled library's count, where it was measured."""
    library_other_class: Counts | None = None
    """Images on which the library and onnxruntime, running the same QDQ file, choose different classes."""
    literal_right: Counts | None = None
    """onnxruntime's count with the operators of the QDQ file one by one, where the library was measured."""
    literal_other_class: Counts | None = None
    """Images on which onnxruntime chooses different classes with and without its graph optimisations."""
    right_alone: Counts | None = None
    """Images that this network gets right and the default does not, where both were measured."""
    default_right_alone: Counts | None = None
    """The reverse."""

    @property
    def p_value(self) -> float | None:
        """Of McNemar's exact test, two-sided: how likely a difference so large is if both are equally accurate.

        None with several splits: the same images tested again are not new ones.
        """
        if self.right_alone is None or self.default_right_alone is None or len(self.right) > 1:
            return None
        changed = self.right_alone[0] + self.default_right_alone[0]
        fewer = min(self.right_alone[0], self.default_right_alone[0])
        return min(1.0, 2 * sum(math.comb(changed, k) for k in range(fewer + 1)) / 2**changed)

    @property
    def top1(self) -> float:
        """Percent, as all shares here; the mean over the splits."""
        return self.share(self.right)

    @property
    def agreement(self) -> float:
        return self.share(self.same_class)

    @property
    def library_top1(self) -> float | None:
        return None if self.library_right is None else self.share(self.library_right)

    @property
    def literal_top1(self) -> float | None:
        return None if self.literal_right is None else self.share(self.literal_right)

    def share(self, counts: Counts) -> float:
        return 100 * sum(counts) / (self.images * len(counts))


Results = dict[str, dict[Row, Score]]
"""By model, REFERENCE first."""


def verdicts(results: Results) -> list[dict[str, Any]]:
    """What was to be shown, a dictionary each with ``model``, ``claim``, ``figures`` and ``holds``."""
    found = []
    for model, rows in results.items():
        checks = (_accurate(model, rows), *_library(rows), _ahead_of_peers(rows), *_narrow(rows))
        found += [{"model": model, **check} for check in checks if check]
    return found


def _accurate(model: str, rows: dict[Row, Score]) -> dict[str, Any] | None:
    if DEFAULT not in rows:
        return None
    float_, ours = rows[REFERENCE].top1, rows[DEFAULT].top1
    least = LEAST_TOP1.get(model, float_ - MAX_LOSS)
    claim = "default accurate enough"
    return {"claim": claim, "figures": f"{ours:.2f} ≥ {least:.2f} (FP32 {float_:.2f})", "holds": ours >= least - 1e-9}


def _library(rows: dict[Row, Score]) -> list[dict[str, Any]]:
    """Against both ways in which onnxruntime runs the file: as ONNX defines it, and with the kernels that users get."""
    if DEFAULT not in rows:
        return []
    ours = rows[DEFAULT]
    library, literal = ours.library_top1, ours.literal_top1
    if library is None or literal is None:
        return []
    between, own = (sum(counts) for counts in (ours.library_other_class, ours.literal_other_class) if counts)
    allowed = max(0.1, 100 / ours.images) + 1e-9  # One image of few must not decide.
    return [
        {
            "claim": "compiled as accurate as the QDQ file, operator by operator",
            "figures": f"{library:.2f} compiled, {literal:.2f}",
            "holds": abs(library - literal) <= allowed,
        },
        {
            "claim": "compiled as accurate as onnxruntime's fused kernels",
            "figures": f"{library:.2f} compiled, {ours.top1:.2f}; images of another class than these choose: "
            f"{between} compiled, {own} operator by operator{_splits(ours.right)}",
            "holds": abs(library - ours.top1) <= allowed,
        },
    ]


def _ahead_of_peers(rows: dict[Row, Score]) -> dict[str, Any] | None:
    peers = [row for row in PEERS if row in rows]
    if DEFAULT not in rows or not peers:
        return None
    figures = ", ".join(f"{row.method} {rows[row].top1:.2f}{_chance(rows[row])}" for row in peers)
    holds = all(rows[DEFAULT].top1 >= rows[row].top1 - 1e-9 for row in peers)
    return {"claim": "default ≥ onnxruntime", "figures": f"{rows[DEFAULT].top1:.2f}; {figures}", "holds": holds}


def _chance(score: Score) -> str:
    """How many images the default alone, and this one alone, get right, all splits together."""
    if score.right_alone is None or score.default_right_alone is None:
        return ""
    images = f"{sum(score.default_right_alone)} : {sum(score.right_alone)} images{_splits(score.right)}"
    return f" ({images}{'' if score.p_value is None else f', p = {score.p_value:.2f}'})"


def _splits(counts: Counts) -> str:
    return f" in {len(counts)} splits" if len(counts) > 1 else ""


def _narrow(rows: dict[Row, Score]) -> list[dict[str, Any]]:
    plain = Row(method="minmax", bits=4, weight_range="minmax")
    best = Row(bits=4, weight_range="output")
    per_tensor = Row(granularity="per-tensor", bits=4, weight_range="output")
    found = []
    for claim, better, worse in (
        ("4 bits: least squared error of results ahead of min-max", best, plain),
        ("4 bits: per channel ahead of per tensor", best, per_tensor),
    ):
        if better in rows and worse in rows:
            figures = f"{rows[better].top1:.2f}, {rows[worse].top1:.2f}"
            found.append({"claim": claim, "figures": figures, "holds": rows[better].top1 >= rows[worse].top1})
    return found


def to_markdown(results: Results) -> str:
    """A table for each model, and one of what was to be shown."""
    return "\n\n".join([*(_table(model, rows) for model, rows in results.items()), _verdict_table(verdicts(results))])


def _table(model: str, rows: dict[Row, Score]) -> str:
    float_ = rows[REFERENCE]
    measured = [score for row, score in rows.items() if row != REFERENCE]
    folds = max((score.folds for score in measured), default=1)
    calibration = max((score.calibration_images for score in measured), default=0)
    header = (
        "quantiser", "observer", "symmetric", "weights", "bits", "weight range",
        "splits", "top-1", "loss", "same class as FP32", "SQNR dB", "compiled", "s",
    )  # fmt: skip
    lines = [_line(header), _line(["---"] * 4 + ["---:", "---"] + ["---:"] * 7)]
    lines += [_line(_cells(row, score, float_)) for row, score in rows.items() if row != REFERENCE]
    return (
        f"### {model}: {float_.images:,} test images, FP32 {float_.top1:.2f} %\n\n"
        f"Calibrated on up to {calibration} other images{f', {folds} folds a split' * (folds > 1)}.\n\n"
        + "\n".join(lines)
    )


def _cells(row: Row, score: Score, float_: Score) -> list[str]:
    return [
        row.quantizer,
        row.method + " **(default)**" * (row == DEFAULT),
        "yes" if row.symmetric else "no",
        row.granularity,
        str(row.bits),
        row.weight_range,
        str(len(score.right)),
        f"{score.top1:.2f}",
        f"{float_.top1 - score.top1:.2f}",
        f"{score.agreement:.2f} %",
        f"{score.sqnr_db:.1f}",
        "" if score.library_top1 is None else f"{score.library_top1:.2f}",
        f"{score.quantize_seconds:.0f}",
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _verdict_table(found: list[dict[str, Any]]) -> str:
    lines = [_line(("model", "claim", "figures", "holds")), _line(["---"] * 4)]
    lines += [_line((v["model"], v["claim"], v["figures"], "yes" if v["holds"] else "NO")) for v in found]
    return "\n".join(lines)


def write_json(results: Results, settings: dict[str, Any], path: Path) -> None:
    """The machine, the settings, each figure and the verdicts."""
    models = {
        model: [
            {**row.to_json(), **asdict(score), "top1": round(score.top1, 3), "agreement": round(score.agreement, 3)}
            for row, score in rows.items()
        ]
        for model, rows in results.items()
    }
    machine = describe(["octet", "apache-tvm", "onnx", "onnxruntime", "numpy"]).to_json()
    content = {"machine": machine, "settings": settings, "results": models, "verdicts": verdicts(results)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> Results:
    """What :func:`write_json` wrote; empty where there is no such file."""
    if not path.exists():
        return {}
    models = json.loads(path.read_text(encoding="utf-8"))["results"]
    return {model: {_row(entry): _score(entry) for entry in entries} for model, entries in models.items()}


def _row(entry: dict[str, Any]) -> Row:
    return Row(**{name: entry[name] for name in Row.__dataclass_fields__})


def _score(entry: dict[str, Any]) -> Score:
    fields: dict[str, Any] = {}
    for name in Score.__dataclass_fields__:
        value = entry[name]
        fields[name] = tuple(value) if isinstance(value, list) else value
    return Score(**fields)


def draw(results: Results, path: Path) -> None:
    """A PNG, two panels a model: the loss of each quantiser at 8 bits, and top-1 against the bits of weights."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(
        max(1, len(results)),
        2,
        figsize=(13, 0.8 + 2.6 * len(results)),
        squeeze=False,
        layout="constrained",
        width_ratios=[3, 2],
    )
    for (left, right), (model, rows) in zip(axes, results.items(), strict=True):
        _loss_panel(left, model, rows)
        _bits_panel(right, rows)
    if results:
        axes[0, 1].set_title("Top-1 against bits of the weights, and how their range is chosen", fontsize=9, loc="left")
        handles, labels = axes[0, 1].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower right", ncols=len(labels), frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    plt.close(fig)


# Bars end here, in points of top-1, so that one bad observer does not hide the others; the numbers are above them.
_HIGHEST_BAR = 4.0
# The axis shows at least so much either way, so that a few images of thousands do not look like a difference.
_LEAST_AXIS = 0.5


def _loss_panel(axis: Any, model: str, rows: dict[Row, Score]) -> None:
    float_ = rows[REFERENCE]
    shown = [row for row in (*PEERS, *STUDIES["observers"]) if row in rows]
    losses = [float_.top1 - rows[row].top1 for row in shown]
    colours = ["C1" if row.quantizer == ONNXRUNTIME else "C0" if row == DEFAULT else "#9fc3e0" for row in shown]
    heights = [min(loss, _HIGHEST_BAR) for loss in losses]
    bars = axis.bar(range(len(shown)), heights, color=colours)
    texts = [f"{loss:.2f}\n{rows[row].sqnr_db:.1f} dB" for row, loss in zip(shown, losses, strict=True)]
    axis.bar_label(bars, texts, fontsize=7, padding=1)
    axis.set_xticks(range(len(shown)), list(map(_bar_name, shown)), fontsize=7)
    axis.axhspan(-100 / float_.images, 100 / float_.images, color="0.9", zorder=0, linewidth=0)
    axis.axhline(0, color="grey", linewidth=0.6)
    low, high = min(heights, default=0.0), max(heights, default=0.0)
    room = 0.25 * max(high - low, 2 * _LEAST_AXIS)
    axis.set_ylim(min(low, -_LEAST_AXIS) - room * (low < 0), max(high, _LEAST_AXIS) + room)
    axis.set_ylabel("loss of top-1, points")
    images = f"FP32 {float_.top1:.2f} % of {float_.images:,} images (grey: one image)"
    axis.set_title(f"{model}: {images}; bars end at {_HIGHEST_BAR:g}; dB: SQNR", fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def _bar_name(row: Row) -> str:
    if row.quantizer == ONNXRUNTIME:
        return f"onnxrt\n{row.method}"
    return f"{row.method}\n(default)" if row == DEFAULT else row.method.replace("-", "-\n")


def _bits_panel(axis: Any, rows: dict[Row, Score]) -> None:
    places = {bits: place for place, bits in enumerate((8, *NARROW_BITS))}
    for granularity, colour in (("per-channel", "C0"), ("per-tensor", "C3")):
        for method, weight_range, style in ((DEFAULT.method, "output", "-o"), (MINMAX.method, "minmax", "--x")):
            wide = Row(method=method, granularity=granularity)
            narrow = [replace(wide, bits=bits, weight_range=weight_range) for bits in NARROW_BITS]
            points = [(places[row.bits], rows[row].top1) for row in (wide, *narrow) if row in rows]
            x, y = zip(*points, strict=True) if points else ((), ())
            axis.plot(x, y, style, color=colour, label=f"{granularity}, {weight_range}")
    axis.axhline(rows[REFERENCE].top1, color="grey", linewidth=0.6)
    axis.set_xticks(list(places.values()), [f"{bits} bits" for bits in places])
    axis.set_xlim(-0.3, len(places) - 0.7)
    axis.set_ylim(0, 100)
    axis.set_ylabel("top-1, %")
    axis.spines[["top", "right"]].set_visible(False)
