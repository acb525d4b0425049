"""A picture as the bytes of a file."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.ma as ma
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rio_tiler.models import ImageData
from rio_tiler.utils import render

from service.errors import InvalidInput
from service.png import png
from service.values import UInt8Array

_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "WEBP": {"lossless": True, "method": 0},
    "JPEG": {"quality": 85},
}
JPEG_GROUND: Final = 255
"""JPEG has no alpha: no data is white."""


def encode(image: ImageData, driver: str, palette: UInt8Array | None = None) -> bytes:
    """A picture as the bytes of a file.

    Colours become RGB or, where anything is hidden, RGBA (PNG, WebP, both lossless), or RGB on white (JPEG). Indices
    into a palette, whose first colour is transparent, stay that in PNG and become colours elsewhere. Numbers become
    float32 with NaN where there is no data: (bands, height, width) in NPY, a GeoTIFF with bands of these names
    otherwise.

    Raises:
        InvalidInput: Numbers were asked for as a picture, or colours as numbers.
    """
    colours = image.array.dtype == np.uint8
    if not colours and driver not in ("NPY", "GTIFF"):
        raise InvalidInput(f"numbers cannot be sent as {driver}.", field="format", remedy="Ask for .npy or .tif.")
    if colours and driver == "PNG":
        return _png(image, palette)
    if colours and palette is not None:
        image = _coloured(image, palette)
    masked = np.broadcast_to(image.array.mask, image.array.shape)
    data = np.where(masked, JPEG_GROUND if driver == "JPEG" else 0 if colours else np.nan, image.array.data)
    data = data.astype(image.array.dtype)
    if driver == "NPY":
        return bytes(render(data, img_format=driver))
    if not colours:
        return _geotiff(image, data)
    mask = None if driver == "JPEG" or not masked.any() else image.mask
    return bytes(render(data, mask, img_format=driver, **_OPTIONS.get(driver, {})))


def _png(image: ImageData, palette: UInt8Array | None) -> bytes:
    """Indices stay indices; colours are RGB, or RGBA where anything is hidden."""
    data = image.array.filled(0)
    if palette is not None:
        return png(data[0], palette)
    hidden = ma.getmaskarray(image.array).all(axis=0)
    if hidden.any():
        data = np.concatenate([data, np.where(hidden, 0, 255).astype(np.uint8)[None]])
    return png(data.transpose(1, 2, 0), None)


def _coloured(image: ImageData, palette: UInt8Array) -> ImageData:
    """Indices as red, green and blue, masked where nothing is shown."""
    indices = image.array.filled(0)[0]
    data = palette[indices][..., :3].transpose(2, 0, 1)
    shown = ma.MaskedArray(data, np.broadcast_to(indices == 0, data.shape))
    return ImageData(shown, bounds=image.bounds, crs=image.crs)


def _geotiff(image: ImageData, data: np.ndarray) -> bytes:
    profile = {
        "driver": "GTiff", "dtype": "float32", "count": image.count, "width": image.width, "height": image.height,
        "crs": image.crs, "transform": image.transform, "nodata": np.nan, "compress": "zstd", "predictor": 3,
        "interleave": "band", "tiled": True, "blockxsize": 256, "blockysize": 256,
    }  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(data)
            file.descriptions = tuple(image.band_names)
            file.colorinterp = [ColorInterp.undefined] * image.count
        return bytes(memory.read())
