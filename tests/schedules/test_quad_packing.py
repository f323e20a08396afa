"""Lists of quads hold exactly the weights that they were made from, in 16-bit sums that no input can saturate."""

from __future__ import annotations

import numpy as np
import pytest

from schedules.quad_packing import LIMIT, ORDERS, QuadLists, make_lists
from tests.octet_runner import Array

PLANES = range(1, len(ORDERS) + 1)


def _weights(kind: str) -> Array:
    random = np.random.default_rng(0)
    shape = (4, 37, 8, 4)
    if kind == "normal":
        return np.clip(np.rint(random.normal(size=shape) * 33), -128, 127).astype(np.int8)
    if kind == "small":
        return random.integers(-16, 17, shape).astype(np.int8)
    if kind == "uniform":
        return random.integers(-128, 128, shape).astype(np.int8)
    if kind == "extremes":
        return random.choice(np.array([-128, 127], np.int8), shape)
    return np.where(random.random(shape) < 0.05, random.integers(-128, 128, shape), 0).astype(np.int8)


def _unpacked(lists: QuadLists, shape: tuple[int, ...]) -> Array:
    """The sum of all entries, in the model's order of channels."""
    weights = np.zeros(shape, np.int64)
    quads = lists.weights.astype(np.int64).reshape(-1, 8, 4)
    words = lists.weights.view(np.int16).astype(np.int64).reshape(-1, 8, 2)
    for block in range(shape[0]):
        pairs, _, wide, end = lists.starts[3 * block : 3 * block + 4].tolist()
        for i in range(pairs, wide):
            weights[block, lists.channel[i] // 4][:, ORDERS[lists.plane[i]]] += quads[i]
        for i in range(wide, end):
            first = lists.channel[i] % 4
            weights[block, lists.channel[i] // 4][:, first : first + 2] += words[i]
    return weights


def _sums_of_one_sign(lists: QuadLists) -> Array:
    """What the positive, and what the negative weights of each 16-bit sum add up to."""
    pairs = lists.weights.astype(np.int64).reshape(-1, 16, 2)
    positive, negative = np.maximum(pairs, 0).sum(axis=2), np.maximum(-pairs, 0).sum(axis=2)
    sums = []
    for block in range(len(lists.starts) // 3):
        first, singles, wide = lists.starts[3 * block : 3 * block + 3]
        for values in (positive, negative):
            sums += [values[first:singles].reshape(-1, 2, 16).sum(axis=1), values[singles:wide]]
    return np.concatenate(sums)


@pytest.mark.parametrize("planes", PLANES)
@pytest.mark.parametrize("kind", ["normal", "small", "uniform", "extremes", "sparse"])
def test_lists_hold_the_weights_without_saturation(kind: str, planes: int) -> None:
    """A weight lost or counted twice, or a sum that some input saturates, would change bits."""
    weights = _weights(kind)
    lists = make_lists(weights, planes)
    assert np.array_equal(_unpacked(lists, weights.shape), weights)
    assert _sums_of_one_sign(lists).max(initial=0) <= LIMIT


def test_quads_without_weights_are_left_out() -> None:
    """They would cost time and change nothing."""
    weights = _weights("normal")
    weights[:, 3:30] = 0
    lists = make_lists(weights, 1)
    assert not np.isin(lists.channel // 4, np.arange(3, 30)).any()


def test_most_quads_of_trained_weights_share_an_instruction() -> None:
    """The speed rests on it: normally distributed weights with per-channel scales are what networks have."""
    lists = make_lists(_weights("normal"), 2)
    pairs = np.diff(lists.starts)[::3].sum()
    assert pairs > 0.7 * len(lists.weights)
