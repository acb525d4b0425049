"""GeoTIFFs opened with care for GDAL's table of file systems, which it guards by nothing (seen in 3.10).

GDAL looks into that table whenever it is given a name: of a file, of an array that is to be warped, of its own data
as rasterio enters an environment. And rasterio puts a file system of its own into it for each file that is opened
through Python, and takes it out when that is closed. So several threads look into it together, and one changes it
alone; the pixels of a file that is open are read without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import Any, Final

import rasterio
from fasteners import ReaderWriterLock
from rasterio.env import Env
from rasterio.io import DatasetReader

TABLE: Final = ReaderWriterLock()
_OPTIONS: Final = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_NUM_THREADS": "1",
}


@contextmanager
def looking() -> Iterator[None]:
    """For whatever makes GDAL look into its table: a warp, say. Not to be held for long: files wait to be opened."""
    with TABLE.read_lock():
        yield


@contextmanager
def geotiff(path: str | PathLike[str], opener: Any = None) -> Iterator[DatasetReader]:
    """A file, opened as GeoTIFF or not at all, and nothing beside it.

    Args:
        path: Where it lies, or what `opener` calls it.
        opener: Reads it in GDAL's stead; a `Far`.

    Raises:
        rasterio.errors.RasterioError: It cannot be opened.
    """
    guard = TABLE.write_lock if opener else TABLE.read_lock
    with guard(), ExitStack() as opening:
        opening.enter_context(Env(**_OPTIONS))
        raster = opening.enter_context(rasterio.open(path, driver="GTiff", sharing=False, opener=opener))
        if opener:  # what GDAL would look for when it is first asked, it is asked for now
            raster.tags(), raster.mask_flag_enums, [raster.overviews(band) for band in raster.indexes]
        held = opening.pop_all()
    try:
        yield raster
    finally:
        with guard():
            held.close()
