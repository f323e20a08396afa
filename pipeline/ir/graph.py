"""Reading and rebuilding ``main``, one dataflow block of a Relax module, binding by binding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from pipeline.errors import UnsupportedOperatorError

Constant = tvm.ir.GenericConst


def op_name(expr: relax.Expr | None) -> str:
    """Name of the operator that ``expr`` calls, such as ``relax.nn.conv2d``; empty for anything else."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
        return str(expr.op.name)
    return ""


def dtype_of(expr: relax.Expr) -> str:
    """dtype of a tensor expression; empty where it is no tensor."""
    return str(expr.ty.dtype) if isinstance(expr.ty, relax.TensorType) else ""


def static_shape(expr: relax.Expr) -> tuple[int, ...] | None:
    """Shape of a tensor expression, or None where it is not known in full."""
    shape = getattr(expr.ty, "shape", None)
    if shape is None or not all(isinstance(d, (int, tvm.tirx.IntImm)) for d in shape):
        return None
    return tuple(int(d) for d in shape)


def numpy_of(expr: relax.Expr | None) -> NDArray[np.generic] | None:
    """Value of a constant tensor; None for anything else."""
    return expr.value.numpy() if isinstance(expr, Constant) else None


def is_among(constant: relax.Expr, others: Iterable[relax.Expr]) -> bool:
    """Whether it is one of ``others``, as an object: TVM compares values."""
    return any(constant.same_as(other) for other in others)


def operands(value: relax.Expr) -> Iterator[relax.Expr]:
    """Variables and constants that ``value`` reads, tuples opened."""
    if isinstance(value, relax.Call):
        for arg in value.args:
            yield from operands(arg)
    elif isinstance(value, relax.Tuple):
        for field in value.fields:
            yield from operands(field)
    elif isinstance(value, relax.TupleGetItem):
        yield from operands(value.tuple_value)
    elif isinstance(value, (relax.Var, Constant)):
        yield value


class Graph:
    """``main`` of a module: its bindings in order, the definition of each variable and how often each is read.

    Raises:
        UnsupportedOperatorError: where ``main`` has control flow.
    """

    def __init__(self, module: tvm.IRModule) -> None:
        self.module = module
        self.function: relax.Function = module["main"]
        self.bindings: list[tuple[relax.Var, relax.Expr]] = []
        self.definition: dict[relax.Var, relax.Expr] = {}
        self.uses: Counter[relax.Var] = Counter()
        for block in self.function.body.blocks:
            for binding in block.bindings:
                if not isinstance(binding, relax.VarBinding) or isinstance(binding.value, relax.If):
                    raise UnsupportedOperatorError(
                        f"{binding.var.name} depends on a condition or on a shape that is known at run time only; "
                        "export the model without If and Loop, and with fixed shapes"
                    )
                self.bindings.append((binding.var, binding.value))
                self.definition[binding.var] = binding.value
                self.uses.update(v for v in operands(binding.value) if isinstance(v, relax.Var))
        self.output: relax.Expr = self.function.body.body
        while isinstance(self.definition.get(self.output), (relax.Var, relax.Tuple)):
            self.output = self.definition[self.output]
        self.uses.update(v for v in operands(self.output) if isinstance(v, relax.Var))

    def live(self) -> set[relax.Var]:
        """Variables that the output needs."""
        live = {v for v in operands(self.output) if isinstance(v, relax.Var)}
        for var, value in reversed(self.bindings):
            if var in live:
                live.update(v for v in operands(value) if isinstance(v, relax.Var))
        return live


class Rewriter:
    """Rebuilds ``main`` while its bindings are visited in order; new definitions are at hand at once."""

    changes_shapes = False
    """Whether operands may come back with other shapes, so that a binding has no valid type before it is visited."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.builder = relax.BlockBuilder()
        self._bindings: list[tuple[relax.Var, relax.Expr]] = []
        self._definition: dict[relax.Var, relax.Expr] = {}
        self._replacement: dict[relax.Var, relax.Expr] = {}

    def definition(self, expr: relax.Expr) -> Any:
        """What the new variable ``expr`` is bound to; None for a parameter; ``expr`` itself where it is a constant."""
        return self._definition.get(expr) if isinstance(expr, relax.Var) else expr

    def emit(self, value: relax.Expr, name: str) -> relax.Expr:
        """Bind ``value`` to a new variable called ``name``; a variable or a constant stands for itself."""
        if isinstance(value, (relax.Var, Constant)):
            return value
        value = self.builder.normalize(value)
        return self._bind(relax.DataflowVar(name, value.ty), value)

    def _bind(self, var: relax.Var, value: relax.Expr) -> relax.Var:
        self._bindings.append((var, value))
        self._definition[var] = value
        return var

    def substitute(self, expr: relax.Expr) -> relax.Expr:
        """``expr`` with every variable of the old graph replaced; the same object where nothing changes."""
        if isinstance(expr, relax.Var):
            return self._replacement.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            fields = [self.substitute(f) for f in expr.fields]
            same = all(a is b or a.same_as(b) for a, b in zip(fields, expr.fields, strict=True))
            return expr if same else relax.Tuple(fields)
        if isinstance(expr, relax.TupleGetItem):
            source = self.substitute(expr.tuple_value)
            if isinstance(source, relax.Tuple):
                return source.fields[expr.index]
            return expr if source.same_as(expr.tuple_value) else relax.TupleGetItem(source, expr.index)
        if isinstance(expr, relax.Call):
            args = [self.substitute(a) for a in expr.args]
            same = all(a is b or a.same_as(b) for a, b in zip(args, expr.args, strict=True))
            return expr if same else relax.Call(expr.op, args, expr.attrs, expr.ty_args)
        return expr

    def replace(self, var: relax.Var, new: relax.Expr) -> None:
        """From now on ``new`` stands for the old variable ``var``."""
        self._replacement[var] = new

    def run(self, visit: Callable[[relax.Var, relax.Expr], relax.Expr]) -> tvm.IRModule:
        """Visit every binding with its operands replaced, bind what ``visit`` returns, and build the module."""
        for var, old in self.graph.bindings:
            if isinstance(old, (relax.Var, relax.Tuple)):
                self.replace(var, self.substitute(old))
                continue
            value = self.substitute(old)
            if value is not old and not self.changes_shapes:
                value = self.builder.normalize(value)
            new = visit(var, value)
            if new is old and isinstance(var, relax.DataflowVar):
                self._bind(var, old)
            elif isinstance(new, relax.Tuple):
                self.replace(var, new)
            else:
                self.replace(var, self.emit(new, var.name))
        return self.finish(self.substitute(self.graph.output))

    def finish(self, output: relax.Expr) -> tvm.IRModule:
        """The module with the new ``main``, without the bindings that nothing reads."""
        needed = {v for v in operands(output) if isinstance(v, relax.Var)}
        kept = []
        for var, value in reversed(self._bindings):
            if var in needed:
                kept.append((var, value))
                needed.update(v for v in operands(value) if isinstance(v, relax.Var))
        builder = relax.BlockBuilder()
        function = self.graph.function
        attrs = dict(function.attrs.items()) if function.attrs else None
        with builder.function("main", list(function.params), attrs=attrs):
            with builder.dataflow():
                for var, value in reversed(kept):
                    builder.emit_normalized(relax.VarBinding(var, value))
                result = builder.emit_output(output)
            builder.emit_func_output(result)
        module = tvm.IRModule(self.graph.module.functions, attrs=self.graph.module.attrs)
        module.update_func(module.get_global_var("main"), builder.get()["main"])
        return module
