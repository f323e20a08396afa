"""Convolutions, depthwise ones and fully connected layers have the bits of the numpy reference on every target."""

from __future__ import annotations

import pytest

from pipeline.targets import DeployTarget
from tests.octet_runner import Batch, each_target, each_vector_target
from tests.schedules.operators import case_of

# Channels that leave vectors and dot products unfilled, on both sides; all dtypes and ranges of the result.
CHANNELS = [
    "conv_ic1oc1ih5kh3ph1",
    "conv_ic3oc5ih5kh3ph1_int32",
    "conv_ic5oc3ih5kh3ph1_float32",
    "conv_ic7oc15ih5kh3ph1y0lo0hi255",
    "conv_ic15oc7ih5kh3ph1y255lo5hi200",
    "conv_ic17oc33ih5kh3ph1y128lo128hi255",
    "conv_ic31oc17ih5kh3ph1y60lo60hi60",
    "conv_ic33oc31ih5kh3ph1_float32",
]

# Widths that no register tile divides, so that columns are computed and cropped; one row, one column, one pixel.
PIXELS = [
    *(f"conv_ic16oc32ih{h}iw{w}" for h, w in ((1, 1), (5, 1), (3, 7), (2, 15), (2, 17), (1, 31))),
    "conv_ic16oc32ih1iw33_int32",
    "conv_ic16oc32ih1iw33_float32",
    "conv_n2ic17ih17oc33kh3ph1",
    "conv_n3ic3ih31iw33oc24kh3sh2ph1zp3",
]

WINDOWS = [
    "conv_ic17ih9oc33kh3sh2ph2pw1",
    "conv_ic8ih7iw5oc16kh3kw1sh1sw2ph1pw0",
    "conv_ic8ih7iw5oc16kh1kw3sh2sw1ph0pw1pr0",
    "conv_ic8ih7iw5oc16kh3ph0pw2pb1pr0zp255",
    "conv_ic8ih7iw5oc16kh3ph2pw0pb0pr1zp0",
    "conv_ic5ih9iw11oc7kh3dh1ph2",
    "conv_ic5ih9iw11oc7kh3dh2dw1ph1pw2",
    "conv_ic5ih9iw11oc7kh2kw4sh2ph0pw1pb1pr2",
    "conv_ic16ih7oc16kh9ph4",
    "conv_ic16ih7oc32kh7",
    "conv_ic16ih7oc16kh1sh3",
    "conv_ic16ih7oc16kh1sh2ph1",
    "conv_ic3ih15oc24kh7sh2ph3",
]

# Strides over pixels of a whole vector, which the matrix unit reads in phases: odd and even sizes, padding that starts
# in either phase, windows smaller and larger than the stride, residuals, several images.
STRIDED = [
    "conv_ic64ih14oc48sh2",
    "conv_n2ic64ih13iw14oc33kh3sh2ph1zp3",
    "conv_n2ic128ih9oc32kh3sh2ph0pb1pr1_+add",
    "conv_ic64ih17iw11oc32kh2sh3",
    "conv_ic64ih15oc32kh3sh2dh1ph2",
    "conv_ic64ih12iw9oc16kh3kw5sh1sw2ph1pw2_int32",
]

# Rows of few channels, which the matrix unit reads folded: odd sizes, uneven padding, a zero point, several images.
FOLDED = [
    "conv_ic3ih16iw18oc32kh7sh2ph3zp3",
    "conv_n2ic3ih15iw13oc24kh7sh2ph3",
    "conv_ic4ih17iw9oc32kh7sh2ph2pw0pb1pr3_+add",
    "conv_ic2ih20iw33oc16kh7kw6sh2sw3_int32",
]

# Sizes of a group that divide the vector lanes, are a multiple of them, and do neither; groups of few inputs.
GROUPS = [
    "conv_g2ic32ih5oc32kh3ph1",
    "conv_g4ic32ih5oc32kh3ph1",
    "conv_g8ic32ih5oc16kh1",
    "conv_g2ic64ih5oc64kh1",
    "conv_g2ic6ih5oc10kh3ph1",
    "conv_g3ic9ih5oc21kh1",
    "conv_g3ic48ih5oc96kh3ph1sh2",
    "conv_g4ic12ih5oc64kh3ph1",
    "conv_g5ic25ih5oc40kh3",
    "conv_g32ic128ih4oc128kh3ph1",
    "conv_g6ic6ih5oc12kh3ph1",
    "conv_g16ic16ih5oc48kh3ph1_float32",
    "conv_g5ic10ih5oc5kh3ph1",
    "conv_g17ic17ih5oc34kh3dh1ph2",
    "conv_g2ic32ih5oc32kh3ph1_+mul+lookup+lookup",
]

DEPTHWISE = [
    *(f"conv_g{c}ic{c}oc{c}ih6iw{w}kh3ph1" for c, w in ((2, 3), (5, 15), (16, 8), (17, 1), (33, 31))),
    "conv_g16ic16oc16ih7kh3sh2ph0pw1pb1pr0",
    "conv_g24ic24oc24ih9iw7kh5sh1sw2ph2zp255",
    "conv_g7ic7oc7ih9kh3dh1dw2ph2pw4",
    "conv_g16ic16oc16ih7kh2kw3",
    "conv_n2g31ic31oc31ih15kh3ph1zp0",
    "conv_g48ic48oc48ih28kh3ph1",
    "conv_g80ic80oc80ih9iw21kh3sh2ph1",
    "conv_g96ic96oc96ih6iw9kh3ph1y7lo9hi200",
    "conv_g96ic96oc96ih6kh3ph1_belowone",
    "conv_g112ic112oc112ih4iw7kh3ph1",
    "conv_n2g144ic144oc144ih8iw18kh4kw5dh1ph2pw3",
    "conv_g160ic160oc160ih3iw13kh3kw5ph2pw4",
    "conv_g33ic33oc33ih7iw5kh3sh2ph1_wide",
    "conv_g1ic1oc1ih5kh3ph1_wide",
    "conv_g17ic17oc17ih5kh3ph1_wide_int32",
    "conv_g17ic17oc17ih5kh3ph1_float32",
    "conv_g17ic17oc17ih5kh3ph1_+add+lookup",
    "conv_g17ic17oc17ih5kh3ph1_wide_+requantize+mul",
    "conv_g32ic32oc32ih33iw31kh3ph1_+lookup",
]

CORRECTED = [
    "conv_ic17oc33ih5kh3ph1_windowsum",
    "conv_ic3oc16ih9iw17kh3sh2ph1_windowsum_+add",
    "conv_ic5oc3ih7iw9kh3ph0pb1pw2pr1zp0_windowsum_float32",
]

EPILOGUES = [
    "conv_ic16oc32ih2iw17_+add",
    "conv_ic17oc33ih5kh3ph1_+requantize+mul",
    "conv_ic17oc33ih3iw31kh3ph1_+add+lookup+mul+requantize",
    "conv_n2ic31oc15ih5kh3sh2ph1_+lookup+add+add",
    "conv_ic65oc48ih9iw17kh3ph1y200lo40hi220_+add",
    "conv_n3ic130oc80ih6iw18_+add",
    "conv_ic64oc64ih12y9",
    "constant_2x17x5x3_oc33",
    "constant_2x17x5x3_oc33_broadcast",
]

# Products of sums and multipliers at the ends of int32, which nothing needs to cut.
BELOW_ONE = [
    "conv_ic33oc48ih5kh3ph1_belowone",
    "conv_ic64oc64ih12y9_belowone",
    "conv_ic16oc48ih12y200lo40hi220_+add_belowone",
]

# Few products an output, whose weights stay in registers: strips that do not divide the pixels, rows, one tile.
SHORT = [
    "conv_ic16oc48ih13iw21",
    "conv_n2ic24oc80ih11iw13y77lo3hi250",
    "conv_ic30oc32ih1iw5_+requantize",
    "conv_ic3ih31iw23oc48kh3sh2ph1",
    "conv_n2ic3ih9iw8oc64kh3ph1_+add",
]

# Enough work to run on several threads, with input and output both copied (padded, cropped).
PARALLEL = [
    "conv_ic32oc64ih17iw31kh3ph1_+add",
    "conv_n2ic64oc48ih14iw14",
]

DENSE = [
    *(f"dense_{m}_k{k}n{n}" for m, k, n in ((1, 1, 1), (3, 5, 7), (7, 15, 17), (17, 31, 15))),
    "dense_31_k33n3_int32",
    "dense_15_k17n31_float32",
    "dense_1_k512n1000",
    "dense_2x3x5_k17n33_+add+lookup",
    "dense_2x3x5_k16n3_windowsum",
    "dense_2x3x1x5_k17n33_+mul",
    "dense_1_k9n17y255lo100hi255zp0_+requantize",
    "dense_4_k33n17_windowsum",
    "dense_2x2x3x3_k5n3_windowsum_+lookup",
]

PROBLEMS = [
    *CHANNELS,
    *PIXELS,
    *WINDOWS,
    *STRIDED,
    *FOLDED,
    *CORRECTED,
    *EPILOGUES,
    *BELOW_ONE,
    *SHORT,
    *PARALLEL,
    *DENSE,
]
BATCH = Batch(PROBLEMS, case_of)

GROUPED = [*GROUPS, *DEPTHWISE]
GROUPED_BATCH = Batch(GROUPED, case_of)


@pytest.mark.parametrize("problem", PROBLEMS)
@each_target
def test_exact(problem: str, target: DeployTarget) -> None:
    """Sums that saturate or wrap, rounding, padding and channels that are not there would change bits."""
    BATCH.check(problem, target)


@pytest.mark.parametrize("problem", GROUPED)
@each_vector_target
def test_grouped_is_exact(problem: str, target: DeployTarget) -> None:
    """Weights that are packed beside each other for a vector must not meet the inputs of another group."""
    GROUPED_BATCH.check(problem, target)
