"""Merge element-wise operators on codes with what is in front of them, where nothing else reads that.

1. ``octet.requantize`` that only clamps, behind an operator with a range [qmin, qmax] -> a narrower range there.
2. ``octet.requantize`` or ``octet.lookup`` behind ``octet.lookup`` or another ``octet.requantize`` -> one operator: the
   clamp of the first is carried over where it only clamps, any other pair becomes one table.

Every merged operator gives the bits that the two give one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, Rewriter, op_name
from pipeline.passes.integer.table import is_tabular, table_of

_WITH_RANGE = frozenset(
    {
        operators.CONV2D,
        operators.DENSE,
        operators.MATMUL,
        operators.ADD,
        operators.MULTIPLY,
        operators.REQUANTIZE,
        operators.AVG_POOL2D,
        operators.SOFTMAX,
    }
)
_COMPUTED = ("out_dtype", "y_zero_point", "qmin", "qmax", "out_shape")


def _is_clamp(call: relax.Call) -> bool:
    """Whether a requantisation keeps the scale and the zero point."""
    attrs = call.attrs
    return (
        op_name(call) == operators.REQUANTIZE
        and str(attrs["out_dtype"]) == "uint8"
        and float(attrs["multiplier"]) == 1.0
        and int(attrs["x_zero_point"]) == int(attrs["y_zero_point"])
    )


def _output(call: relax.Call) -> operators.Output:
    attrs = call.attrs
    return operators.Output(str(attrs["out_dtype"]), int(attrs["y_zero_point"]), int(attrs["qmin"]), int(attrs["qmax"]))


def _with_output(call: relax.Call, output: operators.Output, args: Sequence[relax.Expr] | None = None) -> relax.Call:
    """``call`` with another range, and with other operands of the same shapes where ``args`` are given."""
    kept: dict[str, Any] = {k: v for k, v in call.attrs.items() if k not in _COMPUTED}
    operands = call.args if args is None else args
    return operators.make(op_name(call), operands, operators.shape_of(call), output, kept)


def _narrowed(producer: relax.Call, clamp: relax.Call) -> relax.Call:
    """``producer`` with the range of the clamp behind it."""
    first, second = _output(producer), _output(clamp)
    low, high = (min(max(end, second.qmin), second.qmax) for end in (first.qmin, first.qmax))
    return _with_output(producer, operators.Output(first.dtype, first.zero_point, low, high))


def _combined(first: relax.Call, second: relax.Call) -> relax.Call:
    """One operator for two element-wise ones."""
    x = first.args[0]
    if _is_clamp(first) and op_name(second) == operators.REQUANTIZE:
        ends = table_of(second)[[_output(first).qmin, _output(first).qmax]]
        output = _output(second)
        limits = operators.Output(output.dtype, output.zero_point, int(ends[0]), int(ends[1]))
        return _with_output(second, limits, [x])
    return operators.lookup(x, relax.const(table_of(second)[table_of(first)]))


def merge_elementwise(module: tvm.IRModule) -> tvm.IRModule:
    """Apply the rewrites above to ``main``."""
    graph = Graph(module)
    rewriter = Rewriter(graph)
    read_once = {var for var, count in graph.uses.items() if count == 1}

    def visit(var: relax.Var, value: relax.Expr) -> relax.Expr:
        old = graph.definition[var]
        if not is_tabular(value) or old.args[0] not in read_once:
            return value
        producer = rewriter.definition(value.args[0])
        if not isinstance(producer, relax.Call):
            return value
        if _is_clamp(value) and op_name(producer) in _WITH_RANGE and str(producer.attrs["out_dtype"]) == "uint8":
            return rewriter.emit(_narrowed(producer, value), value.args[0].name)
        if is_tabular(producer):
            return _combined(producer, value)
        return value

    return rewriter.run(visit)
