"""Element-wise operators and changes of layout have the bits of the numpy reference on every target."""

from __future__ import annotations

import pytest

from pipeline.targets import DeployTarget
from tests.octet_runner import Batch, each_vector_width
from tests.schedules.operators import case_of

ADD = [
    "add_1_1",
    "add_2x17x5x3_2x17x5x3_za0zb255",
    "add_2x17x5x3_2x17x1x1",
    "add_1x1x5x3_2x17x5x3",
    "add_1_3x33",
    "add_3x1x5_1x31x5_y0",
    "add_2x15x7_2x15x7_a1000b-1000",
    "add_2x15x7_2x15x7_a1b900000lo9hi200",
    "add_5x7_5x7_a1000000b1",
    "add_5x7_5x7_float32",
    "add_5x7_5x7_int32",
]

MULTIPLY = [
    "mul_2x17x5x3_2x17x1x1_za0zb0",
    "mul_1x33x1x1_2x33x5x7_za255zb255m2",
    "mul_3x1x5_1x31x5_y255m500",
    "mul_2x15x7_2x15x7_y128lo100hi130",
    "mul_2x64x17x31_2x64x17x31",
    "mul_5x7_5x7_float32",
    "mul_5x7_5x7_int32",
]

UNARY = [
    "lookup_1",
    "lookup_2x31x17x33",
    "requantize_1",
    "requantize_2x31x17x33_m1000zp0y255",
    "requantize_3x17x5_m1500zp255y0lo3hi77",
    "requantize_5x7_m1zp3_float32",
    "requantize_5x7_int32",
    "dequantize_1",
    "dequantize_2x31x17x33_zp255scale3",
]

CHAINS = [
    "chain_3x17x5_+add+lookup+mul+requantize",
    "chain_2x17x5x3_+lookup+lookup",
    "chain_2x33x15x17_+requantize+add",
]

MOVES = [
    "concat_1x3x5x7_1x17x5x7",
    "concat_2x16x3x3_2x31x3x3_2x1x3x3",
    "concat_1x33x5x1_1x15x5x1_1x7x5x1_1x64x5x1",
    "concat_1x100x2x3_1x5x2x3",
]

PROBLEMS = [*ADD, *MULTIPLY, *UNARY, *CHAINS, *MOVES]
BATCH = Batch(PROBLEMS, case_of)

ENDS = [
    "quantize_1",
    "quantize_3x17x5",
    "quantize_1x3x31x33_scale7zp0",
    "quantize_700_zp255",
    "quantize_2x700_scale1000",
    "quantize_64x1024_scale125",
]
END_BATCH = Batch(ENDS, case_of)

RECODED = ["reencode_1_uint8", "reencode_3x17x5_int8", "reencode_2x31x17x33_uint8", "reencode_64x1024_int8"]
RECODE_BATCH = Batch(RECODED, case_of)


@pytest.mark.parametrize("problem", PROBLEMS)
@each_vector_width
def test_exact(problem: str, target: DeployTarget) -> None:
    """A fused multiply-add, another order of operands or padded channels that leak would change bits."""
    BATCH.check(problem, target)


@pytest.mark.parametrize("problem", ENDS)
@each_vector_width
def test_quantize_is_exact(problem: str, target: DeployTarget) -> None:
    """A reciprocal in the place of the division, ties away from zero, or NaN and infinities taken as numbers."""
    END_BATCH.check(problem, target)


@pytest.mark.parametrize("problem", RECODED)
@each_vector_width
def test_reencode_is_exact(problem: str, target: DeployTarget) -> None:
    """A shift that wraps at the ends of int8."""
    RECODE_BATCH.check(problem, target)
