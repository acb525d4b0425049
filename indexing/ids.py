"""Pixel ids: one 64-bit number for (level, zone, row, column) of a pixel of a zone grid.

From the highest bit: 8 for the level (its binary logarithm), 8 for the zone (2 * number, plus 1 in the south), 24 for
the row, 24 for the column. Ids of a level sort by zone, row, column, and are what ties between equal scores are broken
by.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from service.errors import InvalidInput
from service.grid import ZONE_LEVELS, Block, Zone
from service.values import BLOCK, Int64Array

_BITS: Final = 24
_MASK: Final = (1 << _BITS) - 1
_ZONE: Final = 0xFF


def pixel_ids(zone: Zone, rows: Int64Array, cols: Int64Array, level: int = 1) -> Int64Array:
    """(n,) int64 ids of pixels of one zone and level.

    Args:
        zone: The zone all of them lie in.
        rows: (n,) rows of the zone's grid at that level, 0 to 2**24 - 1.
        cols: (n,) columns, likewise.
        level: One of the levels of the zone grids.

    Raises:
        InvalidInput: A row or column is negative or too large, or the zone grids have no such level.
    """
    if level not in ZONE_LEVELS:
        raise InvalidInput(f"pixels have ids at levels {ZONE_LEVELS}, not at {level}.", field="level")
    rows, cols = np.asarray(rows, np.int64), np.asarray(cols, np.int64)
    for name, values in (("rows", rows), ("cols", cols)):
        if values.size and not (values.min() >= 0 and values.max() <= _MASK):
            raise InvalidInput(f"must lie within 0 and {_MASK}.", field=name)
    return np.asarray(_prefix(zone, level) << 2 * _BITS | rows << _BITS | cols, np.int64)


def rows_of(ids: Int64Array) -> Int64Array:
    """(n,) rows of pixel ids."""
    return np.asarray(ids >> _BITS & _MASK, np.int64)


def cols_of(ids: Int64Array) -> Int64Array:
    """(n,) columns of pixel ids."""
    return np.asarray(ids & _MASK, np.int64)


def zone_codes(ids: Int64Array) -> Int64Array:
    """(n,) the zone of each pixel id as a number, for grouping."""
    return np.asarray(ids >> 2 * _BITS & _ZONE, np.int64)


def levels_of(ids: Int64Array) -> Int64Array:
    """(n,) the level of each pixel id."""
    return np.asarray(np.int64(1) << (ids >> 2 * _BITS + 8), np.int64)


def cells_of(ids: Int64Array, level: int) -> Int64Array:
    """(n,) ids of the pixels of a level that (n,) pixels of 10 m lie in."""
    zones = np.int64(level.bit_length() - 1) << 2 * _BITS + 8 | zone_codes(ids) << 2 * _BITS
    return np.asarray(zones | rows_of(ids) // level << _BITS | cols_of(ids) // level, np.int64)


def zones_of(ids: Int64Array) -> list[Zone]:
    """The zone of each of (n,) pixel ids.

    Raises:
        InvalidInput: An id names no zone.
    """
    return [Zone(code >> 1, bool(code & 1)) for code in zone_codes(ids).tolist()]


def first_id(block: Block) -> int:
    """The id of the first pixel of a block."""
    first = np.array([block.rows.start]), np.array([block.cols.start])
    return int(pixel_ids(Zone.parse(block.zone), *first, block.level)[0])


def ids_at(first: Int64Array, offsets: Int64Array) -> Int64Array:
    """(n,) ids of pixels given by the id of their block's first pixel and their offset in it, row by row."""
    return np.asarray(first + (offsets // BLOCK << _BITS) + offsets % BLOCK, np.int64)


def _prefix(zone: Zone, level: int) -> int:
    return (level.bit_length() - 1) << 8 | zone.number << 1 | zone.south
