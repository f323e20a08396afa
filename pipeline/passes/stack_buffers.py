"""TVM's lowering of kernels to code, but with their local buffers on the stack, where LLVM makes them registers.

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
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.tirx.compilation_pipeline import register_tir_pipeline

KERNEL_LOWERING = "octet"
"""The name of this lowering: the ``tir_pipeline`` of ``tvm.compile``, the ``pipeline`` of ``tvm.tirx.build``."""

MAX_BYTES = 16 * 1024
"""Of a buffer on the stack: the sums of a few register tiles."""


def _on_stack(allocation: tirx.AllocBuffer) -> tirx.AllocBuffer:
    """``allocation``, marked so that the code generator makes it a variable if it is local to a thread and small."""
    buffer = allocation.buffer
    if buffer.scope() != "local" or not all(isinstance(d, tirx.IntImm) for d in buffer.shape):
        return allocation
    if math.prod(int(d) for d in buffer.shape) * _bytes(buffer.dtype) > MAX_BYTES:
        return allocation
    mark = {"disable_lower_builtin": tirx.IntImm("bool", 1)}
    return tirx.AllocBuffer(buffer, {**allocation.annotations, **mark})


def _bytes(dtype: Any) -> int:
    kind = tvm.DataType(str(dtype))
    return -(-kind.bits * kind.lanes // 8)


def _buffers_on_stack(function: tirx.PrimFunc, _module: tvm.IRModule, _context: Any) -> tirx.PrimFunc:
    changed: tirx.PrimFunc = tvm_ffi.structural_map(function, (tirx.AllocBuffer, _on_stack), order="post")
    return changed


def _kernel_lowering() -> tuple[tvm.transform.Pass, Any, Any]:
    """TVM's passes, then this one: storage rewriting would drop the mark."""
    lowering, finalize_host, finalize_device = default_s_tir_pipeline()
    mark = tirx.transform.prim_func_pass(_buffers_on_stack, opt_level=0, name="BuffersOnStack")
    return tvm.transform.Sequential([lowering, mark]), finalize_host, finalize_device


register_tir_pipeline(KERNEL_LOWERING, _kernel_lowering)
