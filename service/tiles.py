"""Journey 1: a rio-tiler reader over a Store. The seven verbs of rio-tiler, each one picture of `service.plan`."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import attr
import numpy as np
import numpy.ma as ma
from morecantile import TileMatrixSet
from rasterio.crs import CRS
from rio_tiler.constants import WEB_MERCATOR_TMS, WGS84_CRS
from rio_tiler.errors import TileOutsideBounds
from rio_tiler.io import BaseReader
from rio_tiler.models import BandStatistics, ImageData, Info, PointData
from rio_tiler.utils import CRS_to_uri

from service.colour import StoredView
from service.errors import InvalidInput, LimitExceeded
from service.features import CoveredImage, drawn_in, outside
from service.frame import (
    crs_text,
    geometry_bounds,
    lonlat_box,
    native_pixel,
    part_target,
    unbroken,
)
from service.grid import PIXEL, transformer
from service.matrices import native_box
from service.paint import paint
from service.plan import MAX_SOURCE_BYTES, Source
from service.projection import LONLAT
from service.values import OUTSIDE, STATUS_NAMES
from service.warp import Target, zone_maps

TILE_SIZES: Final = (256, 512)
MAX_BUFFER: Final = 128
"""Pixels that a tile may be asked to grow by on each side."""
MAX_READS: Final = 100
"""Pictures one request may make: features of one collection."""
DEFAULT_SIDE: Final = 1024
DEFAULT_SIDE_WIDE: Final = 256
"""Where every pixel carries a whole vector."""


@attr.s
class TileReader(BaseReader):
    """Pictures of one window of one dataset, seen through one view.

    `input` is a `Source`. Sampling is nearest: each pixel shows the stored pixel that holds its centre, read at the
    coarsest level that is no coarser than the picture. A pixel is masked exactly where its status is not VALID.
    """

    input: Source = attr.ib()
    tms: TileMatrixSet = attr.ib(default=WEB_MERCATOR_TMS)

    def __attrs_post_init__(self) -> None:
        """Find the bounds.

        Raises:
            NotFound: The window holds no data yet.
        """
        self.bounds = self.input.footprint.bounds
        self.crs = WGS84_CRS
        self._reads = 0

    # Zoom levels

    @cached_property
    def maxzoom(self) -> int:
        """The first zoom whose pixels are no larger than the stored ones."""
        fine = (z for z in range(self.tms.minzoom, self.tms.maxzoom) if self._ground(z) <= PIXEL)
        return next(fine, self.tms.maxzoom)

    @cached_property
    def minzoom(self) -> int:
        """The lowest zoom whose tiles can be made within the reading budget."""
        z = self.maxzoom
        while z > self.tms.minzoom and self._cost(z - 1) <= MAX_SOURCE_BYTES:
            z -= 1
        return z

    def _ground(self, z: int) -> float:
        """Metres on the ground along a side of a tile's pixel, at the middle of the dataset."""
        return float(self.tms.matrix(z).cellSize) * self._metres

    @cached_property
    def _metres(self) -> float:
        """Metres on the ground in one unit of the tile matrix set, at the middle of the dataset."""
        lon, lat = (self.bounds[0] + self.bounds[2]) / 2, (self.bounds[1] + self.bounds[3]) / 2
        try:
            return PIXEL / native_pixel(crs_text(self.tms.rasterio_crs), lon, lat)
        except InvalidInput:  # a national grid, on the other side of the globe
            return 1.0

    def _cost(self, z: int) -> float:
        """Bytes that the largest tile of a zoom may read."""
        ground = self._ground(z)
        level = max([level for level in self._levels if level * PIXEL <= ground] or [1])
        west, south, east, north = self.bounds
        metres_per_degree = 111_320.0
        width = (east - west) * metres_per_degree * np.cos(np.radians((south + north) / 2))
        sides = (min(size, 256 * ground) / (level * PIXEL) for size in (width, (north - south) * metres_per_degree))
        return float(np.prod(list(sides))) * self.input.dims * len(self.input.sides)

    @cached_property
    def _levels(self) -> list[int]:
        """Levels that hold anything of what is shown: another window may have overviews where this one has none."""
        source = self.input
        return [
            level
            for level in source.levels
            if level == 1 or all(side.store.blocks(side.window, level=level) for side in source.sides)
        ]

    # The seven verbs

    def info(self) -> Info:
        """What this is: bounds, bands, type, legend, model."""
        source = self.input
        return Info(
            bounds=self.bounds,
            crs=CRS_to_uri(self.crs) or self.crs.to_wkt(),
            band_metadata=[(name, {}) for name in self.band_names],
            band_descriptions=[(name, name) for name in self.band_names],
            dtype="uint8" if source.picture else "float32",
            nodata_type="Alpha" if source.picture else "Nodata",
            model=str(source.store.identity),
            window=str(source.window),
            legend=source.view.legend,
        )

    @property
    def band_names(self) -> list[str]:
        """Names of the bands of a picture."""
        if not self.input.picture:
            return list(self.input.view.band_names)
        return ["red", "green", "blue"] if self.input.palette is None else ["colour"]

    @property
    def colormap(self) -> dict[int, tuple[int, ...]] | None:
        """The colours of indices, as rio-tiler has them; None where pictures hold colours, or numbers."""
        palette = self.input.palette
        return None if palette is None else dict(enumerate(map(tuple, palette.tolist())))

    def tile_exists(self, tile_x: int, tile_y: int, tile_z: int) -> bool:
        """Whether a tile touches the box of the dataset, or lies in the rows and columns that do.

        Those are a rectangle; in a grid that is turned against the meridians some of it holds nothing.
        """
        target = tile_target(self.tms, tile_x, tile_y, tile_z)
        if self._matrix_box and _touch(target.bounds, self._matrix_box):
            return True
        west, south, east, north = lonlat_box(target)
        left, bottom, right, top = self.bounds
        across = any(west + turn < right and east + turn > left for turn in (-360, 0, 360))
        return across and south < top and north > bottom

    @cached_property
    def _matrix_box(self) -> tuple[float, float, float, float] | None:
        return native_box(self.tms, self.bounds)

    def tile(
        self, tile_x: int, tile_y: int, tile_z: int, tilesize: int | None = None, buffer: float | None = None, **_: Any
    ) -> ImageData:
        """One tile of the tile matrix set, and `buffer` pixels more on each side.

        Raises:
            TileOutsideBounds: It lies beyond the matrix, or where the dataset holds nothing.
            InvalidInput: `tilesize` is neither 256 nor 512, or `buffer` no multiple of a half.
            LimitExceeded: The zoom is too low for the overviews there are, or `buffer` over 128.
        """
        target = tile_target(self.tms, tile_x, tile_y, tile_z, tilesize, buffer)
        if not self.tile_exists(tile_x, tile_y, tile_z):
            raise TileOutsideBounds(f"Tile {tile_z}/{tile_x}/{tile_y} lies outside the dataset.")
        return self.picture(target)

    def part(
        self,
        bbox: tuple[float, float, float, float],
        dst_crs: CRS | None = None,
        bounds_crs: CRS | None = None,
        max_size: int | None = None,
        width: int | None = None,
        height: int | None = None,
        **_: Any,
    ) -> ImageData:
        """A box of `bounds_crs` as a picture in `dst_crs`, by default in the UTM zone of its middle.

        In that zone the picture's pixels are the stored ones unless it has to be made smaller.

        Raises:
            InvalidInput: The box is none.
            LimitExceeded: The picture would be too large.
        """
        side = max_size or (None if self.input.native else self._default_side)
        return self.picture(part_target(bbox, bounds_crs or WGS84_CRS, dst_crs, side, width, height))

    def preview(
        self,
        max_size: int | None = None,
        width: int | None = None,
        height: int | None = None,
        dst_crs: CRS | None = None,
        **_: Any,
    ) -> ImageData:
        """The whole dataset as one picture. Raises as `part` does."""
        return self.part(self.bounds, dst_crs, WGS84_CRS, max_size or self._default_side, width, height)

    def feature(
        self,
        shape: dict[str, Any],
        dst_crs: CRS | None = None,
        shape_crs: CRS | None = None,
        max_size: int | None = None,
        width: int | None = None,
        height: int | None = None,
        **_: Any,
    ) -> ImageData:
        """The box of a GeoJSON geometry or feature; what lies outside the geometry is masked. Raises as `part` does.

        One in degrees that is cut at the antimeridian is shown whole, over it.
        """
        geometry = (shape.get("geometry") if shape.get("type") == "Feature" else shape) or {}
        crs = shape_crs or WGS84_CRS
        side = max_size or (None if self.input.native else self._default_side)
        whole = unbroken(geometry) if crs.is_geographic else geometry
        box = geometry_bounds(whole)
        target = part_target(box, crs, dst_crs, side, width, height, field="geometry")
        image = self.picture(target)
        masked = outside(drawn_in(geometry, crs, image.crs), target)
        image.cutline_mask = masked
        image.array = ma.MaskedArray(image.array.data, image.array.mask | masked)
        return image

    def point(self, lon: float, lat: float, coord_crs: CRS | None = None, **_: Any) -> PointData:
        """The view's numbers at one place; masked where there are none, with the status in `metadata`.

        Raises:
            InvalidInput: The coordinates are none.
        """
        if coord_crs and coord_crs != WGS84_CRS:
            lon, lat = (float(c) for c in transformer(crs_text(coord_crs), LONLAT).transform(lon, lat))
        vectors = self.input.at(lon, lat)
        values = self.input.view.values(vectors)[0]
        return PointData(
            ma.MaskedArray(values, np.full(values.shape, not vectors.valid[0])),
            band_names=list(self.input.view.band_names),
            band_descriptions=list(self.input.view.band_names),
            coordinates=(lon, lat),
            crs=WGS84_CRS,
            metadata={"status": STATUS_NAMES[int(vectors.status[0])]},
        )

    def statistics(self, **options: Any) -> dict[str, BandStatistics]:
        """Statistics of a preview."""
        found: dict[str, BandStatistics] = self.preview().statistics(**options)
        return found

    # How

    def picture(self, target: Target) -> ImageData:
        """One picture: what all the verbs but `point` come down to. Raises as `part` does."""
        self._reads += 1
        if self._reads > MAX_READS:
            raise LimitExceeded(f"a collection has at most {MAX_READS} features.", field="features")
        array = paint(self.input, target)
        if isinstance(self.input.view, StoredView):
            _tell_outside(array, target, self.input)
        return CoveredImage(
            array,
            bounds=target.bounds,
            crs=CRS.from_user_input(target.crs),
            band_names=self.band_names,
            band_descriptions=self.band_names,
            nodata=None if self.input.picture else np.nan,
        )

    @property
    def _default_side(self) -> int:
        return DEFAULT_SIDE if self.input.bands <= 4 else DEFAULT_SIDE_WIDE


def _tell_outside(array: ma.MaskedArray, target: Target, source: Source) -> None:
    """Set the status of what no grid of a store holds: `paint` knows only pixels that are on one."""
    off = np.ones(target.width * target.height, bool)
    for part in zone_maps(target, source.store.zones()):
        off[part.pixels] = False
    array.data[-1][off.reshape(target.height, target.width)] = OUTSIDE


def _touch(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def tile_target(tms: Any, x: int, y: int, z: int, tilesize: int | None = None, buffer: float | None = None) -> Target:
    """The picture that a tile is.

    Args:
        tms: The tile matrix set.
        x: Column.
        y: Row, southwards.
        z: Zoom.
        tilesize: 256 or 512; what the matrix says where absent.
        buffer: Pixels added on each side; with a half the pixels lie half a pixel off the tile's own.

    Raises:
        TileOutsideBounds: The matrix has no such tile.
        InvalidInput: `tilesize` is neither 256 nor 512, or `buffer` no multiple of a half.
        LimitExceeded: `buffer` is over 128.
    """
    if not tms.minzoom <= z <= tms.maxzoom:
        raise TileOutsideBounds(f"Zoom {z} is not among {tms.minzoom} to {tms.maxzoom}.")
    matrix = tms.matrix(z)
    if not (0 <= x < matrix.matrixWidth and 0 <= y < matrix.matrixHeight):
        raise TileOutsideBounds(f"Tile {z}/{x}/{y} lies beyond the tile matrix.")
    size = tilesize or matrix.tileWidth
    if size not in TILE_SIZES:
        raise InvalidInput(f"{size} is not a tile size.", field="tilesize", remedy="Ask for 256 or 512.")
    tile = Target(crs_text(tms.rasterio_crs), tuple(tms.xy_bounds(x, y, z)), size, size)
    return _grown(tile, buffer) if buffer else tile


def _grown(tile: Target, buffer: float) -> Target:
    """A picture with so many more pixels on each side."""
    if buffer < 0 or buffer * 2 % 1:
        raise InvalidInput(f"{buffer} is no multiple of a half.", field="buffer", remedy="Ask for 0.5, 1, 1.5, ...")
    if buffer > MAX_BUFFER:
        raise LimitExceeded(f"a tile grows by at most {MAX_BUFFER} pixels on each side.", field="buffer")
    left, bottom, right, top = tile.bounds
    dx, dy = buffer * (right - left) / tile.width, buffer * (top - bottom) / tile.height
    box = (left - dx, bottom - dy, right + dx, top + dy)
    return Target(tile.crs, box, tile.width + int(2 * buffer), tile.height + int(2 * buffer))
