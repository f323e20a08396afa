"""A comparison as one HTML page that needs nothing else: no script, no file, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from pipeline.comparison.compare import Comparison, TensorReport
from pipeline.comparison.statistics import BINS
from pipeline.comparison.table import HEADER, cells, decibel, summary

_STYLE = """\
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; color: #222;
  background: #fff }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin-top: 2rem } p { max-width: 70ch }
table { border-collapse: collapse; width: 100% } th { text-align: left; position: sticky; top: 0; background: #fff }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: middle }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.name { font-family: ui-monospace, monospace; font-size: 12px; overflow-wrap: anywhere }
tr:target { background: #fff3c4 } svg { display: block } svg text { font: 11px system-ui, sans-serif; fill: #555 }
.bad { fill: #c0392b } .fair { fill: #e0a030 } .good { fill: #2e7d5b } .added { fill: #7a4ea3 }
.float { fill: #9db8d2 } .compiled { fill: none; stroke: #c0392b; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  body, th { background: #16181c; color: #ddd } td, th { border-color: #3a3d44 } svg text { fill: #aaa }
  tr:target { background: #4a4220 } .float { fill: #48627c } }
"""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 1120, 220, 40, 20
_SMALL_WIDTH, _SMALL_HEIGHT = 2 * BINS, 28
_BAD, _FAIR = 15.0, 25.0
_TOP = 60.0


def to_html(result: Comparison) -> str:
    """The whole page."""
    title = f"{result.quantised} against {result.reference}"
    ordered = sorted(result.tensors, key=lambda tensor: tensor.position)
    said = "".join(f"<li>{escape(line)}</li>" for line in summary(result))
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<ul>{said}</ul>
<h2>Signal to quantisation noise, in the order of the network</h2>
<p>In dB, cut at {_TOP:.0f}; 6 dB are one bit. Red is below {_BAD:.0f}, green from {_FAIR:.0f}. Noise adds up on the
way, so the end is worse than the start even where no layer is at fault. A bar leads to its tensor.</p>
{_bars([min(tensor.sqnr, _TOP) for tensor in ordered], ordered, None)}
<h2>Noise that comes in at each tensor</h2>
<p>Noise power in percent of the signal's, against what the float operators make of the compiled model's own tensors
before this one. This answers which layer broke it: the tallest bar is where to look. Cut at 200 %.</p>
{_bars([100 * min(tensor.added, 2.0) for tensor in ordered], ordered, "added")}
<h2>Tensors, worst first</h2>
<p>Distribution: blue, the float model; red line, the compiled one; from the smallest to the largest value that the
codes can hold, or that the first batch of an output in float has; heights as square roots. Bars at the ends that the
line does not share are clipped values. Saturated: the share of elements stored as the first or last code because the
float value lies beyond it.</p>
{_table(result.tensors)}
</body>
</html>
"""


def _bars(values: Sequence[float], tensors: Sequence[TensorReport], kind: str | None) -> str:
    """One bar a tensor; coloured by how good it is, or of class ``kind``."""
    top = max([1e-3, *values])
    step = (_WIDTH - _LEFT) / max(1, len(values))
    plot = _HEIGHT - _BOTTOM
    parts = [
        f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884"/>'
        f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{label:g}</text>'
        for label in _ticks(top)
        for y in (plot - label / top * (plot - 10),)
    ]
    for index, (value, tensor) in enumerate(zip(values, tensors, strict=True)):
        height = max(0.5, value / top * (plot - 10))
        colour = kind or ("bad" if value < _BAD else "fair" if value < _FAIR else "good")
        quality = f"SQNR {decibel(tensor.sqnr)} dB, adds {100 * tensor.added:.3g} %"
        tip = f"{tensor.name} ({tensor.op_type or 'input'}): {quality}"
        parts.append(
            f'<a href="#t{tensor.position}"><rect class="{colour}" x="{_LEFT + index * step:.1f}" '
            f'y="{plot - height:.1f}" width="{max(1.0, step - 1):.1f}" height="{height:.1f}">'
            f"<title>{escape(tip)}</title></rect></a>"
        )
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 4}">input</text>')
    parts.append(f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">output</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" width="100%">{"".join(parts)}</svg>'


def _ticks(top: float) -> list[float]:
    """Some round numbers from 0 to ``top``."""
    power = 10.0 ** math.floor(math.log10(top))
    step = next(step for step in (0.2 * power, 0.5 * power, power, 2 * power) if top / step <= 6)
    return [step * i for i in range(int(top / step) + 1)]


def _table(tensors: Sequence[TensorReport]) -> str:
    head = "".join(f"<th{_kind(i)}>{escape(name)}</th>" for i, name in enumerate(HEADER)) + "<th>distribution</th>"
    rows = []
    for tensor in tensors:
        row = "".join(f"<td{_kind(i)}>{escape(cell)}</td>" for i, cell in enumerate(cells(tensor)))
        rows.append(f'<tr id="t{tensor.position}">{row}<td>{_distribution(tensor)}</td></tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(rows)}\n</tbody></table>"


def _kind(column: int) -> str:
    return ' class="name"' if column == 0 else "" if column == 1 else ' class="number"'


def _distribution(tensor: TensorReport) -> str:
    expected, actual = (_outline(row) for row in tensor.statistics.histogram)
    low, high = tensor.statistics.span
    return (
        f'<svg width="{_SMALL_WIDTH}" height="{_SMALL_HEIGHT}" role="img"><title>{low:.4g} to {high:.4g}</title>'
        f'<path class="float" d="{expected}Z"/><path class="compiled" d="{actual}"/></svg>'
    )


def _outline(counts: npt.NDArray[np.int64]) -> str:
    """The path along the tops of the bars, from one bottom corner to the other; square roots show rare values, too."""
    roots = np.sqrt(counts)
    heights = roots * ((_SMALL_HEIGHT - 2) / max(1.0, float(roots.max())))
    steps = "".join(f"V{_SMALL_HEIGHT - height:.1f}H{2 * index + 2}" for index, height in enumerate(heights))
    return f"M0,{_SMALL_HEIGHT}{steps}V{_SMALL_HEIGHT}"
