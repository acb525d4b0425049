"""From a picture to the rectangles of stored pixels it needs, and back: plan first, as values, then read bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.ma as ma

from service.colour import View
from service.errors import InvalidInput, LimitExceeded
from service.footprint import Box, Footprint, footprint
from service.grid import Block
from service.store.contract import Store
from service.values import BLOCK, BoolArray, Int64Array, Vectors, Window
from service.warp import Int32Array, Target, ZoneMap, zone_maps

MAX_SOURCE_BYTES: Final = 320_000_000
"""Codes one picture may read: 2.5 million pixels of 128 dimensions."""
MAX_VALUES: Final = 36_000_000
"""Pixels times bands of one picture: 512 x 512 of 128 dimensions."""
MAX_TOUCHED: Final = 1024
"""Blocks whose versions one picture's validator may look at."""


@dataclass(frozen=True)
class Source:
    """What pictures are made of: a window of a store, and a view of it."""

    store: Store
    window: Window
    view: View
    dims: int
    """Prefix length to read."""
    picture: bool = True
    """Colours (uint8), or the view's numbers (float32)."""
    notes: set[str] = field(default_factory=set, compare=False)
    """What whoever asked for pictures should know of those made so far: `stale`."""

    def __post_init__(self) -> None:
        if self.dims not in self.store.depths:
            depths = ", ".join(map(str, self.store.depths))
            raise InvalidInput(f"{self.dims} is not a depth of this dataset.", field="dims", remedy=f"It has {depths}.")
        self.view.check(self.store.identity, self.dims)

    @property
    def bands(self) -> int:
        """Bands of a picture."""
        return 3 if self.picture else len(self.view.band_names)

    @property
    def footprint(self) -> Footprint:
        """Where there is data."""
        return footprint(self.store, self.window)


@dataclass(frozen=True, eq=False)
class Rectangle:
    """One read: stored pixels of one zone at one level, and the map from them to the picture."""

    shown: ZoneMap
    level: int
    rows: slice
    cols: slice
    stale: bool = False
    """Whether the level is older than what lies below it."""

    @property
    def count(self) -> int:
        """Stored pixels to read."""
        return int((self.rows.stop - self.rows.start) * (self.cols.stop - self.cols.start))


def level_for(levels: tuple[int, ...], maps: tuple[ZoneMap, ...]) -> int:
    """The coarsest level whose pixels are no larger than the picture's; the finest where none is."""
    # A hair of tolerance: a picture drawn at exactly 20 m shows the 20 m level.
    step: float = min((part.step for part in maps), default=1.0) * (1 + 1e-6)
    fine_enough = [level for level in levels if level <= step]
    return fine_enough[-1] if fine_enough else levels[0]


@dataclass(frozen=True, eq=False)
class _Choice:
    """The level at which one zone's part of a picture is read."""

    shown: ZoneMap
    box: Box | None
    """What is read, as level-1 pixels; None where the part shows no data."""
    level: int
    stale: bool = False


def _choices(source: Source, target: Target) -> tuple[_Choice, ...]:
    """A level for each zone. What the finer levels may cost beyond the fitting one is shared out evenly."""
    store, held = source.store, source.footprint
    maps = zone_maps(target, store.zones())
    levels = store.levels()
    level = level_for(levels, maps)
    finer = tuple(known for known in reversed(levels) if known <= level)
    boxes = [held.clip(part.grid.zone.name, part.box) for part in maps]
    costs = [_count(box, level) * source.dims for box in boxes if box]
    spare = (MAX_SOURCE_BYTES - sum(costs)) / max(1, len(costs))
    return tuple(
        _chosen(source, part, box, finer, spare) if box and level > 1 and spare >= 0 else _Choice(part, box, level)
        for part, box in zip(maps, boxes, strict=True)
    )


def _chosen(source: Source, part: ZoneMap, box: Box, levels: tuple[int, ...], spare: float) -> _Choice:
    """The coarsest level, from the fitting one on, that is up to date and may be read; else one that is not."""
    store, window, budget = source.store, source.window, _count(box, levels[0]) + spare / source.dims
    kept: _Choice | None = None
    for level in (known for known in levels if _count(box, known) <= budget):
        blocks = source.footprint.parents(part.grid.zone.name, box, level)
        if level == 1 or not store.stale(window, blocks):
            return _Choice(part, box, level)
        if kept is None and any(store.versions(window, blocks).values()):
            kept = _Choice(part, box, level, stale=True)
    return kept or _Choice(part, box, 1)  # no overviews at all: `plan` refuses it, unless other zones left room


def _count(box: Box, level: int) -> int:
    """Pixels of a level in a level-1 box."""
    top, bottom, left, right = (edge // level for edge in box)
    return (bottom - top + 1) * (right - left + 1)


def plan(source: Source, target: Target) -> tuple[Rectangle, ...]:
    """The rectangles a picture needs, one a zone, cut to where there is data.

    An overview that is missing or older than what lies below it is passed over for a finer level while that may be
    read; where none may, it is read as it stands and the rectangle says so.

    Raises:
        LimitExceeded: They are larger than one request may read, because the overviews end too early.
        NotFound: No such window.
    """
    if target.width * target.height * source.bands > MAX_VALUES:
        raise LimitExceeded(
            f"{target.width} x {target.height} pixels of {source.bands} bands are more than one answer holds.",
            field="width",
            remedy="Ask for fewer pixels or bands.",
        )
    rectangles = []
    for choice in _choices(source, target):
        if choice.box is not None:
            top, bottom, left, right = (edge // choice.level for edge in choice.box)
            rows, cols = slice(top, bottom + 1), slice(left, right + 1)
            rectangles.append(Rectangle(choice.shown, choice.level, rows, cols, choice.stale))
    size = sum(rectangle.count for rectangle in rectangles) * source.dims
    if size > MAX_SOURCE_BYTES:
        raise LimitExceeded(
            f"this would read {size / 1e6:,.0f} MB of vectors; at most {MAX_SOURCE_BYTES / 1e6:,.0f} MB are allowed.",
            remedy="Zoom in, ask for a smaller area, or build overviews for this dataset.",
        )
    return tuple(rectangles)


@dataclass(frozen=True)
class Touched:
    """What a picture looks like depends on this and on nothing else in the store."""

    blocks: tuple[Block, ...] | None
    """The blocks it shows pixels of, with data or without, at the levels it reads; None if over 1024."""
    stale: bool
    """Whether it shows an overview that is older than what lies below it."""


def touched(source: Source, target: Target) -> Touched:
    """What a picture depends on, found without reading a pixel.

    Raises:
        NotFound: No such window.
    """
    choices = _choices(source, target)
    return Touched(_shown_blocks(choices), any(choice.stale for choice in choices))


def _shown_blocks(choices: tuple[_Choice, ...]) -> tuple[Block, ...] | None:
    blocks: list[Block] = []
    for choice in choices:
        part, level = choice.shown, choice.level
        top, bottom, left, right = (edge // (level * BLOCK) for edge in part.box)
        shape = bottom - top + 1, right - left + 1
        if shape[0] * shape[1] > MAX_TOUCHED * 4:
            return None
        hit = np.zeros(shape, bool)
        hit[part.rows // (level * BLOCK) - top, part.cols // (level * BLOCK) - left] = True
        name = part.grid.zone.name
        blocks += [Block(name, top + int(i), left + int(j), level) for i, j in np.argwhere(hit)]
    return tuple(blocks) if len(blocks) <= MAX_TOUCHED else None


def paint(source: Source, target: Target) -> ma.MaskedArray:
    """Make a picture: read each rectangle, turn it into bands in its own grid, and lay the bands out.

    Returns:
        (bands, height, width) uint8 colours or float32 numbers, masked exactly where status is not VALID.

    Raises:
        LimitExceeded: It needs too much; see `plan`.
        Corrupt: Stored bytes cannot be read.
        Unavailable: The transport failed.
    """
    size = target.width * target.height
    out = np.zeros((size, source.bands), np.uint8 if source.picture else np.float32)
    valid = np.zeros(size, bool)
    for rectangle in plan(source, target):
        if rectangle.stale:
            source.notes.add("stale")
        pixels, bands, held = _painted(source, rectangle, size)
        out[pixels] = bands
        valid[pixels] = held
    shape = (source.bands, target.height, target.width)
    data = np.ascontiguousarray(out.T).reshape(shape)
    return ma.MaskedArray(data, np.repeat(~valid.reshape(1, *shape[1:]), source.bands, axis=0))


def _painted(source: Source, rectangle: Rectangle, size: int) -> tuple[Int32Array, np.ndarray, BoolArray]:
    """(n,) flat indices, (n, bands) values and (n,) validity of one zone's part of the picture."""
    vectors = source.store.read(
        rectangle.shown.grid.zone, source.window, rectangle.rows, rectangle.cols,
        level=rectangle.level, dims=source.dims,
    )  # fmt: skip
    pixels, cells = _inside(rectangle)
    show = source.view.picture if source.picture else source.view.values
    if rectangle.count > 2 * size or source.bands > 4:  # fewer pixels shown than read: look only at those
        vectors = _gathered(vectors, cells)
        return pixels, show(vectors), vectors.valid
    bands = show(vectors).reshape(rectangle.count, -1)
    return pixels, bands[cells], vectors.valid.reshape(-1)[cells]


def _inside(rectangle: Rectangle) -> tuple[Int32Array, Int64Array]:
    """Which of the picture's pixels this rectangle fills, and with which of its cells, both as flat indices."""
    shown, level = rectangle.shown, rectangle.level
    rows, cols = shown.rows // level - rectangle.rows.start, shown.cols // level - rectangle.cols.start
    width = rectangle.cols.stop - rectangle.cols.start
    cells = np.asarray(rows.astype(np.int64) * width + cols, np.int64)
    top, bottom, left, right = (edge // level for edge in shown.box)
    if (top, bottom + 1, left, right + 1) == (
        rectangle.rows.start, rectangle.rows.stop, rectangle.cols.start, rectangle.cols.stop,
    ):  # fmt: skip
        return shown.pixels, cells
    held = (rows >= 0) & (rows < rectangle.rows.stop - rectangle.rows.start) & (cols >= 0) & (cols < width)
    return shown.pixels[held], cells[held]


def _gathered(vectors: Vectors, cells: Int64Array) -> Vectors:
    return Vectors(
        vectors.codes.reshape(-1, vectors.dims)[cells],
        vectors.scales.reshape(-1)[cells],
        vectors.status.reshape(-1)[cells],
    )
