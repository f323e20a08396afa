"""Measures engines against each other in turns, A B A B, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WORKER = Path(__file__).with_name("worker.py")

# A thread pool spins a moment after its last task before it sleeps; the next engine starts after that.
SETTLE_SECONDS = 0.02


class EngineError(Exception):
    """An engine could not do what it was asked; the message is the engine's own."""


class EngineProcess:
    """One engine in a process of its own, until ``close``."""

    def __init__(self, engine: str, isa: str | None = None) -> None:
        self.engine = engine
        command = [sys.executable, str(_WORKER), engine, *(["--isa", isa] if isa else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def prepare(self, model: Path, output: Path, batch: int, target: str, threads: Sequence[int]) -> dict[str, Any]:
        """``artefact`` for ``load``, the ``seconds`` it took to make and the ``peak_mib`` of memory."""
        return self._ask(
            do="prepare", model=str(model), output=str(output), batch=batch, target=target, threads=list(threads)
        )

    def load(self, artefact: str, threads: int, shape: Sequence[int], variant: str | None = None) -> None:
        self._ask(do="load", artefact=artefact, threads=threads, shape=list(shape), variant=variant)

    def run(self, seconds: float, clock: str = "wall") -> list[float]:
        """Seconds that each run took by the ``clock`` "wall" or "cpu" (of all threads of the process)."""
        return list(self._ask(do="run", seconds=seconds, clock=clock)["seconds"])

    def infer(self, inputs: Path, outputs: Path) -> Path:
        """Writes the logits of the images in the .npy file ``inputs`` to ``outputs``; see ``Worker.infer``."""
        self._ask(do="infer", inputs=str(inputs), outputs=str(outputs))
        return outputs

    def memory(self, artefact: str, threads: int, shape: Sequence[int], variant: str | None = None) -> dict[str, float]:
        """Loads and runs in this process, which must be fresh; see ``Worker.memory``."""
        return self._ask(do="memory", artefact=artefact, threads=threads, shape=list(shape), variant=variant)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # it has died, and never read what it was sent
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, **command: Any) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise EngineError(f"{self.engine}: no pipe to the process")
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise EngineError(f"{self.engine}: the process ended with code {code} while asked to {command['do']}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(f"{self.engine}: {answer['error']}")
        return answer


@dataclass(frozen=True)
class Timing:
    """One engine on one network: the median of each round, in milliseconds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def best(self) -> float:
        return min(self.rounds)

    def times_slower_than(self, other: Timing) -> float:
        """Median of the ratios round by round: what slows a whole round down falls out of it."""
        return statistics.median(a / b for a, b in zip(self.rounds, other.rounds, strict=True))


def alternate(
    processes: Mapping[str, EngineProcess], rounds: int, seconds: float, clock: str
) -> tuple[dict[str, Timing], dict[str, EngineError]]:
    """Runs each loaded engine for ``seconds`` a round, one after the other.

    A Timing by the processes' names; for an engine that fails meanwhile, the error instead, and the others go on.
    """
    medians: dict[str, list[float]] = {name: [] for name in processes}
    failures: dict[str, EngineError] = {}
    for _ in range(rounds):
        for name, process in processes.items():
            if name in failures:
                continue
            time.sleep(SETTLE_SECONDS)
            try:
                medians[name].append(1e3 * statistics.median(process.run(seconds, clock)))
            except EngineError as error:
                failures[name] = error
    timings = {name: Timing(tuple(values)) for name, values in medians.items() if name not in failures}
    return timings, failures
