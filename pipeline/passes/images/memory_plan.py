"""Where in one workspace each of a sequence's intermediate results lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Bytes: what kernels assume of their arguments, and a cache line."""


@dataclass(frozen=True)
class Lifetime:
    """``size`` bytes, needed from step ``first`` to step ``last``, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are needed at the same time."""
        return self.first <= other.last and other.first <= self.last


def plan_offsets(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """An offset for each lifetime, so that those which meet do not overlap, and the bytes of the workspace.

    Greedy by size: the largest first, each at the lowest offset that is free for as long as it lives (Pisarchyk and
    Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
    """
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for i in sorted(range(len(lifetimes)), key=lambda i: -lifetimes[i].size):
        offset = 0
        for j in sorted((j for j in placed if lifetimes[i].meets(lifetimes[j])), key=lambda j: offsets[j]):
            if offset + lifetimes[i].size <= offsets[j]:
                break
            offset = max(offset, _aligned(offsets[j] + lifetimes[j].size))
        offsets[i] = offset
        placed.append(i)
    return offsets, max((offsets[i] + _aligned(lifetimes[i].size) for i in placed), default=0)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
