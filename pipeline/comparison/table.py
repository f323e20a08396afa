"""A comparison as text."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.comparison.compare import Comparison, TensorReport
from pipeline.comparison.statistics import MAX_DECIBEL

HEADER = ("tensor", "operator", "SQNR dB", "adds", "cosine", "max error", "in steps", "saturated")


def to_table(result: Comparison, limit: int | None = None) -> str:
    """Aligned columns, worst tensor first, at most ``limit`` of them; then what they say."""
    rows = [HEADER, *(cells(tensor) for tensor in result.tensors[:limit])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    hidden = len(result.tensors) - len(rows) + 1
    more = [f"and {hidden} better ones; --all shows them"] if hidden else []
    return "\n".join([*lines, *more, "", *summary(result)])


def cells(tensor: TensorReport) -> tuple[str, ...]:
    """What a table shows of a tensor, in the order of :data:`HEADER`."""
    found = tensor.statistics
    return (
        tensor.name,
        tensor.op_type or "input",
        decibel(tensor.sqnr),
        f"{100 * tensor.added:.3f} %",
        f"{found.cosine:.5f}",
        f"{found.max_error:.4g}",
        "-" if found.max_error_steps is None else f"{found.max_error_steps:.1f}",
        "-" if found.saturation is None else f"{100 * found.saturation:.3f} %",
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, numbers to the right."""
    return [
        text.ljust(width) if i < 2 else text.rjust(width)
        for i, (text, width) in enumerate(zip(row, widths, strict=True))
    ]


def decibel(value: float) -> str:
    """An SQNR for people."""
    return "exact" if value >= MAX_DECIBEL else f"{value:.1f}"


def summary(result: Comparison) -> list[str]:
    """Sentences below the table."""
    models = f"{result.quantised} for {result.target} against {result.reference}"
    lines = [f"{models}: {len(result.tensors)} tensors, {result.samples} sample{'s' if result.samples != 1 else ''}"]
    culprit = result.culprit
    if culprit and culprit.added > 0:
        lines.append(
            f"most noise comes in at {culprit.name} ({culprit.op_type or 'input'}): "
            f"{100 * culprit.added:.3g} % of the signal's power"
        )
    left = [
        f"{count} of the {whose} model"
        for count, whose in ((result.unmatched_reference, "float"), (result.unmatched_quantised, "quantised"))
        if count
    ]
    if left:
        lines.append(f"left out, for lack of a counterpart: {' and '.join(left)}")
    if result.equalized:
        lines.append(
            "the float model was equalised first, as the quantised one was: its tensors are not those of the file"
        )
    if result.same_output is not None:
        bits = "are the same bits" if result.same_output else "DIFFER: report this, it is a fault in Octet"
        lines.append(f"the library's outputs and those of the model compared here {bits}")
    return lines
