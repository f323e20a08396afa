"""Integer layers whose result is not quantised.

1. A convolution, product, average or softmax of quantised inputs that a float operator or an output reads -> the
   integer operator with a float32 result, bias included.
2. Cast to int32 of such a layer where the scale of its sums is 1 (ConvInteger, MatMulInteger) -> an int32 result.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, Rewriter, dtype_of, numpy_of, op_name, operands
from pipeline.ir.operators import Output
from pipeline.passes.integer.context import Context
from pipeline.passes.integer.islands import LAYERS_WITH_BIAS, biased_layer, lower_anchor
from pipeline.passes.integer.report import Report
from pipeline.passes.integer.target import Refusal, Target

_WITHOUT_BIAS = frozenset({"relax.nn.avg_pool1d", "relax.nn.avg_pool2d", "relax.mean", "relax.nn.softmax"})

_FLOAT32 = Target(Output(dtype="float32"))

_LAYERS = {operators.CONV2D: 3, operators.DENSE: 3, operators.MATMUL: 2}
"""Position of the multiplier among the operands."""


def cast_source(context: Context, call: relax.Call) -> relax.Expr | None:
    """The float32 that ``call`` casts to int32; the importer wraps the cast in a choice of what is finite.

    ``astype(where(t >= 2**31, t - 2**32, t))`` with ``t = astype(where(not isfinite(x), 0, x), int64) % 2**32``.
    """
    if op_name(call) != "relax.astype" or dtype_of(call) != "int32":
        return None
    wrapped = context.definition(call.args[0])
    if dtype_of(call.args[0]) == "float32":
        return call.args[0]
    if op_name(wrapped) != "relax.where":
        return None
    remainder = context.definition(wrapped.args[2])
    if op_name(remainder) != "relax.floor_mod" or not _is_number(remainder.args[1], 1 << 32):
        return None
    wide = context.definition(remainder.args[0])
    if op_name(wide) != "relax.astype" or dtype_of(wide) != "int64":
        return None
    finite = context.definition(wide.args[0])
    if op_name(finite) != "relax.where" or not _is_number(finite.args[1], 0):
        return None
    return finite.args[2]


def _is_number(expr: relax.Expr, number: int) -> bool:
    value = numpy_of(expr)
    return value is not None and value.size == 1 and value.item() == number


class _FloatResults:
    def __init__(self, module: tvm.IRModule, report: Report) -> None:
        self.graph = Graph(module)
        self.context = Context(Rewriter(self.graph), report)
        self.readers = {x: value for _, value in self.graph.bindings for x in operands(value)}

    def visit(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        """Lower a layer, or the addition of its bias; a layer whose bias comes next waits for it."""
        name = op_name(value)
        if name == "relax.astype":
            return self.cast(var, value)
        is_layer = name in LAYERS_WITH_BIAS
        if is_layer and self.has_bias(var):
            return value
        if is_layer or name in _WITHOUT_BIAS or (name == "relax.add" and biased_layer(self.context, value) is not None):
            result = lower_anchor(self.context, var, value, _FLOAT32)
            if isinstance(result, Refusal):
                self.context.report.refused(var.name, result.reason)
            elif result is not None:
                return result
        return value

    def has_bias(self, var: relax.Var) -> bool:
        """Whether the only reader of a layer adds a constant that can be its bias."""
        reader = self.readers.get(var)
        if self.graph.uses[var] != 1 or op_name(reader) != "relax.add":
            return False
        return biased_layer(_Original(self.graph, self.context), reader) is not None

    def cast(self, var: relax.Var, value: relax.Call) -> relax.Expr:
        """Rewrite 2: the layer has a float32 result by now."""
        source = cast_source(self.context, value)
        layer = None if source is None else self.context.definition(source)
        if op_name(layer) not in _LAYERS or layer is None or str(layer.attrs["out_dtype"]) != "float32":
            return value
        multiplier = numpy_of(layer.args[_LAYERS[op_name(layer)]])
        if multiplier is None or not (multiplier == 1).all():
            return value
        kept = {
            k: v
            for k, v in layer.attrs.items()
            if k not in ("out_shape", *operators.output_attributes(_FLOAT32.output))
        }
        how = f"{op_name(layer)} with an int32 result"
        self.context.report.lowered(var.name, op_name(value), how)
        return operators.make(op_name(layer), layer.args, operators.shape_of(layer), Output(dtype="int32"), kept)


class _Original(Context):
    """The graph from before this pass, where a bias is defined already that the rebuilding has yet to reach."""

    def __init__(self, graph: Graph, context: Context) -> None:
        super().__init__(context.rewriter, context.report)
        self.graph = graph

    def definition(self, expr: relax.Expr) -> Any:
        """What a variable of the old graph is bound to."""
        return self.graph.definition.get(expr) if isinstance(expr, relax.Var) else expr


def lower_float_results(module: tvm.IRModule, report: Report) -> tvm.IRModule:
    """Apply the rewrites above to ``main``."""
    results = _FloatResults(module, report)
    return results.context.rewriter.run(results.visit)
