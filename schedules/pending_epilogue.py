"""The packed epilogue of the matrix unit's sums, between the products of the next ones."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as builder

from .compute.conv2d import Conv2d
from .matrix_plan import Plan, first_channel, tile_pixels
from .packed_epilogue import PIXELS, PackedEpilogue

PAIRS_A_STEP = {1: 0, 2: 2}
"""Pairs of pixels of the epilogue in a step of a reduction of so few; the others follow when the next sums are stored.
Longer reductions have room for all of them."""


class PendingEpilogue:
    """The group of tiles whose sums wait in the buffer, and its packed epilogue, in pieces between the next products.

    The matrix unit takes 16 cycles for a product, and the vector units do not run far ahead of it: with all products
    before all of the epilogue, the times of both nearly add up.
    """

    def __init__(self, problem: Conv2d, plan: Plan, image_width: int, sums: Any, extra: list[Any], result: Any) -> None:
        """``sums``: the buffer, of two groups. ``extra``: bias, multiplier and, for an addition, the residual."""
        self._problem, self._plan, self._image_width = problem, plan, image_width
        self._sums, self._extra, self._result = sums, extra, result
        self._pairs = -(-plan.pixels // PIXELS)
        self._pairs_a_step = PAIRS_A_STEP.get(plan.all_steps, -(-self._pairs // plan.all_steps))
        # Slice, group, first free slot.
        self._state = builder.alloc_buffer((3,), "int32", scope="local")
        builder.buffer_store(self._state, tirx.const(0, "int32"), [2])
        self.set(tirx.const(0, "int32"), tirx.const(-1, "int32"))

    def set(self, part: Expr, group: Expr) -> None:
        """The sums that were just stored are those of ``group``, or of none at all if it is negative."""
        builder.buffer_store(self._state, part, [0])
        builder.buffer_store(self._state, group, [1])
        if self._remaining:
            builder.buffer_store(self._state, self._slots - self._state[2], [2])

    @property
    def _remaining(self) -> int:
        """Pairs that the steps leave to :meth:`complete`."""
        return max(0, self._pairs - self._pairs_a_step * self._plan.all_steps)

    @property
    def _slots(self) -> int:
        """Of a group in the buffer; it has room for two."""
        return self._plan.pixel_tiles * self._plan.channel_tiles

    def free_slot(self) -> Expr:
        """The first slot for the next sums: those of the pending group where its epilogue is then complete."""
        return self._state[2] if self._remaining else tirx.const(0, "int32")

    def advance(self, step: Expr, tile: int) -> None:
        """The piece of the epilogue that belongs behind the products of a ``tile`` of pixels in ``step``."""
        first_half = self._pairs_a_step // 2
        for k in range(self._pairs_a_step)[slice(first_half) if tile == 0 else slice(first_half, None)]:
            pair = step * self._pairs_a_step + k
            with builder.If(tirx.all(self._state[1] >= 0, pair < self._pairs)), builder.Then():
                self._store(pair)

    def complete(self) -> None:
        """What the steps left of the epilogue, once the next sums are stored."""
        if self._remaining:
            with builder.If(self._state[1] >= 0), builder.Then(), builder.serial(0, self._remaining) as pair:
                self._store(self._pairs - self._remaining + pair)

    def finish(self) -> None:
        """The whole epilogue of the last group."""
        with builder.serial(0, self._pairs) as pair:
            self._store(pair)

    def _store(self, pair: Expr) -> None:
        """A pair of rows of all tiles; where the number of rows is odd the last pair starts early."""
        plan = self._plan
        part, group = builder.bind(self._state[0]), builder.bind(self._state[1])
        _, multiplier, *residual = self._extra
        epilogue = PackedEpilogue(
            self._problem, part, first_channel(self._problem, plan, part), multiplier, self._result, *residual
        )
        first_slot = builder.bind(self._slots - self._state[2]) if self._remaining else 0
        row = builder.bind(tirx.min(pair * PIXELS, plan.pixels - PIXELS))
        for k, tile in enumerate(tile_pixels(self._problem, plan, self._image_width, group)):
            pixels = [tile.in_result(row + i) for i in range(PIXELS)]
            epilogue.store_pair(self._sums, first_slot + k * plan.channel_tiles, row, pixels)
