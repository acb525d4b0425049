"""Which pixels of a snapshot lie within a box of degrees, or in a polygon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

from indexing.ids import cols_of, rows_of
from indexing.pixels import Snapshot, block_of, by_block, lonlat_of
from service.grid import Block, ZoneGrid
from service.polygons import MAX_PIECES, Box, GridPolygon, Polygon
from service.values import BLOCK, Area, BoolArray, Float64Array, Int64Array

_SIDE: Final = np.linspace(0, BLOCK, 5)
_MARGIN_M: Final = 20.0
"""Edges of a block are followed at a few places only; between them they bend by less than this times the level,
metres: at most L^2 / 8R tan(latitude) over the L metres between two places, R being the Earth's radius."""
_DEGREE_M: Final = 111_000.0
_ALONG: Final = 65
"""Places along each side of a box around blocks: between them a side bends by far less than `_GENEROUS`."""
_GENEROUS: Final = 0.05
"""Degrees."""
_STEP: Final = 16
_NODES: Final = np.arange(0, BLOCK + 1, _STEP) + 0.0
_SHARES: Final = (np.arange(_STEP) + 0.5) / _STEP
"""How far along from one node to the next the centres of pixels lie."""
_ROUNDING: Final = 1e-9
"""Degrees."""


@dataclass(frozen=True)
class Drawn:
    """A polygon on the grids of a snapshot."""

    on: Mapping[str, GridPolygon]
    """Zone name -> what of it lies in that zone."""
    near: frozenset[Block]
    """Every block that may hold its pixels."""
    whole: frozenset[Block]
    """Those that lie wholly within it."""

    @property
    def pieces(self) -> int:
        """Pieces that its edges took."""
        return sum(shape.pieces for shape in self.on.values())

    def mask(self, block: Block) -> BoolArray:
        """(256, 256) bool: pixels of a block that lie in it."""
        if block in self.near and block not in self.whole:
            return self.on[block.zone].mask(block.rows, block.cols)
        return np.full((BLOCK, BLOCK), block in self.whole)


Filter = Callable[[Block], BoolArray | None]
"""(256, 256) bool for a block: which of its pixels may be hits, where a place does not tell; None where all may."""

_drawn: Final[WeakKeyDictionary[Polygon, tuple[Snapshot, Drawn]]] = WeakKeyDictionary()
"""What was drawn last of each polygon while it lives: one question may look for it, and leave it out."""


def drawn(at: Snapshot, polygon: Polygon, field: str, pieces: int = MAX_PIECES) -> Drawn:
    """A polygon on the grids of a snapshot, and the blocks with data that it touches.

    Args:
        at: The snapshot.
        polygon: What to draw.
        field: What the caller calls it, for errors.
        pieces: How many its edges may take.

    Raises:
        LimitExceeded: Its edges are too long to be followed; names `field`.
    """
    known = _drawn.get(polygon)
    if known is None or known[0] is not at or known[1].pieces > pieces:
        known = _drawn[polygon] = at, _followed(at, polygon, field, pieces)
    return known[1]


def _followed(at: Snapshot, polygon: Polygon, field: str, pieces: int) -> Drawn:
    on: dict[str, GridPolygon] = {}
    near: set[Block] = set()
    whole: set[Block] = set()
    for zone, grid in at.grids.items():
        blocks = [block for block in at.versions if block.zone == zone]
        if not blocks:
            continue
        rows, cols = np.array([[block.row, block.col] for block in blocks]).T
        shape = polygon.on(grid, _box(grid, rows, cols), field, pieces)
        if shape is not None:
            on[zone] = shape
            pieces -= shape.pieces
            is_near, is_whole = shape.touched(rows, cols)
            near |= {block for block, yes in zip(blocks, is_near, strict=True) if yes}
            whole |= {block for block, yes in zip(blocks, is_whole, strict=True) if yes}
    return Drawn(on, frozenset(near), frozenset(whole))


@dataclass(frozen=True)
class Within:
    """The part of a snapshot that hits may come from."""

    blocks: frozenset[Block]
    """Every block that may hold a hit."""
    whole: frozenset[Block]
    """Those of which every pixel may be one."""
    area: Area | None = None
    boxed: frozenset[Block] = frozenset()
    """Blocks that lie wholly within the area."""
    inside: Drawn | None = None
    """Only pixels in this polygon."""
    outside: tuple[Drawn, ...] = ()
    """No pixel in any of these."""
    filters: tuple[Filter, ...] = ()
    """Only pixels that all of these let through."""

    @property
    def is_all(self) -> bool:
        """Whether every pixel may be a hit."""
        return self.area is None and self.inside is None and not self.outside and not self.filters

    @property
    def is_part(self) -> bool:
        """Whether hits may come from a part only, that may be small."""
        return self.area is not None or self.inside is not None or bool(self.filters)

    def filtered(self, one: Filter) -> Within:
        """The same with one more filter."""
        return replace(self, filters=(*self.filters, one))

    def only(self, one: Filter, blocks: frozenset[Block]) -> Within:
        """The same with one more filter, that lets through pixels of some blocks alone."""
        return replace(self.filtered(one), blocks=self.blocks & blocks)

    def part(self, at: Snapshot, block: Block) -> BoolArray | None:
        """(256, 256) bool: pixels of a block that may be hits; None where all may."""
        mask = None if block in self.whole else self._placed(at, block)
        for one in self.filters:
            found = one(block)
            mask = found if mask is None else mask if found is None else mask & found
        return mask

    def mask(self, at: Snapshot, block: Block) -> BoolArray:
        """(256, 256) bool: pixels of a block that may be hits."""
        mask = self.part(at, block)
        return np.ones((BLOCK, BLOCK), bool) if mask is None else mask

    def _placed(self, at: Snapshot, block: Block) -> BoolArray:
        """(256, 256) bool: pixels of a block that lie where hits may."""
        mask = np.ones((BLOCK, BLOCK), bool)
        if self.area is not None and block not in self.boxed:
            mask &= pixels_within(self.area, at.grids[block.zone], block)
        if self.inside is not None:
            mask &= self.inside.mask(block)
        for drawn in self.outside:
            mask &= ~drawn.mask(block)
        return mask

    def held(self, at: Snapshot, ids: Int64Array) -> Int64Array:
        """Those of (n,) pixels that may be hits."""
        if self.area is not None:
            ids = ids[contains(self.area, *lonlat_of(at, ids))]
        if self.inside is None and not self.outside and not self.filters:
            return ids
        return np.concatenate([self._held(at, group) for group in by_block(ids)] or [ids])

    def _held(self, at: Snapshot, ids: Int64Array) -> Int64Array:
        """The same for pixels of one block."""
        block = block_of(ids[0])
        if block not in self.blocks:
            return ids[:0]
        return ids[self.mask(at, block)[rows_of(ids) % BLOCK, cols_of(ids) % BLOCK]]


def within_of(
    at: Snapshot,
    area: Area | None,
    inside: Polygon | None = None,
    outside: Sequence[Polygon] = (),
    filters: tuple[Filter, ...] = (),
) -> Within:
    """The blocks of a snapshot from which hits may come, and which of their pixels.

    Args:
        at: The snapshot.
        area: Only pixels in this box.
        inside: Only pixels in this polygon.
        outside: No pixel in any of these.
        filters: Only pixels that all of these let through.

    Raises:
        LimitExceeded: A polygon's edges are too long to be followed.
    """
    blocks = boxed = frozenset(at.versions)
    if area is not None:
        blocks, boxed = _boxed(at, area)
    whole = boxed
    kept = drawn(at, inside, "within") if inside is not None else None
    if kept is not None:
        blocks, whole = blocks & kept.near, whole & kept.whole
    left_out: list[Drawn] = []
    left = MAX_PIECES
    for n, polygon in enumerate(outside):
        one = drawn(at, polygon, f"polygons[{n}]", left)
        left_out.append(one)
        left -= one.pieces
        blocks, whole = blocks - one.whole, whole - one.near
    return Within(blocks, whole, area, boxed, kept, tuple(left_out), filters)


def _boxed(at: Snapshot, area: Area) -> tuple[frozenset[Block], frozenset[Block]]:
    """The blocks of a snapshot that an area touches, and those wholly within it."""
    near: set[Block] = set()
    whole: set[Block] = set()
    for zone, grid in at.grids.items():
        blocks = [block for block in at.versions if block.zone == zone]
        if blocks:
            is_near, is_whole = touched(area, grid, blocks)
            near |= {block for block, yes in zip(blocks, is_near, strict=True) if yes}
            whole |= {block for block, yes in zip(blocks, is_whole, strict=True) if yes}
    return frozenset(near), frozenset(whole)


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
    lon_margin, lat_margin = _margins(south, north, grid.level)
    boxes = (west - lon_margin, south - lat_margin, east + lon_margin, north + lat_margin)
    near, whole = np.zeros(len(blocks), bool), np.zeros(len(blocks), bool)
    for left, right in _spans(area):
        in_lat = (boxes[3] >= area.south) & (boxes[1] <= area.north)
        near |= in_lat & (boxes[2] >= left) & (boxes[0] <= right)
        within = (boxes[1] >= area.south) & (boxes[3] <= area.north)
        whole |= within & (boxes[0] >= left) & (boxes[2] <= right)
    return near, whole


def pixels_within(area: Area, grid: ZoneGrid, block: Block) -> BoolArray:
    """(256, 256) bool: which pixels of a block have their centre within an area.

    Places are worked out for every 16th row and column and laid between by straight lines, which is a thousand times
    as fast; where a line could be on the wrong side of an edge the pixel's own place decides.
    """
    row, col = np.meshgrid(_NODES + block.rows.start, _NODES + block.cols.start, indexing="ij")
    lon, lat = grid.to_lonlat(row, col)
    places = [_between(nodes) for nodes in (lon, lat)]
    within = contains(area, *places)
    doubtful = np.zeros_like(within)
    for nodes, found, edges in ((lon, places[0], (area.west, area.east)), (lat, places[1], (area.south, area.north))):
        bend = sum(float(np.abs(np.diff(nodes, 2, axis=axis)).max()) for axis in (0, 1))  # at least 4 times the error
        for edge in edges:
            doubtful |= np.abs(found - edge) <= bend + _ROUNDING
    rows, cols = np.nonzero(doubtful)
    within[rows, cols] = contains(area, *grid.to_lonlat(rows + block.rows.start + 0.5, cols + block.cols.start + 0.5))
    return within


def _between(nodes: Float64Array) -> Float64Array:
    """(256, 256) numbers between (17, 17) nodes, by straight lines down and across."""
    down = (nodes[:-1, None] + _SHARES[:, None] * np.diff(nodes, axis=0)[:, None]).reshape(BLOCK, -1)
    across = down[:, :-1, None] + _SHARES * np.diff(down, axis=1)[:, :, None]
    return np.asarray(across.reshape(BLOCK, BLOCK), np.float64)


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


def _margins(south: Float64Array, north: Float64Array, level: int) -> tuple[Float64Array, float]:
    """The margin in degrees of longitude at each block's latitude, and in degrees of latitude."""
    lat_margin = _MARGIN_M * level / _DEGREE_M
    cosine = np.cos(np.radians(np.minimum(np.maximum(np.abs(south), np.abs(north)), 89.0)))
    return lat_margin / cosine, lat_margin


def _box(grid: ZoneGrid, rows: Int64Array, cols: Int64Array) -> Box:
    """(west, south, east, north) of a box around blocks by row and column, generously; maybe the whole circle."""
    along = np.linspace(0, 1, _ALONG)
    top, bottom = int(rows.min()) * BLOCK, int(rows.max() + 1) * BLOCK
    left, right = int(cols.min()) * BLOCK, int(cols.max() + 1) * BLOCK
    down, across = top + along * (bottom - top), left + along * (right - left)
    same = np.ones(_ALONG)
    lon, lat = grid.to_lonlat(
        np.concatenate([down, down, same * top, same * bottom]),
        np.concatenate([same * left, same * right, across, across]),
    )
    if lon.max() - lon.min() > 180:  # across the antimeridian
        lon = np.array([-180.0, 180.0])
    return (
        float(lon.min()) - _GENEROUS, float(lat.min()) - _GENEROUS,
        float(lon.max()) + _GENEROUS, float(lat.max()) + _GENEROUS,
    )  # fmt: skip
