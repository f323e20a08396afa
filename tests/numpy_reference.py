"""The integer operators in numpy, as :mod:`pipeline.ir.operators` defines them, and an interpreter for Relax modules.

Nothing here is shared with the compiler: sums are taken in int64 (or in float64 where every partial sum is below 2**53)
and must fit int32, products with the multiplier in float32. Each function takes the operator's tensors, then its
attributes by their names, and returns what the compiled operator must return bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

Array = NDArray[Any]

INT32 = np.iinfo(np.int32)


def requantised(v: Array, multiplier: Array | float, zero_point: int, qmin: int = 0, qmax: int = 255) -> Array:
    """``uint8(clamp(round_half_even(float32(v) * M), qmin - zp, qmax - zp) + zp)``."""
    with np.errstate(over="ignore"):
        product = np.asarray(v).astype(np.float32) * np.asarray(multiplier, np.float32)
    assert product.dtype == np.float32
    assert not np.isnan(product).any(), "NaN in a requantisation"
    clamped = np.clip(product, np.float32(qmin - zero_point), np.float32(qmax - zero_point))
    return (np.rint(clamped).astype(np.int64) + zero_point).astype(np.uint8)


def finish(
    v: Array, multiplier: Array | float, out_dtype: str = "uint8", y_zero_point: int = 0, qmin: int = 0, qmax: int = 255
) -> Array:
    """What :class:`pipeline.ir.operators.Output` says is done with the exact integer ``v``."""
    v = np.asarray(v)
    assert v.size == 0 or (v.min() >= INT32.min and v.max() <= INT32.max), "the accumulator leaves int32"
    if out_dtype == "int32":
        return v.astype(np.int32)
    if out_dtype == "float32":
        return v.astype(np.float32) * np.asarray(multiplier, np.float32)
    return requantised(v, multiplier, y_zero_point, qmin, qmax)


def _integers(v: Array) -> Array:
    """int64 from float64 sums, which are exact below 2**53."""
    assert v.size == 0 or np.abs(v).max() < 2.0**53
    return v.astype(np.int64)


def _padded(x: Array, padding: Sequence[int], value: float) -> Array:
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def _windows(x: Array, kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> list[Array]:
    """One strided view of ``x`` (N, C, H, W) for each position of the kernel, in row-major order."""
    oh = (x.shape[2] - (dilation[0] * (kernel[0] - 1) + 1)) // strides[0] + 1
    ow = (x.shape[3] - (dilation[1] * (kernel[1] - 1) + 1)) // strides[1] + 1
    views = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i * dilation[0], i * dilation[0] + (oh - 1) * strides[0] + 1, strides[0])
            columns = slice(j * dilation[1], j * dilation[1] + (ow - 1) * strides[1] + 1, strides[1])
            views.append(x[:, :, rows, columns])
    return views


def conv2d(
    x: Array,
    weight: Array,
    bias: Array,
    multiplier: Array,
    window_sum: Array | None = None,
    weight_zero_point: Array | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    x_zero_point: int = 0,
    **output: Any,
) -> Array:
    """``octet.conv2d``: x uint8 (N, C, H, W), weight int8 or int16 (O, C/groups, KH, KW)."""
    n = x.shape[0]
    o, cg, kh, kw = weight.shape
    views = _windows(_padded(x, padding, x_zero_point).astype(np.float64), (kh, kw), strides, dilation)
    oh, ow = views[0].shape[2:]
    total = np.zeros((n, groups, o // groups, oh * ow))
    w = weight.astype(np.float64).reshape(groups, o // groups, cg, kh * kw)
    for k, view in enumerate(views):
        part = view.reshape(n, groups, cg, oh * ow)
        total += w[..., k] * part if cg == 1 else w[..., k] @ part
    v = _integers(total).reshape(n, o, oh, ow) + bias.astype(np.int64)[:, None, None]
    if window_sum is not None and weight_zero_point is not None:
        v -= weight_zero_point.astype(np.int64)[:, None, None] * window_sum.astype(np.int64)
    return finish(v, multiplier[:, None, None], **output)


def dense(
    x: Array,
    weight: Array,
    bias: Array,
    multiplier: Array,
    window_sum: Array | None = None,
    weight_zero_point: Array | None = None,
    *,
    x_zero_point: int = 0,
    **output: Any,
) -> Array:
    """``octet.dense``: x uint8 (..., K), weight int8 (O, K). The zero point of x is in the bias already."""
    del x_zero_point
    v = _integers(x.astype(np.float64) @ weight.astype(np.float64).T) + bias.astype(np.int64)
    if window_sum is not None and weight_zero_point is not None:
        v -= window_sum.astype(np.int64) * weight_zero_point.astype(np.int64)
    return finish(v, multiplier, **output)


def matmul(
    a: Array, b: Array, multiplier: Array, *, a_zero_point: int = 0, b_zero_point: int = 0, **output: Any
) -> Array:
    """``octet.matmul``: uint8 (..., M, K) times uint8 (..., K, N)."""
    v = (a.astype(np.float64) - a_zero_point) @ (b.astype(np.float64) - b_zero_point)
    return finish(_integers(v), multiplier, **output)


def add(
    a: Array,
    b: Array,
    *,
    a_coefficient: int,
    b_coefficient: int,
    multiplier: float,
    a_zero_point: int = 0,
    b_zero_point: int = 0,
    **output: Any,
) -> Array:
    """``octet.add``: ``(a - za) * Ia + (b - zb) * Ib`` with numpy's broadcasting."""
    v = (a.astype(np.int64) - a_zero_point) * a_coefficient + (b.astype(np.int64) - b_zero_point) * b_coefficient
    return finish(v, multiplier, **output)


def multiply(
    a: Array, b: Array, *, multiplier: float, a_zero_point: int = 0, b_zero_point: int = 0, **output: Any
) -> Array:
    """``octet.multiply``: ``(a - za) * (b - zb)`` with numpy's broadcasting."""
    v = (a.astype(np.int64) - a_zero_point) * (b.astype(np.int64) - b_zero_point)
    return finish(v, multiplier, **output)


def lookup(x: Array, table: Array, **_: Any) -> Array:
    """``octet.lookup``: ``table[x]``."""
    return table[x]


def requantize(x: Array, *, multiplier: float, x_zero_point: int = 0, **output: Any) -> Array:
    """``octet.requantize``: ``x - zx`` requantised."""
    return finish(x.astype(np.int64) - x_zero_point, multiplier, **output)


def max_pool2d(
    x: Array,
    *,
    kernel: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    **_: Any,
) -> Array:
    """``octet.max_pool2d``: positions outside do not count."""
    views = _windows(_padded(x.astype(np.int64), padding, -1), kernel, strides, dilation)
    result = np.max(np.stack(views), axis=0)
    assert result.min() >= 0, "a window lies outside entirely"
    return result.astype(np.uint8)


def avg_pool2d(
    x: Array,
    multiplier: Array,
    *,
    kernel: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    x_zero_point: int = 0,
    **output: Any,
) -> Array:
    """``octet.avg_pool2d``: the sum of ``x - zx`` inside each window, requantised with the window's own multiplier."""
    views = _windows(_padded(x.astype(np.int64) - x_zero_point, padding, 0), kernel, strides, (1, 1))
    return finish(functools.reduce(np.add, views), multiplier, **output)


def softmax(x: Array, table: Array, *, axis: int, inverse_scale: float, **output: Any) -> Array:
    """``octet.softmax``: the float32 sum runs from the first element to the last."""
    wide = x.astype(np.int64)
    e = np.moveaxis(table[wide.max(axis=axis, keepdims=True) - wide], axis, -1)
    total = np.zeros(e.shape[:-1], np.float32)
    for k in range(e.shape[-1]):
        total = total + e[..., k]
    quotient = np.moveaxis(e / total[..., None], -1, axis)
    assert quotient.dtype == np.float32
    return finish_quotient(quotient, inverse_scale, **output)


def finish_quotient(
    v: Array, multiplier: float, out_dtype: str = "uint8", y_zero_point: int = 0, qmin: int = 0, qmax: int = 255
) -> Array:
    """:func:`finish` for a softmax, whose value is a float32 already."""
    if out_dtype == "float32":
        return v * np.float32(multiplier)
    return requantised(v, multiplier, y_zero_point, qmin, qmax)


def quantize(
    x: Array, *, scale: float, y_zero_point: int = 0, qmin: int = 0, qmax: int = 255, out_dtype: str = "uint8"
) -> Array:
    """``octet.quantize``: a float32 division, ties to even, saturating; NaN gives 0."""
    del out_dtype
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(x.astype(np.float32) / np.float32(scale))
        clamped = np.clip(steps, np.float32(qmin - y_zero_point), np.float32(qmax - y_zero_point))
        codes = np.where(np.isnan(x), 0, clamped + np.float32(y_zero_point))
    return codes.astype(np.uint8)


def dequantize(x: Array, *, scale: float, x_zero_point: int = 0, **_: Any) -> Array:
    """``octet.dequantize``: ``float32(x - zp) * scale``."""
    return (x.astype(np.int64) - x_zero_point).astype(np.float32) * np.float32(scale)


def reencode(x: Array, *, out_dtype: str, **_: Any) -> Array:
    """``octet.reencode``: int8 to uint8 or back, 128 apart."""
    return (x.astype(np.int64) + (128 if out_dtype == "uint8" else -128)).astype(out_dtype)


OPERATORS: dict[str, Callable[..., Array]] = {
    f"octet.{function.__name__}": function
    for function in (
        conv2d,
        dense,
        matmul,
        add,
        multiply,
        lookup,
        requantize,
        max_pool2d,
        avg_pool2d,
        softmax,
        quantize,
        dequantize,
        reencode,
    )
}


def _ints(values: Any) -> list[int]:
    return [int(v) for v in values]


def _split(call: relax.Call, x: Array) -> tuple[Array, ...]:
    parts = call.attrs.indices_or_sections
    sections = _ints(parts) if hasattr(parts, "__len__") else int(parts)
    return tuple(np.split(x, sections, axis=int(call.attrs.axis)))


def _strided_slice(call: relax.Call, x: Array) -> Array:
    axes, begin, end = (_ints(call.args[k]) for k in (1, 2, 3))
    steps = _ints(call.args[4]) if len(call.args) > 4 else [1] * len(axes)
    window = [slice(None)] * x.ndim
    for axis, b, e, s in zip(axes, begin, end, steps, strict=True):
        window[axis] = slice(b, None if s < 0 and e < -x.shape[axis] else e, s)
    return x[tuple(window)]


def _nn_pad(call: relax.Call, x: Array) -> Array:
    widths = np.array(_ints(call.attrs.pad_width)).reshape(-1, 2)
    assert str(call.attrs.pad_mode) == "constant"
    value = np.array(float(call.attrs.pad_value)).astype(x.dtype)
    return np.pad(x, [(int(b), int(a)) for b, a in widths], constant_values=value)


def _argmax(call: relax.Call, x: Array) -> Array:
    axis = call.attrs.axis
    keepdims = bool(call.attrs.keepdims)
    return np.argmax(x, axis=None if axis is None else int(axis), keepdims=keepdims).astype(np.int64)


STANDARD: dict[str, Callable[..., Any]] = {
    "relax.reshape": lambda call, x, *_: x.reshape(_ints(call.ty.shape)),
    "relax.squeeze": lambda call, x: x.reshape(_ints(call.ty.shape)),
    "relax.expand_dims": lambda call, x: x.reshape(_ints(call.ty.shape)),
    "relax.permute_dims": lambda call, x: np.transpose(x, call.attrs.axes and _ints(call.attrs.axes)),
    "relax.broadcast_to": lambda call, x, *_: np.broadcast_to(x, _ints(call.ty.shape)),
    "relax.tile": lambda call, x: np.tile(x, _ints(call.attrs.repeats)),
    "relax.concat": lambda call, xs: np.concatenate(xs, axis=int(call.attrs.axis)),
    "relax.split": _split,
    "relax.strided_slice": lambda call, x, *_: _strided_slice(call, x),
    "relax.nn.pad": _nn_pad,
    "relax.argmax": _argmax,
    "relax.nn.relu": lambda _, x: np.maximum(x, x.dtype.type(0)),
}
"""Standard Relax operators that data movement leaves behind; every other one is compiled by TVM and run."""


def _attributes(call: relax.Call) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in call.attrs.items():
        plain[str(key)] = value if isinstance(value, (int, float, str)) else _ints(value)
    del plain["out_shape"]
    return plain


def _compiled(module: tvm.IRModule, call: relax.Call, args: Sequence[Any]) -> Any:
    """Run one operator that has no numpy equivalent here as TVM compiles it for a plain CPU."""
    params: list[relax.Var] = []
    values: list[Array] = []

    def parameter(expr: relax.Expr, value: Any) -> relax.Expr:
        if isinstance(value, tuple):
            return relax.Tuple([parameter(e.ty, v) for e, v in zip(expr.fields, value, strict=True)])
        if not isinstance(value, np.ndarray):
            return expr
        params.append(relax.Var(f"p{len(params)}", relax.TensorType(list(value.shape), str(value.dtype))))
        values.append(np.array(value, order="C"))
        return params[-1]

    operands = [parameter(a, v) for a, v in zip(call.args, args, strict=True)]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            out = builder.emit_output(relax.Call(call.op, operands, call.attrs, call.ty_args))
        builder.emit_func_output(out)
    single = builder.get()
    for variable, function in module.functions.items():
        if variable.name_hint != "main":
            single[variable] = function
    machine = relax.VirtualMachine(tvm.compile(single, tvm.target.Target({"kind": "llvm"})), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(v) for v in values])
    return result.numpy() if hasattr(result, "numpy") else tuple(r.numpy() for r in result)


class Interpreter:
    """Evaluates ``main`` of a Relax module binding by binding on numpy arrays."""

    def __init__(self, module: tvm.IRModule) -> None:
        self.module = module
        self.function = module["main"]
        self.values: dict[relax.Var, Any] = {}

    def __call__(self, *inputs: Array) -> Any:
        """The value of ``main``: an array, or a tuple of arrays."""
        params = self.function.params
        assert len(inputs) == len(params), f"main takes {len(params)} inputs, got {len(inputs)}"
        for param, value in zip(params, inputs, strict=True):
            assert str(value.dtype) == str(param.ty.dtype), f"{param.name} is {param.ty.dtype}, got {value.dtype}"
            self.values[param] = value
        for block in self.function.body.blocks:
            for binding in block.bindings:
                self.values[binding.var] = self._value(binding.value)
        return self._value(self.function.body.body)

    def _value(self, expr: Any) -> Any:
        if isinstance(expr, relax.Var):
            return self.values.get(expr, expr)
        if isinstance(expr, tvm.ir.GenericConst):
            return expr.value.numpy()
        if isinstance(expr, relax.Tuple):
            return tuple(self._value(field) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self._value(expr.tuple_value)[expr.index]
        if isinstance(expr, relax.Call):
            return self._call(expr)
        return expr

    def _call(self, call: relax.Call) -> Any:
        args = [self._value(arg) for arg in call.args]
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        if name in OPERATORS:
            result = OPERATORS[name](*args, **_attributes(call))
            assert list(result.shape) == _ints(call.ty.shape), name
            assert str(result.dtype) == str(call.ty.dtype), name
            return result
        if name in STANDARD:
            return STANDARD[name](call, *args)
        return _compiled(self.module, call, args)


def run(module: tvm.IRModule, *inputs: Array) -> Any:
    """``main`` of ``module`` on ``inputs``: an array, or a tuple of arrays."""
    return Interpreter(module)(*inputs)
