"""Who saw what when: the passes of two satellites over a terrain, cut into granules as real catalogues have them.

Tiles overlap their neighbours to the south and east, and some passes come in two granules along a slanted line, with
a strip that both hold. Where several granules of one day hold a pixel, here and there one of them takes it for a
cloud, and holds rubbish: whoever mosaics them must look at each granule's own classes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from service.grid import Zone
from service.signals import hashed
from service.simulate.landscape import s1_days, s2_days
from service.simulate.terrain import Terrain
from service.values import BoolArray, Int64Array, UInt8Array, Window

Orbit = Literal["ascending", "descending"]
ORBITS: Final[tuple[Orbit, Orbit]] = ("ascending", "descending")
SLANT: Final = 0.2
"""Columns that the edge of a swath moves westwards with each row southwards."""
SPOILT: Final = 8
"""Scene class of what one granule takes for a cloud and another does not."""
RUBBISH: Final = 9000
_PATCH: Final = 7
"""Pixels along a side of what is spoilt at once."""


@dataclass(frozen=True)
class Tiling:
    """How granules are cut."""

    side: int = 512
    """Pixels from one tile to the next; tiles begin at multiples of it."""
    overlap: int = 48
    """Pixels that a tile goes on beyond that, to the south and east; width of the strip that two swaths share."""
    split: int = 4
    """Every so manieth pass comes in two granules; 0: none."""


@dataclass(frozen=True)
class Granule:
    """One pass over one tile, or part of it."""

    date: dt.date
    orbit: Orbit | None
    """Of Sentinel-1; None of Sentinel-2."""
    number: int
    """Of the pass, within its year."""
    zone: Zone
    tile: tuple[int, int]
    """Row and column of the tile."""
    part: int | None
    """0 west, 1 east of the line where the pass is cut in two; None where it is not."""
    rows: slice
    """Grid rows that the scene has."""
    cols: slice
    """Grid columns."""


def days_of(terrain: Terrain, window: Window, orbit: Orbit | None) -> Iterator[tuple[int, dt.date]]:
    """(number within its year, date) of the passes in a window: of Sentinel-2, or of an orbit of Sentinel-1."""
    seed = terrain.landscape.seed
    for year in range(window.start.year, window.end.year + 1):
        days = s2_days(seed, year) if orbit is None else s1_days(seed, ORBITS.index(orbit))
        for number, day in enumerate(days):
            date = dt.date(year, 1, 1) + dt.timedelta(int(day) - 1)
            if date in window:
                yield number, date


def tiles_of(terrain: Terrain, zone: Zone, tiling: Tiling) -> Iterator[tuple[tuple[int, int], slice, slice]]:
    """(tile, grid rows, grid columns) of what the tiles of a zone have of the ground."""
    rows, cols = terrain.seen_in(zone)
    for i in range((rows.start - tiling.overlap) // tiling.side, -(-rows.stop // tiling.side)):
        for j in range((cols.start - tiling.overlap) // tiling.side, -(-cols.stop // tiling.side)):
            down, across = (_cut(n, whole, tiling) for n, whole in ((i, rows), (j, cols)))
            if down.start < down.stop and across.start < across.stop:
                yield (i, j), down, across


def granules_of(terrain: Terrain, window: Window, orbit: Orbit | None, tiling: Tiling, zone: Zone) -> Iterator[Granule]:
    """The granules of the passes in a window, tile by tile and day by day."""
    for tile, rows, cols in tiles_of(terrain, zone, tiling):
        for number, date in days_of(terrain, window, orbit):
            halves = tiling.split and number % tiling.split == 0
            for part in (0, 1) if halves else (None,):
                yield Granule(date, orbit, number, zone, tile, part, rows, cols)


def seen_by(granule: Granule, terrain: Terrain, tiling: Tiling, row: Int64Array, col: Int64Array) -> BoolArray:
    """(h, w) bool: which places of the landscape the granule's swath holds."""
    if granule.part is None:
        return np.ones(row.shape, bool)
    away = _across(terrain, granule, row, col)
    return away < tiling.overlap / 2 if granule.part == 0 else away >= -tiling.overlap / 2


def spoil(
    granule: Granule, terrain: Terrain, tiling: Tiling, place: tuple[Int64Array, Int64Array],
    bands: npt.NDArray[np.uint16], scl: UInt8Array,
) -> None:  # fmt: skip
    """Take some pixels for clouds that another granule of the day, of opposite `parity`, holds as they are.

    Args:
        granule: Of Sentinel-2.
        terrain: What it saw.
        tiling: How it was cut.
        place: (h, w) rows and (h, w) columns of the landscape.
        bands: (h, w, 10), changed.
        scl: (h, w), changed.
    """
    row, col = place
    (i, j), parity = granule.tile, (sum(granule.tile) + (granule.part or 0)) % 2
    shared = np.zeros(row.shape, bool)
    for number, cells, axis in ((i, granule.rows, 1), (j, granule.cols, 0)):
        along = np.arange(cells.start, cells.stop) - number * tiling.side
        shared |= np.expand_dims((along < tiling.overlap) | (along >= tiling.side), axis)
    if granule.part is not None:
        shared |= abs(_across(terrain, granule, row, col)) < tiling.overlap / 2
    pick = hashed(terrain.landscape.seed + 900, granule.date.toordinal(), row // _PATCH, col // _PATCH) % np.uint64(4)
    worse = shared & (pick == np.uint64(parity)) & np.isin(scl, (4, 5, 6))
    scl[worse], bands[worse] = SPOILT, RUBBISH


def _cut(number: int, whole: slice, tiling: Tiling) -> slice:
    start = number * tiling.side
    return slice(max(start, whole.start), min(start + tiling.side + tiling.overlap, whole.stop))


def _across(terrain: Terrain, granule: Granule, row: Int64Array, col: Int64Array) -> npt.NDArray[np.float64]:
    """(h, w) columns east of the line where a pass is cut in two: another one each day, the same in every tile."""
    ground, place = terrain.ground, terrain.placement
    middle = ground.row - place.row + ground.height / 2, ground.col - place.col + ground.width / 2
    shift = ground.width * (0.25 + 0.5 * (granule.number % 7) / 6 - 0.5)
    return np.asarray(col - middle[1] - shift + SLANT * (row - middle[0]))
