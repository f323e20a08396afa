"""What is left of QuantizeLinear and DequantizeLinear once the islands are integer.

1. QuantizeLinear to uint8 with one scale -> ``octet.quantize``, shared by those that do the same.
2. DequantizeLinear of a uint8 variable with one scale -> ``octet.dequantize``.
3. DequantizeLinear of a constant, which only float operators read by now -> its float32 value.

Leaves those of other types, or with one scale a channel, to TVM.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, Rewriter, dtype_of, op_name
from pipeline.passes.integer.quantization import DEQUANTIZE, QUANTIZE, Quantization, constant_operand, per_tensor


class _Boundaries:
    def __init__(self, module: tvm.IRModule) -> None:
        self.rewriter = Rewriter(Graph(module))
        self.quantized: dict[tuple[relax.Expr, Quantization], relax.Expr] = {}

    def visit(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        """Replace what the list above names."""
        if op_name(value) not in (QUANTIZE, DEQUANTIZE):
            return value
        constant = constant_operand(value)
        if constant is not None:
            return relax.const(constant.values().astype(np.float32))
        quantization = per_tensor(value)
        if quantization is None:
            return value
        if op_name(value) == QUANTIZE and str(value.attrs.out_dtype) == "uint8":
            return self.quantize(var, value.args[0], quantization)
        if op_name(value) == DEQUANTIZE and dtype_of(value.args[0]) == "uint8":
            return operators.dequantize(value.args[0], scale=quantization.scale, zero_point=quantization.zero_point)
        return value

    def quantize(self, var: relax.Var, x: relax.Expr, quantization: Quantization) -> relax.Expr:
        """``octet.quantize`` of ``x``, once for each scale and zero point."""
        key = (x, quantization)
        if key not in self.quantized:
            codes = operators.quantize(x, scale=quantization.scale, zero_point=quantization.zero_point)
            self.quantized[key] = self.rewriter.emit(codes, var.name)
        return self.quantized[key]


def lower_boundaries(module: tvm.IRModule) -> tvm.IRModule:
    """Apply the rewrites above to ``main``."""
    boundaries = _Boundaries(module)
    return boundaries.rewriter.run(boundaries.visit)
