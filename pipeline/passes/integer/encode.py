"""Store every quantised activation as uint8, which is what x86 dot products want.

1. QuantizeLinear to int8 (one scale) -> QuantizeLinear to uint8 with the zero point 128 higher; DequantizeLinear of its
   result likewise. The values that the codes stand for do not change.
2. Data movement between the two acts on the uint8 codes.
3. ``octet.reencode`` where int8 enters or leaves the graph, or where another operator reads the int8 codes themselves.

Leaves constants (weights) alone, and activations of other types or with one scale a channel.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, Rewriter, dtype_of, op_name
from pipeline.passes.integer.data_movement import is_movement, move, moved_tensors
from pipeline.passes.integer.quantization import DEQUANTIZE, INT8_TO_UINT8, QUANTIZE, Quantization, per_tensor


def _with_uint8(call: relax.Call, x: relax.Expr, quantization: Quantization) -> relax.Expr:
    """A QuantizeLinear or DequantizeLinear of ``x`` between float32 and uint8."""
    zero_point = relax.const(np.array(quantization.zero_point + INT8_TO_UINT8, np.uint8))
    axis = int(call.attrs.axis)
    if op_name(call) == QUANTIZE:
        return relax.op.quantize(x, call.args[1], zero_point, axis=axis, out_dtype="uint8")
    return relax.op.dequantize(x, call.args[1], zero_point, axis=axis, out_dtype=str(call.attrs.out_dtype))


class _Encoder:
    """Keeps, for each int8 variable of the new graph that has uint8 codes, the variable that holds these."""

    def __init__(self, module: tvm.IRModule) -> None:
        self.rewriter = Rewriter(Graph(module))
        self.params = set(self.rewriter.graph.function.params)
        self.codes: dict[relax.Var, relax.Expr] = {}

    def uint8(self, expr: relax.Expr) -> relax.Expr | None:
        """The uint8 codes of the int8 ``expr``, or None where it has none."""
        if not isinstance(expr, relax.Var) or dtype_of(expr) != "int8":
            return None
        if expr not in self.codes and expr in self.params:
            self.codes[expr] = self.rewriter.emit(operators.reencode(expr, "uint8"), f"{expr.name}_uint8")
        return self.codes.get(expr)

    def visit(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        """The int8 meaning of each variable is kept as well; what nothing reads is dropped at the end."""
        emit = self.rewriter.emit
        if op_name(value) == QUANTIZE and str(value.attrs.out_dtype) == "int8":
            quantization = per_tensor(value)
            if quantization is None:
                return value
            codes = emit(_with_uint8(value, value.args[0], quantization), var.name)
            return self.int8_of(codes, var.name)
        if op_name(value) == DEQUANTIZE:
            codes, quantization = self.uint8(value.args[0]), per_tensor(value)
            return value if codes is None or quantization is None else _with_uint8(value, codes, quantization)
        if is_movement(value):
            tensors = [self.uint8(x) for x in moved_tensors(value)]
            known = [x for x in tensors if x is not None]
            if len(known) == len(tensors):
                moved = move(emit, value, known, lambda fill: int(fill) + INT8_TO_UINT8, var.name)
                if isinstance(moved.ty, relax.TupleType):
                    fields = [emit(relax.TupleGetItem(moved, i), var.name) for i in range(len(moved.ty.fields))]
                    return relax.Tuple([self.int8_of(f, var.name) for f in fields])
                return self.int8_of(moved, var.name)
        return value

    def int8_of(self, codes: relax.Expr, name: str) -> relax.Expr:
        """An int8 variable whose uint8 codes are ``codes``."""
        plain = self.rewriter.emit(operators.reencode(codes, "int8"), f"{name}_int8")
        self.codes[plain] = codes
        return plain


def encode_activations(module: tvm.IRModule) -> tvm.IRModule:
    """Apply the rewrites above to ``main``."""
    encoder = _Encoder(module)
    return encoder.rewriter.run(encoder.visit)
