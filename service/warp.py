"""Which stored pixel each picture pixel shows: exact place arithmetic from any CRS into the zone grids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Final

import numpy as np

from service.cache import ByteCache
from service.errors import InvalidInput
from service.grid import Zone, ZoneGrid, zone_numbers
from service.interpolation import Int32Array, fitted, floors, whole
from service.projection import from_lonlat, to_lonlat
from service.values import CacheUse, Float32Array, Float64Array, Int64Array

_STRAIGHT: Final = ("EPSG:3857", "EPSG:4326")
"""CRS whose x is a longitude and whose y is a latitude, whatever their scale."""


@dataclass(frozen=True)
class Target:
    """A picture to be made: `width` x `height` pixels over a box of a CRS, north up."""

    crs: str
    """`EPSG:3857` or WKT."""
    bounds: tuple[float, float, float, float]
    """(left, bottom, right, top) in `crs`."""
    width: int
    """Columns."""
    height: int
    """Rows."""

    def __post_init__(self) -> None:
        left, bottom, right, top = self.bounds
        if not (np.isfinite(self.bounds).all() and left < right and bottom < top):
            raise InvalidInput(f"{self.bounds} is not a box.", field="bbox", remedy="Give left,bottom,right,top.")
        if self.width < 1 or self.height < 1:
            raise InvalidInput(f"{self.width} x {self.height} pixels are no picture.", field="width")

    @property
    def xs(self) -> Float64Array:
        """(width,) x of pixel centres."""
        left, _, right, _ = self.bounds
        return np.asarray(left + (np.arange(self.width) + 0.5) * ((right - left) / self.width), np.float64)

    @property
    def ys(self) -> Float64Array:
        """(height,) y of pixel centres, southwards."""
        _, bottom, _, top = self.bounds
        return np.asarray(top - (np.arange(self.height) + 0.5) * ((top - bottom) / self.height), np.float64)


@dataclass(frozen=True, eq=False)
class ZoneMap:
    """The part of a picture that one zone fills."""

    grid: ZoneGrid
    """The zone's grid at level 1."""
    pixels: Int32Array
    """(n,) flat indices of the picture's pixels that lie in this zone and on its grid."""
    rows: Int32Array
    """(n,) level-1 rows of the stored pixels they show. At level L it is rows // L."""
    cols: Int32Array
    """(n,) level-1 columns."""
    step: float
    """Side of a picture pixel in stored level-1 pixels; the least over the zone's part."""

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.pixels.nbytes + self.rows.nbytes + self.cols.nbytes

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """(top, bottom, left, right) of the level-1 pixels shown, ends included."""
        return int(self.rows.min()), int(self.rows.max()), int(self.cols.min()), int(self.cols.max())


def zone_maps(target: Target, grids: tuple[ZoneGrid, ...]) -> tuple[ZoneMap, ...]:
    """For each zone that the picture shows: which pixels, and which stored pixel each of them shows.

    Each picture pixel belongs to the nominal 6-degree zone that holds its centre, and shows the stored pixel that
    holds its centre: floor of the transformed place, the same as if every centre were transformed on its own.

    Args:
        target: The picture.
        grids: Level-1 grids; pixels of other zones show nothing.
    """
    return _maps.made((target, grids), lambda: tuple(_zone_maps(target, grids)))


def _zone_maps(target: Target, grids: tuple[ZoneGrid, ...]) -> Iterator[ZoneMap]:
    by_zone = {grid.zone: grid for grid in grids}
    if Zone.WORLD in by_zone:
        yield from _world(target, by_zone[Zone.WORLD])
        return
    for zone, pixels in _zones(target):
        if zone in by_zone:
            part = _one_zone(target, by_zone[zone], pixels)
            if len(part.pixels):
                yield part


def _world(target: Target, grid: ZoneGrid) -> Iterator[ZoneMap]:
    """The grid in degrees has every place. Over its seam, the antimeridian, a picture is two parts of it, not all."""
    part = _straight(target, grid) if target.crs in _STRAIGHT else _one_zone(target, grid, None)
    if not len(part.pixels):
        return
    east = part.cols >= grid.width // 2
    if east.any() and not east.all() and part.cols[east].min() - part.cols[~east].max() > grid.width // 2:
        for half in (east, ~east):
            yield ZoneMap(grid, part.pixels[half], part.rows[half], part.cols[half], part.step)
    else:
        yield part


def _straight(target: Target, grid: ZoneGrid) -> ZoneMap:
    """The same where columns follow from x alone and rows from y alone."""
    xs, ys = target.xs, target.ys
    rows = whole(_cells(target.crs, grid, np.full_like(ys, xs[0]), ys)[0])
    cols = whole(_cells(target.crs, grid, xs, np.full_like(xs, ys[0]))[1])
    held = np.flatnonzero((rows >= 0) & (rows < grid.height))
    pixels = (held[:, None] * target.width + np.arange(target.width)).astype(np.int32).ravel()
    row, col = np.repeat(rows[held], target.width), np.tile(cols, len(held))
    return ZoneMap(grid, pixels, row, col, _step(target, grid, xs, ys))


def _zones(target: Target) -> Iterator[tuple[Zone, Int64Array | None]]:
    """The nominal zones that a picture shows, each with the flat indices of its pixels; None where it has all."""

    def cells(x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Zone number - 1, and 0 in the north, -1 in the south."""
        lon, lat = to_lonlat(target.crs, x, y)
        with np.errstate(invalid="ignore"):
            wrapped = np.where(np.abs(lon) <= 180, lon, (lon + 180) % 360 - 180)
        return (wrapped + 180) / 6, lat / 90

    surface = fitted(target.xs, target.ys, cells)
    if surface is not None:
        (west, east), (south, north) = np.floor(surface.spans)
        if west == east and south == north:
            yield Zone(int(np.clip(west, 0, 59)) + 1, south < 0), None
            return
    number, half = (cell.ravel() for cell in floors(target.xs, target.ys, cells))
    keys = np.where(number < 0, -1, 2 * np.minimum(number, 59) + (half < 0)).astype(np.int8)
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    for pixels in np.split(order, starts)[1:]:
        key = int(keys[pixels[0]])
        yield Zone(key // 2 + 1, key % 2 == 1), pixels


def _one_zone(target: Target, grid: ZoneGrid, pixels: Int64Array | None) -> ZoneMap:
    """Look only at the smallest box that holds the zone's pixels: beyond the zone the projection may blow up."""
    xs, ys = target.xs, target.ys
    top, left = 0, 0
    if pixels is not None:
        i, j = np.divmod(pixels, target.width)
        top, left = int(i[0]), int(j.min())
        xs, ys = xs[left : int(j.max()) + 1], ys[top : int(i[-1]) + 1]

    cells = partial(_cells, target.crs, grid)
    row, col = floors(xs, ys, cells)
    row, col = (axis.ravel() if pixels is None else axis[i - top, j - left] for axis in (row, col))
    if pixels is None:
        pixels = np.arange(row.size)
    if min(row.min(), col.min()) < 0 or row.max() >= grid.height or col.max() >= grid.width:
        held = (row >= 0) & (row < grid.height) & (col >= 0) & (col < grid.width)
        row, col, pixels = row[held], col[held], pixels[held]
    return ZoneMap(grid, pixels.astype(np.int32), row, col, _step(target, grid, xs, ys))


def fractions(target: Target, part: ZoneMap) -> tuple[Float32Array, Float32Array]:
    """Where in their level-1 pixels the centres of a part's pixels lie: (n,) downwards and (n,) across, 0 to 1."""
    return _fractions.made((target, part.grid, int(part.pixels[0])), lambda: _fractions_of(target, part))


def _fractions_of(target: Target, part: ZoneMap) -> tuple[Float32Array, Float32Array]:
    i, j = np.divmod(part.pixels, target.width)
    top, left = int(i.min()), int(j.min())
    xs, ys = target.xs[left : int(j.max()) + 1], target.ys[top : int(i.max()) + 1]
    cells = partial(_cells, target.crs, part.grid)
    surface = fitted(xs, ys, cells)
    if surface is None:
        u, v = cells(target.xs[j], target.ys[i])
    else:
        u, v = (axis[i - top, j - left] for axis in surface.values(len(ys), len(xs)))
    below_one = np.nextafter(np.float32(1), np.float32(0))  # interpolation may put a centre a hair beyond its pixel
    down, across = (np.clip(axis, 0, below_one).astype(np.float32) for axis in (u - part.rows, v - part.cols))
    return down, across


@lru_cache(maxsize=4096)
def pixel_step(target: Target, grid: ZoneGrid) -> float:
    """Side of a picture's pixel in those of a grid; the least of corners and middle."""
    return _step(target, grid, target.xs, target.ys)


def _cells(crs: str, grid: ZoneGrid, x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Fractional rows and columns on a grid, of places of a CRS."""
    if grid.zone == Zone.WORLD:
        lon, lat = to_lonlat(crs, x, y)
        return (grid.y0 - lat) / grid.pixel, (lon - grid.x0) % 360 / grid.pixel
    east, north = (x, y) if crs == grid.crs else from_lonlat(grid.crs, *to_lonlat(crs, x, y))
    return (grid.y0 - north) / grid.pixel, (east - grid.x0) / grid.pixel


def _step(target: Target, grid: ZoneGrid, xs: Float64Array, ys: Float64Array) -> float:
    """Side, in cells, of the square as large as one picture pixel; the least of corners and middle.

    In degrees pixels of a picture of half the world differ tenfold. Then it is the middle that counts, up to four
    times the least: a picture of the whole world is not read as fine as its northern rim would need.
    """
    left, bottom, right, top = target.bounds
    dx, dy = (right - left) / target.width, (top - bottom) / target.height
    x, y = (axis.ravel() for axis in np.meshgrid(xs[[0, len(xs) // 2, -1]], ys[[0, len(ys) // 2, -1]]))
    around = np.concatenate([x + dx / 2, x - dx / 2, x, x]), np.concatenate([y, y, y + dy / 2, y - dy / 2])
    row, col = (np.split(axis, 4) for axis in _cells(target.crs, grid, *around))
    with np.errstate(invalid="ignore"):
        across, down = _turned(grid, col[2] - col[3]), _turned(grid, col[0] - col[1])
        area = np.abs((row[0] - row[1]) * across - (row[2] - row[3]) * down)
    finite = area[np.isfinite(area)]
    if not len(finite):
        return 1.0
    least, middle = float(np.sqrt(finite.min())), float(np.sqrt(area[len(area) // 2]))
    return min(middle, 4 * least) if grid.zone == Zone.WORLD and middle > least else least


def _turned(grid: ZoneGrid, cols: Float64Array) -> Float64Array:
    """Differences of columns, over the antimeridian where that is the shorter way."""
    half = grid.width / 2
    return (cols + half) % grid.width - half if grid.zone == Zone.WORLD else cols


def zone_at(lon: float, lat: float) -> Zone:
    """The nominal zone of a place, any number of turns around the globe."""
    wrapped = lon if -180 <= lon <= 180 else (lon + 180) % 360 - 180
    return Zone(int(zone_numbers(np.array([wrapped]))[0]), lat < 0)


def _size(maps: tuple[ZoneMap, ...]) -> int:
    return 1000 + sum(part.nbytes for part in maps)


_maps: Final = ByteCache[tuple[ZoneMap, ...]](64_000_000, _size)
"""A map of 256 x 256 pixels takes 0.8 MB."""


_fractions: Final = ByteCache[tuple[Float32Array, Float32Array]](64_000_000, lambda pair: 1000 + 2 * pair[0].nbytes)


def cache_use() -> CacheUse:
    """How the maps that are kept were used by this process."""
    maps, parts = _maps.use(), _fractions.use()
    return CacheUse(maps.hits + parts.hits, maps.misses + parts.misses, maps.bytes + parts.bytes)
