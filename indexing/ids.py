"""Pixel ids: one 64-bit number for (zone, row, column) of a level-1 pixel.

From the highest bit: 16 for the zone (2 * number, plus 1 in the south), 24 for the row, 24 for the column. Ids sort
by zone, row, column, and are what ties between equal scores are broken by.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from service.errors import InvalidInput
from service.grid import Block, Zone
from service.values import BLOCK, Int64Array

_BITS: Final = 24
_MASK: Final = (1 << _BITS) - 1


def pixel_ids(zone: Zone, rows: Int64Array, cols: Int64Array) -> Int64Array:
    """(n,) int64 ids of level-1 pixels of one zone.

    Args:
        zone: The zone all of them lie in.
        rows: (n,) rows of the zone grid, 0 to 2**24 - 1.
        cols: (n,) columns, likewise.

    Raises:
        InvalidInput: A row or column is negative or too large.
    """
    rows, cols = np.asarray(rows, np.int64), np.asarray(cols, np.int64)
    for name, values in (("rows", rows), ("cols", cols)):
        if values.size and not (values.min() >= 0 and values.max() <= _MASK):
            raise InvalidInput(f"must lie within 0 and {_MASK}.", field=name)
    return np.asarray(_zone_code(zone) << 2 * _BITS | rows << _BITS | cols, np.int64)


def rows_of(ids: Int64Array) -> Int64Array:
    """(n,) rows of pixel ids."""
    return np.asarray(ids >> _BITS & _MASK, np.int64)


def cols_of(ids: Int64Array) -> Int64Array:
    """(n,) columns of pixel ids."""
    return np.asarray(ids & _MASK, np.int64)


def zone_codes(ids: Int64Array) -> Int64Array:
    """(n,) the zone of each pixel id as a number, for grouping."""
    return np.asarray(ids >> 2 * _BITS, np.int64)


def zones_of(ids: Int64Array) -> list[Zone]:
    """The zone of each of (n,) pixel ids.

    Raises:
        InvalidInput: An id names no zone.
    """
    return [Zone(code >> 1, bool(code & 1)) for code in zone_codes(ids).tolist()]


def first_id(block: Block) -> int:
    """The id of the first pixel of a level-1 block."""
    return int(pixel_ids(Zone.parse(block.zone), np.array([block.rows.start]), np.array([block.cols.start]))[0])


def ids_at(first: Int64Array, offsets: Int64Array) -> Int64Array:
    """(n,) ids of pixels given by the id of their block's first pixel and their offset in it, row by row."""
    return np.asarray(first + (offsets // BLOCK << _BITS) + offsets % BLOCK, np.int64)


def _zone_code(zone: Zone) -> int:
    return zone.number << 1 | zone.south
