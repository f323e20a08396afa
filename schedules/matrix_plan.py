"""How a convolution is cut for the matrix unit, and its weights in the order of the cuts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import Expr

from . import packed_epilogue
from .compute.conv2d import Conv2d, padded_channels, round_up
from .folded import folded_rows
from .phases import Phases, phases_of

TILE_ROWS, TILE_BYTES, LANES, DEPTH = 16, 64, 16, 4
"""A tile register has 16 rows of 64 bytes: 16 int32 sums, or 16 channels of 4 weights."""


FEWER_TILES = 0.8
"""Tiles that go through the padding store pixel by pixel: worth it where they are at most so many of the others."""


@dataclass(frozen=True)
class Plan:
    """How a convolution is cut into tiles.

    Attributes:
        flat: the image is one row of pixels (1x1, no stride, no padding).
        phases: the image is stored in phases, see :class:`Phases`.
        fold: rows of the image that are stored as one, see :mod:`schedules.folded`; 1 without.
        pixel_bytes: of the image, rows folded.
        pitch: pixels from an output row to the next where tiles go on from one row to the next, through the padding
            between them; None where they end with the row.
        runs: (rows, columns) of the window that are separate runs of bytes; columns is 1 where a row is one run.
        run_bytes, step_bytes, steps: length of a run, of one step, and steps a run.
        pixels: rows of a tile of sums.
        row_pixels: pixels that tiles go through without a gap: an output row, or with a pitch an image.
        tiles_a_row, tiles: tiles of pixels in such a row and in all.
        pixel_tiles, channel_tiles: tiles of sums held at once.
        slices: of as many tiles of channels; the last one starts early where they do not divide the channels.
        packed: whether the epilogue is the packed one, which sets the order of the channels.
    """

    flat: bool
    phases: Phases | None
    fold: int
    pixel_bytes: int
    pitch: int | None
    runs: tuple[int, int]
    run_bytes: int
    step_bytes: int
    steps: int
    pixels: int
    row_pixels: int
    tiles_a_row: int
    tiles: int
    pixel_tiles: int
    channel_tiles: int
    slices: int
    packed: bool

    @property
    def channels(self) -> int:
        """Channels of a slice."""
        return self.channel_tiles * LANES

    @property
    def groups(self) -> int:
        """Groups of tiles of pixels, whose sums are held at once."""
        return -(-self.tiles // self.pixel_tiles)

    @property
    def all_steps(self) -> int:
        """Steps of the whole reduction."""
        return self.runs[0] * self.runs[1] * self.steps


def plan_of(problem: Conv2d) -> Plan:
    """The cuts of ``problem``."""
    oh, ow = problem.output_size
    kh, kw = problem.kernel
    flat = (kh, kw) == (1, 1) and problem.strides == (1, 1) and not any(problem.padding)
    phases = phases_of(problem)
    pitch = None if flat else _pitch(problem, phases)
    phases = phases if pitch else None
    whole_rows = problem.dilation[1] == 1 and not phases
    fold = folded_rows(problem, TILE_BYTES)
    pixel_bytes = fold * problem.x_channels
    run_bytes = pixel_bytes * (kw if whole_rows else 1)
    if flat:
        row_pixels, rows = problem.n * oh * ow, 1
    elif pitch:
        row_pixels, rows = (oh - 1) * pitch + ow, problem.n
    else:
        row_pixels, rows = ow, problem.n * oh
    tiles_a_row = -(-row_pixels // TILE_ROWS)
    blocks = padded_channels(problem.oc) // LANES
    channel_tiles = min(2, blocks)
    pixels = -(-row_pixels // tiles_a_row)
    packed = packed_epilogue.supports(problem) and pixels >= packed_epilogue.PIXELS
    return Plan(
        flat=flat,
        phases=phases,
        fold=fold,
        pixel_bytes=pixel_bytes,
        pitch=pitch,
        runs=(-(-kh // fold), 1 if whole_rows else kw),
        run_bytes=run_bytes,
        step_bytes=min(TILE_BYTES, run_bytes),
        steps=-(-run_bytes // TILE_BYTES),
        pixels=pixels,
        row_pixels=row_pixels,
        tiles_a_row=tiles_a_row,
        tiles=rows * tiles_a_row,
        pixel_tiles=2 if channel_tiles == 2 else 3,
        channel_tiles=channel_tiles,
        slices=-(-blocks // channel_tiles),
        packed=packed,
    )


def _pitch(problem: Conv2d, phases: Phases | None) -> int | None:
    """The width of the surrounded image, or of its phases, if tiles that go on into the next row are clearly fewer.

    Of 7 x 7 pixels with one around them, 61 neighbours in four tiles hold all results; row by row it were seven tiles.
    """
    if phases:
        pitch = phases.columns
    elif problem.strides == (1, 1):
        pitch = problem.w + problem.padding[1] + problem.padding[3]
    else:
        return None
    oh, ow = problem.output_size
    through = -(-((oh - 1) * pitch + ow) // TILE_ROWS)
    return pitch if through < FEWER_TILES * oh * -(-ow // TILE_ROWS) else None


def in_slices(values: np.ndarray, problem: Conv2d, plan: Plan) -> np.ndarray:
    """(C, ...) to (slices * channels, ...), the channels as the tiles of sums hold them, zero where there is none."""
    channels = padded_channels(problem.oc)
    padded = np.pad(values, [(0, channels - len(values)), *[(0, 0)] * (values.ndim - 1)])
    order = packed_epilogue.CHANNEL_ORDER if plan.packed else np.arange(plan.channels)
    starts = [min(part * plan.channels, channels - plan.channels) for part in range(plan.slices)]
    return np.concatenate([padded[start + order] for start in starts])


def pack_weight(weight: np.ndarray, problem: Conv2d) -> np.ndarray:
    """(O, C, KH, KW) to (slices, runs, steps, tiles, step bytes / 4, 16, 4), in the order in which the kernel reads."""
    plan = plan_of(problem)
    filters = in_slices(weight, problem, plan)
    kh, kw = problem.kernel
    dense = np.zeros((len(filters), round_up(kh, plan.fold), kw, problem.x_channels), np.int8)
    dense[:, :kh, :, : problem.ic] = filters.transpose(0, 2, 3, 1)
    dense = dense.reshape(len(filters), -1, plan.fold, kw, problem.x_channels).transpose(0, 1, 3, 2, 4)
    runs = dense.reshape(len(filters), plan.runs[0] * plan.runs[1], plan.run_bytes)
    steps = np.zeros((len(filters), runs.shape[1], plan.steps, plan.step_bytes), np.int8)
    for step in range(plan.steps):
        wanted = step * plan.step_bytes
        start = min(wanted, plan.run_bytes - plan.step_bytes)
        steps[:, :, step, wanted - start :] = runs[:, :, wanted : start + plan.step_bytes]
    quads = plan.step_bytes // DEPTH
    tiles = steps.reshape(plan.slices, plan.channel_tiles, LANES, -1, plan.steps, quads, DEPTH)
    return np.ascontiguousarray(tiles.transpose(0, 3, 4, 1, 5, 2, 6))


def weight_bytes(problem: Conv2d) -> int:
    """Size of the packed weights."""
    plan = plan_of(problem)
    return plan.slices * plan.channels * plan.runs[0] * plan.runs[1] * plan.steps * plan.step_bytes


def first_channel(problem: Conv2d, plan: Plan, part: Expr) -> Expr:
    """The channel of the result at which slice ``part`` starts."""
    channels = padded_channels(problem.oc)
    if channels % plan.channels == 0:
        return part * plan.channels
    return tirx.min(part * plan.channels, channels - plan.channels)


@dataclass(frozen=True)
class TilePixels:
    """Where the pixels of a tile are.

    Attributes:
        image: position of the first one in the pixels of the (surrounded) image.
        result: position in the result of the row that the tile is in.
        start: position of the first one in that row.
        pitch, width: as in the plan; pixels of an output row.
    """

    image: Expr
    result: Expr
    start: Expr
    pitch: int | None
    width: int

    def in_result(self, row: Expr) -> tuple[Expr, Expr | None]:
        """The position in the result of the pixel in ``row`` of the tile, and whether it has one (None: always)."""
        at = self.start + row
        if self.pitch is None:
            return self.result + at, None
        column = at % self.pitch
        return self.result + at // self.pitch * self.width + column, column < self.width


def _tile_pixels(problem: Conv2d, plan: Plan, image_width: int, tile: Expr) -> TilePixels:
    start = tirx.min(tile % plan.tiles_a_row * plan.pixels, plan.row_pixels - plan.pixels)
    if plan.flat:
        return TilePixels(start, tirx.const(0, "int32"), start, None, plan.row_pixels)
    oh, ow = problem.output_size
    top, _, bottom, _ = problem.padding
    row = tile // plan.tiles_a_row
    image_rows = round_up(problem.h + top + bottom, plan.fold) // plan.fold
    if plan.phases:
        image_rows = plan.phases.count * plan.phases.rows
    if plan.pitch:
        return TilePixels(row * image_rows * image_width + start, row * oh * ow, start, plan.pitch, ow)
    image_row = row // oh * image_rows + row % oh * (problem.strides[0] // plan.fold)
    return TilePixels(image_row * image_width + start * problem.strides[1], row * ow, start, None, ow)


def tile_pixels(problem: Conv2d, plan: Plan, image_width: int, group: Expr) -> list[TilePixels]:
    """The pixels of the tiles of a group."""
    return [
        _tile_pixels(problem, plan, image_width, tirx.min(group * plan.pixel_tiles + k, plan.tiles - 1))
        for k in range(plan.pixel_tiles)
    ]
