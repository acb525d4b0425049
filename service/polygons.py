"""Polygons of degrees, and which pixels of a zone grid have their centre in them.

Edges are straight in longitude and latitude, as GeoJSON has them (RFC 7946, 3.1.1). On a grid of metres they are
curves, and are followed in pieces that stay within a millimetre of them. A pixel is in a polygon where a line from its
centre to the west crosses the outline and the holes an odd number of times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np

from service.errors import InvalidInput, LimitExceeded
from service.grid import ZoneGrid
from service.values import BLOCK, Area, BoolArray, Float64Array, Int64Array

MAX_VERTICES: Final = 1000
"""Positions of one geometry, all rings together."""
MAX_PIECES: Final = 200_000
"""Pieces that the edges of the polygons of one question may take, on all grids together."""
_STEP: Final = 0.05
"""Degrees. An edge is first cut into parts no longer than this: along them it bends one way."""
_BEND: Final = 1e-4
"""Cells: how far a piece may lie from the true edge; 1 mm at 10 m."""
_RADIUS_M: Final = 6_371_007.0
"""Of the sphere with the Earth's surface."""

Box = tuple[float, float, float, float]
"""(west, south, east, north), degrees."""


@dataclass(frozen=True, eq=False)
class GridPolygon:
    """Polygons on one zone grid, with straight edges between fractional rows and columns."""

    parts: tuple[Float64Array, ...]
    """Per polygon (n, 4) edges: row and column where each begins, row and column where it ends."""

    @property
    def pieces(self) -> int:
        """Edges of all polygons together."""
        return sum(map(len, self.parts))

    def mask(self, rows: slice, cols: slice) -> BoolArray:
        """(rows, cols) bool: which pixels of a rectangle have their centre in any of the polygons."""
        found = np.zeros((rows.stop - rows.start, cols.stop - cols.start), bool)
        for edges in self.parts:
            found |= _inside(edges, rows, cols)
        return found

    def touched(self, rows: Int64Array, cols: Int64Array) -> tuple[BoolArray, BoolArray]:
        """For (n,) blocks by row and column: which may hold pixels of a polygon, and which lie wholly within one.

        Neither errs to the harmful side: a block that is not `whole` is to be looked at pixel by pixel.
        """
        down = slice(int(rows.min()), int(rows.max()) + 1)
        across = slice(int(cols.min()), int(cols.max()) + 1)
        scaled = GridPolygon(tuple(edges / BLOCK for edges in self.parts))
        inside, crossed = scaled.mask(down, across), scaled._crossed(down, across)
        at = rows - down.start, cols - across.start
        return (inside | crossed)[at], (inside & ~crossed)[at]

    def blocks(self) -> tuple[Int64Array, Int64Array, BoolArray]:
        """(n,) rows and columns of every block that may hold its pixels, on the grid or not, and which lie within one.

        As `touched`, neither errs to the harmful side.
        """
        ends = np.concatenate(self.parts).reshape(-1, 2) / BLOCK
        low, high = np.floor(ends.min(axis=0)).astype(np.int64), np.floor(ends.max(axis=0)).astype(np.int64)
        rows, cols = (axis.ravel() for axis in np.mgrid[low[0] : high[0] + 1, low[1] : high[1] + 1])
        near, whole = self.touched(rows, cols)
        return rows[near], cols[near], whole[near]

    def _crossed(self, rows: slice, cols: slice) -> BoolArray:
        """(rows, cols) bool: which cells an edge passes through. Pieces of edges are a few cells long.

        Lines between cells cut each piece into parts, and the middle of a part lies in the cell that it passes.
        """
        found = np.zeros((rows.stop - rows.start, cols.stop - cols.start), bool)
        edges = np.concatenate(self.parts)
        start, step = edges[:, :2], edges[:, 2:] - edges[:, :2]
        low, high = np.minimum(start, edges[:, 2:]), np.maximum(start, edges[:, 2:])
        at = [np.zeros((len(edges), 1)), np.ones((len(edges), 1))]
        for line in range(int(np.floor(high - low).max()) + 1):
            with np.errstate(invalid="ignore", divide="ignore"):
                share = (np.floor(low) + 1 + line - start) / step
            at.append(np.where((share > 0) & (share < 1), share, 0.0))
        cut = np.sort(np.concatenate(at, axis=1), axis=1)
        middle = (cut[:, :-1] + cut[:, 1:])[:, :, None] / 2
        cells = np.floor(start[:, None] + middle * step[:, None]).astype(np.int64).reshape(-1, 2)
        row, col = (cells - (rows.start, cols.start)).T
        held = (row >= 0) & (row < found.shape[0]) & (col >= 0) & (col < found.shape[1])
        found[row[held], col[held]] = True
        return found


@dataclass(frozen=True, eq=False)
class Polygon:
    """One or several polygons in degrees. What lies in any of them is in; holes are out."""

    parts: tuple[tuple[Float64Array, ...], ...]
    """Per polygon its rings, the outline first: (n, 2) longitude and latitude, the last the same as the first."""

    @classmethod
    def of_geojson(cls, geometry: Mapping[str, Any], field: str) -> Self:
        """Read a GeoJSON Polygon or MultiPolygon.

        Args:
            geometry: Its `type` and `coordinates`; heights are ignored.
            field: What the caller calls it, for errors.

        Raises:
            InvalidInput: A ring is open or leaves the globe, or an edge spans more than half of it.
            LimitExceeded: It has over 1,000 positions.
        """
        held = geometry["coordinates"]
        polygons = [held] if geometry["type"] == "Polygon" else held
        count = sum(len(ring) for rings in polygons for ring in rings)
        if count > MAX_VERTICES:
            raise LimitExceeded(
                f"has {count:,} positions; at most {MAX_VERTICES:,}.", field=field, remedy="Simplify its outline."
            )
        return cls(tuple(tuple(_ring(ring, field) for ring in rings) for rings in polygons))

    @classmethod
    def of_area(cls, area: Area) -> Self:
        """A box of degrees; two of them where it crosses the antimeridian."""
        west, south, east, north = area.bounds
        spans = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
        sides = [[(w, south), (e, south), (e, north), (w, north), (w, south)] for w, e in spans if w < e]
        return cls(tuple((np.array(ring),) for ring in sides))

    def within(self, box: Box) -> Self:
        """The part of it that lies in a box of degrees."""
        parts = ((_clipped(ring, box) for ring in rings) for rings in self.parts)
        return type(self)(tuple(rings for part in parts if len(rings := tuple(filter(len, part)))))

    @property
    def bounds(self) -> Box:
        """The box around all of them."""
        every = np.concatenate([ring for rings in self.parts for ring in rings])
        (west, south), (east, north) = every.min(axis=0).tolist(), every.max(axis=0).tolist()
        return west, south, east, north

    @cached_property
    def square_metres(self) -> float:
        """Its area, to 1 %: found at once, whatever its size. What crosses itself may cancel out."""
        return sum(max(0.0, _area(rings[0]) - sum(map(_area, rings[1:]))) for rings in self.parts)

    def on(self, grid: ZoneGrid, box: Box, field: str, pieces: int = MAX_PIECES) -> GridPolygon | None:
        """The part of it that lies in a grid's nominal 6-degree zone, on that grid; None where there is none.

        So each pixel is taken from its own zone, whatever a store holds beyond a zone's edge.

        Args:
            grid: At level 1.
            box: Where pixels will be asked for. Beyond it, right and wrong are the same.
            field: What the caller calls the polygon, for errors.
            pieces: How many its edges may take.

        Raises:
            LimitExceeded: Its edges are too long to be followed.
        """
        west, south, east, north = grid.zone.bounds
        cut = max(west, box[0]), max(south, box[1]), min(east, box[2]), min(north, box[3])
        if cut[0] >= cut[2] or cut[1] >= cut[3]:
            return None
        edges = []
        for rings in self.parts:
            followed = []
            for ring in (_clipped(ring, cut) for ring in rings):
                if len(ring):
                    followed.append(_followed(ring, grid, field, pieces))
                    pieces -= len(followed[-1])
            edges += [np.concatenate(followed)] if followed else []
        return GridPolygon(tuple(edges)) if edges else None


def _area(ring: Float64Array) -> float:
    """Square metres in a closed ring: sin(latitude) integrated along its edges, on a sphere as large as Earth."""
    lon, lat = np.radians(ring).T
    step = np.diff(lat)
    flat = np.abs(step) < 1e-9
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(flat, np.sin(lat[:-1]), -np.diff(np.cos(lat)) / step)
    return float(abs((np.diff(lon) * mean).sum()) * _RADIUS_M**2)


def _ring(positions: Sequence[Sequence[float]], field: str) -> Float64Array:
    ring = np.array([position[:2] for position in positions], np.float64)
    if len(ring) < 4 or not (ring[0] == ring[-1]).all():
        raise InvalidInput("a ring is not closed.", field=field, remedy="End each ring where it begins.")
    if not (np.isfinite(ring).all() and (np.abs(ring) <= (180, 90)).all()):
        raise InvalidInput("has a position that is no longitude and latitude.", field=field)
    if (np.abs(np.diff(ring[:, 0])) > 180).any():
        raise InvalidInput(
            "has an edge that spans more than 180 degrees.",
            field=field,
            remedy="Cut it in two at the antimeridian: a MultiPolygon (RFC 7946, 3.1.9).",
        )
    return ring


def _clipped(ring: Float64Array, box: Box) -> Float64Array:
    """What of a closed ring lies in a box, closed; edges of its own run along the box' sides.

    Side by side (Sutherland and Hodgman 1974, "Reentrant polygon clipping"). Where it cuts a ring in two both stay
    joined along the side, by edges that run there and back and hold no pixel between them.
    """
    west, south, east, north = box
    for axis, limit, sign in ((0, west, 1), (0, east, -1), (1, south, 1), (1, north, -1)):
        start, end = ring[:-1], ring[1:]
        held = sign * (ring[:, axis] - limit) >= 0
        leaves = held[:-1] != held[1:]
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            share = (limit - start[:, axis]) / (end[:, axis] - start[:, axis])
            crossing = start + share[:, None] * (end - start)
        crossing[:, axis] = limit
        kept = np.stack([crossing, end], axis=1)[np.stack([leaves, held[1:]], axis=1)]
        if not len(kept):
            return np.empty((0, 2))
        ring = np.concatenate([kept[-1:], kept])
    return ring


def _followed(ring: Float64Array, grid: ZoneGrid, field: str, most: int) -> Float64Array:
    """(n, 4) edges of a closed ring on a grid, cut so that each piece stays within `_BEND` of the true edge.

    An arc of length L that is b away from its chord is b / n**2 away from n chords of equal length.
    """
    coarse = _cut(ring, np.abs(np.diff(ring, axis=0)).max(axis=1) / _STEP, field, most)
    middle = (coarse[:-1] + coarse[1:]) / 2
    ends, between = (np.stack(grid.from_lonlat(*places.T), axis=1) for places in (coarse, middle))
    bend = np.abs((ends[:-1] + ends[1:]) / 2 - between).max(axis=1)
    fine = np.stack(grid.from_lonlat(*_cut(coarse, np.sqrt(2 * bend / _BEND), field, most).T), axis=1)
    return np.concatenate([fine[:-1], fine[1:]], axis=1)


def _cut(ring: Float64Array, pieces: Float64Array, field: str, most: int) -> Float64Array:
    """A closed ring with each edge in so many pieces, at least one; of all edges at most `most`."""
    count = np.maximum(np.ceil(pieces), 1).astype(np.int64)
    if count.sum() > most:
        raise _too_long(field)
    edge = np.repeat(np.arange(len(count)), count)
    share = (np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)) / count[edge]
    places = ring[edge] + share[:, None] * (ring[edge + 1] - ring[edge])
    return np.concatenate([places, ring[-1:]])


def _too_long(field: str) -> LimitExceeded:
    return LimitExceeded("its edges are too long to be followed.", field=field, remedy="Simplify its outline.")


def _inside(edges: Float64Array, rows: slice, cols: slice) -> BoolArray:
    """(rows, cols) bool: an odd number of edges lies west of the pixel's centre, along its row."""
    width, height = cols.stop - cols.start, rows.stop - rows.start
    row0, col0, row1, col1 = edges.T
    # An edge crosses the rows whose middle lies between its ends, the upper one included: each row once in a chain.
    first = np.clip(np.ceil(np.minimum(row0, row1) - 0.5), rows.start, rows.stop).astype(np.int64)
    count = np.clip(np.ceil(np.maximum(row0, row1) - 0.5), rows.start, rows.stop).astype(np.int64) - first
    edge = np.repeat(np.arange(len(edges)), count)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    share = (row + 0.5 - row0[edge]) / (row1 - row0)[edge]
    at = np.ceil(col0[edge] + share * (col1 - col0)[edge] - 0.5)
    col = (np.clip(at, cols.start, cols.stop) - cols.start).astype(np.int64)
    crossings = np.bincount((row - rows.start) * (width + 1) + col, minlength=height * (width + 1))
    west = np.cumsum(crossings.reshape(height, width + 1)[:, :-1], axis=1)
    return np.asarray(west % 2 == 1)
