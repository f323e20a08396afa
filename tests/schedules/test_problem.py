"""The notation of problems: an id that is mistyped must not pass as another problem."""

from __future__ import annotations

import pytest

from tests.schedules.operators import case_of
from tests.schedules.problem import parse


def test_parts_of_a_problem() -> None:
    """Numbers, shapes, words and stages come apart as the notation says."""
    problem = parse("conv_n1g1ic17ih9iw9oc33_kh3b-2_2x17_int32_+add+lookup")
    assert problem.operator == "conv"
    assert problem.numbers == {"n": 1, "g": 1, "ic": 17, "ih": 9, "iw": 9, "oc": 33, "kh": 3, "b": -2}
    assert problem.shapes == [(2, 17)]
    assert problem.words == {"int32"}
    assert problem.stages == ["add", "lookup"]


def test_defaults_of_a_convolution() -> None:
    """A width left out is the height, a padding after that before."""
    case = case_of("conv_ic17ih9oc33kh3kw3sh2sw2ph1pw1dh0dw0")
    assert case.specs == (((1, 17, 9, 9), "uint8"),)
    call = case.module()["main"].body.blocks[0].bindings[0].value
    assert [int(d) for d in call.attrs["padding"]] == [1, 1, 1, 1]
    assert [int(d) for d in call.attrs["out_shape"]] == [1, 33, 5, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv_ic3oc4stride2", "conv has no stride"),
        ("conv_ic3", "oc is missing"),
        ("conv_ic3ic4oc1", "ic comes twice"),
        ("conv_ic3oc4_windowsums", "no word"),
        ("conv_ic3oc4_+sub", "no stage"),
        ("transpose_3x4", "is none of"),
        ("lookup_3x4_int32", "lookup has no int32"),
    ],
)
def test_mistyped_problem(text: str, message: str) -> None:
    """Each gives an error that names the part."""
    with pytest.raises(ValueError, match=message):
        case_of(text)
