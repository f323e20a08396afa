"""The results of the speed comparison as data: what is measured, what is computed from it, and its JSON file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.engines import ENGINES
from experiments.machine import Machine
from experiments.measure import Timing
from pipeline.profiling.roofline import Roofline

REFERENCE = "octet"
SAME_MACHINE = "Ratios compare engines on this one machine only; milliseconds of two machines do not compare."


@dataclass(frozen=True)
class Cell:
    """One network at one batch size and thread count: everything that was measured in the same alternation."""

    network: str
    batch: int
    threads: int
    macs: int
    """Multiply-accumulates of the whole batch."""
    traffic: int
    """Bytes that the operators read and write at one byte a value; see ``macs.count_traffic``."""
    timings: dict[str, Timing]
    """By engine, Octet first where it was measured."""
    variants: dict[str, str]
    """By engine: which of its own ways it took, where it has several."""
    load_average: float
    """Of the minute before."""

    def ratio(self, engine: str, base: str = REFERENCE) -> float | None:
        """How many times the time of ``base`` the engine takes: the median over the rounds."""
        if engine not in self.timings or base not in self.timings:
            return None
        return self.timings[engine].times_slower_than(self.timings[base])

    def fastest(self, engines: Iterable[str]) -> str | None:
        """The one of these engines with the lowest median."""
        measured = [name for name in engines if name in self.timings]
        return min(measured, key=lambda name: self.timings[name].median, default=None)

    def fastest_peer(self, precision: str | None = None) -> str | None:
        return self.fastest(peers(precision))


@dataclass(frozen=True)
class Memory:
    """Resident MiB of one engine with one network."""

    imported: float
    """The interpreter with the engine imported."""
    loading: float
    """The most while the network was loaded and run for the first time."""
    running: float
    """The most while it then ran."""

    @property
    def increase(self) -> float:
        """What running the network takes above the engine itself."""
        return self.running - self.imported


@dataclass(frozen=True)
class MemoryTable:
    """At batch 1 on one thread."""

    network: str
    weights: float
    """MiB of the network's INT8 weights."""
    engines: dict[str, Memory]


@dataclass
class Report:
    """Grows cell by cell."""

    machine: Machine
    settings: dict[str, Any]
    """What was asked for: target, isa, rounds and so on. Cells of other settings do not belong into the same file."""
    cells: list[Cell] = field(default_factory=list)
    rooflines: list[Roofline] = field(default_factory=list)
    """Of the target, and of lesser ones to compare with, at each number of threads."""
    memory: MemoryTable | None = None
    preparation: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By network and batch size: the seconds and MiB that compiling took Octet, and its commit."""
    remarks: list[str] = field(default_factory=list)
    """Engines left out and why, failures, a busy machine."""

    @property
    def engines(self) -> list[str]:
        """Those measured anywhere, in the order of ENGINES."""
        return [name for name in ENGINES if any(name in cell.timings for cell in self.cells)]

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def roofline(self, threads: int) -> Roofline | None:
        """Of the target that Octet was compiled for."""
        target = self.settings["target"]
        return next((r for r in self.rooflines if (r.target, r.threads) == (target, threads)), None)

    def limit_ms(self, cell: Cell) -> float | None:
        """The time in which the target's dot-product instruction alone could do the cell's work."""
        roofline = self.roofline(cell.threads)
        return cell.macs / roofline.peak_gmacs / 1e6 if roofline else None

    def to_json(self) -> dict[str, Any]:
        return {
            "note": SAME_MACHINE,
            "machine": self.machine.to_json(),
            "settings": self.settings,
            "rooflines": [asdict(roofline) for roofline in self.rooflines],
            "results": [_cell_to_json(cell, self) for cell in self.cells],
            "memory_mib": asdict(self.memory) if self.memory else None,
            "preparation": self.preparation,
            "remarks": self.remarks,
        }


def write_json(report: Report, path: Path) -> None:
    """All of it or, if the process is killed meanwhile, what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> Report:
    """What ``write_json`` wrote. Raises ValueError where the file is something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        memory = data["memory_mib"]
        return Report(
            machine=Machine.from_json(data["machine"]),
            settings=data["settings"],
            cells=[_cell_from_json(cell) for cell in data["results"]],
            rooflines=[_roofline_from_json(roofline) for roofline in data["rooflines"]],
            memory=memory
            and MemoryTable(
                memory["network"], memory["weights"], {n: Memory(**values) for n, values in memory["engines"].items()}
            ),
            preparation=data["preparation"],
            remarks=data["remarks"],
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a result of this version of speedup.py: {error!r}") from error


def peers(precision: str | None = None) -> list[str]:
    """All engines but Octet, or those of one ``precision``."""
    return [n for n, engine in ENGINES.items() if n != REFERENCE and precision in (None, engine.precision)]


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _cell_to_json(cell: Cell, report: Report) -> dict[str, Any]:
    others = [name for name in cell.timings if name != REFERENCE]
    ratios = {name: ratio for name in others if (ratio := cell.ratio(name)) is not None}
    return {
        "network": cell.network,
        "batch": cell.batch,
        "threads": cell.threads,
        "macs": cell.macs,
        "traffic_bytes": cell.traffic,
        "limit_ms": _rounded(report.limit_ms(cell)),
        "load_average": cell.load_average,
        "engines": {
            name: {
                "median_ms": _rounded(timing.median),
                "best_ms": _rounded(timing.best),
                "gmacs": _rounded(cell.macs / timing.median / 1e6),
                "rounds_ms": [_rounded(value) for value in timing.rounds],
                "variant": cell.variants.get(name),
            }
            for name, timing in cell.timings.items()
        },
        "times_slower_than_octet": {name: _rounded(ratio) for name, ratio in ratios.items()},
    }


def _cell_from_json(data: dict[str, Any]) -> Cell:
    engines = data["engines"]
    return Cell(
        network=data["network"],
        batch=data["batch"],
        threads=data["threads"],
        macs=data["macs"],
        traffic=data["traffic_bytes"],
        timings={name: Timing(tuple(engine["rounds_ms"])) for name, engine in engines.items()},
        variants={name: engine["variant"] for name, engine in engines.items() if engine["variant"]},
        load_average=data["load_average"],
    )


def _roofline_from_json(data: dict[str, Any]) -> Roofline:
    return Roofline(**{**data, "bandwidths": tuple((size, speed) for size, speed in data["bandwidths"])})


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
