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
from pipeline.passes.integer.arithmetic import ELEMENTWISE, evaluate, tensor_operands
from pipeline.passes.integer.context import Context
from pipeline.passes.integer.graph import numpy_of, op_name, static_shape
from pipeline.passes.integer.quantization import Quantization, quantize_codes
from pipeline.passes.integer.target import Target

LONGEST_CHAIN = 64


@dataclass
class _Chain:
    """Element-wise operators found so far, in the order of evaluation, and the one tensor that they read."""

    calls: dict[relax.Var, relax.Call] = field(default_factory=dict)
    source: tuple[relax.Expr, Quantization] | None = None
    numbers: dict[relax.Expr, NDArray[Any]] = field(default_factory=dict)

    def explore(self, context: Context, expr: relax.Expr, shape: tuple[int, ...]) -> bool:
        """Whether ``expr`` depends on one quantised tensor of this shape alone, element by element."""
        if expr in self.calls or expr in self.numbers:
            return True
        constant = context.quantized_constant(expr)
        number = numpy_of(expr) if constant is None else constant.values().astype(np.float32)
        if number is not None:
            self.numbers[expr] = number.reshape(())[()] if number.size == 1 else number
            return number.size == 1
        if static_shape(expr) != shape:
            return False
        activation = context.activation(expr)
        if activation is not None:
            known = self.source is None or (self.source[0].same_as(activation[0]) and self.source[1] == activation[1])
            self.source = activation
            return known
        call = context.definition(expr)
        if op_name(call) not in ELEMENTWISE or len(self.calls) >= LONGEST_CHAIN:
            return False
        if not all(self.explore(context, operand, shape) for operand in tensor_operands(call)):
            return False
        self.calls[expr] = call
        return True

    def values(self) -> NDArray[Any]:
        """What the last operator gives for each of the 256 codes."""
        assert self.source is not None
        quantization = self.source[1]
        steps = (np.arange(256) - quantization.zero_point).astype(np.float32)
        codes = steps * np.float32(quantization.scale)
        results: dict[relax.Expr, NDArray[Any]] = {}
        for var, call in self.calls.items():
            args = []
            for operand in tensor_operands(call):
                known = results.get(operand, self.numbers.get(operand))
                args.append(codes if known is None else np.asarray(known))
            results[var] = np.broadcast_to(evaluate(call, args), (256,))
        return results[next(reversed(self.calls))]


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
    return context.emit(operators.lookup(chain.source[0], relax.const(table)), var.name)
