"""A profile as a picture: the operators under this machine's roofline, and those that take longest."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import InputError
from pipeline.profiling.canvas import FAINT, GREY, INK, Canvas, PngCanvas, SvgCanvas
from pipeline.profiling.profiler import COMPUTE, MEMORY, OVERHEAD, OperatorTime, Profile

COLOURS = {COMPUTE: "#2e7d5b", MEMORY: "#2f6db3", OVERHEAD: "#d0562b"}
SLOPE = "#aaaaaa"
SLOWEST = 24

_WIDTH, _HEIGHT = 1240, 620
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 600, 90, 520
_NAMES, _BARS, _END = 850, 860, 1120
_MAX_NAME = 34
_RADIUS = 22.0
_INTENSITY = (0.1, 1000.0)
"""Multiply-accumulates a byte: what the axis shows at least."""

_CANVASES: dict[str, Callable[[int, int], Canvas]] = {".svg": SvgCanvas, ".png": PngCanvas}


def check_figure_name(path: str | os.PathLike[str]) -> Path:
    """``path``, if a figure can have that name.

    Raises:
        InputError: it ends with neither .svg nor .png.
    """
    path = Path(path)
    if path.suffix.lower() not in _CANVASES:
        raise InputError(f"cannot draw {path}: give a file name that ends with {' or '.join(_CANVASES)}")
    return path


def write_figure(result: Profile, suffix: str) -> bytes:
    """The picture as the content of a file whose name ends with ``suffix``, .svg or .png."""
    canvas = _CANVASES[suffix.lower()](_WIDTH, _HEIGHT)
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    canvas.text((_LEFT, 34), f"{result.model_file}, {result.target}, batch {result.batch}, {threads}", 18)
    canvas.text(
        (_LEFT, 56),
        f"{result.latency:.3f} ms a call; {len(result.operators)} operators take {result.operator_milliseconds:.3f} ms",
        13,
        colour=GREY,
    )
    _Roof(canvas, result).draw()
    _slowest(canvas, result)
    _legend(canvas, result)
    return canvas.data()


class _Roof:
    """Multiply-accumulates a second against multiply-accumulates a byte, both logarithmic."""

    def __init__(self, canvas: Canvas, result: Profile) -> None:
        self._canvas = canvas
        self._result = result
        self._dots = [operator for operator in result.operators if operator.kernel.macs > 0]
        intensities = [*_INTENSITY, *map(_intensity, self._dots)]
        speeds = [result.roofline.peak_gmacs / 100, *(operator.gmacs for operator in self._dots)]
        self._x = _decade(min(intensities)), 1.2 * max(intensities)
        self._y = _decade(min(speeds)), 1.5 * max(result.roofline.peak_gmacs, *speeds)

    def draw(self) -> None:
        self._axes()
        slowest = max((operator.milliseconds for operator in self._result.operators), default=1.0)
        for operator in sorted(self._dots, key=lambda operator: -operator.milliseconds):
            radius = max(2.0, _RADIUS * math.sqrt(operator.milliseconds / slowest))
            self._canvas.disc(
                self._at(_intensity(operator), operator.gmacs), radius, COLOURS[operator.bound], _tip(operator)
            )
        self._limits()

    def _at(self, intensity: float, speed: float) -> tuple[float, float]:
        x, y = (
            math.log10(value / low) / math.log10(high / low)
            for value, (low, high) in ((intensity, self._x), (speed, self._y))
        )
        return _LEFT + x * (_RIGHT - _LEFT), _BOTTOM - y * (_BOTTOM - _TOP)

    def _axes(self) -> None:
        for value in _powers(*self._x):
            x, _ = self._at(value, self._y[0])
            self._canvas.line((x, _TOP), (x, _BOTTOM), FAINT, 1)
            self._canvas.text((x, _BOTTOM + 18), f"{value:g}", 12, "middle", GREY)
        for value in _powers(*self._y):
            _, y = self._at(self._x[0], value)
            self._canvas.line((_LEFT, y), (_RIGHT, y), FAINT, 1)
            self._canvas.text((_LEFT - 8, y + 4), f"{value:g}", 12, "end", GREY)
        self._canvas.text(((_LEFT + _RIGHT) / 2, _BOTTOM + 40), "multiply-accumulates a byte", 13, "middle")
        self._canvas.text((_LEFT, _TOP - 10), "GMAC/s", 13)

    def _limits(self) -> None:
        """The peak, and a slope for each bandwidth, of which the first and the last have names."""
        peak, bandwidths = self._result.roofline.peak_gmacs, self._result.roofline.bandwidths
        named = {bandwidths[0]: 0.3, bandwidths[-1]: 0.12}
        for entry in bandwidths:
            size, bandwidth = entry
            start, corner = max(self._x[0], self._y[0] / bandwidth), peak / bandwidth
            if corner <= start:
                continue
            self._canvas.line(
                self._at(start, start * bandwidth), self._at(corner, peak), INK if entry in named else SLOPE, 1.5
            )
            if entry in named:
                at = start * (corner / start) ** named[entry]
                x, y = self._at(at, at * bandwidth)
                self._canvas.text((x + 10, y + 6), f"{bandwidth:.0f} GB/s ({_size(size)})", 12)
        fastest = max(bandwidth for _, bandwidth in bandwidths)
        x, y = self._at(self._x[1], peak)
        self._canvas.line(self._at(max(self._x[0], peak / fastest), peak), (x, y), INK, 1.5)
        self._canvas.text((x, y - 7), f"{peak:.0f} GMAC/s", 12, "end")


def _slowest(canvas: Canvas, result: Profile) -> None:
    """Bars of the operators that take longest."""
    operators = result.by_time()
    shown, others = operators[:SLOWEST], operators[SLOWEST:]
    longest = shown[0].milliseconds
    step = (_BOTTOM - _TOP) / max(len(shown) + bool(others), 8)

    def row(index: int, name: str, milliseconds: float, colour: str, tip: str) -> None:
        y = _TOP + index * step
        canvas.text((_NAMES, y + step * 0.7), name, 11, "end")
        length = max(1.0, milliseconds / longest * (_END - _BARS))
        canvas.bar((_BARS, y + step * 0.14), (length, step * 0.72), colour, tip)
        share = 100 * milliseconds / result.latency
        canvas.text((_BARS + length + 6, y + step * 0.7), f"{milliseconds:.3f} ms, {share:.1f} %", 11, colour=GREY)

    canvas.text((_BARS, _TOP - 10), "the slowest operators", 13)
    for index, operator in enumerate(shown):
        row(index, _short(operator.kernel.node), operator.milliseconds, COLOURS[operator.bound], _tip(operator))
    if others:
        y = _TOP + (len(shown) + 0.7) * step
        time = sum(operator.milliseconds for operator in others)
        text = f"and {len(others)} more: {time:.3f} ms, {100 * time / result.latency:.1f} %"
        canvas.text((_BARS, y), text, 11, colour=GREY)


def _legend(canvas: Canvas, result: Profile) -> None:
    x = float(_LEFT)
    for bound, colour in COLOURS.items():
        time = sum(operator.milliseconds for operator in result.operators if operator.bound == bound)
        canvas.bar((x, _HEIGHT - 32), (12, 12), colour, "")
        canvas.text((x + 18, _HEIGHT - 21), f"bound by {bound}: {100 * time / result.latency:.0f} % of the time", 13)
        x += 270
    canvas.text((_END + 90, _HEIGHT - 21), "areas are times", 13, "end", GREY)


def _intensity(operator: OperatorTime) -> float:
    kernel = operator.kernel
    return kernel.macs / max(1, kernel.weight_bytes + kernel.read_bytes + kernel.written_bytes)


def _tip(operator: OperatorTime) -> str:
    return (
        f"{operator.kernel.node}: {operator.milliseconds:.4f} ms, {100 * operator.of_peak:.0f} % of the peak, "
        f"{100 * operator.of_bandwidth:.0f} % of the bandwidth; {operator.kernel.name}"
    )


def _decade(value: float) -> float:
    return 10.0 ** math.floor(math.log10(value))


def _powers(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(round(math.log10(low)), math.floor(math.log10(high)) + 1)]


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"...{name[3 - _MAX_NAME :]}"


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
