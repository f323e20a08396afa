"""What a caller of :func:`pipeline.quantize` can choose, checked before anything is read or computed."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.quantization.observers import OBSERVERS
from pipeline.quantization.overrides import Overrides, read_overrides
from pipeline.quantization.parameters import MAX_BITS, MIN_BITS

Patterns = str | Sequence[str] | None
"""One regular expression, several, or none."""

ACTIVATIONS: dict[str, np.dtype[Any]] = {"u8": np.dtype(np.uint8), "s8": np.dtype(np.int8)}
GRANULARITIES = ("per-channel", "per-tensor", "per-group")
WEIGHT_RANGES = ("minmax", "mse", "output")
ROUNDINGS = ("nearest", "adaround")
OUTPUTS = ("float", "quantized")


@dataclass(frozen=True)
class Options:
    """How to quantise; the fields are the arguments of :func:`pipeline.quantize` that carry these names."""

    observer: str = "mse"
    observer_options: Mapping[str, Any] = field(default_factory=dict)
    io_observer: str = "minmax"
    activations: str = "u8"
    symmetric: bool = False
    weights: str = "per-channel"
    weight_bits: int = 8
    weight_range: str | None = None
    outputs: str = "quantized"
    include: Patterns = None
    exclude: Patterns = None
    skip_first: int = 0
    skip_last: int = 0
    overrides: Overrides = field(default_factory=Overrides)
    equalize: bool = False
    bias_correction: bool = True
    rounding: str = "nearest"

    def __post_init__(self) -> None:
        for name in ("weight_bits", "skip_first", "skip_last"):
            self._set(name, whole_number(getattr(self, name), name))
        for name in ("symmetric", "equalize", "bias_correction"):
            self._set(name, _truth(getattr(self, name), name))
        self._set("observer_options", _numbers(self.observer_options, "observer_options"))
        _choice("observer", self.observer, tuple(OBSERVERS))
        _choice("io_observer", self.io_observer, tuple(OBSERVERS))
        _choice("activations", self.activations, tuple(ACTIVATIONS))
        _choice("weights", self.weights, GRANULARITIES)
        _choice("weight_range", self.weight_range, (*WEIGHT_RANGES, None))
        _choice("outputs", self.outputs, OUTPUTS)
        _choice("rounding", self.rounding, ROUNDINGS)
        if not MIN_BITS <= self.weight_bits <= MAX_BITS:
            raise InputError(f"weight_bits {self.weight_bits}: choose {MIN_BITS} to {MAX_BITS}.")
        for name in ("skip_first", "skip_last"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)}: a number of layers is 0 or more.")
        for layer, override in self.overrides.layers.items():
            _choice(f"overrides: layer {layer!r}: weights", override.weights, (*GRANULARITIES, None))
        for tensor, wish in self.overrides.tensors.items():
            _choice(f"overrides: tensor {tensor!r}: observer", wish.observer, (*OBSERVERS, None))
        patterns(self.include, "include")
        patterns(self.exclude, "exclude")

    def _set(self, name: str, value: object) -> None:
        """What JSON can hold, in place of a number of numpy."""
        object.__setattr__(self, name, value)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        """The integer type of activations."""
        return ACTIVATIONS[self.activations]

    def to_json(self) -> dict[str, Any]:
        """What a model file says about how it was made: every choice but the overrides."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "overrides"}


def make_options(overrides: str | os.PathLike[str] | Mapping[str, Any] | None, **choices: Any) -> Options:
    """Options of keyword arguments; ``overrides`` is a TOML file or what one would hold. Raises InputError.

    None stands for the default.
    """
    given = {name: value for name, value in choices.items() if value is not None}
    return Options(overrides=read_overrides(overrides), **given)


def patterns(texts: Patterns, option: str) -> list[re.Pattern[str]]:
    """The compiled regular expressions. Raises InputError where one is not valid, or is none."""
    listed = [] if texts is None else [texts] if isinstance(texts, str) else texts
    if not isinstance(listed, (list, tuple)) or not all(isinstance(text, str) for text in listed):
        raise InputError(f"{option} {texts!r}: give a regular expression as a string, or a list of them.")
    return [_pattern(text, option) for text in listed]


def whole_number(value: Any, option: str) -> int:
    """An int of Python, numpy's being another. Raises InputError where ``value`` is no whole number."""
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(f"{option} {value!r}: give a whole number.") from None


def _truth(value: object, option: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{option} {value!r}: give True or False.")
    return bool(value)


def _numbers(values: Any, option: str) -> dict[str, int | float]:
    """Ints and floats of Python by name."""
    if not isinstance(values, Mapping):
        raise InputError(f"{option} {values!r}: give a dictionary of numbers by name.")
    return {str(name): _number(value, f"{option}: {name}") for name, value in values.items()}


def _number(value: Any, option: str) -> int | float:
    try:
        return operator.index(value) if hasattr(value, "__index__") else float(value)
    except (TypeError, ValueError):
        raise InputError(f"{option} {value!r}: give a number.") from None


def _pattern(text: str, option: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"{option} {text!r} is no regular expression: {error}.") from error


def _choice(option: str, value: object, known: Sequence[object]) -> None:
    if value not in known:
        names = ", ".join(str(k) for k in known if k is not None)
        raise InputError(f"{option} {value!r} is unknown: choose one of {names}.")
