"""Hits that keep their distance: a hundred hits are to be a hundred places, not one field.

Greedy: best first, a hit is kept where it lies far enough from every one kept before it. Distances are straight lines
between the centres of pixels on the WGS 84 ellipsoid, so zones make no difference; over 1,000 km that is 0.1 % less
than along the ground.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from indexing.pixels import Snapshot, lonlat_of
from service.grid import Block
from service.values import BLOCK, BoolArray, Float64Array, Int64Array

_A: Final = 6_378_137.0
_E2: Final = 6.694_379_990_14e-3
"""Equatorial radius, metres, and squared eccentricity of WGS 84."""
_SCALE: Final = 0.999
"""UTM is drawn at 0.9996 of its size or larger: what is nearer than this on the grid is nearer on the ground."""


def spread(at: Snapshot, ids: Int64Array, metres: float, k: int, kept: Int64Array, apart: Int64Array) -> Int64Array:
    """Which of (n,) pixels to keep, best first: (m,) positions, so that with those kept before there are at most k.

    Args:
        at: The snapshot they are of.
        ids: (n,) pixel ids, best first.
        metres: How far from each other they shall be, at least.
        k: How many to keep in all.
        kept: (j,) ids of pixels that are kept already.
        apart: (i,) ids of pixels that are not hits, and to which hits keep the same distance.
    """
    places = places_of(at, ids)
    left = np.arange(len(ids))
    for place in places_of(at, np.concatenate([kept, apart])):
        left = left[_far(places[left], place, metres)]
    found: list[int] = []
    while len(left) and len(found) + len(kept) < k:
        found.append(int(left[0]))
        left = left[1:][_far(places[left[1:]], places[left[0]], metres)]
    return np.array(found, np.int64)


def places_of(at: Snapshot, ids: Int64Array) -> Float64Array:
    """(n, 3) metres from the Earth's centre: where the centres of pixels lie."""
    lon, lat = (np.radians(degrees) for degrees in lonlat_of(at, ids))
    normal = _A / np.sqrt(1 - _E2 * np.sin(lat) ** 2)
    across = normal * np.cos(lat)
    return np.stack([across * np.cos(lon), across * np.sin(lon), normal * (1 - _E2) * np.sin(lat)], axis=1)


class Around:
    """What lies around some pixels, wherever: for leaving it out before it is scored.

    Args:
        at: The snapshot that they are of.
        kept: (n,) ids.
        metres: How far others shall be from them, at least.
    """

    def __init__(self, at: Snapshot, kept: Int64Array, metres: float) -> None:
        self._at, self._metres = at, metres
        self._lonlat = lonlat_of(at, kept)
        self._cells: dict[str, tuple[Float64Array, Float64Array]] = {}

    def away(self, block: Block) -> BoolArray | None:
        """(256, 256) bool: pixels of a block that are not certainly too near to those kept; None: all.

        Measured on the block's own grid, also to pixels of other zones, as nowhere is UTM drawn smaller than 0.9996.
        `spread` decides about the rest.
        """
        rows, cols = self._on_grid(block.zone)
        rows, cols = rows - block.rows.start, cols - block.cols.start
        reach = self._metres * _SCALE / self._at.grids[block.zone].pixel
        near = (np.abs(rows - BLOCK / 2) < BLOCK / 2 + reach) & (np.abs(cols - BLOCK / 2) < BLOCK / 2 + reach)
        if not near.any():
            return None
        mask, side = np.ones((BLOCK, BLOCK), bool), np.arange(BLOCK) + 0.5
        for row, col in zip(rows[near].tolist(), cols[near].tolist(), strict=True):
            mask &= (side[:, None] - row) ** 2 + (side - col) ** 2 >= reach * reach
        return mask

    def _on_grid(self, zone: str) -> tuple[Float64Array, Float64Array]:
        """(row, col), each (n,), of the centres of those kept on the grid of a zone; infinite where it has no place."""
        if zone not in self._cells:
            self._cells[zone] = self._at.grids[zone].from_lonlat(*self._lonlat)
        return self._cells[zone]


def _far(places: Float64Array, one: Float64Array, metres: float) -> BoolArray:
    return np.asarray(((places - one) ** 2).sum(axis=1) >= metres * metres)
