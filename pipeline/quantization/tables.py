"""Calibration tables: the text files of caffe-int8-convert-tools and ncnn.

    conv1_param_0 187.25 246.4 ...      scales of the weights: one an output channel, one a group, or a single one
    conv1 0.8417                        scale of the activation

One row a line, by the name of the layer. A scale is ``127 / threshold``: a value ``v`` becomes ``round(v * scale)``,
cut to -127..127, so zero points cannot be said. In a row of weights 0 stands for a dead channel. Whether the activation
is the layer's input (both tools) or its output is not written in the file: whoever reads it must know.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import InputError
from pipeline.outputs import write_text

LEVELS = 127
"""Steps from zero to the threshold."""

SCALES_OF = ("input", "output")
"""Whose scale the activation row of a layer is."""

_WEIGHTS = "_param_0"
_OTHER_WEIGHTS = re.compile(r"_param_[1-9][0-9]*$")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

# The largest network in use has 1.5 MB.
_LARGEST_FILE = 16 << 20

# Beyond these a step, 1 / scale, is no useful float32.
_SMALLEST, _LARGEST = 2.0**-60, 2.0**60

# ncnn2int8 reads keys of at most 255 characters and lines of at most 102,400.
_LONGEST_KEY = 255
_LONGEST_LINE = 102_398


@dataclass(frozen=True)
class CalibrationTable:
    """Scales by name of the layer, in the order of the file."""

    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    activations: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What the source of the table has and no table can say, one sentence each."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> CalibrationTable:
        """The table in a text file. Raises InputError, with the number of the line, where it is none."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                content = file.read(_LARGEST_FILE + 1)
        except OSError as error:
            raise InputError(f"the calibration table {path} cannot be read: {error.strerror or error}.") from error
        if len(content) > _LARGEST_FILE:
            raise InputError(f"{path} has more than {_LARGEST_FILE >> 20} MiB: that is no calibration table.")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise InputError(f"{path}, line {line}: not text in UTF-8. A calibration table is a text file.") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str = "the calibration table") -> CalibrationTable:
        """The table in ``text``. Raises InputError, with the number of the line, where it is none."""
        weights: dict[str, tuple[float, ...]] = {}
        activations: dict[str, float] = {}
        # Not splitlines(), which also cuts at characters that may be part of a name.
        for number, line in enumerate(text.split("\n"), 1):
            words = line.split()
            if not words:
                continue
            here, (key, *texts) = f"{where}, line {number}", words
            if _OTHER_WEIGHTS.search(key):
                raise InputError(
                    f"{here}: {key!r} is about a second set of weights, which Conv and Gemm have not. Remove the line, "
                    "and leave that layer in float with exclude."
                )
            name = key.removesuffix(_WEIGHTS)
            is_weight = name != key
            scales = tuple(_scale(word, here, zero=is_weight) for word in texts)
            if not name or not scales or (not is_weight and len(scales) > 1):
                raise InputError(
                    f"{here}: {_short(line)!r} is no row of a calibration table. A row is "
                    f"'<layer>{_WEIGHTS} s0 s1 ...' (weights) or '<layer> s' (activation)."
                )
            if name in (weights if is_weight else activations):
                raise InputError(f"{here}: a second row for {key!r}. Remove the one that is wrong.")
            if is_weight:
                weights[name] = scales
            else:
                activations[name] = scales[0]
        if not weights and not activations:
            raise InputError(f"{where} has no rows.")
        return cls(weights, activations)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the text file, whole or not at all. Raises InputError, also for what no reader would take."""
        write_text(path, self.to_text())
        return Path(path)

    def to_text(self) -> str:
        """The file's text. Raises InputError for names and rows that ncnn would not read back."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        rows = [(name + _WEIGHTS, scales) for name, scales in self.weights.items()]
        rows += [(name, (scale,)) for name, scale in self.activations.items()]
        for key, scales in rows:
            if key.split() != [key] or len(key.encode()) > _LONGEST_KEY:
                raise InputError(
                    f"the layer name {_short(key)!r} cannot be in a calibration table: it must have 1 to "
                    f"{_LONGEST_KEY - len(_WEIGHTS)} characters and no blanks. Rename the node."
                )
            # Nine digits give every float32 back.
            line = " ".join([key, *(format(scale, ".9g") for scale in scales)])
            if len(line.encode()) > _LONGEST_LINE:
                raise InputError(f"layer {key!r} has {len(scales)} scales, more than readers of such tables take.")
            yield line


def check_scales_of(value: str) -> None:
    """Raise InputError unless ``value`` is one of :data:`SCALES_OF`."""
    if value not in SCALES_OF:
        raise InputError(f"table scales of {value!r}: choose {' or '.join(SCALES_OF)}, of the layer whose row it is.")


def _scale(text: str, here: str, *, zero: bool) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else -1.0
    if _SMALLEST <= value <= _LARGEST or (zero and value == 0):
        return value
    raise InputError(f"{here}: {_short(text)!r} is no scale: a finite number above 0 is wanted, 127 / threshold.")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
