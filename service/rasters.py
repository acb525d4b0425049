"""Rasters of embeddings as others keep them: GeoTessera NPY tiles and GeoTIFFs, read window by window."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window as RasterWindow

from service.errors import Corrupt, InvalidInput, NotFound
from service.grid import PIXEL, Zone
from service.quant import MAX_SCALE, is_data, quantise
from service.values import NOT_EMBEDDED, VALID, WATER, BoolArray, Float32Array, Int8Array, UInt8Array, Vectors

MAX_DIMS: Final = 4096
_TILE: Final = re.compile(r"grid_-?\d+\.\d+_-?\d+\.\d+")
_YEAR: Final = re.compile(r"20\d\d")


@dataclass(frozen=True)
class RasterTile:
    """One raster of embeddings in one UTM zone; holds where it is, not what it holds."""

    name: str
    """File stem: `grid_0.15_52.05`."""
    kind: Literal["npy", "codes", "float"]
    """GeoTessera tile; GeoTIFF of int8 codes with scales beside it; GeoTIFF of float vectors."""
    files: tuple[Path, ...]
    """Embeddings, then scales and landmask where the kind has them."""
    zone: Zone
    """Whose CRS `left` and `top` are in."""
    left: float
    """Easting of the left edge, metres."""
    top: float
    """Northing of the upper edge, metres."""
    height: int
    width: int
    dims: int
    year: int | None
    """The year its folder or name says, if any."""

    @property
    def snapped(self) -> bool:
        """Whether pixels lie on the 10 m grid though the corner may not say so: GeoTessera's tiles."""
        return self.kind == "npy" or bool(_TILE.match(self.name))

    def read(self, rows: slice, cols: slice) -> Vectors:
        """(rows, cols) pixels; floats are quantised per pixel (v2).

        Raises:
            Corrupt: A file cannot be read.
            InvalidInput: It holds numbers that no embedding has.
        """
        with _reading(self.files[0]):
            if self.kind == "npy":
                return self._read_npy(rows, cols)
            return self._read_codes(rows, cols) if self.kind == "codes" else self._read_float(rows, cols)

    def _read_npy(self, rows: slice, cols: slice) -> Vectors:
        codes = np.array(_load(self.files[0])[rows, cols])
        scales = np.array(_load(self.files[1])[rows, cols], np.float32)
        land = np.asarray(_read_tiff(self.files[2], rows, cols)[0] != 0)
        if scales.ndim == 3:
            return _from_scaled(codes, scales, land, self.files[1])
        return _masked(codes, scales, land)

    def _read_codes(self, rows: slice, cols: slice) -> Vectors:
        codes = np.ascontiguousarray(np.moveaxis(_read_tiff(self.files[0], rows, cols), 0, -1))
        return _masked(codes, _read_tiff(self.files[1], rows, cols)[0].astype(np.float32), None)

    def _read_float(self, rows: slice, cols: slice) -> Vectors:
        values = np.moveaxis(_read_tiff(self.files[0], rows, cols), 0, -1)
        with rasterio.open(self.files[0], driver="GTiff") as raster:
            nodata = raster.nodata
        there: BoolArray = np.isfinite(values).all(axis=-1) & (values != 0).any(axis=-1)
        if nodata:  # one gap spoils a vector, but a 0 may be a value; NaN is not finite anyway
            with np.errstate(over="ignore"):
                there &= (values != values.dtype.type(nodata)).all(axis=-1)
        return _quantised(values, np.where(there, np.uint8(VALID), np.uint8(NOT_EMBEDDED)), self.files[0])


def _masked(codes: Int8Array, scales: Float32Array, land: BoolArray | None) -> Vectors:
    """Codes and scales as published: what the scale or the landmask says is no data becomes none."""
    status: UInt8Array = np.where(is_data(scales), np.uint8(VALID), np.uint8(NOT_EMBEDDED))
    if land is not None:
        status[~land] = WATER
    valid = status == VALID
    codes = np.where(valid[..., None], codes, np.int8(0))
    return Vectors(codes, np.where(valid, scales, np.float32(0)), status)


def _from_scaled(codes: Int8Array, scales: Float32Array, land: BoolArray, path: Path) -> Vectors:
    """Older tiles have one scale to a number: dequantise, then one scale to a pixel."""
    good: BoolArray = np.asarray(is_data(scales).all(axis=-1))
    status = np.where(land, np.where(good, np.uint8(VALID), np.uint8(NOT_EMBEDDED)), np.uint8(WATER))
    return _quantised(codes.astype(np.float32) * np.where(good[..., None], scales, np.float32(0)), status, path)


def _quantised(values: npt.NDArray[Any], status: UInt8Array, path: Path) -> Vectors:
    """Float vectors with one scale to a pixel. A scale of 1 and more would be taken for no data, so it is refused."""
    valid = status == VALID
    peak = float(np.abs(values[valid]).max(initial=0))
    if peak >= 127 * MAX_SCALE:
        raise InvalidInput(
            f"{path.name} holds {peak:g}; numbers of an embedding lie between -127 and 127.",
            field="source",
            remedy="If that marks gaps, declare it: gdal_edit.py -a_nodata. Else divide the vectors by a constant.",
        )
    codes, scales = quantise(np.where(valid[..., None], values, np.float32(0)).astype(np.float32))
    return Vectors(codes, np.where(valid, scales, np.float32(0)), status)


def find_tiles(path: Path) -> tuple[RasterTile, ...]:
    """Every tile in a folder, or the one in a file, in order of name; reads headers only.

    Raises:
        InvalidInput: A tile is no north-up 10 m raster in a UTM zone, or its files do not belong together.
        NotFound: A tile has no landmask or scales.
        Corrupt: A file cannot be read.
    """
    if path.is_file():
        return (_geotiff(path),)
    arrays = [p for p in sorted(path.rglob("grid_*.npy")) if _TILE.fullmatch(p.stem)]
    if arrays:
        rasters = {p.stem: p for p in [*path.rglob("grid_*.tif"), *path.rglob("grid_*.tiff")]}
        return tuple(_npy(p, rasters) for p in arrays)
    found = sorted([*path.rglob("*.tif"), *path.rglob("*.tiff")])
    return tuple(_geotiff(p) for p in found if not p.stem.endswith("_scales"))


def _npy(path: Path, rasters: dict[str, Path]) -> RasterTile:
    scales, landmask = path.with_name(f"{path.stem}_scales.npy"), rasters.get(path.stem)
    if landmask is None:
        raise NotFound(
            f"{path.name} has no landmask {path.stem}.tiff, which says where it lies.",
            field="source",
            remedy="Download the landmasks as well, into the same folder.",
        )
    if not scales.exists():
        raise NotFound(f"{path.name} has no {scales.name} beside it.", field="source")
    codes, factors = _load(path), _load(scales)
    zone, left, top, shape, _, _ = _placement(landmask)
    if codes.ndim != 3 or codes.dtype != np.int8 or factors.shape not in (codes.shape[:2], codes.shape):
        raise InvalidInput(f"{path.name} is {codes.dtype} {codes.shape} with scales {factors.shape}.", field="source")
    if shape != codes.shape[:2]:
        raise InvalidInput(f"{path.name} has {codes.shape[:2]} pixels, its landmask {shape}.", field="source")
    height, width, dims = codes.shape
    return RasterTile(
        path.stem, "npy", (path, scales, landmask), zone, left, top, height, width, dims, _year(path.parent.parent.name)
    )


def _geotiff(path: Path) -> RasterTile:
    zone, left, top, (height, width), dtypes, dims = _placement(path)
    if not 2 <= dims <= MAX_DIMS:
        raise InvalidInput(f"{path.name} has {dims} bands; embeddings have 2 to {MAX_DIMS}.", field="source")
    files: tuple[Path, ...] = (path,)
    kind: Literal["codes", "float"] = "float"
    if set(dtypes) == {"int8"}:
        kind, scales = "codes", path.with_name(f"{path.stem}_scales{path.suffix}")
        if not scales.exists():
            raise NotFound(
                f"{path.name} holds int8 codes and has no {scales.name} beside it.",
                field="source",
                remedy="Put the float32 scale of each pixel there, or give float vectors.",
            )
        if _placement(scales)[:4] != (zone, left, top, (height, width)):
            raise InvalidInput(f"{scales.name} lies elsewhere than {path.name}.", field="source")
        files = (path, scales)
    elif not set(dtypes) <= {"float16", "float32", "float64"}:
        raise InvalidInput(f"{path.name} holds {dtypes[0]}; embeddings are int8 or float.", field="source")
    return RasterTile(path.stem, kind, files, zone, left, top, height, width, dims, _year(path.stem.split("_")[-1]))


def _year(text: str) -> int | None:
    return int(text) if _YEAR.fullmatch(text) else None


def _placement(path: Path) -> tuple[Zone, float, float, tuple[int, int], tuple[str, ...], int]:
    """(zone, left, top, (height, width), dtypes, bands) of a GeoTIFF in a UTM zone."""
    with _reading(path), rasterio.open(path, driver="GTiff") as raster:
        a, b, left, d, e, top = tuple(raster.transform)[:6]
        epsg = raster.crs.to_epsg() if raster.crs else None
        shape, dtypes, bands = (int(raster.height), int(raster.width)), tuple(raster.dtypes), int(raster.count)
    number = (epsg or 0) % 100
    if epsg is None or epsg - number not in (32600, 32700) or not 1 <= number <= 60:
        raise InvalidInput(
            f"{path.name} is not in a UTM zone (EPSG 326zz or 327zz).",
            field="source",
            remedy="Reproject it first: gdalwarp -t_srs EPSG:326zz -tr 10 10 -tap -r near.",
        )
    if b or d or max(abs(a - PIXEL), abs(e + PIXEL)) > 1e-6:
        raise InvalidInput(
            f"{path.name} is no north-up raster of 10 m.",
            field="source",
            remedy="Resample it first: gdalwarp -tr 10 10 -tap -r near.",
        )
    south = epsg > 32700
    if not south and top <= 0:  # a southern place in the northern CRS
        south, top = True, top + 10_000_000.0
    return Zone(number, south), float(left), float(top), shape, dtypes, bands


def _load(path: Path) -> Any:
    """An array on disk, mapped and not read."""
    with _reading(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_tiff(path: Path, rows: slice, cols: slice) -> Any:
    """(bands, rows, cols) of a GeoTIFF."""
    with _reading(path), rasterio.open(path, driver="GTiff") as raster:
        return raster.read(window=RasterWindow.from_slices(rows, cols))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, rasterio.errors.RasterioError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise Corrupt(f"{path} cannot be read: {error}.", remedy="Download it again.") from error
