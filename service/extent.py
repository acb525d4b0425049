"""Where a dataset holds data: the box that a map should open on, and one pixel that is certainly there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.errors import LimitExceeded
from service.footprint import Degrees, covering, footprint, lonlat_near
from service.grid import Block, Zone, ZoneGrid
from service.store.contract import Store
from service.values import BLOCK, BoolArray, Window

EXACT_BLOCKS: Final = 16
"""Up to this many blocks the box follows the pixels; beyond, the edges of the blocks."""


@dataclass(frozen=True)
class Extent:
    """The box of what is embedded, over all windows."""

    bounds: Degrees
    """West > east where it goes over the antimeridian."""
    center: tuple[float, float]
    """(lon, lat) of the centre of a valid pixel near the middle."""


@dataclass(frozen=True)
class _Held:
    """One block that holds data, and where to read it."""

    store: Store
    grid: ZoneGrid
    window: Window
    block: Block

    def valid(self) -> BoolArray:
        return self.store.read(Zone.parse(self.block.zone), self.window, self.block.rows, self.block.cols).valid

    def corners(self, top: int, bottom: int, left: int, right: int) -> Degrees:
        """(west, south, east, north) of rows top..bottom and columns left..right of the block."""
        rows = np.array([top, top, bottom, bottom], float) + self.block.rows.start
        cols = np.array([left, right, left, right], float) + self.block.cols.start
        lon, lat = lonlat_near(self.grid, rows, cols)
        lon = np.clip(lon, -180, 180)  # what lies beyond is the other zone's
        return float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())

    def box(self, *, exact: bool) -> Degrees | None:
        if not exact:
            return self.corners(0, BLOCK, 0, BLOCK)
        rows, cols = np.nonzero(self.valid())
        if not len(rows):
            return None
        return self.corners(int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1)

    def valid_near(self, lon: float, lat: float) -> tuple[float, float] | None:
        """(lon, lat) of the valid pixel of this block nearest a place; None if it has none."""
        rows, cols = np.nonzero(self.valid())
        if not len(rows):
            return None
        rows, cols = rows + self.block.rows.start + 0.5, cols + self.block.cols.start + 0.5
        row, col = self.grid.from_lonlat(np.array([lon]), np.array([lat]))
        best = np.argmin((rows - row[0]) ** 2 + (cols - col[0]) ** 2)
        found_lon, found_lat = self.grid.to_lonlat(rows[best : best + 1], cols[best : best + 1])
        return float(found_lon[0]), float(found_lat[0])


def extent_of(stores: Iterable[Store]) -> Extent | None:
    """The extent of a dataset that lies in one or several stores; None while it is empty.

    Reads at most EXACT_BLOCKS blocks for the box, and until it finds a valid pixel for the centre.

    Raises:
        Corrupt: A block cannot be read.
    """
    stores = tuple(stores)
    try:
        held = _held(stores)
    except LimitExceeded:
        return _everywhere(stores)
    exact = len(held) <= EXACT_BLOCKS
    boxes = [box for box in (item.box(exact=exact) for item in held) if box]
    if not boxes:
        return None
    bounds = covering(boxes)
    lon, lat = _middle(bounds)

    def distance(item: _Held) -> float:
        beside, above = _middle(item.corners(0, BLOCK, 0, BLOCK))
        return float(np.hypot((beside - lon + 180) % 360 - 180, above - lat))

    places = (item.valid_near(lon, lat) for item in sorted(held, key=distance))
    center = next((place for place in places if place), (lon, lat))
    return Extent(bounds, center)


def _everywhere(stores: Iterable[Store]) -> Extent | None:
    """Of stores that are too large to be known block by block: the box of their grids, and its middle."""
    bounds = [box for store in stores for window in store.windows() for box in footprint(store, window).boxes]
    if not bounds:
        return None
    whole = covering(bounds)
    return Extent(whole, _middle(whole))


def _middle(bounds: Degrees) -> tuple[float, float]:
    """(lon, lat) of the middle of a box."""
    west, south, east, north = bounds
    lon = (west + east + 360 * (east < west)) / 2
    return lon - 360 * (lon > 180), (south + north) / 2


def _held(stores: Iterable[Store]) -> list[_Held]:
    """Every block that holds data in any window, once."""
    found: dict[Block, _Held] = {}
    for store in stores:
        grids = {grid.zone.name: grid for grid in store.zones()}
        for window in store.windows():
            for block in store.blocks(window):
                found.setdefault(block, _Held(store, grids[block.zone], window, block))
    return list(found.values())
