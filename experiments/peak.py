"""Measures the most 8-bit multiply-accumulates a second that one core can do, the ground of every "limit" column."""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from pipeline.targets import DeployTarget, supported_by_host

_SOURCE = Path(__file__).with_suffix(".c")
_CHAINS = 12

# Multiply-accumulates of one step of a chain in peak.c, by DeployTarget.dot.
_MACS_PER_STEP = {"amx": 16 * 16 * 64, "avx512vnni": 64, "avxvnni": 32, "avx2": 16}

_SLICES = 40
_SLICE_MACS = 3_000_000_000


def peak_gmacs(target: DeployTarget) -> float | None:
    """GMAC/s of one core with the target's dot product: the median of short slices, in CPU time.

    CPU time, because other processes must not lower the figure; the median, because the clock frequency varies.

    None where the target has no dot product, this CPU cannot run it, or there is no C compiler.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if target.dot not in _MACS_PER_STEP or not supported_by_host(target) or compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        command = [compiler, "-O2", "-shared", "-fPIC", str(_SOURCE), "-o", str(library)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        kernel = getattr(ctypes.CDLL(str(library)), target.dot)
        kernel.argtypes = [ctypes.c_long]
        kernel.restype = None
        macs_a_round = _MACS_PER_STEP[target.dot] * _CHAINS
        rounds = _SLICE_MACS // macs_a_round
        seconds = statistics.median(_time(kernel, rounds) for _ in range(_SLICES))
    return macs_a_round * rounds / seconds / 1e9


def _time(kernel: ctypes._NamedFuncPointer, rounds: int) -> float:
    start = time.process_time()
    kernel(rounds)
    return time.process_time() - start
