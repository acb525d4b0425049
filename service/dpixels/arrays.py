"""D-pixels from the arrays of a published tile folder, without copying them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from service.dpixels.stored import RAW, S1_MAX, S2_MAX
from service.dpixels.value import DPixels, Number, check_frames
from service.errors import InvalidInput

ARRAYS: Final = (
    "bands",
    "masks",
    "doys",
    "sar_ascending",
    "sar_ascending_doy",
    "sar_descending",
    "sar_descending_doy",
)
"""Names of the published files, without `.npy`."""


def from_arrays(arrays: Mapping[str, Any]) -> DPixels:
    """Take the seven arrays of a published d-pixel tile folder; the result is views of them.

    Args:
        arrays: `bands` (T, H, W, 10) uint16 or float32 in the model's band order, `masks` (T, H, W) 0/1, `doys` (T,);
            `sar_ascending` (Ta, H, W, 2) stored backscatter with `sar_ascending_doy` (Ta,), `sar_descending`
            (Td, H, W, 2) with `sar_descending_doy` (Td,). T, Ta and Td may be 0.

    Returns:
        H * W pixels, row by row.

    Raises:
        InvalidInput: An array is missing, unknown or not what it should be; names it.
        LimitExceeded: An array has more than MAX_FRAMES frames; names it.
    """
    _check_names(arrays)
    bands = _values(arrays, "bands", channels=10)
    height, width = bands.shape[1:3]
    sides = height, width
    s2_doy = _days(arrays, "doys", bands)
    masks = _masks(arrays["masks"], bands.shape[:3])
    parts: dict[str, Number] = {"s2": bands, "s2_doy": s2_doy}
    for name, ours in (("sar_ascending", "s1_asc"), ("sar_descending", "s1_desc")):
        parts[ours] = _values(arrays, name, channels=2, sides=sides)
        parts[f"{ours}_doy"] = _days(arrays, f"{name}_doy", parts[ours])
    views = {
        name: _pixel_first(array) if array.ndim == 4 else np.broadcast_to(array, (height * width, array.size))
        for name, array in parts.items()
    }
    return DPixels(**views, s2_valid=masks.reshape(len(masks), height * width).T, shape=sides)


def _pixel_first(array: Number) -> Number:
    """(T, H, W, C) -> (H * W, T, C), a view for any array whose rows and columns are evenly strided."""
    time, height, width, channels = array.shape
    return array.reshape(time, height * width, channels).transpose(1, 0, 2)


def _check_names(arrays: Mapping[str, Any]) -> None:
    missing = [name for name in ARRAYS if name not in arrays]
    unknown = sorted(set(arrays) - set(ARRAYS))
    if missing:
        raise InvalidInput(
            f"{', '.join(missing)} missing.",
            field=missing[0],
            remedy="All seven arrays of a d-pixel folder are needed; give a radar orbit without passes 0 frames.",
        )
    if unknown:
        raise InvalidInput(f"{unknown[0][:60]!r} is no array of a d-pixel folder.", remedy=f"They are {list(ARRAYS)}.")


def _values(arrays: Mapping[str, Any], name: str, *, channels: int, sides: tuple[int, int] | None = None) -> Number:
    array = np.asarray(arrays[name])
    if array.ndim != 4 or array.shape[3] != channels or not array.shape[1] * array.shape[2]:
        raise InvalidInput(f"has shape {array.shape}.", field=name, remedy=f"It must be (T, H, W, {channels}).")
    check_frames(len(array), name)
    if sides and array.shape[1:3] != sides:
        raise InvalidInput(f"covers {array.shape[1:3]} pixels, bands cover {sides}.", field=name)
    allowed = ("u2", "f4") if channels == 10 else ("i2", "u2", "f4")
    if array.dtype.newbyteorder("=") not in [np.dtype(kind) for kind in allowed]:
        names = " or ".join(str(np.dtype(kind)) for kind in allowed)
        raise InvalidInput(f"is {array.dtype}.", field=name, remedy=f"It must be {names}, stored integers.")
    _check_range(array, name, S2_MAX if channels == 10 else S1_MAX)
    return array


def _check_range(array: Number, name: str, most: int) -> None:
    if not array.size or (np.iinfo(np.uint16).max == most and array.dtype == np.uint16):
        return  # every uint16 is a stored reflectance: no need to look at each
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InvalidInput("holds a value that is not finite.", field=name, remedy="Mark gaps with the mask, or 0 0.")
    if -20 < low < 0 < high < 20:
        raise InvalidInput(f"runs from {low} to {high}: that looks standardised.", field=name, remedy=RAW)
    if low < 0 or high > most:
        raise InvalidInput(f"runs from {low} to {high}.", field=name, remedy=f"Stored values lie in 0..{most}.")
    if array.dtype == np.float32 and 0 < high <= 2:
        raise InvalidInput(f"never exceeds {high}.", field=name, remedy="Stored values are expected, not reflectance.")


def _days(arrays: Mapping[str, Any], name: str, values: Number) -> Number:
    doy = np.asarray(arrays[name])
    if doy.ndim != 1 or len(doy) != len(values) or doy.dtype.kind not in "iu":
        raise InvalidInput(
            f"is {doy.dtype} {doy.shape}.", field=name, remedy=f"It must be {len(values)} integers, one a frame."
        )
    if doy.size and not (doy.min() >= 1 and doy.max() <= 366):
        raise InvalidInput(f"runs from {doy.min()} to {doy.max()}.", field=name, remedy="Days of a year are 1..366.")
    return doy.astype(np.int16)


def _masks(masks: Any, shape: tuple[int, ...]) -> Number:
    array = np.asarray(masks)
    if array.shape != shape or array.dtype not in (np.uint8, np.bool_):
        raise InvalidInput(f"is {array.dtype} {array.shape}.", field="masks", remedy=f"It must be uint8 {shape}.")
    if array.dtype == np.uint8:
        if array.size and array.max() > 1:
            raise InvalidInput(f"holds {array.max()}.", field="masks", remedy="1 is usable, 0 is not.")
        array = array.view(np.bool_)
    return array
