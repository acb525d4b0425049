"""Which pixels of a zone grid lie within a box of degrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from indexing.pixels import Snapshot
from service.grid import Block, ZoneGrid
from service.values import BLOCK, Area, BoolArray, Float64Array

_SIDE: Final = np.linspace(0, BLOCK, 5)
_MARGIN_M: Final = 20.0
"""Edges of a block are followed at a few places only; between them they bend by less than this, metres."""
_DEGREE_M: Final = 111_000.0


@dataclass(frozen=True)
class Within:
    """The part of a snapshot that an area covers."""

    area: Area | None
    blocks: frozenset[Block]
    """Every block that may hold a hit."""
    whole: frozenset[Block]
    """Those of which every pixel may be one."""

    def mask(self, at: Snapshot, block: Block) -> BoolArray:
        """(256, 256) bool: pixels of a block that may be hits."""
        if self.area is None or block in self.whole:
            return np.ones((BLOCK, BLOCK), bool)
        return pixels_within(self.area, at.grids[block.zone], block)


def within_of(at: Snapshot, area: Area | None) -> Within:
    """The blocks of a snapshot that an area touches; all of them where there is no area."""
    if area is None:
        every = frozenset(at.versions)
        return Within(None, every, every)
    near: set[Block] = set()
    whole: set[Block] = set()
    for zone, grid in at.grids.items():
        blocks = [block for block in at.versions if block.zone == zone]
        if blocks:
            is_near, is_whole = touched(area, grid, blocks)
            near |= {block for block, yes in zip(blocks, is_near, strict=True) if yes}
            whole |= {block for block, yes in zip(blocks, is_whole, strict=True) if yes}
    return Within(area, frozenset(near), frozenset(whole))


def contains(area: Area, lon: Float64Array, lat: Float64Array) -> BoolArray:
    """(...) bool: which places lie within an area, its edges included."""
    inside = (lat >= area.south) & (lat <= area.north)
    if area.west <= area.east:
        return np.asarray(inside & (lon >= area.west) & (lon <= area.east))
    return np.asarray(inside & ((lon >= area.west) | (lon <= area.east)))


def touched(area: Area, grid: ZoneGrid, blocks: Sequence[Block]) -> tuple[BoolArray, BoolArray]:
    """For (n,) blocks of one grid: which may hold pixels of an area, and which lie wholly within it.

    Neither errs to the harmful side: a block that is not `whole` is to be looked at pixel by pixel.
    """
    west, south, east, north = _boxes(grid, blocks)
    lon_margin, lat_margin = _margins(south, north)
    boxes = (west - lon_margin, south - lat_margin, east + lon_margin, north + lat_margin)
    near, whole = np.zeros(len(blocks), bool), np.zeros(len(blocks), bool)
    for left, right in _spans(area):
        in_lat = (boxes[3] >= area.south) & (boxes[1] <= area.north)
        near |= in_lat & (boxes[2] >= left) & (boxes[0] <= right)
        within = (boxes[1] >= area.south) & (boxes[3] <= area.north)
        whole |= within & (boxes[0] >= left) & (boxes[2] <= right)
    return near, whole


def pixels_within(area: Area, grid: ZoneGrid, block: Block) -> BoolArray:
    """(256, 256) bool: which pixels of a block have their centre within an area."""
    rows, cols = np.mgrid[0:BLOCK, 0:BLOCK] + 0.5
    lon, lat = grid.to_lonlat(rows + block.rows.start, cols + block.cols.start)
    return contains(area, lon, lat)


def _spans(area: Area) -> list[tuple[float, float]]:
    if area.west <= area.east:
        return [(area.west, area.east)]
    return [(area.west, 180.0), (-180.0, area.east)]


def _boxes(grid: ZoneGrid, blocks: Sequence[Block]) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
    """(west, south, east, north), each (n,) degrees. A block across the antimeridian gets the whole circle."""
    zero, full = np.zeros_like(_SIDE), np.full_like(_SIDE, BLOCK)
    along_rows = np.concatenate([_SIDE, _SIDE, zero, full])
    along_cols = np.concatenate([zero, full, _SIDE, _SIDE])
    top = np.array([block.rows.start for block in blocks], float)
    left = np.array([block.cols.start for block in blocks], float)
    lon, lat = grid.to_lonlat(top[:, None] + along_rows, left[:, None] + along_cols)
    west, east = lon.min(axis=1), lon.max(axis=1)
    across = east - west > 180
    return np.where(across, -180.0, west), lat.min(axis=1), np.where(across, 180.0, east), lat.max(axis=1)


def _margins(south: Float64Array, north: Float64Array) -> tuple[Float64Array, float]:
    """20 m in degrees of longitude at each block's latitude, and in degrees of latitude."""
    lat_margin = _MARGIN_M / _DEGREE_M
    cosine = np.cos(np.radians(np.minimum(np.maximum(np.abs(south), np.abs(north)), 89.0)))
    return lat_margin / cosine, lat_margin
