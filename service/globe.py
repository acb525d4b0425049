"""Which blocks of the zones lie in which blocks of the world: where overviews go from metres to degrees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from service.grid import WORLD_GRID, WORLD_LEVELS, ZONE_LEVELS, Block, Zone, ZoneGrid
from service.values import BLOCK, Float64Array

LEVELS: Final = (*ZONE_LEVELS[1:], *WORLD_LEVELS)
"""Levels of overviews, in the order in which each is made from the one before."""
LAST: Final = ZONE_LEVELS[-1]
"""The coarsest level of the zones, which the world is made from."""
FINEST: Final = WORLD_GRID.at_level(WORLD_LEVELS[0])
"""The grid of the world at its finest level."""
_EDGE: Final = np.linspace(0, BLOCK, 17)
"""Between places this near to each other an edge of a block bends by less than a pixel of the world."""
Grids = Mapping[Zone, ZoneGrid]
"""Level-1 grids by zone."""


def parents(grids: Grids, blocks: Iterable[Block]) -> set[Block]:
    """The blocks of the next level that summarise some blocks."""
    found: set[Block] = set()
    for block in blocks:
        if block.level == LAST:
            found.update(_over(grids[_zone(block.zone)], block))
        elif block.level < WORLD_LEVELS[-1]:
            found.add(block.parent())
    return found


def children(grids: Grids, block: Block) -> tuple[Block, ...]:
    """The blocks of the level before that a block summarises, of those that lie on a grid."""
    if block.level == FINEST.level:
        return tuple(below for grid in grids.values() for below in _under(grid, block))
    height, width = _size(WORLD_GRID if block.zone == Zone.WORLD.name else grids[_zone(block.zone)], block.level // 2)
    return tuple(b for b in block.children() if b.row * BLOCK < height and b.col * BLOCK < width)


def ancestors(grids: Grids, blocks: Iterable[Block]) -> set[Block]:
    """All overview blocks above some blocks, and those of them that are overviews."""
    by_level: dict[int, set[Block]] = {level: set() for level in (1, *LEVELS)}
    for block in blocks:
        by_level[block.level].add(block)
    for below, level in zip((1, *LEVELS), LEVELS, strict=False):
        by_level[level] |= parents(grids, by_level[below])
    return set().union(*(by_level[level] for level in LEVELS))


def world_blocks(grid: ZoneGrid, blocks: Sequence[Block]) -> list[tuple[Block, ...]]:
    """For each block of a zone the blocks of the world's finest level it lies in: a few more at most, never fewer.

    What lies beyond the nominal zone belongs to its neighbours, so it counts for nothing: a block may lie in none.

    Args:
        grid: Of the zone, at the level of the blocks.
        blocks: Of that zone.
    """
    if not blocks:
        return []
    corner = np.array([(block.row, block.col) for block in blocks])[:, :, None] * BLOCK
    rows = corner[:, 0] + np.concatenate([_EDGE, _EDGE, 0 * _EDGE, 0 * _EDGE + BLOCK])
    cols = corner[:, 1] + np.concatenate([0 * _EDGE, 0 * _EDGE + BLOCK, _EDGE, _EDGE])
    lon, lat = grid.to_lonlat(np.minimum(rows, grid.height).ravel(), np.minimum(cols, grid.width).ravel())
    west, _, east, _ = grid.zone.bounds
    lon = ((lon - west + 177) % 360 + west - 177).reshape(rows.shape)  # within half a turn of the zone's middle
    lat = (-lat if grid.zone.south else lat).reshape(rows.shape)
    mine = (lon.max(axis=1) >= west) & (lon.min(axis=1) <= east) & (lat.max(axis=1) >= 0)
    lon, lat = np.clip(lon, west, east), np.maximum(lat, 0)
    down = _spans((FINEST.y0 - (-lat if grid.zone.south else lat)) / FINEST.pixel, FINEST.height)
    across = _spans((lon - FINEST.x0) / FINEST.pixel, FINEST.width)
    return [
        tuple(
            Block(Zone.WORLD.name, row, col, FINEST.level)
            for row in range(first_row, last_row + 1)
            for col in range(first_col, last_col + 1)
            if held
        )
        for (first_row, last_row), (first_col, last_col), held in zip(down, across, mine, strict=True)
    ]


def _spans(cells: Float64Array, size: int) -> list[tuple[int, int]]:
    """(first, last) block that each row of fractional cells reaches, a pixel added at both ends."""
    first, last = np.maximum(cells.min(axis=1) - 1, 0), np.minimum(cells.max(axis=1) + 1, size - 1)
    return [(int(a) // BLOCK, int(b) // BLOCK) for a, b in zip(first, last, strict=True)]


_zone = lru_cache(maxsize=256)(Zone.parse)  # of a hundred thousand blocks in a row


@lru_cache(maxsize=1024)
def _size(grid: ZoneGrid, level: int) -> tuple[int, int]:
    """Rows and columns of a level-1 grid at a level."""
    coarse = grid.at_level(level)
    return coarse.height, coarse.width


@lru_cache(maxsize=65_536)
def _over(grid: ZoneGrid, block: Block) -> tuple[Block, ...]:
    """Of a level-1 grid and a block of the zones' coarsest level."""
    return world_blocks(grid.at_level(LAST), [block])[0]


@lru_cache(maxsize=65_536)
def _under(grid: ZoneGrid, block: Block) -> tuple[Block, ...]:
    """The blocks of a zone's coarsest level for which `_over` names a block of the world."""
    west, _, east, _ = grid.zone.bounds
    side, hair = BLOCK * FINEST.pixel, FINEST.pixel
    left, top = FINEST.x0 + block.col * side, FINEST.y0 - block.row * side
    left, right = max(west, left), min(east, left + side)
    top, bottom = (min(top, 0), top - side) if grid.zone.south else (top, max(top - side, 0))
    if right < left - hair or top < bottom - hair:
        return ()
    coarse = grid.at_level(LAST)
    lon, lat = np.meshgrid(np.linspace(left, right, 9), np.linspace(top, bottom, 9))
    row, col = coarse.from_lonlat(lon.ravel(), lat.ravel())
    near = [Block(grid.zone.name, i, j, LAST) for i in _around(row, coarse.height) for j in _around(col, coarse.width)]
    return tuple(b for b, over in zip(near, world_blocks(coarse, near), strict=True) if block in over)


def _around(cells: Float64Array, size: int) -> range:
    """Blocks that fractional cells lie in, and one more at both ends; only those of a grid."""
    return range(max(int(cells.min()) // BLOCK - 1, 0), min(int(cells.max()) // BLOCK + 1, (size - 1) // BLOCK) + 1)
