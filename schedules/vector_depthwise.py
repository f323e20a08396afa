"""Depthwise convolution on plain vectors of channels, whatever their width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm.s_tir import Schedule

from .compute.conv2d import Conv2d, depthwise_conv2d, pack_channels, pack_depthwise_weight
from .copies import parallel, schedule_copies
from .intrinsics.x86 import DotProduct
from .register_tile import divisors
from .template import Knobs, Template

MAX_PIXELS = 8
"""Output columns of a tile: their inputs overlap, and 8 sums and 10 inputs fit 32 registers."""


class VectorDepthwise(Template):
    """The template that computes every depthwise convolution."""

    name = "vector-depthwise"

    def supports(self, problem: Conv2d, dot: DotProduct) -> bool:
        return problem.depthwise

    def space(self, problem: Conv2d, dot: DotProduct) -> dict[str, tuple[int, ...]]:
        return {"pixels": tuple(divisors(problem.output_size[1], 2 * MAX_PIXELS))}

    def default(self, problem: Conv2d, dot: DotProduct) -> Knobs:
        return {"pixels": max(divisors(problem.output_size[1], MAX_PIXELS))}

    def build(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> tvm.tirx.PrimFunc:
        return schedule_depthwise_conv2d(problem, dot, knobs["pixels"]).mod["main"]

    def constants(
        self,
        problem: Conv2d,
        dot: DotProduct,
        knobs: Knobs,
        arrays: Sequence[np.ndarray],
    ) -> list[np.ndarray]:
        weight, *vectors = arrays
        return [pack_depthwise_weight(weight, problem), *(pack_channels(v, problem.oc) for v in vectors)]


def schedule_depthwise_conv2d(problem: Conv2d, dot: DotProduct, pixels: int) -> Schedule:
    """The depthwise convolution: one vector of channels, ``pixels`` columns, the window unrolled.

    LLVM turns the 32-bit product of two widened narrow numbers into a 16-bit multiply-add, so no intrinsic is needed.
    """
    s = Schedule(depthwise_conv2d(problem))
    accumulate, result = s.get_sblock("accumulate"), s.get_sblock("result")
    n, h, w, c = s.get_loops(result)
    c_block, lane = s.split(c, [None, dot.lanes])
    w_tile, pixel = s.split(w, [None, pixels])
    s.reorder(n, h, c_block, w_tile, pixel, lane)
    s.set_scope(accumulate, 0, "local")
    s.compute_at(accumulate, w_tile, preserve_unit_loops=True)
    pixel_in, lane_in, kh, kw = s.get_loops(accumulate)[-4:]
    s.reorder(kh, kw, pixel_in, lane_in)
    rows = s.fuse(n, h)
    parallel(s, rows, problem)
    s.vectorize(lane_in)
    init = s.decompose_reduction(accumulate, kh)
    s.unroll(pixel_in)
    s.unroll(kw)
    s.unroll(kh)
    s.unroll(s.get_loops(init)[-2])
    s.vectorize(lane)
    s.unroll(pixel)
    schedule_copies(s, problem, any(problem.padding), dot.lanes)
    return s
