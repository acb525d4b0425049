"""The only door to odc: what an open raster shows at some pixels of a zone's grid.

Most scenes lie on the very grid that we write, so most of the work is to copy, or for the bands of 20 m to put three
new pixels between each four. That is done here with integers. Whatever else is needed, another zone, another pixel,
an edge or a gap among the four, GDAL warps, over a window that odc-geo works out; it is what odc-stac does, with the
same result, without opening each file a second time. A block's year is a thousand files.

Resampling is the published one: GDAL's, which hands values back in the file's own type, so that integers between
pixels are rounded, half up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window as RasterWindow

from service.errors import InvalidInput
from service.grid import PIXEL, archive_grid
from service.scenes.gdal import looking
from service.sources import Placement

if TYPE_CHECKING:  # a second to import, and not all who import this read scenes
    from odc.geo.geobox import GeoBox
    from rasterio.io import DatasetReader

Resampling = Literal["nearest", "bilinear"]
Way = Literal["copy", "double", "warp"]
Raster = npt.NDArray[Any]

_PAD: Final = 3
"""Pixels around what is shown that are read for a warp: a curve may bulge by one, and the four nearest reach by one."""
_MOST: Final = 4
"""Pixels of a file to one of ours, along a side: a file that would give more is not of the kind it is said to be."""


def shown(raster: DatasetReader, place: Placement, resampling: Resampling) -> Raster:
    """What the first band of a raster shows at some pixels of a zone's grid.

    Args:
        raster: Open; in any CRS.
        place: The pixels.
        resampling: How to read between pixels.

    Returns:
        (height, width) in the raster's own type. Integers are 0 and floats NaN where it has no data.

    Raises:
        InvalidInput: Its pixels are much smaller than ours.
        rasterio.errors.RasterioError: It cannot be read.
    """
    plan = _planned(raster.crs.to_wkt(), raster.transform, raster.shape, place)
    dtype = np.dtype(raster.dtypes[0])
    out = np.full((place.height, place.width), np.nan if dtype.kind == "f" else 0, dtype)
    if plan is None:
        return out
    held = raster.read(1, window=RasterWindow.from_slices(*plan.window))
    nodata = raster.nodata
    if plan.way == "copy":
        out[plan.part] = _without(held, nodata)
    elif plan.way == "double" and (made := _doubled(held, nodata, resampling)) is not None:
        out[:] = made[2 * _PAD : -2 * _PAD, 2 * _PAD : -2 * _PAD]
    else:
        _warped(held, out, plan, resampling, nodata)
    return out


@dataclass(frozen=True)
class _Plan:
    """How a raster is brought onto our pixels."""

    way: Way
    window: tuple[slice, slice]
    """Rows and columns of the raster that are read."""
    part: tuple[slice, slice]
    """Rows and columns of ours that those fill, where they are copied."""
    source: GeoBox
    """The grid of the window."""
    target: GeoBox
    """Ours."""


@lru_cache(maxsize=1024)
def _planned(crs: str, transform: Affine, shape: tuple[int, int], place: Placement) -> _Plan | None:
    """None where they lie apart. All files of a tile that have the same pixels share a plan."""
    from odc.geo.geobox import GeoBox
    from odc.geo.overlap import compute_reproject_roi

    source, target = GeoBox(shape, transform, CRS.from_wkt(crs)), geobox(place)
    info = compute_reproject_roi(source, target)
    copied = info.paste_ok and info.read_shrink == 1
    if not copied:
        info = compute_reproject_roi(source, target, padding=_PAD)
    held = source[info.roi_src]
    window, part = _slices(info.roi_src), _slices(info.roi_dst)
    if any(axis.stop <= axis.start for axis in (*window, *part)):
        return None
    if max(held.shape) > _MOST * (max(target.shape) + 2 * _PAD):
        raise InvalidInput(f"has {held.shape} pixels where {place.height} x {place.width} are due.")
    way: Way = "copy" if copied else "double" if _twice(held, target) else "warp"
    return _Plan(way, window, part, held, target)


def _slices(roi: tuple[Any, Any]) -> tuple[slice, slice]:
    return slice(roi[0].start, roi[0].stop), slice(roi[1].start, roi[1].stop)


def _twice(held: GeoBox, target: GeoBox) -> bool:
    """Whether a window's pixels are four of the target's each, all of it and the frame around it."""
    fits = [side == 2 * (other - 2 * _PAD) for side, other in zip(target.shape, held.shape, strict=True)]
    return held.crs == target.crs and all(fits) and held.pad(-_PAD).zoom_out(0.5) == target


def geobox(place: Placement) -> GeoBox:
    """The same pixels as odc-geo writes them."""
    from odc.geo.geobox import GeoBox

    grid = archive_grid(place.zone)
    left, top = grid.x0 + place.col * PIXEL, grid.y0 - place.row * PIXEL
    return GeoBox((place.height, place.width), Affine(PIXEL, 0, left, 0, -PIXEL, top), grid.crs)


def _without(values: Raster, nodata: float | None) -> Raster:
    """Values with what the file calls no data as we do: integers 0, floats NaN."""
    if nodata is None or np.isnan(nodata) or (values.dtype.kind != "f" and nodata == 0):
        return values
    return np.where(values == nodata, values.dtype.type(np.nan if values.dtype.kind == "f" else 0), values)


def _doubled(values: Raster, nodata: float | None, resampling: Resampling) -> Raster | None:
    """Twice the pixels along each side; the outermost are not to be used. None where that takes more than integers.

    A new pixel's centre lies a quarter beside that of the old one that holds it: of the four nearest it takes 9, 3, 3
    and 1 sixteenths.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        return None
    if resampling == "nearest":
        return _without(values, nodata).repeat(2, axis=0).repeat(2, axis=1)
    if nodata is not None and (values == nodata).any():
        return None
    wide = values.astype(np.int32)
    for _ in range(2):  # rows become columns in between, and rows again
        padded = np.pad(wide, ((1, 1), (0, 0)), mode="edge")
        near = 3 * wide
        wide = np.stack([near + padded[:-2], near + padded[2:]], axis=1).reshape(-1, wide.shape[1]).T
    return ((wide + 8) >> 4).astype(values.dtype)


def _warped(values: Raster, out: Raster, plan: _Plan, resampling: Resampling, nodata: float | None) -> None:
    """Warp into `out`, which holds our no data: rasterio would begin with the file's own instead."""
    from odc.geo.warp import rio_reproject

    ours = np.nan if out.dtype.kind == "f" else 0
    theirs = np.nan if nodata is None and out.dtype.kind == "f" else nodata
    how: dict[str, Any] = {"src_nodata": theirs, "dst_nodata": ours, "init_dest_nodata": False}
    with looking():
        rio_reproject(values, out, plan.source, plan.target, resampling, **how)
