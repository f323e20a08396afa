"""Parallel loops, and the copies before and after a convolution that is made of a tensor expression."""

from __future__ import annotations

import tvm
from tvm.s_tir import Schedule

from .compute.conv2d import Conv2d
from .threads import MIN_PARALLEL_MACS


def parallel(s: Schedule, loop: tvm.s_tir.schedule.LoopRV, problem: Conv2d) -> None:
    """Share ``loop`` among the threads, unless the problem is too small for that."""
    if problem.macs >= MIN_PARALLEL_MACS:
        s.parallel(loop)


def schedule_copies(s: Schedule, problem: Conv2d, surrounded: bool, vector: int) -> None:
    """The copies before and after: rows in parallel, channels in vectors."""
    names = ["surrounded"] if surrounded else []
    if any(s.get(block).name_hint == "cropped" for block in s.get_child_blocks(s.get_sblock("root"))):
        names.append("cropped")
    for name in names:
        n, h, _, c = s.get_loops(s.get_sblock(name))
        channels = int(s.get(c).extent)
        widest = max(d for d in range(1, min(channels, vector) + 1) if channels % d == 0)
        s.vectorize(s.split(c, [None, widest])[1])
        parallel(s, s.fuse(n, h), problem)
