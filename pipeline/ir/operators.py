"""The integer operators that a quantised model is lowered to, registered with Relax as ``octet.*``.

Activations are uint8 with one scale and zero point a tensor; 4-D activations are NCHW here, and a later pass chooses
the physical layout. Every operator is defined by integer arithmetic that is exact, followed by the requantisation of
:func:`requantize`'s formula, so that its result does not depend on the target, the schedule or the number of threads::

    requantised(v, M) = uint8(clamp(round_half_even(float32(v) * M), qmin - zp, qmax - zp) + zp)

where ``v`` is an int32, ``float32(v)`` rounds to nearest even, and ``M`` is a float32. The clamp comes before the
rounding, which is the same because its bounds are whole numbers.

Each constructor computes the result's shape and dtype and stores both as attributes ``out_shape`` and ``out_dtype``,
from which Relax infers the type. Attributes are plain numbers, strings and lists, so that modules print, compare and
save like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import relax
from tvm.ir import Op
from tvm.ir.op import register_op_attr

from schedules.compute.arithmetic import Output as Output  # noqa: PLC0414 - part of this module, for all passes

CONV2D = "octet.conv2d"
DENSE = "octet.dense"
MATMUL = "octet.matmul"
ADD = "octet.add"
MULTIPLY = "octet.multiply"
LOOKUP = "octet.lookup"
REQUANTIZE = "octet.requantize"
MAX_POOL2D = "octet.max_pool2d"
AVG_POOL2D = "octet.avg_pool2d"
SOFTMAX = "octet.softmax"
QUANTIZE = "octet.quantize"
DEQUANTIZE = "octet.dequantize"
REENCODE = "octet.reencode"
ELEMENTWISE = "octet.elementwise"
PACK = "octet.pack"
UNPACK = "octet.unpack"
CONCAT_CHANNELS = "octet.concat_channels"

OPERATORS = (
    CONV2D,
    DENSE,
    MATMUL,
    ADD,
    MULTIPLY,
    LOOKUP,
    REQUANTIZE,
    MAX_POOL2D,
    AVG_POOL2D,
    SOFTMAX,
    QUANTIZE,
    DEQUANTIZE,
    REENCODE,
    ELEMENTWISE,
    PACK,
    UNPACK,
    CONCAT_CHANNELS,
)


def _infer_type(call: relax.Call, _builder: relax.BlockBuilder) -> relax.TensorType:
    return relax.TensorType([int(d) for d in call.attrs["out_shape"]], str(call.attrs["out_dtype"]))


def _register() -> None:
    register = tvm_ffi.get_global_func("ir.RegisterOp")
    for name in OPERATORS:
        register(name, "Octet integer operator")
        register_op_attr(name, "FInferType", _infer_type)
        register_op_attr(name, "FPurity", True)


_register()


def output_attributes(output: Output) -> dict[str, Any]:
    """``output`` as the four attributes ``out_dtype``, ``y_zero_point``, ``qmin`` and ``qmax``."""
    return {"out_dtype": output.dtype, "y_zero_point": output.zero_point, "qmin": output.qmin, "qmax": output.qmax}


def make(
    name: str, args: Sequence[relax.Expr], shape: Sequence[int], output: Output, attrs: Mapping[str, Any]
) -> relax.Call:
    """A call of operator ``name`` whose result has ``shape`` and the dtype of ``output``."""
    values = {**attrs, **output_attributes(output), "out_shape": [int(d) for d in shape]}
    return relax.Call(Op.get(name), list(args), tvm.ir.make_node("ir.DictAttrs", **values))


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """The static shape of a tensor expression."""
    return tuple(int(d) for d in expr.ty.shape)


def window_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    """Number of window positions along one axis."""
    return (size + before + after - (dilation * (kernel - 1) + 1)) // stride + 1


def conv2d(
    x: relax.Expr,
    weight: relax.Expr,
    bias: relax.Expr,
    multiplier: relax.Expr,
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    x_zero_point: int,
    output: Output,
    window_sum: relax.Expr | None = None,
    weight_zero_point: relax.Expr | None = None,
) -> relax.Call:
    """2-D convolution, ``v[n,o,h,w] = bias[o] + sum x * weight - weight_zero_point[o] * window_sum[n,0,h,w]``.

    Args:
        x: uint8 (N, C, H, W); positions outside it read ``x_zero_point``.
        weight: int8 constant (O, C/groups, KH, KW); int16 is allowed where groups == C == O (depthwise).
        bias: int32 constant (O,), holding the model's bias and every zero-point term that does not depend on x.
        multiplier: float32 constant (O,), M of each output channel.
        strides, dilation: (height, width).
        padding: (top, left, bottom, right).
        window_sum: int32 (N, 1, OH, OW), the sum of x over each window; only with ``weight_zero_point``.
        weight_zero_point: int32 constant (O,), the zero points of the int8 ``weight``.
    """
    n, _, h, w = shape_of(x)
    o, _, kh, kw = shape_of(weight)
    oh = window_size(h, kh, strides[0], padding[0], padding[2], dilation[0])
    ow = window_size(w, kw, strides[1], padding[1], padding[3], dilation[1])
    args = [x, weight, bias, multiplier]
    if window_sum is not None and weight_zero_point is not None:
        args += [window_sum, weight_zero_point]
    attrs = {
        "strides": list(strides),
        "padding": list(padding),
        "dilation": list(dilation),
        "groups": groups,
        "x_zero_point": x_zero_point,
    }
    return make(CONV2D, args, (n, o, oh, ow), output, attrs)


def dense(
    x: relax.Expr,
    weight: relax.Expr,
    bias: relax.Expr,
    multiplier: relax.Expr,
    *,
    x_zero_point: int,
    output: Output,
    window_sum: relax.Expr | None = None,
    weight_zero_point: relax.Expr | None = None,
) -> relax.Call:
    """Fully connected layer, ``v[..., o] = bias[o] + sum x * weight[o, :] - weight_zero_point[o] * window_sum``.

    Args:
        x: uint8 (..., K).
        weight: int8 constant (O, K).
        bias, multiplier, weight_zero_point: as for :func:`conv2d`.
        window_sum: int32 (..., 1), the sum of x over K.
    """
    args = [x, weight, bias, multiplier]
    if window_sum is not None and weight_zero_point is not None:
        args += [window_sum, weight_zero_point]
    shape = (*shape_of(x)[:-1], shape_of(weight)[0])
    return make(DENSE, args, shape, output, {"x_zero_point": x_zero_point})


def matmul(
    a: relax.Expr,
    b: relax.Expr,
    multiplier: relax.Expr,
    *,
    a_zero_point: int,
    b_zero_point: int,
    output: Output,
) -> relax.Call:
    """Matrix product of two activations, ``v = sum_k (a[..., m, k] - za) * (b[..., k, n] - zb)``, numpy's batching.

    ``a`` and ``b`` are uint8 with at least two dimensions; ``multiplier`` is a float32 constant (1,).
    """
    sa, sb = shape_of(a), shape_of(b)
    shape = (*broadcast_shape(sa[:-2], sb[:-2]), sa[-2], sb[-1])
    return make(MATMUL, [a, b, multiplier], shape, output, {"a_zero_point": a_zero_point, "b_zero_point": b_zero_point})


def broadcast_shape(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    """Numpy's broadcast of two static shapes."""
    rank = max(len(a), len(b))
    left, right = (1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b)
    return tuple(max(p, q) if p and q else 0 for p, q in zip(left, right, strict=True))


ADD_COEFFICIENT_BITS = 21
"""Coefficients of an addition are below 2**21, so that two products with a 9-bit operand fit int32."""


def _saturating_ratio(other: float) -> float:
    """With such a ratio one step of an operand saturates the result, whatever the ``other`` one adds to it."""
    return 255 * abs(other) + 511


def _limited(ratio: float, limit: float) -> float:
    return math.copysign(min(abs(ratio), limit), ratio)


def add_coefficients(a_ratio: float, b_ratio: float) -> tuple[int, int, float]:
    """Integers ``Ia``, ``Ib`` and a power of two ``M`` with ``a_ratio ~ Ia * M`` and ``b_ratio ~ Ib * M``.

    A float32 ``a * Ma + b * Mb`` would be one fused multiply-add on one target and two roundings on another; integer
    products with one power-of-two scale have the same bits everywhere, with an error below 2**-21 of the larger ratio.
    That ratio counts as no more than :func:`_saturating_ratio` of the other, so that it leaves the other its precision.
    """
    a_ratio, b_ratio = _limited(a_ratio, _saturating_ratio(b_ratio)), _limited(b_ratio, _saturating_ratio(a_ratio))
    exponent = math.frexp(max(abs(a_ratio), abs(b_ratio)))[1] - ADD_COEFFICIENT_BITS
    scale = math.ldexp(1.0, -exponent)
    limit = (1 << ADD_COEFFICIENT_BITS) - 1
    return min(round(a_ratio * scale), limit), min(round(b_ratio * scale), limit), math.ldexp(1.0, exponent)


def add(
    a: relax.Expr,
    b: relax.Expr,
    *,
    a_ratio: float,
    b_ratio: float,
    a_zero_point: int,
    b_zero_point: int,
    output: Output,
) -> relax.Call:
    """Sum of two activations with numpy's broadcasting, ``v = (a - za) * Ia + (b - zb) * Ib``, requantised with M.

    ``a_ratio`` is s_a / s_y and ``b_ratio`` s_b / s_y (negated for a subtraction), in float64; the integers are
    :func:`add_coefficients` of them.
    """
    coefficient_a, coefficient_b, multiplier = add_coefficients(a_ratio, b_ratio)
    attrs = {
        "a_coefficient": coefficient_a,
        "b_coefficient": coefficient_b,
        "multiplier": multiplier,
        "a_zero_point": a_zero_point,
        "b_zero_point": b_zero_point,
    }
    return make(ADD, [a, b], broadcast_shape(shape_of(a), shape_of(b)), output, attrs)


def multiply(
    a: relax.Expr, b: relax.Expr, *, multiplier: float, a_zero_point: int, b_zero_point: int, output: Output
) -> relax.Call:
    """Product of two activations with numpy's broadcasting, ``v = (a - za) * (b - zb)``, requantised with M."""
    attrs = {"multiplier": multiplier, "a_zero_point": a_zero_point, "b_zero_point": b_zero_point}
    return make(MULTIPLY, [a, b], broadcast_shape(shape_of(a), shape_of(b)), output, attrs)


def lookup(x: relax.Expr, table: relax.Expr) -> relax.Call:
    """``table[x]`` element by element; ``x`` is uint8 and ``table`` a uint8 constant (256,)."""
    return make(LOOKUP, [x, table], shape_of(x), Output(), {})


def requantize(x: relax.Expr, *, multiplier: float, x_zero_point: int, output: Output) -> relax.Call:
    """Change of scale, ``v = x - zx``, requantised with M = s_x / s_y."""
    return make(REQUANTIZE, [x], shape_of(x), output, {"multiplier": multiplier, "x_zero_point": x_zero_point})


def _pooled_shape(x: relax.Expr, kernel: Sequence[int], strides: Sequence[int], padding: Sequence[int]) -> list[int]:
    n, c, h, w = shape_of(x)
    oh = window_size(h, kernel[0], strides[0], padding[0], padding[2])
    ow = window_size(w, kernel[1], strides[1], padding[1], padding[3])
    return [n, c, oh, ow]


def max_pool2d(
    x: relax.Expr, *, kernel: Sequence[int], strides: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> relax.Call:
    """Largest value of each window of a uint8 (N, C, H, W); positions outside do not count.

    ``ceil_mode`` is expressed as more padding at the bottom and right.
    """
    n, c, h, w = shape_of(x)
    oh = window_size(h, kernel[0], strides[0], padding[0], padding[2], dilation[0])
    ow = window_size(w, kernel[1], strides[1], padding[1], padding[3], dilation[1])
    attrs = {"kernel": list(kernel), "strides": list(strides), "padding": list(padding), "dilation": list(dilation)}
    return make(MAX_POOL2D, [x], (n, c, oh, ow), Output(), attrs)


def avg_pool2d(
    x: relax.Expr,
    multiplier: relax.Expr,
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    x_zero_point: int,
    output: Output,
) -> relax.Call:
    """``v`` = sum of (x - zx) over the positions of each window that lie inside; global pooling has kernel (H, W).

    ``multiplier`` is a float32 constant (OH, OW): s_x / (s_y * count), the count of each window being decided by
    count_include_pad when the model is lowered. ``ceil_mode`` is expressed as more padding at the bottom and right.
    """
    attrs = {"kernel": list(kernel), "strides": list(strides), "padding": list(padding), "x_zero_point": x_zero_point}
    return make(AVG_POOL2D, [x, multiplier], _pooled_shape(x, kernel, strides, padding), output, attrs)


def softmax(x: relax.Expr, table: relax.Expr, *, axis: int, inverse_scale: float, output: Output) -> relax.Call:
    """Softmax along ``axis``: ``e = table[max(x) - x]``, ``y = requantised(e / sum(e), inverse_scale)``.

    ``table`` is a float32 constant (256,) with ``exp(-s_x * d)`` at ``d``. The sum is taken from the first element to
    the last in float32, the division is float32, ``inverse_scale`` is 1 / s_y rounded to float32; requantised() is as
    above with the quotient in the place of ``float32(v)``.
    """
    return make(SOFTMAX, [x, table], shape_of(x), output, {"axis": axis, "inverse_scale": inverse_scale})


def quantize(x: relax.Expr, *, scale: float, zero_point: int) -> relax.Call:
    """float32 to uint8 as ONNX has it: ``clamp(round_half_even(x / scale) + zero_point, 0, 255)``; NaN gives 0."""
    return make(QUANTIZE, [x], shape_of(x), Output(zero_point=zero_point), {"scale": scale})


def dequantize(x: relax.Expr, *, scale: float, zero_point: int) -> relax.Call:
    """uint8 to float32, ``float32(x - zero_point) * scale``."""
    return make(DEQUANTIZE, [x], shape_of(x), Output(dtype="float32"), {"scale": scale, "x_zero_point": zero_point})


def reencode(x: relax.Expr, dtype: str) -> relax.Call:
    """int8 to uint8 or back by adding or subtracting 128; only at a model's inputs and outputs."""
    return make(REENCODE, [x], shape_of(x), Output(dtype=dtype), {})
