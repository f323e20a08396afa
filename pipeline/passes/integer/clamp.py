"""Operators that hold a value between two numbers: relu, relu6, clip, and maximum or minimum with a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import relax

from pipeline.ir.graph import numpy_of, op_name, static_shape


@dataclass(frozen=True)
class Interval:
    """``min(max(operand, low), high)``."""

    operand: relax.Expr
    low: float
    high: float


def _number(expr: relax.Expr | None) -> float | None:
    """Value of a constant of one element."""
    value = numpy_of(expr)
    return float(value.item()) if value is not None and value.size == 1 else None


def clamp_of(call: Any, definition: Callable[[relax.Expr], Any]) -> Interval | None:
    """The interval that ``call`` clamps to; None where it is another operator, or where a bound is not a number.

    ``definition`` gives what a variable is bound to.
    """
    name = op_name(call).removeprefix("relax.")
    if call is None or name not in ("nn.relu", "nn.relu6", "clip", "maximum", "minimum"):
        return None
    if name in ("nn.relu", "nn.relu6"):
        return Interval(call.args[0], 0.0, math.inf if name == "nn.relu" else 6.0)
    if name == "clip":
        low, high = (float(getattr(bound, "value", bound)) for bound in call.args[1:3])
        return Interval(call.args[0], low, high) if low <= high else None
    for operand, other in ((call.args[0], call.args[1]), (call.args[1], call.args[0])):
        bound = _number(definition(other))
        if bound is not None and not math.isnan(bound) and static_shape(operand) == static_shape(call):
            return Interval(operand, bound, math.inf) if name == "maximum" else Interval(operand, -math.inf, bound)
    return None
