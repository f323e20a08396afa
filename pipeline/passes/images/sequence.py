"""One function that calls the kernels of a module for every image of a batch, its memory planned.

1. Threads share the images; a thread has one workspace for all the images it computes.
2. Intermediate results lie in the workspace. Inputs and results are read and written where the caller has them; only a
   result whose images are no multiple of a cache line long is copied there, because kernels write to aligned memory.
   An input of which a kernel reads a view is copied into the workspace: such a kernel reads aligned memory only.
3. The kernels' own parallel loops become serial ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as builder

from pipeline.ir.graph import Constant, Graph, is_among, op_name
from pipeline.ir.operators import shape_of
from pipeline.passes.input_alignment import accept_unaligned_inputs
from pipeline.passes.kernel_table import kernel_of
from pipeline.runtime.manifest import Kernel
from schedules.rows import view

from .memory_plan import ALIGNMENT, Lifetime, plan_offsets
from .step_clock import stamp, step_clock, step_clock_switch

ANY_IMAGE = 1
"""Alignment in bytes of an image within a batch: images may be of any size."""


@dataclass(frozen=True)
class Sequence:
    """The function, the constants that it takes between inputs and results, the functions that have to be in the same
    library, and what each of its calls does for an image."""

    function: tirx.PrimFunc
    constants: list[Constant]
    kernels: dict[str, tirx.PrimFunc]
    steps: tuple[Kernel, ...]


@dataclass(frozen=True)
class _Tensor:
    """Shape and dtype of what belongs to one image."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        return self.elements * tvm.DataType(self.dtype).itemsize

    @property
    def aligned(self) -> bool:
        """Whether image after image of it starts at a cache line."""
        return self.size % ALIGNMENT == 0


def _tensor(expr: relax.Expr) -> _Tensor:
    return _Tensor(shape_of(expr), str(expr.ty.dtype))


def serial(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """``function`` without parallel loops."""

    def visit(loop: tirx.For) -> tirx.For:
        if loop.kind != tirx.ForKind.PARALLEL:
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, visit), order="post"))


class SequenceBuilder:
    """Builds the :class:`Sequence` of ``module``, whose ``main`` computes one image, for ``images`` of them.

    Args:
        module: kernels, and a ``main`` of nothing but calls and views of them, which returns a tuple.
        images: how many times ``main`` runs.
        suffix: appended to the names of the kernels, which become global.
    """

    def __init__(self, module: tvm.IRModule, images: int, suffix: str) -> None:
        module = accept_unaligned_inputs(module, ANY_IMAGE)
        graph = Graph(module)
        self._module = module
        self._images = images
        self._params: list[relax.Var] = list(graph.function.params)
        self._results: list[relax.Var] = list(graph.output.fields)
        self._calls: list[tuple[relax.Var, relax.Call]] = []
        self._origin: dict[relax.Var, relax.Expr] = {}
        self._copied: set[relax.Var] = set()
        """Inputs that have to be aligned."""
        for var, value in graph.bindings:
            if op_name(value) == "relax.reshape":
                self._origin[var] = value.args[0]
                self._copied |= {self._source(var)} & set(self._params)
            elif isinstance(value, relax.Call):
                self._calls.append((var, value))
        self._constants: list[Constant] = []
        for _, call in self._calls:
            known = self._constants
            self._constants += [a for a in call.args[1].fields if isinstance(a, Constant) and not is_among(a, known)]
        self._names = {gv: gv.name_hint + suffix for gv in module.get_global_vars() if gv.name_hint != "main"}
        self._kernels = {name: serial(module[gv]).with_attr("global_symbol", name) for gv, name in self._names.items()}

    def build(self) -> Sequence:
        """The function takes inputs, constants and results, each for all images."""
        offsets, size = self._plan()
        with IRBuilder() as ib:
            with builder.prim_func(s_tir=True):
                builder.func_name("main")
                inputs = [self._argument(f"input{i}", _tensor(p)) for i, p in enumerate(self._params)]
                constants = [
                    builder.arg(f"constant{i}", T.Buffer(shape_of(c), str(c.ty.dtype)))
                    for i, c in enumerate(self._constants)
                ]
                results = [self._argument(f"result{i}", _tensor(r)) for i, r in enumerate(self._results)]
                # Relax looks into the root block of a function that might be a reshape.
                with builder.sblock("root"), step_clock(), builder.parallel(0, self._images) as image:
                    workspace = builder.alloc_buffer((max(size, ALIGNMENT),), "uint8", align=ALIGNMENT)
                    # TVM shrinks a buffer to the elements that it sees being touched.
                    builder.evaluate(T.address_of(workspace[0]))
                    builder.evaluate(T.address_of(workspace[max(size, ALIGNMENT) - 1]))
                    self._body(image, workspace, offsets, inputs, constants, results)
            function = ib.get()
        kernels = self._kernels | step_clock_switch()
        return Sequence(function, self._constants, kernels, tuple(self._steps()))

    def _steps(self) -> Iterator[Kernel]:
        for var, call in self._calls:
            kernel = kernel_of(self._module, call, var.name)
            yield replace(kernel, name=self._names[call.args[0]], images=self._images)

    def _argument(self, name: str, tensor: _Tensor) -> Any:
        return builder.arg(name, T.Buffer((self._images, *tensor.shape[1:]), tensor.dtype))

    def _source(self, expr: relax.Expr) -> relax.Expr:
        while expr in self._origin:
            expr = self._origin[expr]
        return expr

    def _plan(self) -> tuple[dict[relax.Var, int], int]:
        """Offsets in the workspace of everything that is not read or written where the caller has it."""
        end = len(self._calls)
        first = dict.fromkeys(self._params, -1) | {var: step for step, (var, _) in enumerate(self._calls)}
        last = dict(first)
        for step, (_, call) in enumerate(self._calls):
            last.update({s: step for a in call.args[1].fields if (s := self._source(a)) in last})
        last.update({self._source(r): end for r in self._results})
        kept = [v for v in first if not self._is_callers(v)]
        offsets, size = plan_offsets([Lifetime(_tensor(v).size, first[v], last[v]) for v in kept])
        return dict(zip(kept, offsets, strict=True)), size

    def _is_callers(self, var: relax.Var) -> bool:
        return (var in self._params and var not in self._copied) or (var in self._results and _tensor(var).aligned)

    def _body(
        self,
        image: Expr,
        workspace: Any,
        offsets: dict[relax.Var, int],
        inputs: list[Any],
        constants: list[Any],
        results: list[Any],
    ) -> None:
        def address(expr: relax.Expr) -> Expr:
            source = self._source(expr)
            if source in offsets:
                return T.address_of(workspace[offsets[source]])
            callers = dict(zip([*self._params, *self._results], [*inputs, *results], strict=True))
            if source in callers:
                return T.address_of(callers[source][(image, *[0] * (len(_tensor(source).shape) - 1))])
            constant = constants[next(i for i, c in enumerate(self._constants) if c.same_as(source))]
            return T.address_of(constant[(0,) * len(shape_of(source))])

        def array(expr: relax.Expr) -> Expr:
            tensor = _tensor(expr)
            shape = tirx.call_intrin("handle", "tirx.tvm_stack_make_shape", *tensor.shape)
            args = (address(expr), shape, 0, len(tensor.shape), tirx.const(0, tensor.dtype), 0)
            return tirx.call_intrin("handle", "tirx.tvm_stack_make_array", *args)

        for param, buffer in zip(self._params, inputs, strict=True):
            if param in self._copied:
                _copy_in(workspace, offsets[param], buffer, image, _tensor(param))
        first_stamp = image * (len(self._calls) + 1)
        for step, (var, call) in enumerate(self._calls):
            stamp(first_stamp + step)
            arguments = [array(a) for a in call.args[1].fields]
            builder.evaluate(tirx.call_cpacked(self._names[call.args[0]], *arguments, array(var)))
        stamp(first_stamp + len(self._calls))
        for result, buffer in zip(self._results, results, strict=True):
            if self._source(result) in offsets:
                _copy_out(workspace, offsets[self._source(result)], buffer, image, _tensor(result))


def _in_workspace(workspace: Any, offset: int, tensor: _Tensor) -> Any:
    first = offset // tvm.DataType(tensor.dtype).itemsize
    return builder.decl_buffer((tensor.elements,), tensor.dtype, data=workspace.data, elem_offset=first)


def _copy_in(workspace: Any, offset: int, values: Any, image: Expr, tensor: _Tensor) -> None:
    source = view(values, (int(values.shape[0]) * tensor.elements,))
    target = _in_workspace(workspace, offset, tensor)
    with builder.serial(0, tensor.elements) as i:
        builder.buffer_store(target, source[image * tensor.elements + i], [i])


def _copy_out(workspace: Any, offset: int, result: Any, image: Expr, tensor: _Tensor) -> None:
    source = _in_workspace(workspace, offset, tensor)
    target = view(result, (int(result.shape[0]) * tensor.elements,))
    with builder.serial(0, tensor.elements) as i:
        builder.buffer_store(target, source[i], [image * tensor.elements + i])
