"""The pass: the trunk of a batched model becomes one call."""

from __future__ import annotations

import tvm
from tvm import relax

from pipeline.ir.graph import Graph, Rewriter
from pipeline.passes.emit_kernels import Configure, emit_kernels
from pipeline.passes.kernel_table import MACS, STEPS, steps_to_json
from pipeline.targets import DeployTarget

from .sequence import Sequence, SequenceBuilder
from .trunk import Trunk, find_trunk, image_module

_SUFFIX = "_in_turn"


def compute_images_in_turn(module: tvm.IRModule, target: DeployTarget, configure: Configure) -> tvm.IRModule:
    """``module`` with its trunk as one call of a function that runs image by image; unchanged for small batches."""
    graph = Graph(module)
    trunk = find_trunk(graph)
    if trunk is None:
        return module
    sequence = SequenceBuilder(emit_kernels(image_module(trunk), target, configure), trunk.images, _SUFFIX).build()
    return _Inserter(graph, trunk, sequence).insert()


class _Inserter(Rewriter):
    def __init__(self, graph: Graph, trunk: Trunk, sequence: Sequence) -> None:
        super().__init__(graph)
        self._trunk = trunk
        self._sequence = sequence
        self._results: dict[relax.Var, relax.Expr] = {}

    def insert(self) -> tvm.IRModule:
        """The call in the place of the trunk's first operator, its results in that of the others."""
        return self.run(self._visit)

    def finish(self, output: relax.Expr) -> tvm.IRModule:
        """The module with the kernels besides ``main``."""
        module = super().finish(output)
        module.update(self.builder.get())
        for name, kernel in self._sequence.kernels.items():
            module[name] = kernel
        return module

    def _visit(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if not self._results:
            self._call()
        return self._results.get(var, value)

    def _call(self) -> None:
        trunk, sequence = self._trunk, self._sequence
        macs = sum(step.images * step.macs for step in sequence.steps)
        attrs = {"tirx.is_scheduled": True, MACS: macs, STEPS: steps_to_json(sequence.steps)}
        function = sequence.function.without_attr("global_symbol").with_attrs(attrs)
        callee = self.builder.add_func(function, "images_in_turn")
        types = [r.ty for r in trunk.results]
        call = self.emit(relax.call_tir(callee, [*trunk.inputs, *sequence.constants], types), "images")
        for i, result in enumerate(trunk.results):
            self._results[result] = call if len(types) == 1 else relax.TupleGetItem(call, i)
