"""Numbers as GeoTIFF: float32 bands, cloud-optimised; or int8 codes, with their scales and status beside them.

A GeoTIFF has one data type an image, but may hold several images: QGIS offers them as layers, GDAL opens the second as
`GTIFF_DIR:2:file.tif`. So stored vectors keep every bit, in a quarter of the room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.io import DatasetWriter, MemoryFile
from rio_tiler.models import ImageData

from service.values import Float32Array, Int8Array, UInt8Array

NO_CODE: Final = -128
"""Where there is no vector: quantisers give -127 to 127."""
_FEW: Final = 4
_SIDE_FEW: Final = 512
_SIDE_MANY: Final = 128
"""Pixels along a side of a block, which holds all bands: 8 MB of 128."""
_PACKED: Final = {"compress": "zstd"}


def cog(image: ImageData, data: Float32Array) -> bytes:
    """A cloud-optimised GeoTIFF: blocks of all bands, overviews (nearest) where it is larger than one, NaN as no data.

    Args:
        image: Where it lies, what its bands are called, and as `metadata` the tags it carries.
        data: (bands, height, width) float32.
    """
    side = _SIDE_FEW if image.count <= _FEW else _SIDE_MANY
    options: dict[str, Any] = {
        **_PACKED, "driver": "COG", "level": 1, "predictor": "FLOATING_POINT", "blocksize": side,
        "overview_resampling": "nearest", "bigtiff": "IF_SAFER",
    }  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**options, **_placed(image, data, np.nan)) as file:
            _filled(file, data, image.band_names, image.metadata or {})
        return bytes(memory.read())


def stored(image: ImageData, codes: Int8Array, scales: Float32Array, status: UInt8Array) -> bytes:
    """A GeoTIFF of three images: int8 codes, float32 scales and uint8 status.

    Args:
        image: Where it lies, and as `metadata` the tags that the first image carries.
        codes: (d, height, width), NO_CODE where there is no vector.
        scales: (height, width), NaN where there is none.
        status: (height, width).
    """
    names = list(image.band_names[: len(codes)])
    options: dict[str, Any] = {
        **_PACKED, "driver": "GTiff", "zstd_level": 1, "interleave": "band", "tiled": True,
        "blockxsize": 256, "blockysize": 256,
    }  # fmt: skip
    with MemoryFile() as memory:
        for data, nodata, bands in (
            (codes, NO_CODE, names), (scales[None], np.nan, ["scale"]), (status[None], None, ["status"]),
        ):  # fmt: skip
            more = options | ({"append_subdataset": True} if data is not codes else {})
            with rasterio.open(memory.name, "w", **more, **_placed(image, data, nodata)) as file:
                _filled(file, data, bands, image.metadata or {})
        return bytes(memory.read())


def _placed(image: ImageData, data: np.ndarray, nodata: float | None) -> dict[str, Any]:
    count, height, width = data.shape
    return {
        "dtype": data.dtype.name, "count": count, "height": height, "width": width, "crs": image.crs,
        "transform": image.transform, "nodata": nodata,
    }  # fmt: skip


def _filled(file: DatasetWriter, data: np.ndarray, names: Sequence[str], tags: Mapping[str, str]) -> None:
    file.write(data)
    file.descriptions = tuple(names)
    file.colorinterp = [ColorInterp.undefined] * len(names)
    file.update_tags(**tags)
