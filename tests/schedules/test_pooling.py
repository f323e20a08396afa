"""Pools, softmax and products of activations have the bits of the numpy reference on every target."""

from __future__ import annotations

import pytest

from pipeline.targets import DeployTarget
from tests.octet_runner import Batch, each_vector_width
from tests.schedules.operators import case_of

MAX = [
    "maxpool_c3ih7kh3sh2ph1",
    "maxpool_n2c17ih5iw15kh2sh1",
    "maxpool_c33ih15iw7kh3kw1sh1sw2ph1pw0",
    "maxpool_c31ih8kh3sh2ph0pb1pr1",
    "maxpool_c16ih9kh3dh1ph1pb2",
    "maxpool_c16ih9iw7kh2kw3dh2dw1pw1pr2ph0",
    "maxpool_c64ih33iw31kh3sh2ph1",
    "maxpool_c5ih13kh5ph2",
]

AVERAGE = [
    "avgpool_c3ih7kh3sh2ph1zp0",
    "avgpool_n2c17ih5iw15kh2sh1zp255",
    "avgpool_c33ih15iw7kh3kw1sh1sw2ph1pw0",
    "avgpool_c31ih8kh3sh2ph0pb1pr1",
    "avgpool_c48ih7kh7",
    "avgpool_n3c15ih17iw31kh17kw31",
    "avgpool_c64ih33iw31kh3sh2ph1",
    "avgpool_c17ih5kh3ph1_float32",
    "avgpool_c17ih5kh3ph1_int32",
    "avgpool_c17ih5kh3ph1y255lo9hi200",
    "features_2x17x5x3_units33",
    "features_1x31x1x1_units7",
]

SOFTMAX = [
    "softmax_1x10",
    "softmax_5x33_step1",
    "softmax_3x17x5_axis1_float32",
    "softmax_2x3x5x31_axis3_step400",
    "softmax_7x255_step1000",
    "softmax_4x10_y128lo10hi140",
]

MATMUL = [
    "matmul_3x5_5x7",
    "matmul_17x31_31x33_za0zb255",
    "matmul_2x3x5x7_2x3x7x16",
    "matmul_2x1x5x7_1x3x7x4",
    "matmul_5x7_3x7x15",
    "matmul_4x5x7_7x32_float32",
    "matmul_3x33_33x17_int32",
    "matmul_2x33x31_2x31x64_y0lo7hi255",
]

PROBLEMS = [*MAX, *AVERAGE, *SOFTMAX, *MATMUL]
BATCH = Batch(PROBLEMS, case_of)


@pytest.mark.parametrize("problem", PROBLEMS)
@each_vector_width
def test_exact(problem: str, target: DeployTarget) -> None:
    """What lies outside a window, the order of a float sum and the broadcasting of batches would change bits."""
    BATCH.check(problem, target)
