"""Asking for cache lines ahead of their use."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.script.ir_builder import tirx as builder

CACHE_LINE = 64
"""Bytes."""

_READ, _MODERATE_LOCALITY, _DATA = 0, 2, 1


def prefetch(element: Expr) -> None:
    """Fetch the cache line of ``element`` into the L2 cache; an address past the end of the buffer does no harm."""
    arguments = [tirx.const(v, "int32") for v in (_READ, _MODERATE_LOCALITY, _DATA)]
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.prefetch")
    builder.evaluate(T.call_llvm_intrin(intrinsic, T.address_of(element), *arguments, dtype="void"))
