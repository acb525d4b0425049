"""Where a window of a store holds data, by block: known before a byte of it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from service.cache import ByteCache
from service.errors import LimitExceeded, NotFound
from service.globe import FINEST, LAST, world_blocks
from service.grid import Block, Zone, ZoneGrid
from service.store.contract import Store
from service.values import BLOCK, BoolArray, Float64Array, Int64Array, Window

Box = tuple[int, int, int, int]
"""(top, bottom, left, right) of pixels at level 1, ends included."""
Degrees = tuple[float, float, float, float]
"""(west, south, east, north)."""

_EASTING: Final = 500_000
"""Metres, of a zone's central meridian."""


def lonlat_near(grid: ZoneGrid, rows: Float64Array, cols: Float64Array) -> tuple[Float64Array, Float64Array]:
    """As `ZoneGrid.to_lonlat`, but longitudes go on beyond 180 degrees: all are within half a turn of the zone."""
    lon, lat = grid.to_lonlat(rows, cols)
    west, _, _, _ = grid.zone.bounds
    return (lon - west + 177) % 360 + west - 177, lat


def covering(boxes: Iterable[Degrees]) -> Degrees:
    """The smallest box of degrees that holds all of some; west > east where it goes over the antimeridian.

    Args:
        boxes: At least one; they may go over the antimeridian themselves.
    """
    held = list(boxes)
    spans = sorted((west, east + 360 * (east < west)) for west, _, east, _ in held)
    south, north = min(box[1] for box in held), max(box[3] for box in held)
    first, gaps = spans[0][0], []
    reach = max(spans[0][1], max(east for _, east in spans) - 360)  # what goes over the antimeridian comes first, too
    for west, east in spans[1:]:
        gaps.append((west - reach, west, reach))
        reach = max(reach, east)
    # The widest gap round the globe is what the box leaves out; of equal ones that over the antimeridian.
    gap, west, east = max([(first + 360 - reach, first, reach), *gaps], key=lambda one: one[0])
    if gap <= 0:
        return -180.0, south, 180.0, north
    return west, south, east - 360 * (east > 180), north


@dataclass(frozen=True, eq=False)
class Footprint:
    """Where a window of a store holds data, by block."""

    rows: dict[str, Int64Array]
    """Per zone: (n,) block rows at level 1; of the world at its finest level."""
    cols: dict[str, Int64Array]
    """Per zone: (n,) block columns."""
    grids: tuple[ZoneGrid, ...]
    """Level-1 grids of the zones that hold data."""

    @cached_property
    def boxes(self) -> tuple[Degrees, ...]:
        """Boxes of the blocks of each zone that holds data."""
        return tuple(self._zone_bounds(grid) for grid in self.grids)

    @property
    def bounds(self) -> Degrees:
        """From the westernmost block to the easternmost, within each zone's nominal 6 degrees, as tiles know them.

        Raises:
            NotFound: There is no data.
        """
        if not self.boxes:
            raise NotFound("this window holds no data yet.", field="window")
        west, south, east, north = zip(*self.boxes, strict=True)
        return min(west), min(south), max(east), max(north)

    def _zone_bounds(self, grid: ZoneGrid) -> tuple[float, float, float, float]:
        """Only the ends of each block row can be the box's edge, and its middle: where it is nearest the pole."""
        rows, cols = self.rows[grid.zone.name], self.cols[grid.zone.name]
        each, index = np.unique(rows, return_inverse=True)
        first, last = np.full(len(each), np.iinfo(np.int64).max), np.zeros(len(each), np.int64)
        np.minimum.at(first, index, cols)
        np.maximum.at(last, index, cols)
        tops, bottoms = each * BLOCK, np.minimum((each + 1) * BLOCK, grid.height)
        lefts, rights = first * BLOCK, np.minimum((last + 1) * BLOCK, grid.width)
        middles = np.clip((_EASTING - grid.x0) / grid.pixel, lefts, rights)
        lon, lat = lonlat_near(
            grid, np.repeat([tops, bottoms], 3, axis=0).ravel(), np.tile([lefts, middles, rights], 2).ravel()
        )
        west, south, east, north = grid.zone.bounds
        return (
            float(np.clip(lon.min(), west, east)), float(np.clip(lat.min(), south, north)),
            float(np.clip(lon.max(), west, east)), float(np.clip(lat.max(), south, north)),
        )  # fmt: skip

    def clip(self, zone: str, box: Box) -> Box | None:
        """The part of a level-1 box (top, bottom, left, right, ends included) that blocks with data span, if any."""
        top, bottom, left, right = box
        held = self._within(zone, box)
        if held is None:
            return None
        rows, cols, side = self.rows[zone][held], self.cols[zone][held], _side(zone)
        return (
            max(top, int(rows.min()) * side), min(bottom, int(rows.max()) * side + side - 1),
            max(left, int(cols.min()) * side), min(right, int(cols.max()) * side + side - 1),
        )  # fmt: skip

    def parents(self, zone: str, box: Box, level: int) -> tuple[Block, ...]:
        """The blocks of a level whose children hold data within a level-1 box."""
        held = self._within(zone, box)
        if held is None:
            return ()
        smaller = level * BLOCK // _side(zone)
        cells = np.unique((self.rows[zone][held] // smaller << 32) + self.cols[zone][held] // smaller)
        return tuple(Block(zone, cell >> 32, cell & 0xFFFFFFFF, level) for cell in cells.tolist())

    def _within(self, zone: str, box: Box) -> BoolArray | None:
        """(n,) which blocks with data a level-1 box touches; None where there are none."""
        if zone not in self.rows:
            return None
        top, bottom, left, right = (edge // _side(zone) for edge in box)
        rows, cols = self.rows[zone], self.cols[zone]
        held = np.asarray((rows >= top) & (rows <= bottom) & (cols >= left) & (cols <= right))
        return held if held.any() else None


@dataclass(frozen=True, eq=False)
class Everywhere(Footprint):
    """Of a store that is too large to be known block by block: data may be all over its grids.

    `rows` and `cols` are those of the blocks at the grids' edges.
    """

    @classmethod
    def of(cls, grids: tuple[ZoneGrid, ...]) -> Everywhere:
        """All over some grids."""
        rows, cols = {}, {}
        for grid in grids:
            each = np.arange(-(-grid.height // BLOCK))
            rows[grid.zone.name] = np.tile(each, 2)
            cols[grid.zone.name] = np.repeat([0, (grid.width - 1) // BLOCK], len(each))
        return cls(rows, cols, grids)

    def clip(self, zone: str, box: Box) -> Box | None:
        """See `Footprint.clip`: the part on the grid."""
        grid = next((grid for grid in self.grids if grid.zone.name == zone), None)
        if grid is None:
            return None
        top, bottom, left, right = box
        top, bottom, left, right = max(top, 0), min(bottom, grid.height - 1), max(left, 0), min(right, grid.width - 1)
        return (top, bottom, left, right) if top <= bottom and left <= right else None

    def parents(self, zone: str, box: Box, level: int) -> tuple[Block, ...]:  # noqa: ARG002 - as any footprint
        """None: overviews are made of blocks that are known."""
        return ()


def _side(zone: str) -> int:
    """Side, in level-1 pixels, of the blocks that a footprint lists."""
    return BLOCK * (FINEST.level if zone == Zone.WORLD.name else 1)


@dataclass(frozen=True)
class Side:
    """A window of a store."""

    store: Store
    window: Window

    @property
    def footprint(self) -> Footprint:
        """Where there is data."""
        return footprint(self.store, self.window)


def footprint(store: Store, window: Window) -> Footprint:
    """Where `window` holds data; kept until the store's revision changes, and found once for all who ask meanwhile.

    Raises:
        NotFound: No such window.
    """
    key = ByIdentity(store), store.revision()[0], window
    return _footprints.made(key, lambda: _footprint(store, window))


@dataclass(frozen=True)
class ByIdentity:
    """Lets a store be the key of a cache whatever its own equality."""

    store: Store

    def __hash__(self) -> int:
        return hash(self.store.location)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.store is self.store


_footprints: Final = ByteCache[Footprint](64, lambda _: 1)
"""The 64 used last: a published store takes a second of work to find one, and whoever opens a map asks 30 times."""


def _footprint(store: Store, window: Window) -> Footprint:
    try:
        blocks = store.blocks(window)
    except LimitExceeded:
        return Everywhere.of(store.zones())
    names = sorted({block.zone for block in blocks})
    grids = tuple(grid for grid in store.zones() if grid.zone.name in names)
    listed = {name: [b for b in blocks if b.zone == name] for name in names}
    listed[Zone.WORLD.name] = sorted(_of_world(grids, listed))
    rows = {name: np.array([b.row for b in some], np.int64) for name, some in listed.items()}
    cols = {name: np.array([b.col for b in some], np.int64) for name, some in listed.items()}
    return Footprint(rows, cols, grids)


def _of_world(grids: tuple[ZoneGrid, ...], blocks: Mapping[str, Sequence[Block]]) -> set[Block]:
    """The blocks of the world's finest level in which data may lie."""
    found: set[Block] = set()
    for grid in grids:
        cells = {(block.row // LAST, block.col // LAST) for block in blocks[grid.zone.name]}
        over = [Block(grid.zone.name, row, col, LAST) for row, col in sorted(cells)]
        found.update(block for some in world_blocks(grid.at_level(LAST), over) for block in some)
    return found
