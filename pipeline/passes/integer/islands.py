"""Turn what lies between DequantizeLinear and QuantizeLinear into integer operators.

For the tensor in front of each QuantizeLinear, in this order:

1. DequantizeLinear -> the codes themselves where scale and zero point are the same, else ``octet.requantize``.
2. relu, relu6, clip, maximum and minimum with a number -> a narrower range [qmin, qmax] of what is in front of them.
3. Element-wise operators on one tensor -> a table (:mod:`.table`).
4. Data movement and concat -> the same on codes; the QuantizeLinear moves in front of it, to each of its inputs.
5. Convolutions, products, sums, averages, softmax -> the integer operator of the family, bias included.

Where nothing applies, the QuantizeLinear and the float operator in front of it stay, and the report says why.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, Rewriter, op_name, static_shape
from pipeline.passes.integer.arithmetic import ELEMENTWISE
from pipeline.passes.integer.clamp import clamp_of
from pipeline.passes.integer.context import Context, Rule
from pipeline.passes.integer.convolution import CONVOLUTIONS, lower_convolution
from pipeline.passes.integer.data_movement import (
    MANY_TENSORS,
    MAX_POOLS,
    ONE_TENSOR,
    PAD,
    is_movement,
    move,
    moved_tensors,
)
from pipeline.passes.integer.dense import MATMUL, lower_matmul
from pipeline.passes.integer.elementwise import lower_add, lower_multiply
from pipeline.passes.integer.linear import Bias
from pipeline.passes.integer.pooling import lower_avg_pool, lower_mean
from pipeline.passes.integer.quantization import QUANTIZE, Quantization, code_of, per_tensor
from pipeline.passes.integer.report import Report
from pipeline.passes.integer.softmax import lower_softmax
from pipeline.passes.integer.table import lower_to_table
from pipeline.passes.integer.target import Refusal, Target

RULES: dict[str, Rule] = {
    "relax.nn.conv1d": lower_convolution,
    "relax.nn.conv2d": lower_convolution,
    "relax.matmul": lower_matmul,
    "relax.add": lower_add,
    "relax.subtract": lower_add,
    "relax.multiply": lower_multiply,
    "relax.nn.avg_pool1d": lower_avg_pool,
    "relax.nn.avg_pool2d": lower_avg_pool,
    "relax.mean": lower_mean,
    "relax.nn.softmax": lower_softmax,
}
"""The rule of each operator that ends an island."""

LAYERS_WITH_BIAS = CONVOLUTIONS | {MATMUL}

HAS_INTEGER_FORM = frozenset(RULES) | ELEMENTWISE | ONE_TENSOR | MANY_TENSORS | MAX_POOLS | {PAD}
"""Operators that are integer where their inputs and their result are quantised."""


def biased_layer(context: Context, call: relax.Call) -> tuple[relax.Var, relax.Call, Bias] | None:
    """The convolution or product that the addition ``call`` gives a constant bias: its variable, it, and the bias."""
    rank = len(static_shape(call) or ())
    for layer_var, other in ((call.args[0], call.args[1]), (call.args[1], call.args[0])):
        layer = context.definition(layer_var)
        shape = static_shape(layer_var)
        if op_name(layer) not in LAYERS_WITH_BIAS or shape is None or len(shape) != rank:
            continue
        axis = rank - 1 if op_name(layer) == MATMUL else 1
        bias = context.bias(other, shape[axis], axis, rank)
        if bias is not None:
            return layer_var, layer, bias
    return None


def lower_anchor(context: Context, var: relax.Var, call: relax.Call, target: Target) -> relax.Expr | Refusal | None:
    """Apply rule 5 to the call that ``var`` is bound to; None where its operator has no rule."""
    layer = biased_layer(context, call) if op_name(call) == "relax.add" else None
    if layer is not None:
        layer_var, layer_call, bias = layer
        rule = lower_matmul if op_name(layer_call) == MATMUL else lower_convolution
        result = rule(context, var, layer_call, target, bias)
        if isinstance(result, Refusal):
            context.report.refused(layer_var.name, result.reason)
        else:
            context.report.absorbed(layer_var.name)
        return result
    known = RULES.get(op_name(call))
    return None if known is None else known(context, var, call, target)


class _Islands:
    def __init__(self, module: tvm.IRModule, report: Report) -> None:
        self.context = Context(Rewriter(Graph(module)), report)
        self.results: dict[tuple[relax.Expr, Target], relax.Expr | None] = {}

    def visit(self, _: relax.Var, value: relax.Expr) -> relax.Expr:
        """Replace a QuantizeLinear by the integer operator in front of it."""
        quantization = per_tensor(value) if op_name(value) == QUANTIZE else None
        if quantization is None or str(value.attrs.out_dtype) != "uint8":
            return value
        codes = self.quantized(value.args[0], Target.uint8(quantization))
        return value if codes is None else codes

    def quantized(self, expr: relax.Expr, target: Target) -> relax.Expr | None:
        """uint8 codes of the float ``expr`` computed in integers, or None."""
        key = (expr, target)
        if key not in self.results:
            self.results[key] = self._quantized(expr, target) if isinstance(expr, relax.Var) else None
        return self.results[key]

    def _quantized(self, var: relax.Var, target: Target) -> relax.Expr | None:
        context = self.context
        activation = context.activation(var)
        if activation is not None:
            return self.requantized(*activation, target, var.name)
        call = context.definition(var)
        if isinstance(call, relax.TupleGetItem):
            return self.split(var, call, target)
        if not isinstance(call, relax.Call):
            return None
        interval = clamp_of(call, context.definition)
        if interval is not None:
            inner = self.quantized(interval.operand, target.clamped(interval))
            if inner is not None:
                self.note_clamp(var, call, interval.operand)
                return inner
        table = lower_to_table(context, var, target)
        if table is not None:
            return table
        if is_movement(call):
            return self.movement(var, call, target)
        result = lower_anchor(context, var, call, target)
        if isinstance(result, Refusal):
            context.report.refused(var.name, result.reason)
        return None if isinstance(result, Refusal) else result

    def note_clamp(self, var: relax.Var, call: relax.Call, operand: relax.Expr) -> None:
        """Report that a clamp is a part of the operator in front of it."""
        into = operand.name if isinstance(operand, relax.Var) else "its input"
        self.context.report.lowered(var.name, op_name(call), f"clamps the codes of {into}")

    def requantized(self, x: relax.Expr, quantization: Quantization, target: Target, name: str) -> relax.Expr:
        """Rule 1."""
        if quantization == target.quantization and target.is_full:
            return x
        assert target.scale is not None
        multiplier = target.multiplier(quantization.scale)
        assert not isinstance(multiplier, Refusal)
        changed = operators.requantize(
            x, multiplier=float(multiplier), x_zero_point=quantization.zero_point, output=target.output
        )
        return self.context.emit(changed, name)

    def movement(self, var: relax.Var, call: relax.Call, target: Target) -> relax.Expr | None:
        """Rule 4, where at least one of the tensors that are moved becomes integer."""
        sources = moved_tensors(call)
        codes = [self.quantized(x, target) for x in sources]
        if all(c is None for c in codes):
            self.context.report.refused(var.name, "none of its inputs is computed in integers")
            return None
        known = [self.float_quantized(x, target) if c is None else c for x, c in zip(sources, codes, strict=True)]
        self.context.report.lowered(var.name, op_name(call), "acts on the codes")
        return move(self.context.emit, call, known, lambda fill: self.fill(fill, target), var.name)

    def fill(self, value: float, target: Target) -> int:
        """Code of the number that a padding holds."""
        assert target.quantization is not None
        return min(max(code_of(value, target.quantization), target.output.qmin), target.output.qmax)

    def split(self, var: relax.Var, item: relax.TupleGetItem, target: Target) -> relax.Expr | None:
        """Rule 4 for one result of a split."""
        parts = item.tuple_value
        call = self.context.definition(parts)
        if op_name(call) != "relax.split":
            return None
        key = (parts, target)
        if key not in self.results:
            self.results[key] = self.movement(parts, call, target)
        codes = self.results[key]
        return None if codes is None else self.context.emit(relax.TupleGetItem(codes, item.index), var.name)

    def float_quantized(self, expr: relax.Expr, target: Target) -> relax.Expr:
        """The QuantizeLinear of a tensor that stays float, in front of a movement of codes."""
        quantization = target.quantization
        assert quantization is not None
        scale = relax.const(np.float32(quantization.scale))
        zero_point = relax.const(np.array(quantization.zero_point, np.uint8))
        name = f"{expr.name}_codes" if isinstance(expr, relax.Var) else "codes"
        codes = self.context.emit(relax.op.quantize(expr, scale, zero_point, axis=-1, out_dtype="uint8"), name)
        if target.is_full:
            return codes
        clamp = operators.requantize(codes, multiplier=1.0, x_zero_point=quantization.zero_point, output=target.output)
        return self.context.emit(clamp, name)


def lower_islands(module: tvm.IRModule, report: Report) -> tvm.IRModule:
    """Apply the rules above to ``main``."""
    islands = _Islands(module, report)
    return islands.context.rewriter.run(islands.visit)
