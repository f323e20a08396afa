"""Changes between a model's layout and the stored one, and concatenation in the stored one.

A tensor of rank 4 (N, C, H, W) is stored as (N, H, W, C), any other as (1, 1, rows, C) with the last axis as channels;
C is padded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import te, tirx
from tvm.ir import Expr

from .elementwise import dequantized, quantized


def stored_shape(shape: tuple[int, ...], channels: int) -> tuple[int, int, int, int]:
    """The shape in which a tensor of ``shape`` is stored with ``channels`` padded channels."""
    if len(shape) == 4:
        return shape[0], shape[2], shape[3], channels
    return 1, 1, math.prod(shape[:-1]), channels


def stored_array(array: np.ndarray, channels: int) -> np.ndarray:
    """A constant in the stored layout, with 0 in its padding."""
    last = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
    padded = np.pad(last, [(0, 0)] * (array.ndim - 1) + [(0, channels - last.shape[-1])])
    return np.ascontiguousarray(padded.reshape(stored_shape(array.shape, channels)))


@dataclass(frozen=True)
class Pack:
    """To the stored layout; with ``scale``, a float32 input is quantised on the way."""

    shape: tuple[int, ...]
    channels: int
    dtype: str
    scale: float | None = None
    zero_point: int = 0

    @property
    def name(self) -> str:
        """Operator and shape."""
        return f"{'quantize_' if self.scale else ''}pack_{'x'.join(map(str, self.shape))}"


def pack(problem: Pack) -> tvm.tirx.PrimFunc:
    """Arguments: x, result. Blocks: "quantized" (with a scale) and "result"; the padding is 0."""
    x = te.placeholder(problem.shape, "float32" if problem.scale else problem.dtype, "x")
    source, dtype = x, problem.dtype
    if problem.scale:
        scale, zero_point = problem.scale, problem.zero_point
        source = te.compute(x.shape, lambda *i: quantized(x[i], scale, zero_point), "quantized")
        dtype = "uint8"
    lead, channel_axis = problem.shape[:-1], 1 if len(problem.shape) == 4 else len(problem.shape) - 1

    def element(n: Expr, h: Expr, w: Expr, c: Expr) -> Expr:
        index = (n, c, h, w) if len(problem.shape) == 4 else (*_unravel(w, lead), c)
        inside = c < problem.shape[channel_axis]
        value = source[index]
        if problem.channels == problem.shape[channel_axis]:
            return value
        return tirx.if_then_else(inside, value, tirx.const(0, dtype))

    return te.create_prim_func([x, te.compute(stored_shape(problem.shape, problem.channels), element, "result")])


@dataclass(frozen=True)
class Unpack:
    """From the stored layout to ``shape``; with ``scale``, uint8 is dequantised on the way."""

    shape: tuple[int, ...]
    channels: int
    dtype: str
    scale: float | None = None
    zero_point: int = 0

    @property
    def name(self) -> str:
        """Operator and shape."""
        return f"{'dequantize_' if self.scale else ''}unpack_{'x'.join(map(str, self.shape))}"


def unpack(problem: Unpack) -> tvm.tirx.PrimFunc:
    """Arguments: x, result. One block, "result"."""
    x = te.placeholder(stored_shape(problem.shape, problem.channels), problem.dtype, "x")

    def element(*index: Expr) -> Expr:
        zero = tirx.const(0, "int32")
        if len(problem.shape) == 4:
            value = x[index[0], index[2], index[3], index[1]]
        else:
            value = x[zero, zero, _ravel(index[:-1], problem.shape[:-1]), index[-1]]
        return dequantized(value, problem.scale, problem.zero_point) if problem.scale else value

    return te.create_prim_func([x, te.compute(problem.shape, element, "result")])


def _unravel(flat: Expr, shape: tuple[int, ...]) -> list[Expr]:
    index: list[Expr] = []
    for size in reversed(shape):
        index.insert(0, flat % size)
        flat = flat // size
    return index


def _ravel(index: tuple[Expr, ...], shape: tuple[int, ...]) -> Expr:
    flat: Expr = tirx.const(0, "int32")
    for i, size in zip(index, shape, strict=True):
        flat = flat * size + i
    return flat


@dataclass(frozen=True)
class ConcatChannels:
    """Channels of several stored activations side by side; ``channels`` are the real ones of each input."""

    n: int
    h: int
    w: int
    channels: tuple[int, ...]
    stored: tuple[int, ...]
    out_channels: int

    @property
    def name(self) -> str:
        """Operator and shape."""
        return f"concat_n{self.n}h{self.h}w{self.w}c{'_'.join(map(str, self.channels))}"
