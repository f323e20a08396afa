"""Runs the engines of the speed comparison: prepares what each loads, then measures them in turns, cell by cell."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from math import inf

import onnx
from tqdm import tqdm

from experiments import zoo
from experiments.engines import ENGINES
from experiments.isa_limit import ISA_TARGETS
from experiments.macs import count_macs, count_traffic, count_weights
from experiments.measure import EngineError, EngineProcess, alternate
from experiments.preparation import Preparation
from experiments.report import REFERENCE, Cell, Memory, MemoryTable, Report
from pipeline.profiling.roofline import find_roofline
from pipeline.targets import DeployTarget, resolve

PREPARE, MEASURE = "prepare", "measure"

CHOICE_ROUNDS = 3
"""Of the alternation in which an engine's own ways are compared."""

LADDER = tuple(ISA_TARGETS.values())
MEMORY_NETWORK = "resnet50"


class Comparison:
    """Adds to ``report`` what was asked for and is not in it; an engine that fails on a network is left out there."""

    def __init__(
        self,
        args: argparse.Namespace,
        target: DeployTarget,
        engines: Sequence[str],
        report: Report,
        save: Callable[[], None],
    ) -> None:
        """``args``: those of speedup.py. ``save`` is called whenever ``report`` has grown."""
        self._args = args
        self._target = target
        self._engines = engines
        self._report = report
        self._save = save
        self._preparation = Preparation(args.isa, target.name, args.threads, report.machine.commit)

    def prepare(self) -> None:
        """Nothing but that: what is measured later needs it."""
        networks = [(network, batch) for batch in self._args.batch for network in self._args.networks]
        with tqdm(networks, unit="network") as self._bar:
            for network, batch in self._bar:
                self._artefacts(network, batch)

    def run(self) -> None:
        args, report = self._args, self._report
        measured = {(cell.network, cell.batch, cell.threads) for cell in report.cells}
        wanted = {
            (network, batch): [count for count in args.threads if (network, batch, count) not in measured]
            for batch in args.batch
            for network in args.networks
        }
        self._measure_machine()
        with tqdm(total=sum(map(len, wanted.values())), unit="cell") as self._bar:
            for (network, batch), threads in wanted.items():
                with_memory = (network, batch) == (MEMORY_NETWORK, 1) and report.memory is None
                if not threads and not with_memory:
                    continue
                artefacts = self._artefacts(network, batch)
                for count in threads:
                    self._measure(network, batch, count, artefacts)
                    self._bar.update()
                if with_memory:
                    self._measure_memory(network, artefacts)
                self._save()

    def _measure_machine(self) -> None:
        known = {(roofline.target, roofline.threads) for roofline in self._report.rooflines}
        lesser = [resolve(name) for name in LADDER if set(resolve(name).cpu_features) <= set(self._target.cpu_features)]
        targets = {target.name: target for target in [self._target, *lesser]}
        for name, target in targets.items():
            for threads in self._args.threads:
                if (name, threads) not in known:
                    tqdm.write(f"limits of {name} with threads {threads} ...")
                    self._report.rooflines.append(find_roofline(target, threads))
        if any(roofline.disturbed for roofline in self._report.rooflines):
            self._remark("other programs disturbed the measurement of the machine's limits, which are too low here")

    def _artefacts(self, network: str, batch: int) -> dict[str, str]:
        """What each engine loads."""
        artefacts = {}
        for engine in self._engines:
            self._bar.set_description(f"{network}, batch {batch}: {engine} prepares")
            if self._args.only == MEASURE:
                found = self._preparation.find(engine, network, batch)
                if found is None:
                    self._remark(f"{network}, batch {batch}: {engine} was not prepared")
                    continue
                artefact = found
            else:
                try:
                    artefact = self._preparation.make(engine, network, batch)
                except EngineError as error:
                    self._remark(f"{network}, batch {batch}: {error}")
                    continue
            artefacts[engine] = artefact.path
            if engine == REFERENCE:
                self._report.preparation[f"{network}, batch {batch}"] = artefact.report()
                if artefact.commit != self._report.machine.commit:
                    self._remark(f"{network}, batch {batch}: Octet's library was compiled at commit {artefact.commit}")
        return artefacts

    def _measure(self, network: str, batch: int, threads: int, artefacts: dict[str, str]) -> None:
        name = f"{network}, batch {batch}, threads {threads}"
        self._bar.set_description(name)
        load_average = round(os.getloadavg()[0], 2)
        variants: dict[str, str] = {}
        with ExitStack() as stack:
            processes = {}
            for engine, artefact in artefacts.items():
                loaded = self._load(engine, artefact, batch, threads, name)
                if not loaded:
                    continue
                variant, process = self._fastest(loaded)
                processes[engine] = stack.enter_context(closing(process))
                if variant:
                    variants[engine] = variant
            timings, failures = alternate(processes, self._args.rounds, self._args.seconds, self._args.clock)
        for failure in failures.values():
            self._remark(f"{name}: {failure}")
        if timings:
            model = onnx.load(zoo.model_path(network))
            macs, traffic = count_macs(model, batch), count_traffic(model, batch)
            self._report.cells.append(Cell(network, batch, threads, macs, traffic, timings, variants, load_average))
            self._save()
            medians = ", ".join(f"{engine} {timing.median:.2f}" for engine, timing in timings.items())
            tqdm.write(f"{name}, ms: {medians}")

    def _load(self, engine: str, artefact: str, batch: int, threads: int, name: str) -> dict[str | None, EngineProcess]:
        """A process for each of the engine's ways that works."""
        loaded = {}
        for variant in ENGINES[engine].variants:
            process = EngineProcess(engine, self._args.isa)
            try:
                process.load(artefact, threads, (batch, 3, 224, 224), variant)
                loaded[variant] = process
            except EngineError as error:
                process.close()
                self._remark(f"{name}: {error}")
        return loaded

    def _fastest(self, loaded: dict[str | None, EngineProcess]) -> tuple[str | None, EngineProcess]:
        """By a short alternation; the others are closed."""
        chosen = next(iter(loaded))
        if len(loaded) > 1:
            named = {str(variant): process for variant, process in loaded.items()}
            timings, _ = alternate(named, CHOICE_ROUNDS, self._args.seconds, self._args.clock)
            chosen = min(loaded, key=lambda variant: timings[str(variant)].median if str(variant) in timings else inf)
        for variant, process in loaded.items():
            if variant != chosen:
                process.close()
        return chosen, loaded[chosen]

    def _measure_memory(self, network: str, artefacts: dict[str, str]) -> None:
        """At batch 1 on one thread, each engine alone in a fresh process."""
        engines = {}
        taken = next((c.variants for c in self._report.cells if (c.network, c.batch, c.threads) == (network, 1, 1)), {})
        for engine, artefact in artefacts.items():
            self._bar.set_description(f"{network}: memory of {engine}")
            variant = taken.get(engine, ENGINES[engine].variants[0])
            with closing(EngineProcess(engine, self._args.isa)) as process:
                try:
                    answer = process.memory(artefact, 1, (1, 3, 224, 224), variant)
                except EngineError as error:
                    self._remark(f"{network}, memory: {error}")
                    continue
            engines[engine] = Memory(*(round(answer[f"{key}_mib"], 1) for key in ("imported", "loading", "running")))
        weights = count_weights(onnx.load(zoo.model_path(network))) / 2**20
        self._report.memory = MemoryTable(network, round(weights, 1), engines)

    def _remark(self, text: str) -> None:
        self._report.remark(text)
        tqdm.write(text)
