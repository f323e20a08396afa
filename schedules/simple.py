"""Schedules of everything that is bound by memory: vectors along the last axis, rows in parallel."""

from __future__ import annotations

import math

import tvm
from tvm.s_tir import Schedule

from .compute import elementwise as elementwise_compute
from .compute import layout as layout_compute
from .compute import matrix as matrix_compute
from .compute.pooling import Pool2d, pool2d
from .concat import concat_channels
from .threads import MIN_PARALLEL_ELEMENTS

VECTOR_BYTES = 64
"""Elements of a vector loop; LLVM splits it where the machine's vectors are shorter."""

SUM_LANES = 16
"""Channels of a vector of int32 sums."""


def vector_length(extent: int, limit: int) -> int:
    """The largest power of two up to ``limit`` that divides ``extent``."""
    length = limit
    while extent % length:
        length //= 2
    return length


def schedule_rows(func: tvm.tirx.PrimFunc) -> Schedule:
    """Every block by itself: the last axis in vectors, all others fused and in parallel."""
    s = Schedule(func)
    for block in s.get_child_blocks(s.get_sblock("root")):
        loops = s.get_loops(block)
        spatial = loops[: len(s.get(block).iter_vars) - len(_reduction_axes(s, block))]
        extents = [int(s.get(loop).extent) for loop in spatial]
        last = spatial[-1]
        if len(spatial) == len(loops):
            length = vector_length(extents[-1], VECTOR_BYTES)
            outer, inner = s.split(last, [None, length])
            s.vectorize(inner)
            spatial = [*spatial[:-1], outer]
        if math.prod(extents) >= MIN_PARALLEL_ELEMENTS:
            s.parallel(s.fuse(*spatial))
    return s


def _reduction_axes(s: Schedule, block: tvm.s_tir.schedule.SBlockRV) -> list[tvm.tirx.IterVar]:
    return [v for v in s.get(block).iter_vars if v.iter_type == tvm.tirx.IterVar.CommReduce]


def schedule_pool2d(problem: Pool2d) -> Schedule:
    """A vector of channels stays in a register while the window passes."""
    s = Schedule(pool2d(problem))
    accumulate, result = s.get_sblock("accumulate"), s.get_sblock("result")
    n, h, w, c = s.get_loops(result)
    lanes = vector_length(problem.channels, VECTOR_BYTES if problem.kind == "max" else SUM_LANES)
    c_block, lane = s.split(c, [None, lanes])
    s.set_scope(accumulate, 0, "local")
    s.compute_at(accumulate, c_block, preserve_unit_loops=True)
    lane_in, kh, kw = s.get_loops(accumulate)[-3:]
    s.reorder(kh, kw, lane_in)
    if math.prod((problem.n, *problem.output_size, problem.channels)) >= MIN_PARALLEL_ELEMENTS:
        s.parallel(s.fuse(n, h))
    s.vectorize(lane_in)
    s.decompose_reduction(accumulate, kh)
    if math.prod(problem.kernel) <= 9:
        s.unroll(kw)
        s.unroll(kh)
    s.vectorize(lane)
    return s


def schedule_matmul(problem: matrix_compute.Matmul) -> Schedule:
    """A row of results stays in registers while k passes; rows in parallel."""
    s = Schedule(matrix_compute.matmul(problem))
    accumulate, result = s.get_sblock("accumulate"), s.get_sblock("result")
    batch, m, n = s.get_loops(result)
    outer, lane = s.split(n, [None, vector_length(problem.n, SUM_LANES)])
    s.set_scope(accumulate, 0, "local")
    s.compute_at(accumulate, outer, preserve_unit_loops=True)
    lane_in, k = s.get_loops(accumulate)[-2:]
    s.reorder(k, lane_in)
    if problem.m * problem.n * problem.k >= MIN_PARALLEL_ELEMENTS:
        s.parallel(s.fuse(batch, m))
    s.vectorize(lane_in)
    s.decompose_reduction(accumulate, k)
    s.vectorize(lane)
    return s


def scheduled(problem: object) -> tvm.tirx.PrimFunc:
    """The scheduled function of any problem of this module's kind; see each compute function for its arguments."""
    match problem:
        case Pool2d():
            return schedule_pool2d(problem).mod["main"]
        case matrix_compute.Matmul():
            return schedule_matmul(problem).mod["main"]
        case matrix_compute.Softmax():
            return schedule_rows(matrix_compute.softmax(problem)).mod["main"]
        case elementwise_compute.Elementwise():
            return schedule_rows(elementwise_compute.elementwise(problem)).mod["main"]
        case elementwise_compute.Quantize():
            return schedule_rows(elementwise_compute.quantize(problem)).mod["main"]
        case elementwise_compute.Dequantize():
            return schedule_rows(elementwise_compute.dequantize(problem)).mod["main"]
        case elementwise_compute.Reencode():
            return schedule_rows(elementwise_compute.reencode(problem)).mod["main"]
        case layout_compute.Pack():
            return schedule_rows(layout_compute.pack(problem)).mod["main"]
        case layout_compute.Unpack():
            return schedule_rows(layout_compute.unpack(problem)).mod["main"]
        case layout_compute.ConcatChannels():
            return concat_channels(problem)
    raise TypeError(f"no schedule for {type(problem).__name__}")
