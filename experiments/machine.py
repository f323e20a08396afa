"""What a result has to say about the machine and the software it was measured with."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.cpu import host_features, physical_cores

# The features that decide which INT8 kernels an engine takes.
RELEVANT_FEATURES = (
    "sse4_1", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "amx_tile", "amx_int8",
)  # fmt: skip

# Above this load per core, other processes are likely to have taken part of the time.
BUSY_LOAD = 0.25


@dataclass(frozen=True)
class Machine:
    cpu: str
    family_model_stepping: str
    cores: int
    features: tuple[str, ...]
    versions: dict[str, str]
    commit: str
    date: str
    load_average: tuple[float, ...]

    @property
    def slug(self) -> str:
        """For file names. A virtual machine may hide the CPU's name, so the model numbers belong to it."""
        words = re.sub(r"\((R|TM)\)|CPU|Processor|@.*", " ", self.cpu, flags=re.IGNORECASE)
        return "-".join(re.findall(r"[a-z0-9]+", f"{words} {self.family_model_stepping}".lower()))

    @property
    def busy(self) -> str | None:
        """A warning where the machine had other work to do when this was taken."""
        if self.load_average[0] <= BUSY_LOAD * self.cores:
            return None
        return f"load average {self.load_average[0]:.2f} on {self.cores} cores: other processes disturb the numbers"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Machine:
        """What ``to_json`` gave, after a way through a JSON file."""
        lists = {key: tuple(data[key]) for key in ("features", "load_average")}
        return cls(**{**data, **lists})


def describe(distributions: Iterable[str]) -> Machine:
    """This machine now, with the versions of those ``distributions`` that are installed."""
    cpuinfo = _cpuinfo()
    numbers = [cpuinfo.get(key, "?") for key in ("cpu family", "model", "stepping")]
    return Machine(
        cpu=cpuinfo.get("model name") or platform.processor() or platform.machine(),
        family_model_stepping="-".join(numbers),
        cores=physical_cores(),
        features=tuple(name for name in RELEVANT_FEATURES if name in host_features()),
        versions={name: version for name in distributions if (version := _version(name))},
        commit=_commit(),
        date=dt.datetime.now(dt.timezone.utc).date().isoformat(),
        load_average=tuple(round(value, 2) for value in os.getloadavg()),
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    root = Path(__file__).resolve().parents[1]
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
