"""The results of the speed comparison as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.report import REFERENCE, SAME_MACHINE, Cell, MemoryTable, Report, geometric_mean, peers

LABELS = {
    "octet": "Octet INT8",
    "openvino-int8": "OpenVINO INT8",
    "onnxruntime-int8": "onnxruntime INT8",
    "pytorch-int8": "PyTorch INT8",
    "ncnn-int8": "ncnn INT8",
    "openvino-fp32": "OpenVINO FP32",
    "onnxruntime-fp32": "onnxruntime FP32",
    "pytorch-fp32": "PyTorch FP32",
}
MEMORY_ALLOWANCE = 10
"""MiB above the weights that a running network may take."""

Table = list[list[str]]


def to_markdown(report: Report) -> str:
    """All tables, the remarks at the end."""
    machine = report.machine
    parts = [
        f"{machine.cpu} (family-model-stepping {machine.family_model_stepping}), {machine.cores} cores, "
        f"{machine.date}, Octet for {report.settings['target']}"
        + (f", every engine held to {report.settings['isa']}" if report.settings["isa"] else "")
        + f"; {', '.join(f'{name} {version}' for name, version in machine.versions.items())}",
    ]
    summary = _summary(report)
    if summary:
        parts += ["## In short", summary]
    parts += ["## Beside PyTorch, ms a batch", _render(_beside_pytorch(report))]
    parts.append("## Every engine, ms a batch")
    for batch, threads in settings_of(report.cells):
        cells = [cell for cell in report.cells if (cell.batch, cell.threads) == (batch, threads)]
        parts += [f"### Batch {batch}, {counted(threads)}", _render(_every_engine(cells, report))]
    if any(cell.fastest_peer("fp32") for cell in report.cells):
        parts += ["## INT8 over FP32, times as fast", _render(_int8_over_fp32(report))]
    if report.memory:
        parts += [f"## Memory of {report.memory.network}, batch 1, 1 thread, MiB", _render(_memory(report.memory))]
    if report.preparation:
        lines = [f"- {name}: {p['seconds']:.1f} s, {p['peak_mib']:,.0f} MiB" for name, p in report.preparation.items()]
        parts += ["## Octet's compiler", "\n".join(lines)]
    notes = [
        f"ms: {report.settings['clock']} time, medians of {report.settings['rounds']} alternating rounds.",
        "limit: the network's multiply-accumulates at the measured peak of the target's dot product.",
        "ratio: the median over the rounds of the peer's time divided by Octet's; above 1, Octet is faster.",
        SAME_MACHINE,
        *report.remarks,
    ]
    return "\n\n".join([*parts, "## Remarks", "\n".join(f"- {note}" for note in notes)])


def settings_of(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """The (batch, threads) pairs in ascending order."""
    return sorted({(cell.batch, cell.threads) for cell in cells})


def counted(threads: int) -> str:
    return f"{threads} thread" + "s" * (threads != 1)


def _summary(report: Report) -> str:
    """How many cells Octet leads, and the geometric means of the peers' ratios."""
    ratios = []
    for cell in report.cells:
        peer = cell.fastest_peer()
        ratio = cell.ratio(peer) if peer else None
        if ratio is not None:
            ratios.append(ratio)
    if not ratios:
        return ""
    ahead = sum(ratio > 1 for ratio in ratios)
    settings = settings_of(report.cells)
    table = [["geometric mean of ratios", *(f"batch {b}, {counted(t)}" for b, t in settings), "all"]]
    groups = [[c for c in report.cells if (c.batch, c.threads) == setting] for setting in settings]
    for peer in (None, *(name for name in report.engines if name != REFERENCE)):
        label = LABELS[peer] if peer else "fastest peer of each cell"
        table.append([label, *(_mean(cells, peer) for cells in [*groups, report.cells])])
    return (
        f"Octet is ahead of the fastest peer in {ahead} of {len(ratios)} cells; geometric mean of the ratios "
        f"{geometric_mean(ratios):.3f}.\n\n" + _render(table)
    )


def _mean(cells: Sequence[Cell], peer: str | None) -> str:
    """Of the ratios of ``peer``, or of each cell's fastest one."""
    chosen = [(cell, peer or cell.fastest_peer()) for cell in cells]
    ratios = [ratio for cell, name in chosen if name and (ratio := cell.ratio(name)) is not None]
    return _number(geometric_mean(ratios) if ratios else None, 3)


def _beside_pytorch(report: Report) -> Table:
    gain = "gain"
    header = ["network", "threads", "batch", "PyTorch FP32", "PyTorch INT8", gain, "Octet INT8", gain]
    rows = []
    order = list(dict.fromkeys(cell.network for cell in report.cells))
    for cell in sorted(report.cells, key=lambda c: (order.index(c.network), c.threads, c.batch)):
        row = [cell.network, str(cell.threads), str(cell.batch), _ms(cell, "pytorch-fp32")]
        for name in ("pytorch-int8", REFERENCE):
            row += [_ms(cell, name), _number(cell.ratio("pytorch-fp32", name))]
        rows.append(row)
    return [header, *rows]


def _every_engine(cells: Sequence[Cell], report: Report) -> Table:
    header = ["network", "MMAC", "limit", *(LABELS[name] for name in report.engines)]
    header += ["Octet GMAC/s", "fastest peer", "ratio", "ahead"]
    rows = []
    for cell in cells:
        peer = cell.fastest_peer()
        ratio = cell.ratio(peer) if peer else None
        octet = cell.timings.get(REFERENCE)
        rows.append(
            [
                cell.network,
                f"{cell.macs / 1e6:,.0f}",
                _number(report.limit_ms(cell)),
                *(_ms(cell, name) for name in report.engines),
                f"{cell.macs / octet.median / 1e6:,.0f}" if octet else "–",
                LABELS[peer] if peer else "–",
                _number(ratio, 3),
                "–" if ratio is None else "yes" if ratio > 1 else "no",
            ]
        )
    return [header, *rows]


def _int8_over_fp32(report: Report) -> Table:
    """Octet over the fastest FP32 peer, and each peer over its own FP32."""
    families = [name.removesuffix("-int8") for name in peers("int8")]
    own = [f for f in families if {f"{f}-int8", f"{f}-fp32"} <= set(report.engines)]
    header = ["network", "batch", "threads", "fastest FP32 peer", "Octet over it"]
    header += [LABELS[f"{family}-int8"].removesuffix(" INT8") for family in own]
    rows = []
    for cell in report.cells:
        peer = cell.fastest_peer("fp32")
        row = [cell.network, str(cell.batch), str(cell.threads), LABELS[peer] if peer else "–"]
        row.append(_number(cell.ratio(peer) if peer else None))
        rows.append(row + [_number(cell.ratio(f"{f}-fp32", f"{f}-int8")) for f in own])
    return [header, *rows]


def _memory(memory: MemoryTable) -> Table:
    header = ["engine", "imported", "loading", "running", "increase", "above the weights"]
    rows = [
        [
            LABELS[name],
            *(f"{v:,.1f}" for v in (m.imported, m.loading, m.running, m.increase, m.increase - memory.weights)),
        ]
        for name, m in memory.engines.items()
    ]
    bound = memory.weights + MEMORY_ALLOWANCE
    rows.append([f"INT8 weights + {MEMORY_ALLOWANCE} MiB", "", "", "", f"{bound:,.1f}", f"{MEMORY_ALLOWANCE:.1f}"])
    return [header, *rows]


def _render(table: Table) -> str:
    numbers_from = 1
    rule = ["---", *["---:"] * (len(table[0]) - numbers_from)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [table[0], rule, *table[1:]])


def _ms(cell: Cell, engine: str) -> str:
    timing = cell.timings.get(engine)
    return _number(timing.median if timing else None)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
