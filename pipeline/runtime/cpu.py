"""What the CPU under this process can do, and how many of its cores the process may use."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_TOPOLOGY = Path("/sys/devices/system/cpu")


def parse_cpuinfo(text: str) -> frozenset[str]:
    """Feature names that *every* core in a ``/proc/cpuinfo`` text has (``flags`` on x86, ``Features`` on Arm)."""
    cores = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            cores.append(frozenset(value.split()))
    return frozenset.intersection(*cores) if cores else frozenset()


@cache
def host_features() -> frozenset[str]:
    """Features of this machine by their ``/proc/cpuinfo`` names; empty where there is no such file."""
    try:
        return parse_cpuinfo(_CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return frozenset()


_NAME_KEYS = ("model name", "cpu family", "model", "stepping")
"""A virtual machine may hide the name, so the numbers belong to it."""


@cache
def cpu_name() -> str:
    """Name and numbers of this machine's CPU, for what was measured on it and holds for no other."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    entries = {key.strip(): value.strip() for key, _, value in lines}
    return " ".join(entries[key] for key in _NAME_KEYS if key in entries) or "unknown"


def missing_features(required: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``required`` that this CPU lacks, in the order given."""
    present = host_features()
    return tuple(name for name in required if name not in present)


TILES = "amx_tile"
"""The feature whose registers a process must ask the kernel for."""

_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18


def request_tiles() -> bool:
    """Ask Linux for the use of AMX's tile registers in this process and its threads; whether it was granted."""
    libc = ctypes.CDLL(None)
    return bool(libc.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0)


def usable_cpus() -> tuple[int, ...]:
    """Logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def physical_cores() -> int:
    """Physical cores this process may run on; two hyper-threads of one core count once. At least 1."""
    cores = set()
    for cpu in usable_cpus():
        try:
            siblings = (_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii").strip()
        except OSError:
            siblings = str(cpu)
        cores.add(siblings)
    return max(1, len(cores))
