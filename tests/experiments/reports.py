"""A small result of the speed comparison, for the tests of what is made of one."""

from __future__ import annotations

from experiments.machine import Machine
from experiments.measure import Timing
from experiments.report import Cell, Memory, MemoryTable, Report
from pipeline.profiling.roofline import Roofline

MACHINE = Machine(
    "Intel(R) Xeon(R) CPU @ 2.1GHz", "6-207-2", 2, ("avx2",), {"octet": "0.1"}, "abc", "2026-01-01", (0.0,)
)
SETTINGS = {"target": "llvm-avx2", "isa": None, "rounds": 2, "seconds_per_slice": 0.1, "clock": "wall"}


def make_cell(
    network: str, threads: int, rounds: dict[str, float], *, batch: int = 1, macs: int = 4_000_000_000
) -> Cell:
    """``rounds``: milliseconds of every round by engine."""
    timings = {name: Timing((ms, ms)) for name, ms in rounds.items()}
    variants = {"pytorch-int8": "TorchScript"} if "pytorch-int8" in timings else {}
    return Cell(network, batch, threads, macs, macs // 50, timings, variants, 0.5)


def make_report() -> Report:
    """Two networks; Octet leads one cell of two, and has no figure in a third."""
    peers = {"pytorch-int8": 40.0, "pytorch-fp32": 200.0}
    cells = [
        make_cell("resnet50", 1, {"octet": 25.0, "openvino-int8": 50.0, "openvino-fp32": 100.0, **peers}),
        make_cell("alexnet", 1, {"octet": 10.0, "openvino-int8": 8.0, **peers}, macs=700_000_000),
        make_cell("alexnet", 2, {"openvino-int8": 40.0}, batch=32, macs=700_000_000),
    ]
    bandwidths = ((1 << 14, 200.0), (1 << 20, 80.0), (1 << 28, 10.0))
    rooflines = [Roofline("cpu", "llvm-avx2", threads, 200.0 * threads, bandwidths) for threads in (1, 2)]
    memory = MemoryTable("resnet50", 24.0, {"octet": Memory(40.0, 90.0, 72.0), "openvino-int8": Memory(90, 300, 200)})
    return Report(
        MACHINE, dict(SETTINGS), cells, rooflines, memory, {"alexnet, batch 1": {"seconds": 9, "peak_mib": 900}}
    )
