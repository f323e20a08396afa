"""What the rules of each family of operators share: the new graph, its quantised tensors, and the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from pipeline.ir.graph import Rewriter, numpy_of, static_shape
from pipeline.passes.integer.linear import Bias, quantized_bias
from pipeline.passes.integer.quantization import Quantization, QuantizedConstant, constant_operand, uint8_source
from pipeline.passes.integer.report import Report
from pipeline.passes.integer.target import Refusal, Target


class Context:
    """Handed to every rule."""

    def __init__(self, rewriter: Rewriter, report: Report) -> None:
        self.rewriter = rewriter
        self.report = report

    def definition(self, expr: relax.Expr) -> Any:
        """What a variable of the new graph is bound to."""
        return self.rewriter.definition(expr)

    def emit(self, value: relax.Expr, name: str) -> relax.Expr:
        """Bind ``value`` to a variable called ``name``."""
        return self.rewriter.emit(value, name)

    def activation(self, expr: relax.Expr) -> tuple[relax.Expr, Quantization] | None:
        """The uint8 tensor behind a float one, with its scale and zero point; constants included."""
        return uint8_source(self.definition(expr))

    def quantized_constant(self, expr: relax.Expr) -> QuantizedConstant | None:
        """The integers behind a float constant."""
        return constant_operand(self.definition(expr))

    def bias(self, expr: relax.Expr, channels: int, axis: int, rank: int) -> Bias | None:
        """The constant ``expr`` as a bias along ``axis`` of a result of rank ``rank``; None where it is none."""
        shape = static_shape(expr)
        if shape is None or len(shape) > rank:
            return None
        wide = (1,) * (rank - len(shape)) + shape
        if any(size != 1 for i, size in enumerate(wide) if i != axis) or wide[axis] not in (1, channels):
            return None
        constant = self.quantized_constant(expr)
        if constant is not None:
            return quantized_bias(constant, channels)
        value = numpy_of(expr)
        return None if value is None else Bias(np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,)))


Rule = Callable[[Context, relax.Var, relax.Call, Target], "relax.Expr | Refusal"]
"""Lowers the call that a variable is bound to, for a result that is used as the target says."""
