"""Element-wise float operators between one DequantizeLinear and one QuantizeLinear -> ``octet.lookup``.

Whatever the operators are (sigmoid, tanh, gelu, silu, leaky relu, hard swish, x * sigmoid(x), powers, products with a
number, ...), there are 256 inputs: the float operators are carried out on each at compile time.

Does not apply where an operator reads a second tensor, or a constant with more than one element.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import numpy_of, op_name, static_shape
from pipeline.passes.integer.arithmetic import ELEMENTWISE, evaluate, tensor_operands
from pipeline.passes.integer.context import Context
from pipeline.passes.integer.quantization import Quantization, quantize_codes
from pipeline.passes.integer.target import Target

LONGEST_CHAIN = 64


def table_of(call: relax.Call) -> NDArray[np.uint8]:
    """The 256 results of ``octet.requantize`` or ``octet.lookup``."""
    if op_name(call) == operators.LOOKUP:
        return call.args[1].value.numpy()
    zero_point, qmin, qmax = (int(call.attrs[name]) for name in ("y_zero_point", "qmin", "qmax"))
    steps = (np.arange(256) - int(call.attrs["x_zero_point"])).astype(np.float32)
    product = steps * np.float32(call.attrs["multiplier"])
    return (np.rint(np.clip(product, qmin - zero_point, qmax - zero_point)) + zero_point).astype(np.uint8)


def is_tabular(call: relax.Expr) -> bool:
    """Whether ``call`` is an integer operator for which :func:`table_of` holds."""
    return op_name(call) in (operators.REQUANTIZE, operators.LOOKUP) and str(call.attrs["out_dtype"]) == "uint8"


@dataclass
class _Chain:
    """Element-wise operators found so far, in the order of evaluation, and the one tensor that they read.

    ``known`` holds the value of each constant, and that of each dequantised tensor for the 256 codes of ``source``.
    """

    calls: dict[relax.Var, relax.Call] = field(default_factory=dict)
    source: relax.Expr | None = None
    known: dict[relax.Expr, NDArray[Any]] = field(default_factory=dict)

    def explore(self, context: Context, expr: relax.Expr, shape: tuple[int, ...]) -> bool:
        """Whether ``expr`` depends on one uint8 tensor of this shape alone, element by element."""
        if expr in self.calls or expr in self.known:
            return True
        constant = context.quantized_constant(expr)
        number = numpy_of(expr) if constant is None else constant.values().astype(np.float32)
        if number is not None:
            self.known[expr] = number.reshape(-1)[:1]
            return number.size == 1
        if static_shape(expr) != shape:
            return False
        activation = context.activation(expr)
        if activation is not None:
            return self.reads(context, expr, *activation)
        call = context.definition(expr)
        if op_name(call) not in ELEMENTWISE or len(self.calls) >= LONGEST_CHAIN:
            return False
        if not all(self.explore(context, operand, shape) for operand in tensor_operands(call)):
            return False
        self.calls[expr] = call
        return True

    def reads(self, context: Context, expr: relax.Expr, x: relax.Expr, quantization: Quantization) -> bool:
        """Note the values of the dequantised ``x``; False where it does not stem from the same tensor as the others."""
        codes: NDArray[Any] = np.arange(256)
        call = context.definition(x)
        while is_tabular(call):  # from the last table to the first
            codes = codes[table_of(call)]
            x = call.args[0]
            call = context.definition(x)
        if self.source is not None and not self.source.same_as(x):
            return False
        self.source = x
        steps = (codes.astype(np.int64) - quantization.zero_point).astype(np.float32)
        self.known[expr] = steps * np.float32(quantization.scale)
        return True

    def values(self) -> NDArray[Any]:
        """What the last operator gives for each of the 256 codes."""
        results = dict(self.known)
        for var, call in self.calls.items():
            results[var] = evaluate(call, [results[operand] for operand in tensor_operands(call)])
        return np.broadcast_to(results[next(reversed(self.calls))], (256,))


def lower_to_table(context: Context, var: relax.Expr, target: Target) -> relax.Expr | None:
    """``octet.lookup`` for the float operators that end in ``var``; None where they read more than one tensor."""
    shape = static_shape(var)
    if shape is None or target.quantization is None or op_name(context.definition(var)) not in ELEMENTWISE:
        return None
    chain = _Chain()
    if not chain.explore(context, var, shape) or chain.source is None:
        return None
    quantization, output = target.quantization, target.output
    table = quantize_codes(
        chain.values(), quantization.scale, quantization.zero_point, output.qmin, output.qmax
    ).astype(np.uint8)
    for part in chain.calls:
        context.report.absorbed(part.name)
    names = ", ".join(sorted({op_name(c).removeprefix("relax.") for c in chain.calls.values()}))
    context.report.lowered(var.name, op_name(context.definition(var)), f"256-entry table of {names}")
    return context.emit(operators.lookup(chain.source, relax.const(table)), var.name)
