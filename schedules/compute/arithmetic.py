"""The scalar arithmetic that every kernel shares, written so that no compiler can change a bit of it.

LLVM fuses ``a * b + c`` into one rounding where the CPU has such an instruction. So a float product is never followed
by a float addition here: it is clamped first, and rounding adds its constant to the clamped value.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr

ROUNDING_MAGIC = 12582912.0
"""1.5 * 2**23. Adding it to a float32 below 2**22 rounds it half to even; the integer is left in the low mantissa bits,
whose last eight are zero in the constant itself."""


@dataclass(frozen=True)
class Output:
    """What becomes of an int32 result.

    ``uint8``: requantised with ``zero_point`` and clamped to ``[qmin, qmax]``; ``float32``: multiplied by M;
    ``int32``: kept as it is (M is not used).
    """

    dtype: str = "uint8"
    zero_point: int = 0
    qmin: int = 0
    qmax: int = 255


def float32(value: float) -> Expr:
    """A float32 constant."""
    return tirx.const(value, "float32")


def int32(value: Expr) -> Expr:
    """``value`` widened to int32."""
    return value.astype("int32")


def round_to_uint8(value: Expr, output: Output) -> Expr:
    """``clamp(round_half_even(value), qmin - zp, qmax - zp) + zp`` of a float32, as uint8. NaN gives ``qmin``."""
    low, high = output.qmin - output.zero_point, output.qmax - output.zero_point
    clamped = tirx.min(tirx.max(value, float32(low)), float32(high))
    # An even zero point may go into the constant, where it keeps ties even. An odd one is added after the rounding, as
    # a float: the sum is exact, and an integer addition would be done on bytes, which costs a detour through shuffles.
    if output.zero_point % 2 == 0:
        shifted = clamped + float32(ROUNDING_MAGIC + output.zero_point)
    else:
        shifted = (clamped + float32(ROUNDING_MAGIC)) + float32(output.zero_point)
    return tirx.reinterpret("int32", shifted).astype("uint8")


def finish(value: Expr, multiplier: Expr, output: Output) -> Expr:
    """Turn an int32 ``value`` into the output dtype with the float32 ``multiplier``."""
    if output.dtype == "int32":
        return value
    scaled = value.astype("float32") * multiplier
    return scaled if output.dtype == "float32" else round_to_uint8(scaled, output)
