"""Local buffers of kernels lie on the stack, where LLVM makes them registers.

TVM has its runtime allocate every buffer of a kernel at every call, and LLVM must assume that others see this memory: a
loop that also prefetches would write all its sums there in every step. Buffers of vectors that have to stay in memory
are better global: what is on the stack is aligned to 16 bytes.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

MAX_BYTES = 16 * 1024
"""Of a buffer on the stack: the sums of a few register tiles."""

ON_STACK = {"disable_lower_builtin": tirx.IntImm("bool", 1)}
"""The annotation of a buffer that the code generator makes a variable."""


def buffers_on_stack(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """``function`` with buffers that are local to a thread and small marked as variables."""
    changed: tirx.PrimFunc = tvm_ffi.structural_map(function, (tirx.AllocBuffer, _on_stack), order="post")
    return changed


def _on_stack(allocation: tirx.AllocBuffer) -> tirx.AllocBuffer:
    buffer = allocation.buffer
    if buffer.scope() != "local" or not all(isinstance(d, tirx.IntImm) for d in buffer.shape):
        return allocation
    if math.prod(int(d) for d in buffer.shape) * _bytes(buffer.dtype) > MAX_BYTES:
        return allocation
    return tirx.AllocBuffer(buffer, {**allocation.annotations, **ON_STACK})


def _bytes(dtype: Any) -> int:
    kind = tvm.DataType(str(dtype))
    return -(-kind.bits * kind.lanes // 8)
