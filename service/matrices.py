"""Tile matrix sets: which of their tiles a box in degrees touches."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from morecantile import TileMatrixSet
from rasterio.warp import transform_bounds

from service.cache import ByteCache
from service.frame import WGS84

Box = tuple[float, float, float, float]

_boxes: Final[ByteCache[Box | None]] = ByteCache(200_000, lambda _: 200)
"""By matrix set and box: every tile asks for that of its dataset."""


def shown(tms: TileMatrixSet, bounds: Box) -> Box | None:
    """The part of a box in degrees that a matrix set covers: what a projection cannot show has no coordinates."""
    west, south, east, north = bounds
    span = tms.bbox
    end = span.right + 360 * (span.right < span.left)  # it may lie across the antimeridian
    for turn in (0, 360):
        box = max(west + turn, span.left), max(south, span.bottom), min(east + turn, end), min(north, span.top)
        if box[0] < box[2] and box[1] < box[3]:
            return box
    return None


def native_box(tms: TileMatrixSet, bounds: Box) -> Box | None:
    """(left, bottom, right, top) in a matrix set's CRS around what it covers of a box in degrees; None if nothing."""
    return _boxes.made((tms.id, bounds), lambda: _native_box(tms, bounds))


def _native_box(tms: TileMatrixSet, bounds: Box) -> Box | None:
    box = shown(tms, bounds)
    if box is None:
        return None
    left, bottom, right, top = transform_bounds(WGS84, tms.rasterio_crs, *box, densify_pts=21)
    return left, bottom, right, top


def limits(tms: TileMatrixSet, bounds: Box, zooms: tuple[int, int]) -> list[dict[str, Any]]:
    """The rows and columns of each matrix that a box in degrees touches, as 2D Tile Matrix Set 2.0 writes them.

    Args:
        tms: The tile matrix set.
        bounds: (west, south, east, north).
        zooms: The first and the last.
    """
    box = native_box(tms, bounds)
    if box is None:
        return []
    left, bottom, right, top = box
    found = []
    for zoom in range(max(zooms[0], tms.minzoom), min(zooms[1], tms.maxzoom) + 1):
        matrix = tms.matrix(zoom)
        x, y = tms._matrix_origin(matrix)
        side = np.array([matrix.tileWidth, matrix.tileHeight]) * matrix.cellSize
        first = np.floor((np.array([left - x, y - top])) / side + 1e-9).astype(int)
        last = np.ceil((np.array([right - x, y - bottom])) / side - 1e-9).astype(int) - 1
        most = np.array([matrix.matrixWidth, matrix.matrixHeight]) - 1
        (col0, row0), (col1, row1) = np.clip(first, 0, most).tolist(), np.clip(last, 0, most).tolist()
        found.append({
            "tileMatrix": matrix.id, "minTileRow": row0, "maxTileRow": row1, "minTileCol": col0, "maxTileCol": col1,
        })  # fmt: skip
    return found
