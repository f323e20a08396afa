"""Element-wise Relax operators in numpy: each is computed in float64 and rounded once to the operator's own dtype.

For addition, subtraction, multiplication, division and square root that is the correctly rounded float32 result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from pipeline.ir.graph import dtype_of, op_name

Array = NDArray[Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _scalar(expr: relax.Expr) -> float:
    return float(getattr(expr, "value", expr))


_PLAIN: dict[str, Callable[..., Array]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "erf": lambda x: _erf(x) if x.size else x,
    "exp": np.exp,
    "floor": np.floor,
    "isfinite": np.isfinite,
    "isinf": np.isinf,
    "isnan": np.isnan,
    "log": np.log,
    "logical_not": np.logical_not,
    "negative": np.negative,
    "round": np.rint,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "sigmoid": _sigmoid,
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
    "trunc": np.trunc,
    "add": np.add,
    "divide": np.divide,
    "equal": np.equal,
    "floor_divide": np.floor_divide,
    "floor_mod": np.mod,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "multiply": np.multiply,
    "not_equal": np.not_equal,
    "power": np.power,
    "subtract": np.subtract,
    "where": np.where,
    "nn.relu": lambda x: np.maximum(x, 0),
    "nn.relu6": lambda x: np.clip(x, 0, 6),
    "nn.gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "nn.gelu_tanh": _gelu_tanh,
    "nn.silu": lambda x: x * _sigmoid(x),
    "nn.prelu": lambda x, slope: np.where(x < 0, slope * x, x),
}

_WITH_ATTRIBUTES: dict[str, Callable[..., Array]] = {
    "clip": lambda call, x: np.minimum(np.maximum(x, _scalar(call.args[1])), _scalar(call.args[2])),
    "nn.leakyrelu": lambda call, x: np.where(x < 0, float(call.attrs.alpha) * x, x),
    "astype": lambda _, x: x,
}

ELEMENTWISE = frozenset(f"relax.{name}" for name in (*_PLAIN, *_WITH_ATTRIBUTES))
"""The operators that :func:`evaluate` knows."""


def tensor_operands(call: relax.Call) -> list[relax.Expr]:
    """Operands of an element-wise call that are tensors (the bounds of ``clip`` are not)."""
    return [arg for arg in call.args if isinstance(arg.ty, relax.TensorType)]


def evaluate(call: relax.Call, args: Sequence[Array]) -> Array:
    """Value of the element-wise ``call`` for the values of its tensor operands, in the dtype of the call."""
    name = op_name(call).removeprefix("relax.")
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in args]
    with np.errstate(all="ignore"):
        result = _WITH_ATTRIBUTES[name](call, *wide) if name in _WITH_ATTRIBUTES else _PLAIN[name](*wide)
        return np.asarray(result).astype(dtype_of(call))
