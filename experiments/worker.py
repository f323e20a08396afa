"""The process in which one engine runs: takes one JSON command a line, answers with one JSON line each.

Each engine has a process of its own for each network and thread count, so that thread pools, allocators and OpenMP
run-times do not meet. While another engine is measured, this one blocks in ``readline`` and its pool sleeps.

    {"do": "prepare", "model": ..., "output": ..., "batch": 1, "target": ...}  -> {"artefact", "seconds", "peak_mib"}
    {"do": "load", "artefact": ..., "threads": 1, "shape": [1, 3, 224, 224]}   -> {"seconds"}
    {"do": "run", "seconds": 0.3, "clock": "wall", "warm_up": 2, "at_least": 3} -> {"seconds": [...]}
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.engines import ENGINES, Engine, Runner
from experiments.isa_limit import deny_amx
from experiments.synthetic_images import smooth_images

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Worker:
    """Holds the engine, and the one network it has loaded."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._runner: Runner | None = None
        self._input = np.zeros(0, np.float32)

    def prepare(self, model: str, output: str, batch: int, target: str) -> dict[str, Any]:
        start = time.perf_counter()
        artefact = self._engine.prepare(Path(model), Path(output), batch, target)
        seconds = time.perf_counter() - start
        return {"artefact": str(artefact), "seconds": seconds, "peak_mib": _peak_kib() / 1024}

    def load(self, artefact: str, threads: int, shape: list[int]) -> dict[str, Any]:
        batch, channels, height, _ = shape
        self._input = smooth_images(batch, size=height, channels=channels, seed=batch)
        start = time.perf_counter()
        self._runner = self._engine.load(Path(artefact), threads)
        self._runner(self._input)
        return {"seconds": time.perf_counter() - start}

    def run(self, seconds: float, clock: str, warm_up: int, at_least: int) -> dict[str, Any]:
        if self._runner is None:
            raise RuntimeError("nothing is loaded: send a load command first")
        now = CLOCKS[clock]
        for _ in range(warm_up):
            self._runner(self._input)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < at_least or time.perf_counter() < end:
            start = now()
            self._runner(self._input)
            times.append(now() - start)
        return {"seconds": times}


def _peak_kib() -> int:
    """The most memory that this process, or one that it waited for, ever held.

    Not from getrusage for this process: what that tells begins with the size of the process that started it.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return max(own, children)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--no-amx", action="store_true", help="refuse AMX to the engine")
    args = parser.parse_args()
    if args.no_amx:
        deny_amx()
    # Answers go to the pipe that was standard output; whatever the engine itself prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(ENGINES[args.engine]())
    actions: dict[str, Callable[..., dict[str, Any]]] = {
        "prepare": worker.prepare,
        "load": worker.load,
        "run": worker.run,
    }
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = actions[command.pop("do")](**command)
        except Exception as error:  # noqa: BLE001  # the parent decides; one failure must not end the process
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
