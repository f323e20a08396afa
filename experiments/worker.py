"""The process in which one engine runs: takes one JSON command a line, answers with one JSON line each.

Each engine has a process of its own for each network and thread count, so that thread pools, allocators and OpenMP
run-times do not meet. While another engine is measured, this one blocks in ``readline`` and its pool sleeps.

    {"do": "prepare", "model": ..., "output": ..., "batch": 1, "target": ..., "threads": [1, 2]}
                                                                           -> {"artefact", "seconds", "peak_mib"}
    {"do": "load", "artefact": ..., "threads": 1, "shape": [1, 3, 224, 224], "variant": null} -> {"seconds"}
    {"do": "run", "seconds": 0.3, "clock": "wall"} -> {"seconds": [...]}
    {"do": "infer", "inputs": ..., "outputs": ...}                         -> {}
    {"do": "memory", "artefact": ..., "threads": 1, "shape": ..., "variant": null} -> {"imported_mib", ...}
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
from experiments.isa_limit import ISA_TARGETS, hold_to
from experiments.synthetic_images import smooth_images

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

# A slice begins with runs that fill caches and wake threads: so many, or one where that takes too long.
WARM_UP_RUNS = 3
WARM_UP_SHARE = 0.5

MEMORY_RUNS = 20


class Worker:
    """Holds the engine, and the one network it has loaded."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._runner: Runner | None = None
        self._input = np.zeros(0, np.float32)

    def prepare(self, model: str, output: str, batch: int, target: str, threads: list[int]) -> dict[str, Any]:
        start = time.perf_counter()
        artefact = self._engine.prepare(Path(model), Path(output), batch, target, threads)
        seconds = time.perf_counter() - start
        return {"artefact": str(artefact), "seconds": seconds, "peak_mib": _peak_kib() / 1024}

    def load(self, artefact: str, threads: int, shape: list[int], variant: str | None) -> dict[str, Any]:
        self._input = _images(shape)
        start = time.perf_counter()
        self._runner = self._engine.load(Path(artefact), threads, variant)
        self._runner(self._input)
        return {"seconds": time.perf_counter() - start}

    def run(self, seconds: float, clock: str) -> dict[str, Any]:
        """As many runs as begin within ``seconds``, one at least, after a few that do not count."""
        if self._runner is None:
            raise RuntimeError("nothing is loaded: send a load command first")
        now = CLOCKS[clock]
        end = time.perf_counter() + seconds * WARM_UP_SHARE
        for _ in range(WARM_UP_RUNS):
            self._runner(self._input)
            if time.perf_counter() > end:
                break
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            start = now()
            self._runner(self._input)
            times.append(now() - start)
        return {"seconds": times}

    def infer(self, inputs: str, outputs: str) -> dict[str, Any]:
        """Runs the .npy file ``inputs`` one image at a time and writes the logits (images, classes) to ``outputs``."""
        if self._runner is None:
            raise RuntimeError("nothing is loaded: send a load command first")
        images = np.load(inputs, allow_pickle=False)
        logits = [self._engine.logits(self._runner(images[i : i + 1])) for i in range(len(images))]
        np.save(outputs, np.concatenate(logits))
        return {}

    def memory(self, artefact: str, threads: int, shape: list[int], variant: str | None) -> dict[str, float]:
        """Resident memory in MiB: engine imported and the input made, then at most while loading and while running."""
        self._engine.import_packages()
        images = _images(shape)
        imported = _status_mib("VmRSS")
        _reset_peak()
        runner = self._engine.load(Path(artefact), threads, variant)
        runner(images)
        loading = _status_mib("VmHWM")
        _reset_peak()
        for _ in range(MEMORY_RUNS):
            runner(images)
        return {"imported_mib": imported, "loading_mib": loading, "running_mib": _status_mib("VmHWM")}


def _images(shape: list[int]) -> np.ndarray:
    batch, channels, height, _ = shape
    return smooth_images(batch, size=height, channels=channels, seed=batch)


def _peak_kib() -> float:
    """The most memory that this process, or one that it waited for, ever held.

    Not from getrusage for this process: what that tells begins with the size of the process that started it.
    """
    return max(1024 * _status_mib("VmHWM"), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _status_mib(entry: str) -> float:
    """Of this process: VmRSS, what it holds of memory now, or VmHWM, the most since the last reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:")) / 1024


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--isa", choices=ISA_TARGETS, help="hold the engine to these instructions")
    args = parser.parse_args()
    if args.isa:
        hold_to(args.isa)
    # Answers go to the pipe that was standard output; whatever the engine itself prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(ENGINES[args.engine]())
    actions: dict[str, Callable[..., dict[str, Any]]] = {
        "prepare": worker.prepare,
        "load": worker.load,
        "run": worker.run,
        "infer": worker.infer,
        "memory": worker.memory,
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
