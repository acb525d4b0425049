"""Which stored pixel each picture pixel shows: exact place arithmetic from any CRS into the zone grids."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.polynomial.chebyshev import chebvander

from service.errors import InvalidInput
from service.grid import Zone, ZoneGrid, transformer, zone_numbers
from service.linear import product
from service.values import BoolArray, CacheUse, Float64Array, Int64Array

Int32Array = npt.NDArray[np.int32]
Cells = Callable[[Float64Array, Float64Array], tuple[Float64Array, Float64Array]]
"""From places in the picture's CRS to fractional cells."""

LONLAT: Final = "EPSG:4326"
_NODES: Final = (10, 20)
_TOLERANCE: Final = 0.01
"""Cells. Where interpolation cannot be shown to be at least this good, every pixel is transformed."""


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
    key = (target, grids)
    known = _cache.get(key)
    if known is None:
        known = tuple(_zone_maps(target, grids))
        _cache.put(key, known)
    return known


def _zone_maps(target: Target, grids: tuple[ZoneGrid, ...]) -> list[ZoneMap]:
    xs, ys = target.xs, target.ys
    to_lonlat = transformer(target.crs, LONLAT)

    def zone_cells(x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Zone number - 1, and 0 in the north, -1 in the south."""
        lon, lat = to_lonlat.transform(x, y)
        lon, lat = np.asarray(lon), np.asarray(lat)
        with np.errstate(invalid="ignore"):
            wrapped = np.where(np.abs(lon) <= 180, lon, (lon + 180) % 360 - 180)
        return (wrapped + 180) / 6, lat / 90

    number, half = floors(xs, ys, zone_cells)
    number = np.clip(number + 1, 1, 60)
    found = []
    for grid in grids:
        mine = (number == grid.zone.number) & ((half < 0) == grid.zone.south)
        if mine.any():
            part = _one_zone(target, xs, ys, grid, mine)
            if len(part.pixels):
                found.append(part)
    return found


def _one_zone(target: Target, xs: Float64Array, ys: Float64Array, grid: ZoneGrid, mine: BoolArray) -> ZoneMap:
    """Look only at the smallest box that holds the zone's pixels: beyond the zone the projection may blow up."""
    held_rows, held_cols = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
    down, across = slice(held_rows[0], held_rows[-1] + 1), slice(held_cols[0], held_cols[-1] + 1)
    project = transformer(target.crs, grid.crs)

    def cells(x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
        east, north = project.transform(x, y)
        return (grid.y0 - np.asarray(north)) / grid.pixel, (np.asarray(east) - grid.x0) / grid.pixel

    row, col = floors(xs[across], ys[down], cells)
    held = mine[down, across] & (row >= 0) & (row < grid.height) & (col >= 0) & (col < grid.width)
    i, j = np.nonzero(held)
    pixels = (i + down.start) * target.width + (j + across.start)
    left, bottom, right, top = target.bounds
    step = _step(xs[across], ys[down], (right - left) / target.width, (top - bottom) / target.height, cells)
    return ZoneMap(
        grid, pixels.astype(np.int32), row[held].astype(np.int32), col[held].astype(np.int32), step
    )  # fmt: skip


def _step(xs: Float64Array, ys: Float64Array, dx: float, dy: float, cells: Cells) -> float:
    """Side, in cells, of the square as large as one picture pixel; the least of corners and middle."""
    ends = [0, len(xs) // 2, -1], [0, len(ys) // 2, -1]
    x, y = (axis.ravel() for axis in np.meshgrid(xs[ends[0]], ys[ends[1]]))
    row_e, col_e = cells(x + dx / 2, y)
    row_w, col_w = cells(x - dx / 2, y)
    row_n, col_n = cells(x, y + dy / 2)
    row_s, col_s = cells(x, y - dy / 2)
    with np.errstate(invalid="ignore"):
        area = np.abs((row_e - row_w) * (col_n - col_s) - (row_n - row_s) * (col_e - col_w))
    finite = area[np.isfinite(area)]
    return float(np.sqrt(finite.min())) if len(finite) else 1.0


def floors(xs: Float64Array, ys: Float64Array, cells: Cells) -> tuple[Int64Array, Int64Array]:
    """The cell of each pixel centre of a grid: floor of `cells`, without calling it for every pixel.

    `cells` is interpolated by Chebyshev polynomials, and compared with itself between their nodes, where their
    error is largest. Pixels that lie nearer to a cell's edge than four times that error are transformed on their
    own, so the answer is that of transforming all of them. Where the interpolation is poor (a projection that
    blows up, a jump at the antimeridian) all of them are.

    Args:
        xs: (w,) x of pixel centres, ascending.
        ys: (h,) y of pixel centres, descending.
        cells: From x and y to two fractional cells, not finite where there is none.

    Returns:
        Two (h, w) int64; -1 where there is no answer.
    """
    for nodes in _NODES if len(xs) * len(ys) > 4 * _NODES[0] ** 2 else ():
        u, v, error = _interpolated(xs, ys, cells, nodes)
        margin = 4 * error + 1e-7
        if margin < _TOLERANCE:
            near = (np.abs(u - np.rint(u)) < margin) | (np.abs(v - np.rint(v)) < margin)
            i, j = np.nonzero(near)
            if len(i):
                u[i, j], v[i, j] = cells(xs[j], ys[i])
            return _floor(u), _floor(v)
    x, y = np.meshgrid(xs, ys)
    u, v = cells(x.ravel(), y.ravel())
    return _floor(u).reshape(x.shape), _floor(v).reshape(x.shape)


def _interpolated(
    xs: Float64Array, ys: Float64Array, cells: Cells, nodes: int
) -> tuple[Float64Array, Float64Array, float]:
    """Both cells of all pixels by interpolation, and the largest error seen (inf where something is not finite)."""
    at = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
    between = np.cos(np.pi * np.arange(nodes + 1) / nodes)

    def exact(t: Float64Array) -> tuple[Float64Array, Float64Array]:
        x, y = np.meshgrid(_from_unit(t, xs), _from_unit(t, ys))
        u, v = cells(x.ravel(), y.ravel())
        return u.reshape(x.shape), v.reshape(x.shape)

    known, wanted = exact(at), exact(between)
    if not all(np.isfinite(values).all() for values in (*known, *wanted)):
        return known[0], known[1], np.inf
    check = _weights(between, at)
    error = max(float(np.abs(check @ k @ check.T - w).max()) for k, w in zip(known, wanted, strict=True))
    wx, wy = _weights(_to_unit(xs), at), _weights(_to_unit(ys), at)
    u, v = (product(product(wy, values), wx.T) for values in known)
    return u, v, error


def _to_unit(axis: Float64Array) -> Float64Array:
    return np.linspace(-1, 1, len(axis)) if len(axis) > 1 else np.zeros(1)


def _from_unit(t: Float64Array, axis: Float64Array) -> Float64Array:
    return np.asarray(axis[0] + (t + 1) / 2 * (axis[-1] - axis[0]))


def _weights(points: Float64Array, nodes: Float64Array) -> Float64Array:
    """(points, nodes) weights: the interpolating polynomial's value at `points` from its values at `nodes`."""
    n = len(nodes)
    basis = chebvander(nodes, n - 1)
    basis[:, 0] /= 2
    return np.asarray(2 / n * chebvander(points, n - 1) @ basis.T)


def _floor(cells: Float64Array) -> Int64Array:
    whole = np.floor(cells)
    good = np.isfinite(whole) & (np.abs(whole) < 2**31)
    return np.where(good, whole, -1).astype(np.int64)


def zone_at(lon: float, lat: float) -> Zone:
    """The nominal zone of a place, any number of turns around the globe."""
    wrapped = lon if -180 <= lon <= 180 else (lon + 180) % 360 - 180
    return Zone(int(zone_numbers(np.array([wrapped]))[0]), lat < 0)


class _Cache:
    """The maps used last, up to so many bytes. A map of 256 x 256 pixels takes 0.8 MB and a millisecond."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self._lock = threading.Lock()
        self._held: OrderedDict[object, tuple[ZoneMap, ...]] = OrderedDict()

    def get(self, key: object) -> tuple[ZoneMap, ...] | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                self._hits += 1
            else:
                self._misses += 1
            return self._held.get(key)

    def use(self) -> CacheUse:
        """How it was used."""
        with self._lock:
            return CacheUse(self._hits, self._misses, self._bytes)

    def put(self, key: object, maps: tuple[ZoneMap, ...]) -> None:
        with self._lock:
            if key in self._held:
                return
            self._held[key] = maps
            self._bytes += self._size(maps)
            while self._bytes > self._limit and self._held:
                _, dropped = self._held.popitem(last=False)
                self._bytes -= self._size(dropped)

    @staticmethod
    def _size(maps: tuple[ZoneMap, ...]) -> int:
        return 1000 + sum(part.nbytes for part in maps)


_cache: Final = _Cache(64_000_000)


def cache_use() -> CacheUse:
    """How the maps that are kept were used by this process."""
    return _cache.use()
