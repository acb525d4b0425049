"""Hits that keep their distance: a hundred hits are to be a hundred places, not one field.

Greedy: best first, a hit is kept where it lies far enough from every one kept before it. Distances are straight lines
between the centres of pixels on the WGS 84 ellipsoid, so zones make no difference; over 1,000 km that is 0.1 % less
than along the ground.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from indexing.ids import cols_of, pixel_ids, rows_of, zone_codes
from indexing.pixels import Snapshot, lonlat_of
from service.grid import Block, Zone
from service.values import BLOCK, BoolArray, Float64Array, Int64Array

_A: Final = 6_378_137.0
_E2: Final = 6.694_379_990_14e-3
"""Equatorial radius, metres, and squared eccentricity of WGS 84."""
_SCALE: Final = 0.999
"""UTM is drawn at 0.9996 to 1.0014 of its size: what is nearer than this on the grid is nearer on the ground."""


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


def away_from(at: Snapshot, kept: Int64Array, metres: float, block: Block) -> BoolArray | None:
    """(256, 256) bool: pixels of a block that are not certainly too near to those kept, of its own zone; None: all.

    For leaving most of them out before they are scored: `spread` decides about the rest.
    """
    zone = pixel_ids(Zone.parse(block.zone), np.zeros(1, np.int64), np.zeros(1, np.int64))
    mine = kept[zone_codes(kept) == zone_codes(zone)]
    reach = metres * _SCALE / at.grids[block.zone].pixel
    rows, cols = rows_of(mine) - block.rows.start, cols_of(mine) - block.cols.start
    near = (np.abs(rows - BLOCK / 2) < BLOCK / 2 + reach) & (np.abs(cols - BLOCK / 2) < BLOCK / 2 + reach)
    if not near.any():
        return None
    mask, side = np.ones((BLOCK, BLOCK), bool), np.arange(BLOCK, dtype=np.float64)
    for row, col in zip(rows[near].tolist(), cols[near].tolist(), strict=True):
        mask &= (side[:, None] - row) ** 2 + (side - col) ** 2 >= reach * reach
    return mask


def _far(places: Float64Array, one: Float64Array, metres: float) -> BoolArray:
    return np.asarray(((places - one) ** 2).sum(axis=1) >= metres * metres)
