"""Geometry of operators that slide a window: convolutions and pools of one or two spatial axes, as two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

from pipeline.ir.graph import op_name, static_shape


@dataclass(frozen=True)
class Window:
    """A window over (H, W); one spatial axis is W with H = 1.

    ``padding`` is (top, left, bottom, right) and such that exactly ``windows`` positions fit, ceil_mode included;
    ``declared`` is the padding that the model states.
    """

    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    declared: tuple[int, int, int, int]
    dilation: tuple[int, int]
    windows: tuple[int, int]


def _pair(values: Sequence[Any], fill: int) -> tuple[int, int]:
    numbers = [int(v) for v in values]
    return (fill, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _four(values: Sequence[Any]) -> tuple[int, int, int, int]:
    numbers = [int(v) for v in values]
    if len(numbers) == 2:
        return 0, numbers[0], 0, numbers[1]
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _after(size: int, kernel: int, stride: int, before: int, after: int, dilation: int, windows: int) -> int:
    """Padding at the end with which the last window fits."""
    return max(after, (windows - 1) * stride + dilation * (kernel - 1) + 1 - size - before)


def window_of(call: relax.Call, kernel: Sequence[int]) -> Window | None:
    """Geometry of a convolution or pool; None where the layout is not channels first or a size is unknown."""
    layout = str(call.attrs.data_layout if "conv" in op_name(call) else call.attrs.layout)
    shape, result = static_shape(call.args[0]), static_shape(call)
    if layout not in ("NCHW", "NCW") or shape is None or result is None:
        return None
    size, windows = _pair(shape[2:], 1), _pair(result[2:], 1)
    kernel_2d, strides, dilation = _pair(kernel, 1), _pair(call.attrs.strides, 1), _pair(call.attrs.dilation, 1)
    declared = _four(call.attrs.padding)
    after = [
        _after(size[i], kernel_2d[i], strides[i], declared[i], declared[i + 2], dilation[i], windows[i]) for i in (0, 1)
    ]
    return Window(size, kernel_2d, strides, (declared[0], declared[1], after[0], after[1]), declared, dilation, windows)


def as_image(x: relax.Expr) -> relax.Expr:
    """(N, C, W) as (N, C, 1, W); four axes stay as they are."""
    shape = static_shape(x) or ()
    return relax.op.reshape(x, (shape[0], shape[1], 1, shape[2])) if len(shape) == 3 else x


def as_shape_of(x: relax.Expr, call: relax.Call) -> relax.Expr:
    """``x`` with the shape of ``call``'s result."""
    shape = static_shape(call) or ()
    return x if static_shape(x) == shape else relax.op.reshape(x, shape)
