"""Local buffers of kernels lie on the stack."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as builder

from pipeline.passes.kernel_lowering import KERNEL_LOWERING
from pipeline.passes.stack_buffers import MAX_BYTES
from pipeline.targets import resolve

INTS = MAX_BYTES // 4


def _reversed(size: int, scope: str) -> tvm.tirx.PrimFunc:
    """The elements of ``x`` in reverse order, by way of a buffer of ``size`` elements."""
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            x, y = (builder.arg(name, T.Buffer((size,), "int32")) for name in "xy")
            buffer = builder.alloc_buffer((size,), "int32", scope=scope)
            with builder.serial(0, size) as i:
                builder.buffer_store(buffer, x[size - 1 - i], [i])
            with builder.serial(0, size) as i:
                builder.buffer_store(y, buffer[i] + tirx.const(1, "int32"), [i])
        return ib.get()


@pytest.mark.parametrize(
    ("size", "scope", "from_runtime"),
    [(8, "local", False), (INTS, "local", False), (INTS + 1, "local", True), (INTS, "global", True)],
    ids=["small", "largest", "too large", "not local"],
)
def test_small_local_buffers_are_not_allocated_by_the_runtime(size: int, scope: str, from_runtime: bool) -> None:
    """A call of the runtime costs time, and vectors in its memory leave their registers; a large stack overflows."""
    target = resolve("llvm").tvm_target()
    library = tvm.tirx.build(_reversed(size, scope), target=target, pipeline=KERNEL_LOWERING)
    assert ("AllocWorkspace" in library.inspect_source("ll")) == from_runtime
    x = np.arange(size, dtype=np.int32)
    y = tvm.runtime.empty((size,), "int32")
    library["main"](tvm.runtime.tensor(x), y)
    np.testing.assert_array_equal(y.numpy(), x[::-1] + 1)
