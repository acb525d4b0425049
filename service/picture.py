"""A picture as the bytes of a file."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.ma as ma
from rio_tiler.models import ImageData
from rio_tiler.utils import render

from service.numbers import encode_numbers
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
    into a palette, whose first colour is transparent, stay that in PNG and become colours elsewhere. Numbers are the
    business of `service.numbers`.

    Raises:
        InvalidInput: Numbers were asked for as a picture.
    """
    if image.array.dtype != np.uint8:
        return encode_numbers(image, driver)
    if driver == "PNG":
        return _png(image, palette)
    if palette is not None:
        image = _coloured(image, palette)
    masked = np.broadcast_to(image.array.mask, image.array.shape)
    data = np.where(masked, JPEG_GROUND if driver == "JPEG" else 0, image.array.data).astype(np.uint8)
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
