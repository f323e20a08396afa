"""Weights for ``vpmaddubsw`` without saturation: lists of quads of weights whose 16-bit sums provably fit.

``vpmaddubsw`` multiplies 32 bytes of activations by 32 bytes of weights and adds neighbours into 16 bits. With
activations in 0..255 the sum is exact for all inputs as long as neither the positive nor the negative weights in it
add up to more than 128 (255 * 128 < 2**15). That leaves a choice, which is made here, once, for each weight vector:

1. Of four input channels either 0 and 1, 0 and 2, or 0 and 3 are neighbours: each way is a plane of the activations,
   which holds the same bytes in another order. The quad takes a plane in which its sums fit.
2. Where none fits, the larger weight of each offending pair is cut, and the rest becomes a quad of its own.
3. Two quads whose 16-bit sums fit even together are paired: they share the widening to 32 bits. Quads with large
   weights find partners among those with small ones.
4. Quads without a weight are left out.

Every quad is 8 output channels x 4 input channels; 16-bit sums are counted in the units of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ORDERS = np.array([[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2]])
"""By plane, the order of four input channels: neighbours are added in 16 bits."""

QUAD_BYTES = 32
"""8 output channels x 4 input channels."""

LIMIT = 128
"""The most that weights of one sign in a 16-bit sum may add up to."""

_ROUNDS = 24
_SEED = 0

# Bytes of 7-bit sums, eight in a word: a sum above 64 carries into bit 7.
_CARRY, _TOP = np.uint64(0x3F3F3F3F3F3F3F3F), np.uint64(0x8080808080808080)
_NEVER = 65


@dataclass(frozen=True)
class QuadLists:
    """The quads of each block of 8 output channels, pairs before singles.

    Attributes:
        weights: (quads, 32) int8; the two quads of a pair follow each other.
        plane, source: (quads,) plane that the quad reads, and its index among the quads of the block.
        starts: (2 * blocks + 1,) first quad of each block's pairs and of its singles, alternating, and the end.
    """

    weights: NDArray[np.int8]
    plane: NDArray[np.int64]
    source: NDArray[np.int64]
    starts: NDArray[np.int32]


def make_lists(quads: NDArray[np.int8], planes: int) -> QuadLists:
    """The lists for weights of shape (blocks, quads, 8, 4), using the first ``planes`` of :data:`ORDERS`."""
    entries, source, exists = _split(quads.astype(np.int16), planes)
    sums = np.stack([_sums(entries, plane) for plane in range(planes)], axis=-2)
    partner, plane, partner_plane = _match(sums, exists)
    lightest = sums.max(axis=-1).argmin(axis=-1)
    weights, planes_of, sources, starts = [], [], [], [0]
    for block in range(len(entries)):
        first = np.flatnonzero(partner[block] > np.arange(partner.shape[1]))
        second = partner[block, first]
        single = np.flatnonzero(exists[block] & (partner[block] < 0))
        order = np.concatenate([np.stack([first, second], axis=1).reshape(-1), single])
        pair_planes = np.stack([plane[block, first], partner_plane[block, first]], axis=1).reshape(-1)
        order_planes = np.concatenate([pair_planes, lightest[block, single]])
        lanes = np.take_along_axis(entries[block, order], ORDERS[order_planes][:, None, :], axis=-1)
        weights.append(lanes.reshape(-1, QUAD_BYTES).astype(np.int8))
        planes_of.append(order_planes)
        sources.append(source[block, order])
        starts += [starts[-1] + 2 * len(first), starts[-1] + len(order)]
    return QuadLists(
        np.concatenate(weights), np.concatenate(planes_of), np.concatenate(sources), np.array(starts, np.int32)
    )


def _sums(quads: NDArray[np.int16], plane: int) -> NDArray[np.uint8]:
    """(..., 8, 4) weights to (..., 32): the positive and the negative weights of each 16-bit sum, added up."""
    pairs = quads[..., ORDERS[plane]].reshape(*quads.shape[:-2], 16, 2)
    positive, negative = np.maximum(pairs, 0).sum(axis=-1), -np.minimum(pairs, 0).sum(axis=-1)
    return np.minimum(np.concatenate([positive, negative], axis=-1), 255).astype(np.uint8)


def _split(quads: NDArray[np.int16], planes: int) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.bool_]]:
    """Cut the weights that fit no plane. Returns quads, the index that each was made from, and which ones exist."""
    fits = [(_sums(quads, plane) <= LIMIT).all(axis=-1) for plane in range(planes)]
    offending = ~np.logical_or.reduce(fits)
    rest = np.where(offending[..., None, None], quads - _cut(quads), 0)
    count, block_quads = offending.sum(axis=1), quads.shape[1]
    entries = np.zeros((len(quads), block_quads + int(count.max(initial=0)), 8, 4), np.int16)
    source = np.zeros(entries.shape[:2], np.int64)
    entries[:, :block_quads] = quads - rest
    source[:, :block_quads] = np.arange(block_quads)
    for block in np.flatnonzero(count):
        where = np.flatnonzero(offending[block])
        entries[block, block_quads : block_quads + len(where)] = rest[block, where]
        source[block, block_quads : block_quads + len(where)] = where
    exists: NDArray[np.bool_] = np.any(entries, axis=(-2, -1))
    return entries, source, exists


def _cut(quads: NDArray[np.int16]) -> NDArray[np.int16]:
    """``quads`` with the larger weight of each pair in plane 0 reduced until the pair fits."""
    pairs = quads.reshape(*quads.shape[:-1], 2, 2).copy()
    excess = np.maximum(np.abs(pairs.sum(axis=-1)) - LIMIT, 0) * (pairs.prod(axis=-1) > 0)
    larger = np.abs(pairs).argmax(axis=-1)[..., None]
    weight = np.take_along_axis(pairs, larger, axis=-1)
    np.put_along_axis(pairs, larger, weight - np.sign(weight) * excess[..., None], axis=-1)
    return pairs.reshape(quads.shape)


def _match(
    sums: NDArray[np.uint8], exists: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pair the quads of each block. Returns (blocks, quads): the partner or -1, the own plane and the partner's.

    Rounds of proposals, all blocks at once: in even rounds the lightest quad is proposed to the heaviest, the next to
    the next and so on; in odd rounds with some of the order left to chance.
    """
    random = np.random.default_rng(_SEED)
    blocks, count, planes = sums.shape[:3]
    halves = np.where(sums <= LIMIT, (sums + 1) // 2, _NEVER).astype(np.uint8)
    words = np.ascontiguousarray(halves).view(np.uint64)
    weight = halves.max(axis=-1).min(axis=-1) + halves.mean(axis=-1).min(axis=-1) / 256
    partner = np.full((blocks, count), -1, np.int64)
    own, other = np.zeros_like(partner), np.zeros_like(partner)
    free = exists.copy()
    for turn in range(_ROUNDS):
        left = free.sum(axis=1)
        if left.max(initial=0) < 2:
            break
        key = weight + (random.random(weight.shape) * 4 * turn if turn else 0)
        order = np.argsort(np.where(free, key, np.inf), axis=1)
        i = np.arange(left.max() // 2)
        block, i = np.nonzero(i < (left // 2)[:, None])
        a, b = order[block, i], order[block, left[block] - 1 - i]
        for plane_a in range(planes):
            for plane_b in range(planes):
                fits = (((words[block, a, plane_a] + words[block, b, plane_b] + _CARRY) & _TOP) == 0).all(axis=-1)
                first, second = np.minimum(a, b)[fits], np.maximum(a, b)[fits]
                swapped = (a > b)[fits]
                at = block[fits]
                partner[at, first], partner[at, second] = second, first
                own[at, first] = np.where(swapped, plane_b, plane_a)
                other[at, first] = np.where(swapped, plane_a, plane_b)
                free[at, first] = free[at, second] = False
                block, a, b = block[~fits], a[~fits], b[~fits]
    return partner, own, other
