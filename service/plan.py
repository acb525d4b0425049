"""From a picture to the rectangles of stored pixels it needs, as values: `service.paint` then reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from service.choice import Choice, choices
from service.colour import ChangeView, ObservationsView, StoredView, View, side_by_side
from service.deadline import Deadline
from service.errors import Conflict, InvalidInput, LimitExceeded, OutsideBounds
from service.footprint import Footprint, Side, footprint
from service.grid import Block, Zone
from service.store.contract import Store
from service.strips import read_in_time
from service.values import BLOCK, OUTSIDE, VALID, BoolArray, Int64Array, UInt8Array, Vectors, Window
from service.warp import Target, ZoneMap, zone_at

MAX_SOURCE_BYTES: Final = 320_000_000
"""Codes one picture may read: 2.5 million pixels of 128 dimensions."""
MAX_VALUES: Final = 36_000_000
"""Pixels times bands of one picture: 512 x 512 of 128 dimensions."""
_AROUND: Final[Mapping[str, tuple[tuple[int, int], ...]]] = {
    "nearest": ((0, 0),),
    "bilinear": ((-1, -1), (-1, 1), (1, -1), (1, 1)),
}
"""Steps from the stored pixel that holds a centre to the corners of what a picture shows of it."""
MAX_TOUCHED: Final = 1024
"""Blocks whose versions one picture's validator may look at."""
Resampling = Literal["nearest", "bilinear"]


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
    statuses: set[int] = field(default_factory=set, compare=False)
    """Why pictures made so far are empty where they are; VALID is among them where one shows a vector."""
    other: Side | None = None
    """What a view of change compares with."""
    resampling: Resampling = "nearest"
    """Which stored pixels a pixel of a picture shows: the one that holds its centre, or the mean of four around it."""
    native: bool = False
    """Whether a part is made of the stored pixels themselves where no size is asked for, not smaller until it fits."""
    most: int = MAX_VALUES
    """Pixels times bands that one picture may have."""
    deadline: Deadline | None = field(default=None, compare=False, repr=False)
    """When reading must end."""

    def __post_init__(self) -> None:
        if self.resampling != "nearest" and isinstance(self.view, StoredView):
            raise InvalidInput("between stored pixels there are no codes.", field="resampling", remedy="Ask nearest.")
        for side in self.sides:
            if self.dims not in side.store.depths:
                depths = ", ".join(map(str, side.store.depths))
                raise InvalidInput(
                    f"{self.dims} is not a depth of this dataset.", field="dims", remedy=f"It has {depths}."
                )
        self.view.check(self.store.identity, self.dims)
        if isinstance(self.view, ChangeView) is not (self.other is not None):
            raise InvalidInput("change, and nothing else, is seen between two windows.", field="view")
        if self.other is not None:
            self._check_other(self.other)
        if isinstance(self.view, ObservationsView) and not self.store.counted():
            raise InvalidInput(
                "this dataset does not record how many observations its vectors were made from.",
                field="view",
                remedy="Ask for one of the `views` that GET /datasets names for it.",
            )

    def _check_other(self, other: Side) -> None:
        self.store.identity.require_same(other.store.identity, f"window {other.window}")
        theirs = {grid.zone: grid for grid in other.store.zones()}
        for grid in self.store.zones():
            if theirs.get(grid.zone, grid) != grid:
                raise Conflict(
                    f"the pixels of {self.window} and {other.window} lie on different grids in zone {grid.zone.name}."
                )

    @property
    def sides(self) -> tuple[Side, ...]:
        """The windows that pictures are made of: one, or two that are compared."""
        own = Side(self.store, self.window)
        return (own,) if self.other is None else (own, self.other)

    @property
    def bands(self) -> int:
        """Bands of a picture."""
        if not self.picture:
            return len(self.view.band_names)
        return 3 if self.palette is None else 1

    @property
    def palette(self) -> UInt8Array | None:
        """(256, 4) colours of a picture that is made of indices; None where it is made of colours, or numbers."""
        return self.view.palette if self.picture else None

    @property
    def footprint(self) -> Footprint:
        """Where the window shown holds data."""
        return footprint(self.store, self.window)

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels that every side can be read at, ascending from 1."""
        if isinstance(self.view, ObservationsView):
            return self.store.counted()
        return tuple(sorted(set.intersection(*(set(side.store.levels()) for side in self.sides))))

    def read(self, zone: Zone, rows: slice, cols: slice, level: int) -> Vectors:
        """(rows, cols) pixels as the view takes them. Raises as `Store.read` does."""
        return self._joined(self.read_sides(zone, rows, cols, level))

    def read_sides(self, zone: Zone, rows: slice, cols: slice, level: int) -> list[Vectors]:
        """(rows, cols) pixels of each window. Raises as `Store.read` does, and where there is no time left."""
        read = [self._read_side(side, zone, rows, cols, level) for side in self.sides]
        if isinstance(self.view, ObservationsView):
            counts = self.store.counts_window(zone, self.window, rows, cols, level=level)
            return [self.view.as_vectors(read[0], counts)]
        return read

    def note(self, valid: BoolArray, status: Callable[[], UInt8Array]) -> None:
        """Remember what a part of a picture holds: vectors, or the statuses of its pixels, asked for only then."""
        self.statuses.update([VALID] if valid.any() else np.unique(status()).tolist())

    def _read_side(self, side: Side, zone: Zone, rows: slice, cols: slice, level: int) -> Vectors:
        if self.deadline is None:
            return side.store.read(zone, side.window, rows, cols, level=level, dims=self.dims)
        return read_in_time(
            side.store, side.window, zone, rows, cols, level=level, dims=self.dims, deadline=self.deadline
        )

    def at(self, lon: float, lat: float) -> Vectors:
        """(1,) the pixel that holds a place, as the view takes it; OUTSIDE where a side has no grid there.

        Raises:
            InvalidInput: The coordinates are none.
            Corrupt, Unavailable: As `Store.sample` does.
        """
        if not (np.isfinite([lon, lat]).all() and abs(lat) <= 90 and abs(lon) <= 360):
            raise InvalidInput(f"{lon}, {lat} is no place.", field="lon,lat")
        zone, found = zone_at(lon, lat), []
        for side in self.sides:
            grid = next((grid for grid in side.store.zones() if grid.zone == zone), None)
            try:
                cell = grid.cell(lon, lat) if grid else None
            except OutsideBounds:
                cell = None
            if cell is None:
                found.append(Vectors.empty((1,), self.dims, OUTSIDE))
            else:
                rows, cols = np.array([cell[0]]), np.array([cell[1]])
                found.append(self._sampled(side, zone, rows, cols))
        return self._joined(found)

    def _sampled(self, side: Side, zone: Zone, rows: Int64Array, cols: Int64Array) -> Vectors:
        read = side.store.sample(zone, side.window, rows, cols, dims=self.dims)
        if isinstance(self.view, ObservationsView):
            return self.view.as_vectors(read, side.store.counts(zone, side.window, rows, cols))
        return read

    @staticmethod
    def _joined(found: list[Vectors]) -> Vectors:
        return found[0] if len(found) == 1 else side_by_side(*found)


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


def _choices(source: Source, target: Target) -> tuple[Choice, ...]:
    budget = MAX_SOURCE_BYTES / source.dims / len(source.sides)
    return choices(target, source.sides, source.levels, budget, source.resampling == "bilinear")


def plan(source: Source, target: Target) -> tuple[Rectangle, ...]:
    """The rectangles a picture needs, one a zone, cut to where there is data.

    An overview that is missing or older than what lies below it is passed over for a finer level while that may be
    read; where none may, it is read as it stands and the rectangle says so.

    Raises:
        LimitExceeded: They are larger than one request may read, because the overviews end too early.
        NotFound: No such window.
    """
    size = target.width * target.height * source.bands
    if size > source.most:
        raise LimitExceeded(
            f"{target.width} x {target.height} pixels of {source.bands} bands are {size:,} numbers; one answer holds "
            f"at most {source.most:,}.",
            field="width",
            remedy="Ask for a smaller area, for fewer pixels (max_size) or for fewer bands (dims, view).",
        )
    rectangles = []
    for choice in _choices(source, target):
        if choice.box is not None:
            top, bottom, left, right = (edge // choice.level for edge in choice.box)
            rows, cols = slice(top, bottom + 1), slice(left, right + 1)
            rectangles.append(Rectangle(choice.shown, choice.level, rows, cols, choice.stale))
    size = sum(rectangle.count for rectangle in rectangles) * source.dims * len(source.sides)
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
    """The blocks it shows pixels of and reads, at the levels it reads on each side; None if over 1024."""
    stale: bool
    """Whether it shows an overview that is older than what lies below it."""


def touched(source: Source, target: Target) -> Touched:
    """What a picture depends on, found without reading a pixel.

    Raises:
        NotFound: No such window.
    """
    found = _choices(source, target)
    return Touched(_shown_blocks(found, source.resampling), any(choice.stale for choice in found))


def _shown_blocks(found: tuple[Choice, ...], resampling: Resampling) -> tuple[Block, ...] | None:
    """Only where something is read: what is asked of the sea must not make a store look up, and keep, its versions."""
    blocks: list[Block] = []
    for choice in found:
        if choice.box is None:
            continue
        part, side = choice.shown, choice.level * BLOCK
        top, bottom, left, end = (edge // side for edge in choice.box)
        shape = bottom - top + 1, end - left + 1
        if shape[0] * shape[1] > MAX_TOUCHED * 4:
            return None
        hit = np.zeros(shape, bool)
        for down, right in _AROUND[resampling]:  # the block of a pixel holds one of its neighbours on each side
            rows = (part.rows + down * choice.level) // side - top
            cols = (part.cols + right * choice.level) // side - left
            read = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
            hit[rows[read], cols[read]] = True
        name = part.grid.zone.name
        blocks += [Block(name, top + int(i), left + int(j), choice.level) for i, j in np.argwhere(hit)]
    return tuple(blocks) if len(blocks) <= MAX_TOUCHED else None
