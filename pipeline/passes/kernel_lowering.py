"""How kernels become code: TVM's own lowering, then passes of ours on loops over memory.

1. Small local buffers lie on the stack (:mod:`.stack_buffers`).
2. Threads that are done take parts of the others (:mod:`.work_stealing`).
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.tirx.compilation_pipeline import register_tir_pipeline

from .stack_buffers import buffers_on_stack
from .work_stealing import steal_work

KERNEL_LOWERING = "octet"
"""The name of this lowering: the ``tir_pipeline`` of ``tvm.compile``, the ``pipeline`` of ``tvm.tirx.build``."""


def _own_passes(function: tirx.PrimFunc, _module: tvm.IRModule, _context: Any) -> tirx.PrimFunc:
    return steal_work(buffers_on_stack(function))


def _kernel_lowering() -> tuple[tvm.transform.Pass, Any, Any]:
    """TVM's passes, then ours: storage rewriting would drop the marks of buffers."""
    lowering, finalize_host, finalize_device = default_s_tir_pipeline()
    own = tirx.transform.prim_func_pass(_own_passes, opt_level=0, name="KernelLowering")
    return tvm.transform.Sequential([lowering, own]), finalize_host, finalize_device


register_tir_pipeline(KERNEL_LOWERING, _kernel_lowering)
