"""From a picture to the rectangles of stored pixels it needs, and back: plan first, as values, then read bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.ma as ma

from service.colour import View
from service.errors import InvalidInput, LimitExceeded, NotFound
from service.grid import Block, ZoneGrid
from service.store.contract import Store
from service.values import BLOCK, BoolArray, Int64Array, Vectors, Window
from service.warp import Int32Array, Target, ZoneMap, zone_maps

MAX_SOURCE_BYTES: Final = 320_000_000
"""Codes one picture may read: 2.5 million pixels of 128 dimensions."""
MAX_VALUES: Final = 36_000_000
"""Pixels times bands of one picture: 512 x 512 of 128 dimensions."""
MAX_TOUCHED: Final = 1024
"""Blocks whose versions one picture's validator may look at."""


@dataclass(frozen=True, eq=False)
class Footprint:
    """Where a window of a store holds data, by block."""

    rows: dict[str, Int64Array]
    """Per zone: (n,) block rows at level 1."""
    cols: dict[str, Int64Array]
    """Per zone: (n,) block columns."""
    grids: tuple[ZoneGrid, ...]
    """Level-1 grids of the zones that hold data."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) degrees of the blocks, within each zone's nominal 6 degrees.

        Raises:
            NotFound: There is no data.
        """
        boxes = [self._zone_bounds(grid) for grid in self.grids]
        if not boxes:
            raise NotFound("this window holds no data yet.", field="window")
        west, south, east, north = zip(*boxes, strict=True)
        return min(west), min(south), max(east), max(north)

    def _zone_bounds(self, grid: ZoneGrid) -> tuple[float, float, float, float]:
        """Only the ends of each block row can be the box's edge."""
        rows, cols = self.rows[grid.zone.name], self.cols[grid.zone.name]
        each, index = np.unique(rows, return_inverse=True)
        first, last = np.full(len(each), np.iinfo(np.int64).max), np.zeros(len(each), np.int64)
        np.minimum.at(first, index, cols)
        np.maximum.at(last, index, cols)
        tops, bottoms = each * BLOCK, np.minimum((each + 1) * BLOCK, grid.height)
        lefts, rights = first * BLOCK, np.minimum((last + 1) * BLOCK, grid.width)
        lon, lat = grid.to_lonlat(np.concatenate([tops, tops, bottoms, bottoms]), np.tile([lefts, rights], 2).ravel())
        west, south, east, north = grid.zone.bounds
        return (
            float(np.clip(lon.min(), west, east)), float(np.clip(lat.min(), south, north)),
            float(np.clip(lon.max(), west, east)), float(np.clip(lat.max(), south, north)),
        )  # fmt: skip

    def clip(self, zone: str, box: tuple[int, int, int, int]) -> tuple[int, int, int, int] | None:
        """The part of a level-1 box (top, bottom, left, right, ends included) that blocks with data span, if any."""
        top, bottom, left, right = box
        if zone not in self.rows:
            return None
        rows, cols = self.rows[zone], self.cols[zone]
        held = (rows >= top // BLOCK) & (rows <= bottom // BLOCK) & (cols >= left // BLOCK) & (cols <= right // BLOCK)
        if not held.any():
            return None
        rows, cols = rows[held], cols[held]
        return (
            max(top, int(rows.min()) * BLOCK), min(bottom, int(rows.max()) * BLOCK + BLOCK - 1),
            max(left, int(cols.min()) * BLOCK), min(right, int(cols.max()) * BLOCK + BLOCK - 1),
        )  # fmt: skip


def footprint(store: Store, window: Window) -> Footprint:
    """Where `window` holds data; kept until the store's revision changes.

    Raises:
        NotFound: No such window.
    """
    return _footprint(_ByIdentity(store), store.location, store.revision()[0], window)


@dataclass(frozen=True)
class _ByIdentity:
    """Lets a store be the key of a cache whatever its own equality."""

    store: Store

    def __hash__(self) -> int:
        return hash(self.store.location)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.store is self.store


@lru_cache(maxsize=64)
def _footprint(held: _ByIdentity, location: str, revision: str, window: Window) -> Footprint:  # noqa: ARG001
    blocks = held.store.blocks(window)
    names = sorted({block.zone for block in blocks})
    rows = {name: np.array([b.row for b in blocks if b.zone == name], np.int64) for name in names}
    cols = {name: np.array([b.col for b in blocks if b.zone == name], np.int64) for name in names}
    return Footprint(rows, cols, tuple(grid for grid in held.store.zones() if grid.zone.name in names))


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


def plan(source: Source, target: Target) -> tuple[Rectangle, ...]:
    """The rectangles a picture needs, one a zone, cut to where there is data.

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
    held = source.footprint
    maps = zone_maps(target, source.store.zones())
    level = level_for(source.store.levels(), maps)
    rectangles = []
    for part in maps:
        box = held.clip(part.grid.zone.name, part.box)
        if box is not None:
            top, bottom, left, right = (edge // level for edge in box)
            rectangles.append(Rectangle(part, level, slice(top, bottom + 1), slice(left, right + 1)))
    size = sum(rectangle.count for rectangle in rectangles) * source.dims
    if size > MAX_SOURCE_BYTES:
        raise LimitExceeded(
            f"this would read {size / 1e6:,.0f} MB of vectors; at most {MAX_SOURCE_BYTES / 1e6:,.0f} MB are allowed.",
            remedy="Zoom in, ask for a smaller area, or build overviews for this dataset.",
        )
    return tuple(rectangles)


def touched(store: Store, target: Target) -> tuple[Block, ...] | None:
    """The blocks a picture shows pixels of, with data or without, at the level it reads; None if over 1024.

    What the picture looks like depends on these blocks and on nothing else in the store.
    """
    maps = zone_maps(target, store.zones())
    level = level_for(store.levels(), maps)
    blocks: list[Block] = []
    for part in maps:
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
