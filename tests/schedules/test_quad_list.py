"""What the template for AVX2 chooses where no record says otherwise."""

from __future__ import annotations

import pytest

from schedules.compute.arithmetic import Output
from schedules.compute.conv2d import Conv2d
from schedules.convolution import default_configuration
from schedules.intrinsics.x86 import DOT_PRODUCTS
from schedules.quad_panel import WHOLE


@pytest.mark.parametrize(("images", "together"), [(1, True), (32, False)])
def test_weights_pass_once_for_a_panel_smaller_than_they_are(images: int, together: bool) -> None:
    """The panel of a batch of 32 was 6.6 MB, for 2.4 MB of weights: it took 1.2 times as long as image by image."""
    problem = Conv2d(
        images, 7, 7, 512, 512, x_channels=512, kernel=(3, 3), strides=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1),
        groups=1, x_zero_point=0, weight_dtype="int8", window_sum=False, output=Output("uint8"),
    )  # fmt: skip
    rows = dict(default_configuration(problem, DOT_PRODUCTS["avx2"]).knobs)["rows"]
    assert (rows == WHOLE) is together
