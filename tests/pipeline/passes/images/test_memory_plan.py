"""Intermediate results that live at the same time do not overlap in the workspace."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.passes.images.memory_plan import ALIGNMENT, Lifetime, plan_offsets

LIFETIMES = st.lists(
    st.builds(
        lambda size, first, length: Lifetime(size, first, first + length),
        st.integers(1, 1000),
        st.integers(0, 12),
        st.integers(0, 5),
    ),
    max_size=24,
)


@given(LIFETIMES)
def test_nothing_overlaps_while_it_lives(lifetimes: list[Lifetime]) -> None:
    """A kernel that writes over what a later one reads gives wrong numbers for some networks only."""
    offsets, size = plan_offsets(lifetimes)
    for i, a in enumerate(lifetimes):
        assert offsets[i] % ALIGNMENT == 0
        assert offsets[i] + a.size <= size
        for j, b in enumerate(lifetimes[:i]):
            apart = offsets[i] + a.size <= offsets[j] or offsets[j] + b.size <= offsets[i]
            assert apart or not a.meets(b), (a, b)


def test_chain_needs_two_neighbours() -> None:
    """Without reuse the workspace would hold all layers, which no cache does."""
    chain = [Lifetime(640, step, step + 1) for step in range(10)]
    assert plan_offsets(chain)[1] == 2 * 640


def test_gap_is_used() -> None:
    """A small result goes between two large ones where the room is free."""
    lifetimes = [Lifetime(256, 0, 9), Lifetime(128, 0, 3), Lifetime(256, 0, 9), Lifetime(64, 4, 9)]
    assert plan_offsets(lifetimes)[1] == 256 + 256 + 128
