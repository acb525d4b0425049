"""Which scenes show a block: catalogues are asked for squares of 16 x 16 blocks, and each answer serves all of them.

The squares lie on the zone's grid, wherever an area begins, so a block's scenes do not depend on what else was asked
for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.grid import PIXEL, Block, Zone, archive_grid
from service.polygons import Polygon
from service.scenes.value import Scene
from service.values import BLOCK, Area, BoolArray, Float64Array

SIDE: Final = 16
"""Blocks along a side: 41 km. A tile of Sentinel-2 has 110 km, so neighbouring squares mostly have the same scenes."""
_ALONG: Final = 9
"""Points along each side of a square when it is projected: sides are curves on the other side."""
_REACH: Final = 1.05 * BLOCK * PIXEL / np.sqrt(2)
"""Metres around a block's centre within which it lies, and a little more."""
_DEGREE: Final = 111_200.0
"""Metres."""


@dataclass(frozen=True, order=True)
class Cell:
    """A square of blocks."""

    zone: str
    row: int
    """Of the first block, divided by SIDE."""
    col: int

    @classmethod
    def of(cls, block: Block) -> Cell:
        """The one that holds a block."""
        return cls(block.zone, block.row // SIDE, block.col // SIDE)

    @property
    def area(self) -> Area:
        """A box of degrees around it, cut to its zone: nobody asks for pixels beyond."""
        edge = np.linspace(0, SIDE * BLOCK, _ALONG)
        rows, cols = (axis.ravel() for axis in np.meshgrid(edge, edge, indexing="ij"))
        lon, lat = self._lonlat(rows, cols)
        west, south, east, north = Zone.parse(self.zone).bounds
        middle = (west + east) / 2
        lon = (lon - middle + 180) % 360 - 180 + middle
        return Area(
            max(float(lon.min()), west),
            max(float(lat.min()), south),
            min(float(lon.max()), east),
            min(float(lat.max()), north),
        )

    def shown_by(self, scenes: Sequence[Scene]) -> BoolArray:
        """(n, SIDE, SIDE) which scenes may show which of its blocks: none that does is left out."""
        middle = (np.arange(SIDE) + 0.5) * BLOCK
        rows, cols = (axis.ravel() for axis in np.meshgrid(middle, middle, indexing="ij"))
        places = np.stack(self._lonlat(rows, cols), axis=1)
        out = [
            np.ones(len(places), bool) if scene.footprint is None else near(scene.footprint, places, _REACH)
            for scene in scenes
        ]
        return np.array(out, bool).reshape(-1, SIDE, SIDE)

    def _lonlat(self, rows: Float64Array, cols: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Of rows and columns counted from its corner."""
        top, left = self.row * SIDE * BLOCK, self.col * SIDE * BLOCK
        return archive_grid(Zone.parse(self.zone)).to_lonlat(rows + top, cols + left)


def near(polygon: Polygon, places: Float64Array, metres: float) -> BoolArray:
    """(n,) whether a polygon lies within some metres of (n, 2) places close to each other, in degrees.

    Edges are straight in longitude and latitude, and stay so when both are measured in metres about the places.
    """
    lon, lat = places.mean(axis=0)
    scale = np.array([np.cos(np.radians(np.abs(places[:, 1]).max())), 1.0]) * _DEGREE
    points = _about(places, lon, lat) * scale
    found = np.zeros(len(places), bool)
    for rings in polygon.parts:
        inside = np.zeros(len(places), bool)
        close = np.zeros(len(places), bool)
        for ring in rings:
            line = _about(ring, lon, lat) * scale
            inside ^= _crossings(points, line) % 2 == 1
            close |= _distance(points, line) <= metres
        found |= inside | close
    return found


def _about(places: Float64Array, lon: float, lat: float) -> Float64Array:
    """Degrees from a place, the shorter way round."""
    return np.stack([(places[:, 0] - lon + 180) % 360 - 180, places[:, 1] - lat], axis=1)


def _crossings(points: Float64Array, line: Float64Array) -> Float64Array:
    """(n,) how many edges of a closed line lie eastwards of each point."""
    (x0, y0), (x1, y1) = line[:-1].T[:, None], line[1:].T[:, None]
    x, y = points[:, 0, None], points[:, 1, None]
    spans = (y0 <= y) != (y1 <= y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
    return np.asarray((spans & (at > x)).sum(axis=1))


def _distance(points: Float64Array, line: Float64Array) -> Float64Array:
    """(n,) from each point to the nearest edge."""
    start, step = line[:-1], np.diff(line, axis=0)
    away = points[:, None] - start
    length = np.maximum((step**2).sum(axis=1), 1e-12)
    share = np.clip((away * step).sum(axis=2) / length, 0, 1)
    return np.asarray(np.hypot(*np.moveaxis(away - share[..., None] * step, 2, 0)).min(axis=1))
