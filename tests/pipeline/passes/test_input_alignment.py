"""Kernels that read a model's inputs take them from where the caller has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from pipeline.ir.graph import Graph, op_name
from pipeline.passes.input_alignment import ANY_ARRAY, CACHE_LINE, input_alignment
from pipeline.targets import PRESETS
from tests import numpy_reference
from tests.octet_runner import assert_same_bits, lower_kernels
from tests.pipeline.passes.blocks import Builder, Params, add, conv, image_module, random_images

LLVM = PRESETS["llvm"]


def _two_convolutions(b: Builder, p: Params) -> relax.Expr:
    return b.emit(conv(b.emit(conv(p[0])), kernel=3))


def _shifted(array: Any) -> Any:
    """A copy that starts 8 bytes after a cache line."""
    memory = np.zeros(array.nbytes + 2 * CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE + ANY_ARRAY
    view = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def test_shifted_input_gives_the_same_bits() -> None:
    """A vector load that expects a cache line ends the process."""
    module = image_module(lambda b, p: b.emit(add(_two_convolutions(b, p), p[0])))
    lowered = lower_kernels(module, LLVM)
    assert input_alignment(lowered) == ANY_ARRAY
    image = random_images()[0]
    tvm_target = LLVM.tvm_target()
    with tvm_target:
        executable = tvm.compile(lowered, target=tvm_target)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    shifted = tvm_ffi.from_dlpack(_shifted(image))
    assert_same_bits(machine["main"](shifted).numpy(), numpy_reference.run(module, image), "shifted")


def test_float_operator_keeps_the_alignment() -> None:
    """TVM's own kernels expect a cache line: such an input has to be copied by the runtime."""
    module = image_module(lambda b, p: b.emit(relax.op.astype(p[0], "float32")))
    assert input_alignment(lower_kernels(module, LLVM)) == CACHE_LINE


def test_no_kernel_is_left_over() -> None:
    """A kernel that reads an input and nothing else would be compiled twice."""
    lowered = lower_kernels(image_module(_two_convolutions), LLVM)
    calls = [value for _, value in Graph(lowered).bindings if op_name(value) == "relax.call_tir"]
    called = {call.args[0].name_hint for call in calls}
    assert {gv.name_hint for gv in lowered.get_global_vars()} - {"main"} == called
