"""The epilogue of the matrix unit: from int32 sums to bytes, two pixels by 32 channels at a time.

A vector of 16 sums, bias included, takes a conversion, a product and a rounding conversion; from there on two vectors,
and then four, go together: the saturating packs of int32 to int16 and to uint8 clamp and narrow at once. They work
within 128-bit quarters. So the two tiles of 16 channels hold the 32 channels in the order :data:`CHANNEL_ORDER`, in
which the words of a pixel come out in their natural order.

A change of scale of the result happens before the packs. A residual addition ``(v - zv) * cv + (o - zo) * co`` runs on
pairs of 16-bit words ``[v, o]``. The coefficients are too long for words: ``vpdpwssd`` multiplies the pairs by the low
bits, and the pairs shifted left by the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as builder

from .compute.arithmetic import Output
from .compute.conv2d import Conv2d, padded_channels
from .compute.stages import Add, Requantize, Stage
from .rows import where
from .vectors import LANES, QUARTERS, broadcast, cut, llvm_call, round_to_int32, shuffle, unpack_words

CHANNELS, PIXELS = 2 * LANES, 2
"""Channels and pixels that go through the epilogue together."""

SHIFT = 7
"""Low bits of a coefficient. A byte less its zero point has nine bits, and sixteen when shifted."""

MAX_COEFFICIENT = 2**21
"""Coefficients below this have high bits that fit into a word; sums of two products fit into int32."""

MAX_RESCALE = 2.0**22
"""A difference of bytes times less than this fits into int32."""

CHANNEL_ORDER = np.array([8 * q + 4 * tile + e for tile in range(2) for q in range(QUARTERS) for e in range(4)])
"""Channel, of 32, of each sum of the two tiles."""

_PIXEL_ORDER = [
    8 * (2 * quarter + pixel) + e for pixel in range(PIXELS) for quarter in range(QUARTERS) for e in range(8)
]
"""Bytes of two pixels, of which the last pack leaves eight of each in every quarter."""


def supports(problem: Conv2d) -> bool:
    """Whether the result is bytes, 32 or more a pixel, of the sums alone or after one addition or change of scale."""
    if padded_channels(problem.oc) < CHANNELS or problem.window_sum or problem.output.dtype != "uint8":
        return False
    if not problem.stages:
        return True
    stage = problem.stages[0]
    return len(problem.stages) == 1 and (_adds_bytes(stage) or _requantises_bytes(stage))


def _requantises_bytes(stage: Stage) -> bool:
    """Whether ``stage`` is a change of scale whose products fit into int32."""
    return isinstance(stage, Requantize) and stage.output.dtype == "uint8" and 0 <= stage.multiplier < MAX_RESCALE


def _adds_bytes(stage: Stage) -> bool:
    """Whether ``stage`` is an addition whose products fit the instructions and whose scaled sums fit into int32."""
    if not isinstance(stage, Add) or stage.output.dtype != "uint8":
        return False
    return max(abs(stage.coefficient), abs(stage.other_coefficient)) <= MAX_COEFFICIENT and 0 <= stage.multiplier < 1


@dataclass(frozen=True)
class PackedEpilogue:
    """The epilogue of one slice of channels.

    Attributes:
        problem: what is computed.
        part: the slice.
        channel: its first one.
        multiplier: of all slices, in the order of the sums.
        result: (1, 1, pixels, channels).
        residual: the second operand of an addition, of the same shape.
    """

    problem: Conv2d
    part: Expr
    channel: Expr
    multiplier: Any
    result: Any
    residual: Any = None

    @property
    def channels(self) -> Expr:
        """The channels of the slice in the result."""
        return tirx.Ramp(self.channel, 1, CHANNELS)

    def store_pair(self, sums: Any, first_slot: int, row: Expr, pixels: Sequence[tuple[Expr, Expr | None]]) -> None:
        """The results of two ``pixels``, where their conditions hold, from two tiles' rows ``row`` and ``row + 1``."""
        last = self.problem.stages[-1].output if self.problem.stages else self.problem.output
        words = [self._words(sums, first_slot, row + i, pixel) for i, (pixel, _) in enumerate(pixels)]
        value = tirx.reinterpret("uint8x64", llvm_call("x86.avx512.packuswb.512", "int8x64", *words))
        if last.qmin > 0:
            value = tirx.max(value, broadcast(last.qmin, "uint8", 64))
        if last.qmax < 255:
            value = tirx.min(value, broadcast(last.qmax, "uint8", 64))
        value = builder.bind(value)
        for i, (pixel, inside) in enumerate(pixels):
            order = _PIXEL_ORDER[i * CHANNELS : (i + 1) * CHANNELS]
            with where(inside):
                builder.buffer_store(self.result, shuffle([value], order), [0, 0, pixel, self.channels])

    def _words(self, sums: Any, first_slot: int, row: Expr, pixel: Expr) -> Expr:
        """32 results of a pixel as int16, zero point included, still to be clamped."""
        lanes = tirx.Ramp(0, 1, LANES)
        stage = self.problem.stages[0] if self.problem.stages else None
        rounded = []
        for tile in range(2):
            multiplier = self.multiplier[tirx.Ramp(self.part * CHANNELS + tile * LANES, 1, LANES)]
            scaled = sums[first_slot + tile, row, lanes].astype(f"float32x{LANES}") * multiplier
            if isinstance(stage, Requantize):
                rounded.append(_rescaled(scaled, stage, self.problem.output))
            else:
                rounded.append(round_to_int32(scaled if self.problem.below_one else cut(scaled)))
        value = _pack_words(*rounded)
        if isinstance(stage, Add):
            other = self.residual[0, 0, pixel, self.channels].astype(f"int16x{CHANNELS}")
            value = _added(value, other, stage, self.problem.output)
        return _add_zero_point(value, stage.output if stage else self.problem.output)


def _pack_words(low: Expr, high: Expr) -> Expr:
    """Two vectors of int32 as one of int16, saturated."""
    return llvm_call("x86.avx512.packssdw.512", f"int16x{CHANNELS}", low, high)


def _add_zero_point(value: Expr, output: Output) -> Expr:
    if output.zero_point == 0:
        return value
    zero_point = broadcast(output.zero_point, "int16", CHANNELS)
    return llvm_call("sadd.sat", f"int16x{CHANNELS}", value, zero_point)


def _rescaled(value: Expr, stage: Requantize, output: Output) -> Expr:
    """``value`` rounded and clamped to ``output``, then with the scale of ``stage``: int32 without its zero point."""
    # In this order the maximum of NaN and the lower end is the lower end.
    value = tirx.max(value, broadcast(output.qmin - output.zero_point, "float32", LANES))
    value = round_to_int32(tirx.min(value, broadcast(output.qmax - output.zero_point, "float32", LANES)))
    if shift := output.zero_point - stage.zero_point:
        value = value + broadcast(shift, "int32", LANES)
    return round_to_int32(value.astype(f"float32x{LANES}") * broadcast(stage.multiplier, "float32", LANES))


def _split(coefficient: int) -> tuple[int, int]:
    """``high * 2**SHIFT + low == coefficient``, with ``low`` not negative."""
    return coefficient >> SHIFT, coefficient % 2**SHIFT


def _signed(word: int) -> int:
    """32 bits as an int32."""
    return word - (word >> 31 << 32)


def _word_pairs(first: int, second: int) -> Expr:
    """Two int16 in every lane of 32 bits, as the operand of ``vpdpwssd``."""
    both = broadcast(_signed(first % 2**16 | second % 2**16 << 16), "int32", LANES)
    return tirx.reinterpret(f"int16x{CHANNELS}", both)


def _dot(sums: Expr, pairs: Expr, coefficients: Expr) -> Expr:
    return llvm_call("x86.avx512.vpdpwssd.512", f"int32x{LANES}", sums, pairs, coefficients)


def _added(value: Expr, other: Expr, stage: Add, output: Output) -> Expr:
    """``(v - zv) * cv + (o - zo) * co`` times the multiplier, rounded, as int16, without zero point.

    ``value`` is ``v`` less the zero point of ``output``, not yet clamped.
    """
    low, high = output.qmin - output.zero_point, output.qmax - output.zero_point
    value = tirx.max(value, broadcast(low, "int16", CHANNELS))
    value = builder.bind(tirx.min(value, broadcast(high, "int16", CHANNELS)))
    other = builder.bind(other)
    constant = (output.zero_point - stage.zero_point) * stage.coefficient
    constant -= stage.other_zero_point * stage.other_coefficient
    (value_high, value_low), (other_high, other_low) = map(_split, (stage.coefficient, stage.other_coefficient))
    rounded = []
    for half in (False, True):
        pairs = builder.bind(unpack_words(value, other, half))
        total = _dot(broadcast(_signed(constant % 2**32), "int32", LANES), pairs, _word_pairs(value_low, other_low))
        shifted = tirx.shift_left(pairs, broadcast(SHIFT, "int16", CHANNELS))
        total = _dot(total, shifted, _word_pairs(value_high, other_high))
        scaled = total.astype(f"float32x{LANES}") * broadcast(stage.multiplier, "float32", LANES)
        rounded.append(round_to_int32(scaled))
    return _pack_words(*rounded)
