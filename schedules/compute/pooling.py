"""Pooling of stored activations (N, H, W, C), as tensor expressions."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import te, tirx
from tvm.ir import Expr

from .arithmetic import Output, finish, int32
from .window import output_size


@dataclass(frozen=True)
class Pool2d:
    """One pooling layer. ``kind`` is "max" or "average"; ``padding`` is (top, left, bottom, right)."""

    kind: str
    n: int
    h: int
    w: int
    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    x_zero_point: int
    output: Output

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        return output_size((self.h, self.w), self.kernel, self.strides, self.padding, self.dilation)

    @property
    def name(self) -> str:
        """Operator and shape."""
        (kh, kw), (sh, sw) = self.kernel, self.strides
        return f"{self.kind}_pool_n{self.n}c{self.channels}ih{self.h}iw{self.w}kh{kh}kw{kw}sh{sh}sw{sw}"


def pool2d(problem: Pool2d) -> tvm.tirx.PrimFunc:
    """Arguments: x, [multiplier (OH, OW) for "average"], result. Blocks: "accumulate" and "result".

    Positions outside the image read 0, which is the smallest uint8 and adds nothing.
    """
    oh, ow = problem.output_size
    (sh, sw), (dh, dw), (top, left, *_) = problem.strides, problem.dilation, problem.padding
    x = te.placeholder((problem.n, problem.h, problem.w, problem.channels), "uint8", "x")
    kh, kw = te.reduce_axis((0, problem.kernel[0]), "kh"), te.reduce_axis((0, problem.kernel[1]), "kw")
    average = problem.kind == "average"

    def element(n: Expr, y: Expr, x_: Expr, c: Expr) -> Expr:
        row, column = y * sh + kh * dh - top, x_ * sw + kw * dw - left
        value = x[n, row, column, c]
        if average:
            value = int32(value) - problem.x_zero_point
        inside = []
        if top:
            inside.append(row >= 0)
        if (oh - 1) * sh + (problem.kernel[0] - 1) * dh - top >= problem.h:
            inside.append(row < problem.h)
        if left:
            inside.append(column >= 0)
        if (ow - 1) * sw + (problem.kernel[1] - 1) * dw - left >= problem.w:
            inside.append(column < problem.w)
        outside = tirx.const(0, "int32" if average else "uint8")
        return tirx.if_then_else(tirx.all(*inside), value, outside) if inside else value

    shape = (problem.n, oh, ow, problem.channels)
    reduce = te.sum if average else te.max
    accumulate = te.compute(shape, lambda *i: reduce(element(*i), axis=[kh, kw]), "accumulate")
    if not average:
        return te.create_prim_func([x, te.compute(shape, lambda *i: accumulate[i], "result")])
    multiplier = te.placeholder((oh, ow), "float32", "multiplier")
    result = te.compute(
        shape, lambda n, y, x_, c: finish(accumulate[n, y, x_, c], multiplier[y, x_], problem.output), "result"
    )
    return te.create_prim_func([x, multiplier, result])
