"""Deploy targets: the hardware a library is compiled for, each a line of :data:`PRESETS`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import TargetError
from pipeline.runtime.cpu import TILES, host_features, missing_features, physical_cores, request_tiles

if TYPE_CHECKING:
    from tvm.target import Target

# What LLVM may emit on its own for a `haswell`, by the names of /proc/cpuinfo (`abm` is LZCNT, `pni` would be SSE3).
_AVX2 = ("sse4_2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")


@dataclass(frozen=True)
class DeployTarget:
    """One kind of hardware, and everything the compiler needs to know of it."""

    name: str
    mcpu: str
    mattr: tuple[str, ...]
    """LLVM features added to (``+x``) or taken from (``-x``) those of ``mcpu``."""
    cpu_features: tuple[str, ...]
    """What a CPU must have to run the code, by the names of ``/proc/cpuinfo``."""
    dot: str
    """The u8 x s8 dot product: ``avx512vnni``, ``avxvnni``, ``avx2`` or ``sse2`` (both pmaddwd on int16 weights)."""
    vector_bytes: int
    activation_dtype: str = "uint8"
    mtriple: str = "x86_64-linux-gnu"

    def tvm_target(self, num_cores: int | None = None) -> Target:
        """The TVM target; ``num_cores`` (default: this machine's) only steers schedule search, not the code."""
        from tvm.target import Target

        description: dict[str, object] = {
            "kind": "llvm",
            "mtriple": self.mtriple,
            "mcpu": self.mcpu,
            "num-cores": num_cores or physical_cores(),
        }
        if self.mattr:
            description["mattr"] = list(self.mattr)
        return Target(description)


# LLVM keeps a `cascadelake` to 256-bit vectors where it has the choice; our schedules ask for 512. It also splits the
# 16-bit multiply-accumulate of depthwise convolutions in two, for a latency that eight sums at a time hide.
_FULL_VECTORS = ("-prefer-256-bit", "+fast-dpwssd")

# Best first: `native` takes the first that this CPU supports.
_TARGETS = (
    # The matrix unit of Sapphire Rapids and later, with 512-bit vectors for what does not suit it.
    DeployTarget(
        "llvm-amx",
        "cascadelake",
        (*_FULL_VECTORS, "+amx-tile", "+amx-int8"),
        (*_AVX512, "avx512_vnni", "amx_tile", "amx_int8"),
        "amx",
        64,
    ),
    # 512-bit vpdpbusd. `cascadelake` is the oldest CPU that has it; newer ones (Ice Lake, Zen 4) run its code too.
    DeployTarget("llvm-avx512-vnni", "cascadelake", _FULL_VECTORS, (*_AVX512, "avx512_vnni"), "avx512vnni", 64),
    # 256-bit vpdpbusd. Not `alderlake`, whose GFNI, SHA and the rest LLVM would use and some such CPUs lack.
    DeployTarget("llvm-avxvnni", "haswell", ("+avxvnni",), (*_AVX2, "avx_vnni"), "avxvnni", 32),
    DeployTarget("llvm-avx2", "haswell", (), _AVX2, "avx2", 32),
    # Every 64-bit x86 CPU: SSE2.
    DeployTarget("llvm", "x86-64", (), ("sse2",), "sse2", 16),
)
PRESETS: dict[str, DeployTarget] = {target.name: target for target in _TARGETS}
NATIVE = "native"


def supported_by_host(target: DeployTarget) -> bool:
    """Whether a library compiled for ``target`` runs in this process, on this machine's CPU."""
    if missing_features(target.cpu_features):
        return False
    return TILES not in target.cpu_features or request_tiles()


def resolve(name: str | DeployTarget) -> DeployTarget:
    """The target called ``name``; ``native`` is the best one that this CPU supports.

    Raises:
        TargetError: there is no such target, or ``native`` was asked for on a CPU that no target fits.
    """
    if isinstance(name, DeployTarget):
        return name
    if name == NATIVE:
        return _native()
    if name in PRESETS:
        return PRESETS[name]
    choices = [NATIVE, *PRESETS]
    close = difflib.get_close_matches(str(name).lower(), choices, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise TargetError(f"unknown target {name!r}.{hint} Choose one of: {', '.join(choices)}")


def _native() -> DeployTarget:
    for target in PRESETS.values():
        if supported_by_host(target):
            return target
    found = "an x86 CPU without SSE2" if "fpu" in host_features() else "no x86 CPU features in /proc/cpuinfo"
    raise TargetError(f"no target fits this machine ({found}); name the target to compile for: {', '.join(PRESETS)}")
