"""Weights for ``vpmaddubsw`` without saturation: lists of quads of weights whose 16-bit sums provably fit.

``vpmaddubsw`` multiplies 32 bytes of activations by 32 bytes of weights and adds neighbours into 16 bits. With
activations in 0..255 the sum is exact for all inputs as long as neither the positive nor the negative weights in it
add up to more than 128 (255 * 128 < 2**15). That leaves a choice, which is made here, once, for each weight vector:

1. Of four input channels either 0 and 1, 0 and 2, or 0 and 3 are neighbours: each way is a plane of the activations,
   which holds the same bytes in another order. The quad takes a plane in which its sums fit.
2. Where none fits, the quad becomes two vectors of 16-bit weights for two input channels each, for ``vpmaddwd``.
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

_Index = NDArray[np.int64]

_ROUNDS, _EXCHANGES, _PARTED, _BLOCKS = 24, 2, 128, 32
"""Rounds of proposals, and of parting pairs: at most 128 pairs for as many single quads; 32 blocks at a time."""

_SEED = 0

# Bytes of 7-bit sums, eight in a word: a sum above 64 carries into bit 7.
_CARRY, _TOP = np.uint64(0x3F3F3F3F3F3F3F3F), np.uint64(0x8080808080808080)
_NEVER = 65


@dataclass(frozen=True)
class QuadLists:
    """The weights of each block of 8 output channels: quads in pairs, single quads, and quads as words.

    Attributes:
        weights: (entries, 32) int8; the two quads of a pair follow each other. A quad as words takes two entries, each
            8 output channels x 2 input channels of int16.
        plane: (entries,) plane that the quad reads; 0 for words.
        channel: (entries,) its first input channel, counted through all quads of the block.
        starts: (3 * blocks + 1,) first entry of each block's pairs, single quads and words, in turns, and the end.
    """

    weights: NDArray[np.int8]
    plane: NDArray[np.int64]
    channel: NDArray[np.int64]
    starts: NDArray[np.int32]


def make_lists(quads: NDArray[np.int8], planes: int) -> QuadLists:
    """The lists for weights of shape (blocks, quads, 8, 4), using the first ``planes`` of :data:`ORDERS`."""
    sums = np.stack([_sums(quads.astype(np.int16), plane) for plane in range(planes)], axis=-2)
    fits_plane: NDArray[np.bool_] = np.all(sums <= LIMIT, axis=-1)
    fits: NDArray[np.bool_] = np.any(fits_plane, axis=-1)
    exists: NDArray[np.bool_] = np.any(quads, axis=(-2, -1))
    partner, plane, partner_plane = _match(sums, fits & exists)
    alone = fits_plane.argmax(axis=-1)
    weights, planes_of, channels, starts = [], [], [], [0]
    for block in range(len(quads)):
        first = np.flatnonzero(partner[block] > np.arange(partner.shape[1]))
        second = partner[block, first]
        single = np.flatnonzero(fits[block] & exists[block] & (partner[block] < 0))
        wide = np.flatnonzero(~fits[block])
        order = np.concatenate([np.stack([first, second], axis=1).reshape(-1), single])
        pair_planes = np.stack([plane[block, first], partner_plane[block, first]], axis=1).reshape(-1)
        order_planes = np.concatenate([pair_planes, alone[block, single]])
        lanes = np.take_along_axis(quads[block, order], ORDERS[order_planes][:, None, :], axis=-1)
        weights += [lanes.reshape(-1, QUAD_BYTES), _words(quads[block, wide])]
        planes_of += [order_planes, np.zeros(2 * len(wide), np.int64)]
        channels += [4 * order, np.add.outer(4 * wide, [0, 2]).reshape(-1)]
        starts += [starts[-1] + n for n in (2 * len(first), len(order), len(order) + 2 * len(wide))]
    return QuadLists(
        np.concatenate(weights), np.concatenate(planes_of), np.concatenate(channels), np.array(starts, np.int32)
    )


def _words(quads: NDArray[np.int8]) -> NDArray[np.int8]:
    """(n, 8, 4) weights to (2 n, 32): the first two input channels as int16, then the other two."""
    halves = quads.reshape(-1, 8, 2, 2).transpose(0, 2, 1, 3).astype("<i2")
    return np.ascontiguousarray(halves).view(np.int8).reshape(-1, QUAD_BYTES)


def _sums(quads: NDArray[np.int16], plane: int) -> NDArray[np.uint8]:
    """(..., 8, 4) weights to (..., 32): the positive and the negative weights of each 16-bit sum, added up."""
    pairs = quads[..., ORDERS[plane]].reshape(*quads.shape[:-2], 16, 2)
    positive, negative = np.maximum(pairs, 0).sum(axis=-1), -np.minimum(pairs, 0).sum(axis=-1)
    return np.minimum(np.concatenate([positive, negative], axis=-1), 255).astype(np.uint8)


def _match(
    sums: NDArray[np.uint8], exists: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pair the quads of each block. Returns (blocks, quads): the partner or -1, the own plane and the partner's.

    Rounds of proposals, all blocks at once: in the first round the lightest quad is proposed to the heaviest, the next
    to the next and so on, then with some of the order left to chance. After that, two quads without partners part a
    pair.
    """
    random = np.random.default_rng(_SEED)
    halves = np.where(sums <= LIMIT, (sums + 1) // 2, _NEVER).astype(np.uint8)
    words = np.ascontiguousarray(halves).view(np.uint64)
    weight = halves.max(axis=-1).min(axis=-1) + halves.mean(axis=-1).min(axis=-1) / 256
    partner = np.full(exists.shape, -1, np.int64)
    plane = np.zeros_like(partner)

    def join(block: _Index, a: _Index, b: _Index, planes: tuple[_Index, _Index]) -> None:
        partner[block, a], partner[block, b] = b, a
        plane[block, a], plane[block, b] = planes

    for turn in range(_ROUNDS):
        free = exists & (partner < 0)
        left = free.sum(axis=1)
        order = np.argsort(np.where(free, weight + random.random(weight.shape) * 4 * turn, np.inf), axis=1)
        block, i = np.nonzero(np.arange(left.max(initial=0) // 2) < (left // 2)[:, None])
        a, b = order[block, i], order[block, left[block] - 1 - i]
        fits, *planes = _fit(words, block, a, b)
        join(block[fits], a[fits], b[fits], (planes[0][fits], planes[1][fits]))
    for _ in range(_EXCHANGES):
        free = exists & (partner < 0)
        for start in range(0, len(free), _BLOCKS):
            some = slice(start, start + _BLOCKS)
            for block, a, b in _exchanges(words[some], weight[some], free[some], partner[some]):
                _, *planes = _fit(words[some], block, a, b)
                join(start + block, a, b, (planes[0], planes[1]))
    return partner, plane, np.take_along_axis(plane, np.maximum(partner, 0), axis=1)


def _exchanges(
    words: NDArray[np.uint64], weight: NDArray[np.float64], free: NDArray[np.bool_], partner: _Index
) -> list[tuple[_Index, _Index, _Index]]:
    """Pairs to part, and what the two halves of each may be paired with instead: two of the ``free`` quads, the heavy
    ones first. Returns block, free quad and half, twice."""
    left = free.sum(axis=1)
    if left.max(initial=0) < 2:
        return []
    singles = np.argsort(np.where(free, -weight, np.inf), axis=1)[:, : min(left.max(), _PARTED)]
    open_ = np.arange(singles.shape[1]) < left[:, None]
    c = np.argsort(partner <= np.arange(partner.shape[1]), axis=1, kind="stable")[:, :_PARTED]
    d = np.take_along_axis(partner, c, axis=1)
    halves = np.concatenate([c, d], axis=1)
    block, i = np.nonzero(open_)
    near = np.zeros((*singles.shape, halves.shape[1]), bool)
    fits, *_ = _fit(
        words, block.repeat(halves.shape[1]), singles[block, i].repeat(halves.shape[1]), halves[block].ravel()
    )
    near[block, i] = fits.reshape(len(block), -1)
    rows, found = np.arange(len(free)), []
    for pair in range(c.shape[1]):
        with_c, with_d = open_ & near[:, :, pair], open_ & near[:, :, c.shape[1] + pair]
        a = with_c.argmax(axis=1)
        with_d[rows, a] = False
        b = with_d.argmax(axis=1)
        at = np.flatnonzero((d[:, pair] > c[:, pair]) & with_c[rows, a] & with_d[rows, b])
        open_[at, a[at]] = open_[at, b[at]] = False
        found += [(at, singles[at, a[at]], c[at, pair]), (at, singles[at, b[at]], d[at, pair])]
    return found


def _fit(words: NDArray[np.uint64], block: _Index, a: _Index, b: _Index) -> tuple[NDArray[np.bool_], _Index, _Index]:
    """Whether the 16-bit sums of quads ``a`` and ``b`` of ``block`` fit together, and in which planes."""
    fits, planes = np.zeros(len(a), bool), (np.zeros_like(a), np.zeros_like(a))
    open_ = np.arange(len(a))
    for pair in np.ndindex(words.shape[2], words.shape[2]):
        at = block[open_]
        total = words[at, a[open_], pair[0]] + words[at, b[open_], pair[1]]
        found = (((total + _CARRY) & _TOP) == 0).all(axis=-1)
        fits[open_[found]] = True
        for plane, value in zip(planes, pair, strict=True):
            plane[open_[found]] = value
        open_ = open_[~found]
    return fits, *planes
