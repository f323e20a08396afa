"""Exceptions that a user makes for single tensors and layers, from a TOML file or a mapping of the same form.

[tensors."fire2/concat"]        # and whatever shares its scale
low = 0.0                       # the range; or threshold = 6.0 for -6..6; or scale = 0.05 and zero_point = 0
high = 6.0
observer = "kl"                 # instead of a range: another observer than the model's

[layers.conv1]                  # by the name of the node
quantize = false                # stays float
weight_bits = 4
weights = "per-tensor"
weight_scale = [0.01, 0.02]     # one number, or one for each output channel
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.errors import InputError
from pipeline.quantization.parameters import MAX_BITS, MIN_BITS

_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
"""Scales are stored as float32, where what is smaller would be 0, and what is larger infinite."""


@dataclass(frozen=True)
class TensorOverride:
    """What to do with one tensor, and so with all that share its parameters."""

    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    observer: str | None = None

    def check(self, where: str) -> None:
        """Raise InputError unless this is one consistent wish."""
        range_given = self.low is not None or self.high is not None
        if (self.low is None) != (self.high is None):
            raise InputError(f"{where}: give both low and high.")
        if range_given + (self.threshold is not None) + (self.scale is not None) + (self.observer is not None) != 1:
            raise InputError(f"{where}: give low and high, or threshold, or scale, or observer, and only one of these.")
        if self.zero_point is not None and self.scale is None:
            raise InputError(f"{where}: zero_point goes with scale.")
        for name in ("threshold", "scale"):
            _positive(getattr(self, name), f"{where}: {name}")
        if self.low is not None and self.high is not None and not -_LARGEST <= self.low <= self.high <= _LARGEST:
            raise InputError(f"{where}: low {self.low} and high {self.high} are no range.")

    @property
    def range(self) -> tuple[float, float] | None:
        """The range that low and high, or threshold, give."""
        if self.threshold is not None:
            return -self.threshold, self.threshold
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class LayerOverride:
    """What to do with one node; only layers have weights."""

    quantize: bool = True
    weight_bits: int | None = None
    weights: str | None = None
    weight_scale: float | list[float] | None = None

    @property
    def is_for_weights(self) -> bool:
        """Whether it says anything of weights."""
        return any(value is not None for value in (self.weight_bits, self.weights, self.weight_scale))

    def check(self, where: str) -> None:
        """Raise InputError where a value makes no sense."""
        if self.weight_bits is not None and not MIN_BITS <= self.weight_bits <= MAX_BITS:
            raise InputError(f"{where}: weight_bits {self.weight_bits}: choose {MIN_BITS} to {MAX_BITS}.")
        scales = self.weight_scale if isinstance(self.weight_scale, list) else [self.weight_scale]
        for scale in scales:
            _positive(scale, f"{where}: weight_scale")


@dataclass(frozen=True)
class Overrides:
    """By tensor and by node name."""

    tensors: Mapping[str, TensorOverride] = field(default_factory=dict)
    layers: Mapping[str, LayerOverride] = field(default_factory=dict)


_Entry = TypeVar("_Entry", TensorOverride, LayerOverride)

_KINDS: dict[str, tuple[type, ...]] = {
    "low": (int, float),
    "high": (int, float),
    "threshold": (int, float),
    "scale": (int, float),
    "zero_point": (int,),
    "observer": (str,),
    "quantize": (bool,),
    "weight_bits": (int,),
    "weights": (str,),
    "weight_scale": (int, float, list),
}


def read_overrides(source: str | os.PathLike[str] | Mapping[str, Any] | None) -> Overrides:
    """Overrides of a TOML file or a mapping. Raises InputError, saying which entry is wrong."""
    if source is None:
        return Overrides()
    table, where = (source, "overrides") if isinstance(source, Mapping) else (_read_toml(Path(source)), str(source))
    unknown = sorted(set(table) - {"tensors", "layers"})
    if unknown:
        raise InputError(f"{where}: {unknown[0]!r} is unknown; there are the tables 'tensors' and 'layers'.")
    return Overrides(
        _entries(table.get("tensors", {}), TensorOverride, f"{where}: tensor"),
        _entries(table.get("layers", {}), LayerOverride, f"{where}: layer"),
    )


def _entries(table: Any, kind: type[_Entry], where: str) -> dict[str, _Entry]:
    if not isinstance(table, Mapping):
        raise InputError(f"{where}s: a table of names is wanted, not {table!r}.")
    known = {f.name for f in fields(kind)}
    entries: dict[str, _Entry] = {}
    for name, values in table.items():
        here = f"{where} {name!r}"
        if not isinstance(values, Mapping):
            raise InputError(f"{here}: a table of settings is wanted, not {values!r}.")
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"{here}: {unknown[0]!r} is unknown; there are {', '.join(sorted(known))}.")
        for key, value in values.items():
            is_number_for_bool = isinstance(value, bool) and bool not in _KINDS[key]
            if not isinstance(value, _KINDS[key]) or is_number_for_bool:
                raise InputError(f"{here}: {key} = {value!r} has the wrong type.")
        entry = kind(**values)
        entry.check(here)
        entries[name] = entry
    return entries


def _read_toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise InputError(f"reading {path} needs Python 3.11, or the package tomli: pip install tomli.") from error
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML file: {error}.") from error


def _positive(value: object, where: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _SMALLEST <= value <= _LARGEST:
        raise InputError(f"{where} {value!r:.40} is no finite number above 0 in float32.")
