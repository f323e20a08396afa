"""What this machine can do at best with a target's code, measured once and kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import TargetError
from pipeline.runtime.cpu import cpu_name
from pipeline.targets import DeployTarget, supported_by_host

_VERSION = 1
"""Of the measurement: a file made by another one is not used."""

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Roofline:
    """The limits of one CPU with one target's code on so many threads."""

    cpu: str
    target: str
    threads: int
    peak_gmacs: float
    """10^9 multiply-accumulates a second of the target's dot product, on registers."""
    bandwidths: tuple[tuple[int, float], ...]
    """(bytes, 10^9 bytes a second): the speed of reading so many bytes again and again, from small to large."""
    disturbed: bool = False
    """Whether other programs had a share of the CPU while this was measured, so that the figures are too low."""

    def bandwidth(self, size: int) -> float:
        """10^9 bytes a second where ``size`` bytes are in use, between the measured sizes by their logarithm."""
        below = [entry for entry in self.bandwidths if entry[0] <= size]
        above = [entry for entry in self.bandwidths if entry[0] > size]
        if not below or not above:
            return (above[0] if above else below[-1])[1]
        (small, fast), (large, slow) = below[-1], above[0]
        part = math.log(size / small) / math.log(large / small)
        return fast * (slow / fast) ** part


def find_roofline(
    target: DeployTarget, threads: int, *, remeasure: bool = False, progress: Progress | None = None
) -> Roofline:
    """The limits of this machine: from the cache folder, else measured, which takes some seconds, and kept there.

    The folder is ``octet`` in ``XDG_CACHE_HOME`` (``~/.cache``). What was measured beside other programs is not kept;
    that, and what cannot be written, is measured again the next time.

    Raises:
        TargetError: this CPU does not run the target's code.
    """
    cpu = cpu_name()
    path = _folder() / f"{_slug(cpu)}-{target.name}-{threads}.json"
    if not remeasure and (known := _read(path)) and (known.cpu, known.target, known.threads) == (
        cpu, target.name, threads,
    ):  # fmt: skip
        return known
    if not supported_by_host(target):
        raise TargetError(f"the limits of {target.name} code cannot be measured here: this CPU does not run it")
    from pipeline.profiling import limits

    tell = progress or (lambda _share: None)
    tell(0.0)
    peak = limits.peak_gmacs(target, threads)
    bandwidths = limits.bandwidths(target, threads, tell)
    speeds = tuple((size, speed.value) for size, speed in bandwidths)
    disturbed = any(speed.disturbed for speed in (peak, *(speed for _, speed in bandwidths)))
    measured = Roofline(cpu, target.name, threads, peak.value, speeds, disturbed)
    if not disturbed:
        _write(path, measured)
    return measured


def _folder() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if Path(named).is_absolute() else Path.home() / ".cache") / "octet" / "rooflines"


def _slug(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", re.sub(r"\((r|tm)\)", "", text.lower())))


def _read(path: Path) -> Roofline | None:
    """What :func:`_write` wrote; None where there is nothing that can be used."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("version") != _VERSION:
            return None
        sizes = tuple((int(size), _positive(speed)) for size, speed in data["bandwidths"])
        if not sizes or list(sizes) != sorted(sizes):
            return None
        return Roofline(
            str(data["cpu"]), str(data["target"]), int(data["threads"]), _positive(data["peak_gmacs"]), sizes
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{value!r} is no speed")
    return number


def _write(path: Path, measured: Roofline) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"version": _VERSION, **asdict(measured)}) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError:  # a home that is read-only or full is no reason to fail: the figures are there
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
