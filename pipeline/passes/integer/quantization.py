"""Scales and zero points as QuantizeLinear and DequantizeLinear carry them, and the arithmetic of QuantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from pipeline.errors import ModelError
from pipeline.ir.graph import Constant, dtype_of, numpy_of, op_name

QUANTIZE = "relax.quantize"
DEQUANTIZE = "relax.dequantize"
ENCODABLE = ("int8", "uint8")
"""Types of quantised activations that the integer operators take."""

INT8_TO_UINT8 = 128
"""Distance between the int8 and the uint8 code of a value."""


@dataclass(frozen=True)
class Quantization:
    """One scale and zero point for a tensor: ``value = (code - zero_point) * scale``."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class QuantizedConstant:
    """The operand of a DequantizeLinear that is a constant.

    ``scale`` (float64) and ``zero_point`` (int64) have shape (n,) along ``axis``, or (1,) where ``axis`` is None.
    """

    codes: NDArray[Any]
    scale: NDArray[np.float64]
    zero_point: NDArray[np.int64]
    axis: int | None

    def along_axis(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values`` shaped to broadcast against ``codes``."""
        if self.axis is None:
            return values.reshape(())
        shape = [1] * self.codes.ndim
        shape[self.axis] = -1
        return values.reshape(shape)

    def values(self) -> NDArray[np.float64]:
        """What the constant stands for, in float64."""
        difference = self.codes.astype(np.int64) - self.along_axis(self.zero_point)
        return difference * self.along_axis(self.scale)


def _scale_and_zero_point(call: relax.Call) -> tuple[NDArray[Any], NDArray[Any]] | None:
    scale, zero_point = numpy_of(call.args[1]), numpy_of(call.args[2])
    return None if scale is None or zero_point is None else (scale, zero_point)


def per_tensor(call: Any) -> Quantization | None:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear between float32 and 8 bits, one for the tensor.

    None where they are not constant, where there is one a channel, or where the types are others.

    Raises:
        ModelError: where the scale is not a positive finite number.
    """
    if op_name(call) == QUANTIZE:
        types = (dtype_of(call.args[0]), str(call.attrs.out_dtype))
    elif op_name(call) == DEQUANTIZE:
        types = (str(call.attrs.out_dtype), dtype_of(call.args[0]))
    else:
        return None
    parameters = _scale_and_zero_point(call)
    if parameters is None or types[0] != "float32" or types[1] not in ENCODABLE:
        return None
    scale, zero_point = parameters
    if scale.size != 1 or zero_point.size != 1:
        return None
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ModelError(
            f"a {op_name(call).removeprefix('relax.')} node has the scale {scale.item()}; "
            "scales must be positive finite numbers: quantise the model again"
        )
    return Quantization(float(scale.item()), int(zero_point.item()))


def uint8_source(call: Any) -> tuple[relax.Expr, Quantization] | None:
    """The uint8 tensor that the DequantizeLinear ``call`` reads, and its one scale and zero point.

    The codes of an int8 constant are shifted to uint8; an int8 variable counts as None.
    """
    quantization = per_tensor(call)
    if call is None or quantization is None or op_name(call) != DEQUANTIZE:
        return None
    source = call.args[0]
    if dtype_of(source) == "uint8":
        return source, quantization
    codes = numpy_of(source)
    if codes is None:
        return None
    shifted = (codes.astype(np.int16) + INT8_TO_UINT8).astype(np.uint8)
    return relax.const(shifted), Quantization(quantization.scale, quantization.zero_point + INT8_TO_UINT8)


def constant_operand(call: Any) -> QuantizedConstant | None:
    """The constant that a DequantizeLinear reads; None where ``call`` is not one, or reads something else.

    Raises:
        ModelError: where a scale is negative, infinite or not a number.
    """
    if op_name(call) != DEQUANTIZE or not isinstance(call.args[0], Constant):
        return None
    parameters = _scale_and_zero_point(call)
    if parameters is None or str(call.attrs.out_dtype) != "float32":
        return None
    codes = call.args[0].value.numpy()
    scale, zero_point = parameters
    if not (np.isfinite(scale).all() and (scale >= 0).all()):
        raise ModelError(
            f"the scales of a quantised constant of shape {codes.shape} hold a value that is negative, infinite or "
            "not a number: quantise the model again"
        )
    axis = None if scale.size == 1 and zero_point.size == 1 else int(call.attrs.axis) % codes.ndim
    size = 1 if axis is None else codes.shape[axis]
    return QuantizedConstant(
        codes,
        np.broadcast_to(scale.astype(np.float64).reshape(-1), (size,)),
        np.broadcast_to(zero_point.astype(np.int64).reshape(-1), (size,)),
        axis,
    )


def quantize_codes(
    values: NDArray[Any], scale: NDArray[Any] | float, zero_point: NDArray[Any] | int, low: int, high: int
) -> NDArray[np.int64]:
    """QuantizeLinear: a float32 division, ties to even, clamped to [low, high]; NaN gives ``low``."""
    with np.errstate(all="ignore"):
        steps = np.rint(values.astype(np.float32) / np.asarray(scale, np.float32)).astype(np.float64)
    steps = np.where(np.isnan(steps), -np.inf, steps)
    return np.clip(steps + zero_point, low, high).astype(np.int64)


def code_of(value: float, quantization: Quantization) -> int:
    """uint8 code of one number; infinities give the ends of the range."""
    return int(quantize_codes(np.array(value, np.float32), quantization.scale, quantization.zero_point, 0, 255))


def exact_code_of(value: float, quantization: Quantization) -> int | None:
    """uint8 code that stands for ``value`` exactly in float32, or None where there is none."""
    code = code_of(value, quantization)
    stands_for = np.float32(code - quantization.zero_point) * np.float32(quantization.scale)
    return code if stands_for == np.float32(value) else None
