"""Large rectangles are read strip by strip, so that a request whose time is over ends soon."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from service.deadline import Deadline
from service.grid import Zone
from service.store.contract import Store
from service.values import BLOCK, Vectors, Window

STRIP_BYTES: Final = 64_000_000
"""Codes of a strip: more than a tile reads at a fitting level, some tenths of a second from a disk."""


def read_in_time(
    store: Store, window: Window, zone: Zone, rows: slice, cols: slice, *, level: int, dims: int, deadline: Deadline
) -> Vectors:
    """Read a rectangle as `Store.read` does.

    Raises:
        Unavailable: There was no time left before one of its strips, or the transport failed.
        NotFound, InvalidInput, Corrupt: As `Store.read` does.
    """
    edges = _edges(rows, (cols.stop - cols.start) * dims)
    if len(edges) == 2:
        deadline.check()
        return store.read(zone, window, rows, cols, level=level, dims=dims)
    out = Vectors.empty((rows.stop - rows.start, cols.stop - cols.start), dims)
    for top, bottom in pairwise(edges):
        deadline.check()
        part = store.read(zone, window, slice(top, bottom), cols, level=level, dims=dims)
        at = slice(top - rows.start, bottom - rows.start)
        out.codes[at], out.scales[at], out.status[at] = part.codes, part.scales, part.status
    return out


def _edges(rows: slice, row_bytes: int) -> list[int]:
    """Where strips begin and the last ends; between them they lie on edges of blocks, so no chunk is read twice."""
    high = max(1, STRIP_BYTES // max(1, row_bytes) // BLOCK) * BLOCK
    return [rows.start, *range(rows.start // BLOCK * BLOCK + high, rows.stop, high), rows.stop]
