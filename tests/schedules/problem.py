"""Problems as text, in the manner of oneDNN's benchdnn: the test's id, its input, and the line that reproduces it.

``conv_n1g1ic17ih9iw9oc33kh3kw3sh2sw2ph1pw1dh0dw0_zp128_+add+lookup`` is an operator, then in any order and separated
by ``_``: numbers by name, shapes (``2x17x5``), words, and the stages of an epilogue, each with a ``+`` in front.
Numbers that are left out have the defaults of the operator; dilations count from 0, as in oneDNN.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

import numpy as np

from tests.octet_runner import Array

_NUMBERS = re.compile(r"(?:[a-z]+-?\d+)+")
_NUMBER = re.compile(r"([a-z]+)(-?\d+)")
_SHAPE = re.compile(r"\d+(?:x\d+)*")
WORDS = frozenset({"int32", "float32", "uint8", "int8", "windowsum", "wide", "broadcast", "belowone"})
STAGES = frozenset({"add", "mul", "lookup", "requantize"})
EXTREME_CODES = (0, 1, 127, 128, 255)


@dataclass
class Problem:
    """The parts of a problem's text; reading a number or a word takes it, and :meth:`done` says what nobody took."""

    text: str
    operator: str
    numbers: dict[str, int] = field(default_factory=dict)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    stages: list[str] = field(default_factory=list)

    def number(self, name: str, default: int | None = None) -> int:
        """The number called ``name``; it has to be there unless there is a default."""
        if default is None and name not in self.numbers:
            raise ValueError(f"{self.text}: {name} is missing")
        value = self.numbers.pop(name, default)
        assert value is not None
        return value

    def pair(self, height: str, width: str, default: int) -> tuple[int, int]:
        """Two numbers, the second the same as the first where it is left out."""
        first = self.number(height, default)
        return first, self.number(width, first)

    def word(self, *choices: str, default: str = "") -> str:
        """That one of ``choices`` which the text has."""
        found = [w for w in choices if w in self.words]
        self.words.difference_update(found)
        return found[0] if found else default

    def done(self) -> None:
        """Raise ValueError if the text has something that the operator did not ask for."""
        if self.numbers or self.words:
            raise ValueError(f"{self.text}: {self.operator} has no {', '.join([*self.numbers, *self.words])}")


def parse(text: str) -> Problem:
    """The parts of ``text``.

    Raises:
        ValueError: a part is not of the notation, or a number comes twice.
    """
    operator, *parts = text.split("_")
    problem = Problem(text, operator)
    for part in parts:
        if part.startswith("+") and STAGES.issuperset(part[1:].split("+")):
            problem.stages += part[1:].split("+")
        elif part in WORDS:
            problem.words.add(part)
        elif _SHAPE.fullmatch(part):
            problem.shapes.append(tuple(int(d) for d in part.split("x")))
        elif _NUMBERS.fullmatch(part):
            for name, value in _NUMBER.findall(part):
                if name in problem.numbers:
                    raise ValueError(f"{text}: {name} comes twice")
                problem.numbers[name] = int(value)
        else:
            raise ValueError(f"{text}: {part!r} is no shape, no numbers by name, no stage and no word of {set(WORDS)}")
    return problem


class Draw:
    """Random data that depends on the problem's text alone."""

    def __init__(self, text: str) -> None:
        self.random = np.random.default_rng(zlib.crc32(text.encode()))

    def fills(self, *shapes: tuple[int, ...]) -> dict[str, list[Array]]:
        """Inputs of uint8: random, random among the extreme codes, all 0, all 255, and 0 against 255 (one: mixed)."""
        against = [np.full(s, 255 * (i % 2), np.uint8) for i, s in enumerate(shapes)]
        if len(shapes) == 1:
            against = [np.resize(np.array([0, 255, 255], np.uint8), shapes[0])]
        return {
            "random": [self.random.integers(0, 256, s).astype(np.uint8) for s in shapes],
            "extremes": [self.random.choice(EXTREME_CODES, s).astype(np.uint8) for s in shapes],
            "all 0": [np.zeros(s, np.uint8) for s in shapes],
            "all 255": [np.full(s, 255, np.uint8) for s in shapes],
            "0 and 255": against,
        }

    def weights(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Filters: random ones, and all -128, all 127, all 1, all 0 and alternating extremes where there are enough.

        As int16 the extremes are those of a difference of two bytes, and in one filter those of int16.
        """
        low, high = (-128, 127) if dtype == "int8" else (-255, 255)
        weight = self.random.integers(low, high + 1, shape).astype(dtype)
        for o in range(1, shape[0]):
            kind = o % 8
            if kind in (1, 2, 3, 4):
                weight[o] = (low, high, 1, 0)[kind - 1]
            elif kind == 5:
                weight[o] = self.random.choice((low, high), shape[1:])
            elif kind == 6 and dtype == "int16":
                weight[o] = self.random.choice((-32768, 32767), shape[1:])
        return weight

    def bias(self, weight: Array, reserve: int = 0) -> Array:
        """int32 biases the size of a sum; those of two filters reach the ends of int32 together with the sum."""
        rows = np.abs(weight.astype(np.int64)).reshape(weight.shape[0], -1).sum(axis=1)
        largest = 255 * rows + reserve
        bias = np.rint(self.random.normal(size=len(rows)) * largest / 8).astype(np.int64)
        for o, end in ((7, 2**31 - 1), (8, -(2**31))):
            if o < len(rows):
                bias[o] = end - np.sign(end) * largest[o]
        return bias.astype(np.int32)

    def multipliers(self, weight: Array, *, below_one: bool = False) -> Array:
        """float32 M that spread each filter's sums over some 200 steps; powers of two, for ties; tiny and huge ones.

        ``below_one``: instead of what is larger the largest below 1, also for the filters with the largest biases.
        """
        rows = np.sqrt((weight.astype(np.float64) ** 2).reshape(weight.shape[0], -1).sum(axis=1)) * 128 + 1
        multiplier = self.random.uniform(20, 90, len(rows)) / rows
        for o in range(1, len(rows)):
            if o % 4 == 1:
                multiplier[o] = 2.0 ** np.round(np.log2(multiplier[o]))
        for o, value in ((9, 1e-42), (10, 2.0**100), (11, 0.0)):
            if o < len(rows):
                multiplier[o] = value
        if below_one:
            multiplier[7:9] = 1
            multiplier = np.minimum(multiplier, np.nextafter(np.float32(1), np.float32(0)))
        return multiplier.astype(np.float32)

    def table(self) -> Array:
        """256 random codes."""
        return self.random.integers(0, 256, 256).astype(np.uint8)
