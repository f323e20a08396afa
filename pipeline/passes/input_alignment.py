"""Let the kernels that read the model's inputs do with the alignment that a caller's arrays have.

Kernels assume that their arguments start at a cache line, which memory of the compiler's own does. A numpy array does
not, and copying an image costs more than reading it unaligned.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax, tirx

from pipeline.ir.graph import Graph, Rewriter, op_name, operands

CACHE_LINE = 64
"""Bytes: what kernels assume."""

ANY_ARRAY = 8
"""Bytes: what every allocator and every element type of a tensor keep to."""


def accept_unaligned_inputs(module: tvm.IRModule, alignment: int = ANY_ARRAY) -> tvm.IRModule:
    """The module, with kernels of their own where an input is read, for inputs of ``alignment`` bytes.

    An input that something else than a kernel reads keeps its alignment, see :func:`input_alignment`.
    """
    return _Relaxer(Graph(module), alignment).rewrite()


def input_alignment(module: tvm.IRModule) -> int:
    """Bytes to which the inputs of ``main`` have to be aligned."""
    graph = Graph(module)
    needed = [ANY_ARRAY]
    for _, value in graph.bindings:
        if not any(p in graph.function.params for p in operands(value)):
            continue
        if op_name(value) != "relax.call_tir":
            needed.append(CACHE_LINE)
            continue
        params = module[value.args[0]].params
        read = [params[i] for i, a in enumerate(value.args[1].fields) if a in graph.function.params]
        needed += [int(p.ty.data_alignment) for p in read]
    return max(needed)


class _Relaxer(Rewriter):
    def __init__(self, graph: Graph, alignment: int) -> None:
        super().__init__(graph)
        self._alignment = alignment
        self._replaced: set[tvm.ir.GlobalVar] = set()

    def rewrite(self) -> tvm.IRModule:
        """Rewrite all calls."""
        return self.run(self._visit)

    def finish(self, output: relax.Expr) -> tvm.IRModule:
        """The module with the kernels besides ``main``."""
        module = super().finish(output)
        module.update(self.builder.get())
        called = {value.args[0] for _, value in Graph(module).bindings if op_name(value) == "relax.call_tir"}
        for replaced in self._replaced - called:
            del module[replaced]
        return module

    def _visit(self, _var: relax.Var, value: relax.Expr) -> relax.Expr:
        if op_name(value) != "relax.call_tir":
            return value
        arguments = value.args[1].fields
        unaligned = [i for i, a in enumerate(arguments) if a in self.graph.function.params]
        if not unaligned:
            return value
        kernel = _with_alignment(self.graph.module[value.args[0]], unaligned, self._alignment)
        self._replaced.add(value.args[0])
        callee = self.builder.add_func(kernel, f"{value.args[0].name_hint}_unaligned")
        return relax.Call(value.op, [callee, *value.args[1:]], value.attrs, value.ty_args)


def _with_alignment(kernel: tirx.PrimFunc, indices: list[int], alignment: int) -> tirx.PrimFunc:
    for index in indices:
        old = kernel.params[index]
        new = tirx.decl_buffer(old.ty.shape, old.ty.dtype, old.name, data_alignment=alignment)
        kernel = tvm_ffi.structural_map(
            kernel, (tirx.Var, lambda v, old=old, new=new: new if v.same_as(old) else v), order="post"
        )
    return kernel
