"""2-D convolution and fully connected layers on channels-last activations, as tensor expressions.

Activations are (N, H, W, C) with C padded to :data:`CHANNEL_BLOCK`; what the padding holds is never read, because the
packed weights are zero there. A fully connected layer is a 1x1 convolution over an image of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import te, tirx
from tvm.ir import Expr

from schedules.intrinsics.x86 import DotProduct

from .arithmetic import Output, finish, int32
from .stages import Stage, apply_stages
from .window import output_size

CHANNEL_BLOCK = 16
"""Channels of a stored activation are padded to a multiple of this, the widest vector of accumulators."""


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is not below ``value``."""
    return -(-value // multiple) * multiple


def padded_channels(channels: int) -> int:
    """Channels of a stored activation."""
    return round_up(channels, CHANNEL_BLOCK)


@dataclass(frozen=True)
class Conv2d:
    """One convolution: shapes, what surrounds the image, and what happens to the accumulator.

    ``x_channels`` is the stored number of input channels, at least ``ic``. ``padding`` is (top, left, bottom, right).
    ``window_sum`` adds the two operands that correct for the zero points of the weights. ``below_one`` says that every
    multiplier is less than 1, as in all but odd models: then no sum times its multiplier leaves the range of int32.
    """

    n: int
    h: int
    w: int
    ic: int
    oc: int
    x_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    x_zero_point: int
    weight_dtype: str
    window_sum: bool
    output: Output
    stages: tuple[Stage, ...] = ()
    below_one: bool = False

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        return output_size((self.h, self.w), self.kernel, self.strides, self.padding, self.dilation)

    @property
    def depthwise(self) -> bool:
        """One filter for each channel; a single channel only where its weights are too wide for a dot product."""
        return self.groups == self.ic == self.oc and (self.groups > 1 or self.weight_dtype == "int16")

    @property
    def macs(self) -> int:
        """Multiplications of the layer as the model has it."""
        oh, ow = self.output_size
        return self.n * oh * ow * self.oc * (self.ic // self.groups) * self.kernel[0] * self.kernel[1]

    @property
    def result_dtype(self) -> str:
        """Dtype of the stored result."""
        return (self.stages[-1].output if self.stages else self.output).dtype

    @property
    def name(self) -> str:
        """The problem in the notation of oneDNN's benchdnn."""
        oh, ow = self.output_size
        parts = [
            f"{'depthwise' if self.depthwise else 'conv2d'}_n{self.n}g{self.groups}ic{self.ic}ih{self.h}iw{self.w}",
            f"oc{self.oc}oh{oh}ow{ow}kh{self.kernel[0]}kw{self.kernel[1]}sh{self.strides[0]}sw{self.strides[1]}",
            f"ph{self.padding[0]}pw{self.padding[1]}dh{self.dilation[0] - 1}dw{self.dilation[1] - 1}",
        ]
        return "".join(parts)


@dataclass(frozen=True)
class ChannelSpan:
    """The input channels that a block of output channels reads: ``start`` for block 0, ``step`` more every ``every``
    blocks, ``size`` of them. With groups narrower than a block, the block's weights are block-diagonal."""

    step: int
    every: int
    size: int

    def start(self, block: Expr | int) -> Expr | int:
        """First input channel of a block of output channels."""
        return 0 if self.step == 0 else block // self.every * self.step


def channel_span(problem: Conv2d, dot: DotProduct) -> ChannelSpan:
    """How the groups of ``problem`` map to blocks of ``dot.lanes`` output channels."""
    group_ic, group_oc = problem.ic // problem.groups, problem.oc // problem.groups
    if problem.groups > 1 and group_oc % dot.lanes == 0:
        return ChannelSpan(group_ic, group_oc // dot.lanes, group_ic)
    if problem.groups > 1 and dot.lanes % group_oc == 0:
        together = dot.lanes // group_oc
        return ChannelSpan(together * group_ic, 1, min(together * group_ic, problem.ic))
    return ChannelSpan(0, 1, problem.ic)


def channel_reach(problem: Conv2d, dot: DotProduct) -> int:
    """Stored input channels that the blocks read, their last dot product included."""
    span = channel_span(problem, dot)
    last_block = -(-problem.oc // dot.lanes) - 1
    return int(span.start(last_block)) + round_up(span.size, dot.depth)


def pack_weight(weight: np.ndarray, problem: Conv2d, dot: DotProduct) -> np.ndarray:
    """(O, C/groups, KH, KW) to (blocks, KH, KW, channels / depth, lanes, depth), zero where there is no weight."""
    span = channel_span(problem, dot)
    group_ic, group_oc = problem.ic // problem.groups, problem.oc // problem.groups
    blocks = padded_channels(problem.oc) // dot.lanes
    depth_blocks = round_up(span.size, dot.depth) // dot.depth
    dense = np.zeros((blocks * dot.lanes, depth_blocks * dot.depth, *problem.kernel), dot.weight_dtype)
    if problem.groups == 1:
        dense[: problem.oc, :group_ic] = weight
    else:
        for o in range(problem.oc):
            first = o // group_oc * group_ic - int(span.start(o // dot.lanes))
            dense[o, first : first + group_ic] = weight[o]
    split = dense.reshape(blocks, dot.lanes, depth_blocks, dot.depth, *problem.kernel)
    return np.ascontiguousarray(split.transpose(0, 4, 5, 2, 1, 3))


def pack_depthwise_weight(weight: np.ndarray, problem: Conv2d) -> np.ndarray:
    """(C, 1, KH, KW) to (KH, KW, padded C)."""
    packed = np.zeros((*problem.kernel, padded_channels(problem.oc)), weight.dtype)
    packed[..., : problem.oc] = weight[:, 0].transpose(1, 2, 0)
    return packed


def pack_channels(values: np.ndarray, channels: int) -> np.ndarray:
    """(C,) to the padded number of channels, with zeros."""
    return np.pad(values, (0, padded_channels(channels) - len(values)))


def surround(x: te.Tensor, problem: Conv2d, rows: int, columns: int, channels: int, dtype: str) -> te.Tensor:
    """``x`` with the zero point around it, ``rows`` x ``columns`` x ``channels`` in all, widened to ``dtype``."""
    top, left = problem.padding[0], problem.padding[1]
    outside = tirx.const(problem.x_zero_point, dtype)
    h, w, c = problem.h, problem.w, problem.x_channels

    def element(n: Expr, y: Expr, x_: Expr, ci: Expr) -> Expr:
        inside = []
        if top:
            inside.append(y >= top)
        if rows - top > h:
            inside.append(y < top + h)
        if left:
            inside.append(x_ >= left)
        if columns - left > w:
            inside.append(x_ < left + w)
        if channels > c:
            inside.append(ci < c)
        value = x[n, y - top, x_ - left, ci].astype(dtype)
        return tirx.if_then_else(tirx.all(*inside), value, outside) if inside else value

    return te.compute((problem.n, rows, columns, channels), element, "surrounded")


def needs_surround(problem: Conv2d, dot: DotProduct | None, columns: int) -> bool:
    """Whether the kernel reads a copy of its input: for padding, for wider elements, or past the stored edge."""
    widened = dot is not None and dot.x_dtype != "uint8"
    overrun = dot is not None and channel_reach(problem, dot) > problem.x_channels
    return widened or overrun or any(problem.padding) or columns > problem.w


Argument = tuple[str, tuple[int, ...], str]
"""Name, shape and dtype of a kernel's argument."""


def epilogue_arguments(problem: Conv2d) -> list[Argument]:
    """What the epilogue reads besides the accumulator, in the order of the kernel's arguments."""
    channels = padded_channels(problem.oc)
    oh, ow = problem.output_size
    arguments: list[Argument] = [("bias", (channels,), "int32"), ("multiplier", (channels,), "float32")]
    if problem.window_sum:
        arguments += [
            ("window_sum", (problem.n, oh, ow, CHANNEL_BLOCK), "int32"),
            ("weight_zero_point", (channels,), "int32"),
        ]
    for i, stage in enumerate(problem.stages):
        if stage.operand != "none":
            shape = (problem.n, oh, ow, channels) if stage.operand == "activation" else (256,)
            arguments.append((f"operand{i}", shape, "uint8"))
    return arguments


def epilogue(problem: Conv2d, tensors: Sequence[Any], value: Expr, pixel: Sequence[Expr], c: Expr) -> Expr:
    """The result at ``pixel`` (n, h, w) and channel ``c`` for an accumulator.

    ``tensors`` are the :func:`epilogue_arguments`, as tensors of an expression or as buffers.
    """
    bias, multiplier, *rest = tensors
    value = value + bias[c]
    if problem.window_sum:
        window_sum, weight_zero_point, *rest = rest
        value = value - weight_zero_point[c] * window_sum[(*pixel, tirx.const(0, "int32"))]
    value = finish(value, multiplier[c], problem.output)
    tables = [stage.operand == "table" for stage in problem.stages if stage.operand != "none"]
    readers = [
        (lambda index, t=t: t[index]) if table else (lambda _index, t=t: t[(*pixel, c)])
        for t, table in zip(rest, tables, strict=True)
    ]
    return apply_stages(problem.stages, value, readers)


def conv2d(problem: Conv2d, dot: DotProduct, columns: int) -> tvm.tirx.PrimFunc:
    """The convolution with ``dot``, its accumulators computed for ``columns`` output columns, at least the real width.

    Arguments of the function: x, weight (packed), bias, multiplier, [window_sum, weight_zero_point], the stages'
    operands, result. Blocks: "surrounded" (if :func:`needs_surround`), "accumulate", "result", and "cropped" when
    ``columns`` is more than the width.
    """
    oh, ow = problem.output_size
    (kh_size, kw_size), (sh, sw), (dh, dw) = problem.kernel, problem.strides, problem.dilation
    span = channel_span(problem, dot)
    blocks, depth_blocks = padded_channels(problem.oc) // dot.lanes, round_up(span.size, dot.depth) // dot.depth
    a = te.placeholder((problem.n, problem.h, problem.w, problem.x_channels), "uint8", "x")
    b = te.placeholder((blocks, kh_size, kw_size, depth_blocks, dot.lanes, dot.depth), dot.weight_dtype, "weight")
    extra = [te.placeholder(shape, dtype, name) for name, shape, dtype in epilogue_arguments(problem)]
    x = a
    if needs_surround(problem, dot, (columns - 1) * sw + (kw_size - 1) * dw + 1):
        rows, width = (oh - 1) * sh + (kh_size - 1) * dh + 1, (columns - 1) * sw + (kw_size - 1) * dw + 1
        x = surround(a, problem, rows, width, max(problem.x_channels, channel_reach(problem, dot)), dot.x_dtype)
    kh, kw = te.reduce_axis((0, kh_size), "kh"), te.reduce_axis((0, kw_size), "kw")
    ko, ki = te.reduce_axis((0, depth_blocks), "ko"), te.reduce_axis((0, dot.depth), "ki")

    def product(n: Expr, y: Expr, x_: Expr, block: Expr, lane: Expr) -> Expr:
        left = x[n, y * sh + kh * dh, x_ * sw + kw * dw, span.start(block) + ko * dot.depth + ki]
        return te.sum(int32(left) * int32(b[block, kh, kw, ko, lane, ki]), axis=[kh, kw, ko, ki])

    accumulate = te.compute((problem.n, oh, columns, blocks, dot.lanes), product, "accumulate")

    def result(n: Expr, y: Expr, x_: Expr, c: Expr) -> Expr:
        column = x_ if columns == ow else tirx.min(x_, ow - 1)
        return epilogue(problem, extra, accumulate[n, y, x_, c // dot.lanes, c % dot.lanes], (n, y, column), c)

    out = te.compute((problem.n, oh, columns, blocks * dot.lanes), result, "result")
    if columns != ow:
        out = te.compute((problem.n, oh, ow, blocks * dot.lanes), lambda *i: out[i], "cropped")
    return te.create_prim_func([a, b, *extra, out])


def depthwise_conv2d(problem: Conv2d) -> tvm.tirx.PrimFunc:
    """The depthwise convolution. Arguments and blocks as for :func:`conv2d`, with the weight (KH, KW, C)."""
    oh, ow = problem.output_size
    (kh_size, kw_size), (sh, sw), (dh, dw) = problem.kernel, problem.strides, problem.dilation
    channels = padded_channels(problem.oc)
    a = te.placeholder((problem.n, problem.h, problem.w, problem.x_channels), "uint8", "x")
    b = te.placeholder((kh_size, kw_size, channels), problem.weight_dtype, "weight")
    extra = [te.placeholder(shape, dtype, name) for name, shape, dtype in epilogue_arguments(problem)]
    x = a
    if any(problem.padding):
        rows, width = (oh - 1) * sh + (kh_size - 1) * dh + 1, (ow - 1) * sw + (kw_size - 1) * dw + 1
        x = surround(a, problem, rows, width, channels, "uint8")
    kh, kw = te.reduce_axis((0, kh_size), "kh"), te.reduce_axis((0, kw_size), "kw")

    def product(n: Expr, y: Expr, x_: Expr, c: Expr) -> Expr:
        left = x[n, y * sh + kh * dh, x_ * sw + kw * dw, c]
        return te.sum(int32(left) * int32(b[kh, kw, c]), axis=[kh, kw])

    accumulate = te.compute((problem.n, oh, ow, channels), product, "accumulate")

    def result(n: Expr, y: Expr, x_: Expr, c: Expr) -> Expr:
        return epilogue(problem, extra, accumulate[n, y, x_, c], (n, y, x_), c)

    out = te.compute(accumulate.shape, result, "result")
    return te.create_prim_func([a, b, *extra, out])
