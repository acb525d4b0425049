"""All place arithmetic: lon/lat, UTM zone, row and column, block, tile. Nothing else.

Rows run south and columns east from a grid's upper-left corner; a pixel's centre is at +0.5. A place belongs
to the pixel that holds it by floor, never by rounding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Final, Self

import numpy as np
from pyproj import Transformer

from service.errors import InvalidInput, OutsideBounds
from service.values import BLOCK, Float64Array, Int64Array

PIXEL: Final = 10.0
"""Side of a pixel, metres, at level 1."""
ZONE_LEVELS: Final = (1, 2, 4, 8, 16, 32)
"""Levels of the zone grids; coarser ones lie on the grid of the world."""
WORLD_LEVELS: Final = tuple(64 << n for n in range(9))
"""64 (65536 x 32768 pixels, 0.6 km at the equator) to 16384: 256 x 128 pixels, one block."""


@dataclass(frozen=True, order=True)
class Zone:
    """A nominal 6-degree UTM zone and hemisphere: `30N`. Norway's and Svalbard's exceptions are not used."""

    WORLD: ClassVar[Zone]
    """All zones together, in degrees: where overviews of 64 times and more lie."""

    number: int
    """1 to 60; 0 of the world alone, which no number from outside makes: take `WORLD`."""
    south: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.number <= 60:
            raise InvalidInput(f"there is no UTM zone {self.number}.", field="zone")

    @classmethod
    def parse(cls, name: str) -> Zone:
        """Read `30N`, or `world`.

        Raises:
            InvalidInput: If `name` has another form.
        """
        if name == "world":
            return cls.WORLD
        match = re.fullmatch(r"(\d{1,2})([NS])", name)
        if not match or not int(match[1]):
            raise InvalidInput(f"{name[:20]!r} is not a UTM zone.", field="zone", remedy="Write 30N or 56S.")
        return cls(int(match[1]), match[2] == "S")

    @classmethod
    def of(cls, lon: float, lat: float) -> Self:
        """The zone that holds a place; the equator belongs to the north."""
        return cls(int(zone_numbers(np.array([lon]))[0]), lat < 0)

    @property
    def name(self) -> str:
        """`30N`, or `world`."""
        return "world" if not self.number else f"{self.number:02d}{'S' if self.south else 'N'}"

    @property
    def epsg(self) -> int:
        """EPSG code of WGS 84 / UTM: 326zz north, 327zz south; of WGS 84 for the world."""
        return 4326 if not self.number else (32700 if self.south else 32600) + self.number

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) of the nominal zone, degrees."""
        if not self.number:
            return -180.0, -90.0, 180.0, 90.0
        west = -180.0 + 6 * (self.number - 1)
        return (west, -80.0, west + 6, 0.0) if self.south else (west, 0.0, west + 6, 84.0)


def _world() -> Zone:
    """Past the check: a number from outside must not become the whole world."""
    zone = object.__new__(Zone)
    object.__setattr__(zone, "number", 0)
    object.__setattr__(zone, "south", False)
    return zone


Zone.WORLD = _world()


def zone_numbers(lon: Float64Array) -> Int64Array:
    """UTM zone number of each longitude: clamp(floor((lon + 180) / 6) + 1, 1, 60)."""
    return np.asarray(np.clip(np.floor((np.asarray(lon) + 180.0) / 6.0) + 1, 1, 60), np.int64)


@lru_cache(maxsize=256)
def transformer(source: str, target: str) -> Transformer:
    """A pyproj transformer between two CRS (`EPSG:4326`), x before y on both sides. Kept: building one is slow."""
    return Transformer.from_crs(source, target, always_xy=True)


@dataclass(frozen=True)
class ZoneGrid:
    """The pixel grid of one zone in a dataset, at one level; that of the world is in degrees, not in metres."""

    zone: Zone
    """The nominal zone whose pixels this grid holds."""
    x0: float
    """Easting of the upper-left corner, metres."""
    y0: float
    """Northing of the upper-left corner, metres, in the CRS of `epsg`."""
    width: int
    """Columns."""
    height: int
    """Rows."""
    level: int = 1
    """Reduction: a pixel is 10 m x level. 1, 2, 4, ... 32; from 64 on, of the world."""
    epsg: int = 0
    """CRS of x0 and y0; 0 means the zone's own. Published stores use the northern CRS in both hemispheres."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or self.level < 1:
            raise InvalidInput(f"{self.width} x {self.height} at level {self.level} is no grid.", field="grid")
        if not self.epsg:
            object.__setattr__(self, "epsg", self.zone.epsg)

    @property
    def crs(self) -> str:
        """`EPSG:32630`."""
        return f"EPSG:{self.epsg}"

    @property
    def pixel(self) -> float:
        """Side of a pixel, metres; of the world, degrees."""
        return (PIXEL if self.zone.number else _WORLD_PIXEL) * self.level

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top), metres in `crs`."""
        return (
            self.x0,
            self.y0 - self.height * self.pixel,
            self.x0 + self.width * self.pixel,
            self.y0,
        )

    def at_level(self, level: int) -> ZoneGrid:
        """The same grid reduced `level` times; the last row and column may reach beyond the data."""
        return replace(self, level=level, width=-(-self.width // level), height=-(-self.height // level))

    def from_lonlat(self, lon: Float64Array, lat: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Fractional (row, col) of places in degrees; inf where the projection has no answer."""
        x, y = transformer("EPSG:4326", self.crs).transform(lon, lat)
        return (self.y0 - np.asarray(y)) / self.pixel, (np.asarray(x) - self.x0) / self.pixel

    def to_lonlat(self, row: Float64Array, col: Float64Array) -> tuple[Float64Array, Float64Array]:
        """(lon, lat) in degrees of fractional rows and columns; a pixel's centre is at +0.5."""
        x = self.x0 + np.asarray(col, float) * self.pixel
        y = self.y0 - np.asarray(row, float) * self.pixel
        lon, lat = transformer(self.crs, "EPSG:4326").transform(x, y)
        return np.asarray(lon), np.asarray(lat)

    def cell(self, lon: float, lat: float) -> tuple[int, int]:
        """(row, col) of the pixel that holds a place.

        Raises:
            OutsideBounds: If the place is beyond this grid.
        """
        row, col = self.from_lonlat(np.array([lon]), np.array([lat]))
        if not (0 <= row[0] < self.height and 0 <= col[0] < self.width):
            raise OutsideBounds(f"{lon}, {lat} lies outside zone {self.zone.name} of this dataset.")
        return int(np.floor(row[0])), int(np.floor(col[0]))


_WORLD_PIXEL: Final = 360.0 / 2**22
WORLD_GRID: Final = ZoneGrid(Zone.WORLD, -180.0, 90.0, 2**22, 2**21)
"""The grid of the world as if it had a level 1; it is kept at `WORLD_LEVELS`. Its first and last columns meet."""


@dataclass(frozen=True, order=True)
class Block:
    """256 x 256 pixels of a zone grid at one level, aligned to the grid's origin."""

    zone: str
    """Zone name, `30N`, or `world`."""
    row: int
    """Block row: pixel rows row * 256 ... row * 256 + 255."""
    col: int
    """Block column, likewise."""
    level: int = 1
    """Level of the grid the block lies on."""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read `30N/1204/87`, a block of level 1.

        Raises:
            InvalidInput: If `name` has another form.
        """
        match = re.fullmatch(r"(\d{1,2}[NS])/(\d{1,6})/(\d{1,6})", name)
        if not match:
            raise InvalidInput(f"{name[:40]!r} is not a block.", field="block", remedy="Write 30N/1204/87.")
        return cls(Zone.parse(match[1]).name, int(match[2]), int(match[3]))

    @property
    def rows(self) -> slice:
        """Pixel rows."""
        return slice(self.row * BLOCK, (self.row + 1) * BLOCK)

    @property
    def cols(self) -> slice:
        """Pixel columns."""
        return slice(self.col * BLOCK, (self.col + 1) * BLOCK)

    @property
    def name(self) -> str:
        """`30N/1204/87`, with the level in front where it is not 1: `o8/30N/150/10`."""
        text = f"{self.zone}/{self.row}/{self.col}"
        return text if self.level == 1 else f"o{self.level}/{text}"

    def parent(self) -> Block:
        """The block that holds this one at the next level."""
        return Block(self.zone, self.row // 2, self.col // 2, self.level * 2)

    def children(self) -> tuple[Block, ...]:
        """The four blocks of the level before that this one summarises."""
        return tuple(
            Block(self.zone, 2 * self.row + i, 2 * self.col + j, self.level // 2) for i in (0, 1) for j in (0, 1)
        )


def blocks_of(zone: str, rows: slice, cols: slice, level: int = 1) -> Iterator[Block]:
    """The blocks that a window of pixels touches, row by row."""
    for row in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
        for col in range(cols.start // BLOCK, -(-cols.stop // BLOCK)):
            yield Block(zone, row, col, level)


def archive_grid(zone: Zone) -> ZoneGrid:
    """The fixed grid of a zone in every repository smalti writes: blocks of two datasets coincide.

    North: origin E 163840, N 9338880, the origin of the published archive's northern zones, down to one block
    beyond the equator, so that the line itself has a pixel. South: the same columns, N 10001920 down to 1111040.
    Both are whole blocks of 2560 m.

    Raises:
        InvalidInput: Of the world, which holds overviews alone.
    """
    if zone == Zone.WORLD:
        raise InvalidInput("the world is no UTM zone: no pixels are written there.", field="zone")
    if zone.south:
        return ZoneGrid(zone, 163_840.0, 10_001_920.0, 264 * BLOCK, 3473 * BLOCK)
    return ZoneGrid(zone, 163_840.0, 9_338_880.0, 264 * BLOCK, 3649 * BLOCK)
