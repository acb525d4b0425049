"""A picture of numbers as the bytes of a file: NumPy or GeoTIFF; a view's float32, or vectors as they are stored."""

from __future__ import annotations

from io import BytesIO
from typing import Final

import numpy as np
import numpy.ma as ma
from rio_tiler.models import ImageData

from service.colour.stored import SCALE, STATUS
from service.errors import InvalidInput
from service.geotiff import NO_CODE, cog, stored
from service.values import OUTSIDE, VALID, Float32Array, Int8Array, UInt8Array

DRIVERS: Final = ("NPY", "GTIFF")


def encode_numbers(image: ImageData, driver: str) -> bytes:
    """Numbers as the bytes of a file.

    A view's values are float32, NaN where there is no data: (bands, height, width) in NPY, named bands of a
    cloud-optimised GeoTIFF. Stored vectors (`StoredView`) are in NPY (height, width) records of `codes` (d int8),
    `scale` (float32) and `status` (uint8), in GeoTIFF three images. Where there is no vector `status` tells why; codes
    and scale are 0 in NPY, -128 and NaN in GeoTIFF.

    Raises:
        InvalidInput: They were asked for as a picture.
    """
    if driver not in DRIVERS:
        raise InvalidInput(f"numbers cannot be sent as {driver}.", field="format", remedy="Ask for .npy or .tif.")
    if tuple(image.band_names[-2:]) == (SCALE, STATUS):
        return _stored(image, driver)
    data = image.array.filled(np.nan).astype(np.float32, copy=False)
    return _npy(data) if driver == "NPY" else cog(image, data)


def _stored(image: ImageData, driver: str) -> bytes:
    codes, scales, status = _parted(image)
    valid = status == VALID
    if driver == "GTIFF":
        return stored(
            image, np.where(valid, codes, np.int8(NO_CODE)), np.where(valid, scales, np.float32(np.nan)), status
        )
    kind = np.dtype([("codes", "i1", (len(codes),)), (SCALE, "<f4"), (STATUS, "u1")])
    out = np.zeros(status.shape, kind)
    out["codes"][valid], out[SCALE][valid] = np.moveaxis(codes, 0, -1)[valid], scales[valid]
    out[STATUS] = status
    return _npy(out)


def _parted(image: ImageData) -> tuple[Int8Array, Float32Array, UInt8Array]:
    """(d, h, w) codes, (h, w) scales and (h, w) status; what was cut away since is outside."""
    data = image.array.data
    status = data[-1].astype(np.uint8)
    hidden = ma.getmaskarray(image.array).all(axis=0)
    status[hidden & (status == VALID)] = OUTSIDE
    return data[:-2].astype(np.int8), data[-2], status


def _npy(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()
