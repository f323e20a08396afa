"""What the kernels of a module have to do: read off the last Relax module in which calls name their results.

1. :class:`KernelTable`, as an instrument of the compile, keeps the module right before calls get their result as an
   argument: by then every operator is a kernel, and its variable still has the name of the model's.
2. The operations of an integer kernel come with its problem (attribute :data:`MACS`); in a float one, which TVM made,
   they are the reductions over a product. What TVM calls in its runtime library (sorting) counts as none.
3. A function that calls kernels of its own says which (attribute :data:`STEPS`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx

from pipeline.ir.graph import Graph, numpy_of, op_name
from pipeline.runtime.manifest import Kernel

MACS = "octet.macs"
"""Attribute of a kernel's function: the multiplications of the layer as the model has it."""

STEPS = "octet.steps"
"""Attribute of a function that calls kernels for each image in turn: these, as :func:`steps_to_json` writes them."""

_CALLS = ("relax.call_tir", "relax.call_tir_inplace", "relax.call_dps_packed")
_LAST_PASS_WITH_NAMES = "RewriteDataflowReshape"


@tvm.ir.instrument.pass_instrument
class KernelTable:
    """Give it to the ``PassContext`` of one ``tvm.compile``, then ask for :meth:`kernels`."""

    def __init__(self) -> None:
        self._module: tvm.IRModule | None = None

    def run_after_pass(self, module: tvm.IRModule, info: Any) -> None:
        """Called by TVM."""
        if info.name == _LAST_PASS_WITH_NAMES:
            self._module = module

    @property
    def module(self) -> tvm.IRModule:
        """The last module with names; every operator in it is a kernel."""
        if self._module is None:
            raise RuntimeError(f"tvm.compile ran no pass {_LAST_PASS_WITH_NAMES}")
        return self._module

    def kernels(self, node_names: Mapping[str, str]) -> tuple[Kernel, ...]:
        """The calls of kernels in execution order; ``node_names`` maps variables to nodes of the ONNX file."""
        bindings = Graph(self.module).bindings
        found = (kernel_of(self.module, call, var.name) for var, call in bindings if op_name(call) in _CALLS)
        return tuple(_renamed(kernel, node_names) for kernel in found)


def _renamed(kernel: Kernel, node_names: Mapping[str, str]) -> Kernel:
    steps = tuple(_renamed(step, node_names) for step in kernel.steps)
    return replace(kernel, node=node_names.get(kernel.node, kernel.node), steps=steps)


def steps_to_json(steps: Sequence[Kernel]) -> str:
    """The value of the attribute :data:`STEPS`."""
    return json.dumps([asdict(step) for step in steps])


def _steps(function: tirx.PrimFunc) -> tuple[Kernel, ...]:
    entries = json.loads(str(function.attrs[STEPS])) if STEPS in function.attrs else []
    return tuple(Kernel(**{**entry, "steps": ()}) for entry in entries)


def kernel_of(module: tvm.IRModule, call: relax.Call, node: str) -> Kernel:
    """What ``call`` of a function of ``module`` does; ``node`` is the name of its result."""
    callee, operands = call.args[0], list(call.args[1].fields)
    weights = [x for x in operands if numpy_of(x) is not None]
    packed = isinstance(callee, relax.ExternFunc)
    return Kernel(
        name=str(callee.global_symbol if packed else callee.name_hint),
        node=node,
        macs=0 if packed else _macs(module[callee]),
        weight_bytes=sum(_bytes(x.ty) for x in weights),
        read_bytes=sum(_bytes(x.ty) for x in operands if x not in weights),
        written_bytes=sum(map(_bytes, call.ty_args)),
        steps=() if packed else _steps(module[callee]),
    )


def _bytes(ty: Any) -> int:
    if isinstance(ty, relax.TupleType):
        return sum(map(_bytes, ty.fields))
    size = math.prod(int(d) for d in ty.shape)
    return size * tvm.DataType(ty.dtype).itemsize


def _macs(function: tirx.PrimFunc) -> int:
    if MACS in function.attrs:
        return int(function.attrs[MACS])
    blocks: list[s_tir.SBlock] = []
    tvm_ffi.structural_walk(function.body, (s_tir.SBlock, blocks.append))
    return sum(
        math.prod(int(axis.dom.extent) for axis in block.iter_vars)
        for block in blocks
        if block.init is not None and _adds_product(block.body)
    )


def _adds_product(update: tirx.Stmt) -> bool:
    return (
        isinstance(update, tirx.BufferStore)
        and isinstance(update.value, tirx.Add)
        and any(isinstance(term, tirx.Mul) for term in (update.value.a, update.value.b))
    )
