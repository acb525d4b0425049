"""D-pixels from arrays with the pixel first: many lone places in one NPZ, each with days of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from service.dpixels.scratch import zeros
from service.dpixels.series import band_order
from service.dpixels.stored import UNUSABLE_SCL, Range
from service.dpixels.upload import Declared, Ids, Upload
from service.dpixels.value import BANDS, MERGE, DPixels, Number, check_days, check_frames
from service.errors import InvalidInput
from service.values import BoolArray, Float64Array, Int64Array, Window

ORBITS: Final = ("ascending", "descending")
PIXEL_ARRAYS: Final = (
    "pixel", "lon", "lat", "s2", "s2_bands", "s2_doy", "s2_valid", "s2_scl",
    "s1_ascending", "s1_ascending_doy", "s1_descending", "s1_descending_doy",
)  # fmt: skip
"""Names of the arrays, without `.npy`."""
TEXT: Final = frozenset({"pixel", "s2_bands"})
"""Those that may hold text."""
PIECE: Final = 2_000_000
"""Numbers that are converted together."""
LONGEST_ID: Final = 64

Arrays = Mapping[str, Any]


def from_pixels(arrays: Arrays, declared: Declared) -> Upload:
    """Check and convert arrays with the pixel first. Large ones are converted piece by piece, into files.

    Args:
        arrays: `s2` (n, T, 10) with `s2_bands` (10,), `s2_doy` and `s2_valid` 0/1 or `s2_scl`, both (n, T);
            `s1_ascending` (n, Ta, 2) with `s1_ascending_doy`, `s1_descending` likewise. Days of the year are (n, T), or
            (T,) where all pixels share them; day 0 says that there is no observation. A sensor or orbit that nobody
            saw is left out. `pixel` (n,) names the pixels, `lon` and `lat` (n,) say where they are.
        declared: The units, and the window if days are to be held against it.

    Raises:
        InvalidInput: An array is missing, or not what it should be; names it.
        LimitExceeded: More than MAX_FRAMES observations; names the array.
    """
    n = _pixels(arrays)
    s2, s2_doy, s2_valid, reordered = _optical(arrays, n, declared)
    asc, asc_doy = _radar(arrays, n, "s1_ascending", declared)
    desc, desc_doy = _radar(arrays, n, "s1_descending", declared)
    dpixels = DPixels(s2, s2_doy, s2_valid, asc, asc_doy, desc, desc_doy, shape=(n,))
    return Upload(dpixels, reordered, _ids(arrays, n), _places(arrays, n))


def _pixels(arrays: Arrays) -> int:
    """How many: whatever sensor comes first says it, and all others are held against it."""
    held = [name for name in ("s2", *(f"s1_{orbit}" for orbit in ORBITS)) if name in arrays]
    for name in (name for name in arrays if name.startswith(("s2_", "s1_"))):
        base = name if name in held else name.rpartition("_")[0]
        if base not in held:
            raise InvalidInput(f"says something of {base}, which is missing.", field=name, remedy=f"Send {base} too.")
    if not held:
        raise InvalidInput("holds observations of neither sensor.", field="body", remedy="Send s2, s1_ascending, ...")
    first = np.asarray(arrays[held[0]])
    if first.ndim != 3 or not len(first):
        raise InvalidInput(f"has shape {first.shape}.", field=held[0], remedy="It must be (pixels, dates, channels).")
    return len(first)


def _values(arrays: Arrays, name: str, n: int, channels: int) -> Number:
    array: Number = arrays[name]
    if array.ndim != 3 or array.shape[0] != n or array.shape[2] != channels:
        raise InvalidInput(f"has shape {array.shape}.", field=name, remedy=f"It must be ({n}, dates, {channels}).")
    check_frames(array.shape[1], name)
    if array.dtype.kind not in "uif":
        raise InvalidInput(f"is {array.dtype}.", field=name, remedy="It must be integers or floats.")
    return array


def _optical(arrays: Arrays, n: int, declared: Declared) -> tuple[Number, Number, BoolArray, bool]:
    if "s2" not in arrays:
        return np.zeros((n, 0, 10), np.uint16), np.zeros((n, 0), np.int16), np.zeros((n, 0), bool), False
    values = _values(arrays, "s2", n, 10)
    if "s2_bands" not in arrays:
        raise InvalidInput("is missing.", field="s2_bands", remedy=f"Name the band of each column: {', '.join(BANDS)}.")
    bands = [_text(name, "s2_bands") for name in np.asarray(arrays["s2_bands"]).ravel()]
    columns = band_order(bands, "s2_bands")
    doy = _days(arrays, "s2_doy", values, declared.window)
    usable = _usable(arrays, doy)
    seen = Range("s2", declared.unit("s2"), "s2", "s2_unit")
    out, days = zeros(values.shape, np.uint16), zeros(doy.shape, np.int16)
    valid = zeros(doy.shape, np.bool_)
    for part, order in _pieces(values, doy, "s2_doy", declared.window):
        out[part] = _converted(values[part][..., columns], doy[part], order, seen)
        days[part] = np.take_along_axis(doy[part], order, 1)
        valid[part] = np.take_along_axis(usable(part), order, 1) & (days[part] > 0)
    seen.finish()
    return out, days, valid, columns != list(range(10))


def _radar(arrays: Arrays, n: int, name: str, declared: Declared) -> tuple[Number, Number]:
    if name not in arrays:
        return np.zeros((n, 0, 2), np.int16), np.zeros((n, 0), np.int16)
    values = _values(arrays, name, n, 2)
    doy = _days(arrays, f"{name}_doy", values, declared.window)
    seen = Range("s1", declared.unit("s1"), name, "s1_unit")
    out, days = zeros(values.shape, np.int16), zeros(doy.shape, np.int16)
    for part, order in _pieces(values, doy, f"{name}_doy", declared.window):
        out[part] = _converted(values[part], doy[part], order, seen)
        days[part] = np.take_along_axis(doy[part], order, 1)
    seen.finish()
    return out, days


def _pieces(values: Number, doy: Number, name: str, window: Window | None) -> Iterator[tuple[slice, Int64Array]]:
    """Slices of pixels, and for each pixel the order of its days; no day comes twice."""
    first = window.start.timetuple().tm_yday if window else 1
    step = max(1, PIECE // max(1, values.shape[1] * values.shape[2]))
    for start in range(0, len(values), step):
        part = slice(start, start + step)
        days = doy[part].astype(np.int64)
        key = np.where(days == 0, 1000, np.where(days < first, days + 366, days))  # after the turn of the year
        order = np.argsort(key, axis=1, kind="stable")
        key = np.take_along_axis(key, order, 1)
        twice = np.argwhere((key[:, 1:] == key[:, :-1]) & (key[:, 1:] < 1000))
        if len(twice):
            pixel, at = twice[0]
            said = f"pixel {start + pixel} has day {int((key[pixel, at] - 1) % 366 + 1)} twice."
            raise InvalidInput(said, field=name, remedy=MERGE)
        yield part, order


def _converted(values: Number, doy: Number, order: Int64Array, seen: Range) -> Number:
    """Stored values of some pixels, in the order of their days; 0 where there is no observation."""
    there = doy > 0
    given = values[there].astype(np.float64)
    if not np.isfinite(given).all():
        raise InvalidInput(
            "holds a value that is not finite.", field=seen.values_field, remedy="Give that observation day 0."
        )
    out = np.zeros(values.shape, np.float32)
    out[there] = seen.stored(given)
    return np.take_along_axis(out, order[..., None], 1)


def _days(arrays: Arrays, name: str, values: Number, window: Window | None) -> Number:
    """(n, T) days of the year, 0 for none."""
    if name not in arrays:
        raise InvalidInput(
            "is missing.", field=name, remedy="Give the day of the year of each observation, 0 for none."
        )
    doy = np.asarray(arrays[name])
    if doy.shape not in (values.shape[:2], values.shape[1:2]) or doy.dtype.kind not in "iu":
        remedy = f"It must be integers {values.shape[:2]} or {values.shape[1:2]}."
        raise InvalidInput(f"is {doy.dtype} {doy.shape}.", field=name, remedy=remedy)
    if doy.size and not (doy.min() >= 0 and doy.max() <= 366):
        raise InvalidInput(f"runs from {doy.min()} to {doy.max()}.", field=name, remedy="Days are 1..366; 0: none.")
    check_days(doy, window, name)
    return np.broadcast_to(doy, values.shape[:2])


def _usable(arrays: Arrays, doy: Number) -> Any:
    """A function of a slice of pixels: (m, T) bool, whether an observation is usable."""
    if ("s2_valid" in arrays) == ("s2_scl" in arrays):
        raise InvalidInput("give either s2_valid or s2_scl.", field="s2_valid", remedy="Exactly one of them is needed.")
    name, most = ("s2_valid", 1) if "s2_valid" in arrays else ("s2_scl", 11)
    held = np.asarray(arrays[name])
    if held.shape != doy.shape or held.dtype.kind not in "biu":
        raise InvalidInput(f"is {held.dtype} {held.shape}.", field=name, remedy=f"It must be integers {doy.shape}.")
    if held.size and not (held.min() >= 0 and held.max() <= most):
        raise InvalidInput(f"runs from {held.min()} to {held.max()}.", field=name, remedy=f"It must be 0..{most}.")
    if name == "s2_valid":
        return lambda part: held[part].astype(bool)
    return lambda part: ~np.isin(held[part], UNUSABLE_SCL)


def _ids(arrays: Arrays, n: int) -> Ids | None:
    if "pixel" not in arrays:
        return None
    held = np.asarray(arrays["pixel"])
    if held.shape != (n,) or held.dtype.kind not in "iuUS":
        raise InvalidInput(
            f"is {held.dtype} {held.shape}.", field="pixel", remedy=f"It must be ({n},) text or integers."
        )
    ids: Any = held.tolist() if held.dtype.kind in "iu" else [_text(one, "pixel") for one in held]
    if len(set(ids)) < n:
        raise InvalidInput("names a pixel twice.", field="pixel", remedy="Give each pixel a name of its own.")
    return ids  # type: ignore[no-any-return]


def _text(value: Any, name: str) -> str:
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
    except ValueError:
        raise InvalidInput("holds what is no text.", field=name) from None
    if not text or len(text) > LONGEST_ID:
        raise InvalidInput(f"{text[:20]!r} is no name.", field=name, remedy=f"Use 1 to {LONGEST_ID} characters.")
    return text


def _places(arrays: Arrays, n: int) -> Float64Array | None:
    if "lon" not in arrays and "lat" not in arrays:
        return None
    for name, most in (("lon", 180), ("lat", 90)):
        held = np.asarray(arrays.get(name, np.empty(0)))
        if held.shape != (n,) or held.dtype.kind not in "fiu" or not (np.abs(held) <= most).all():
            raise InvalidInput(f"must be {n} degrees within -{most}..{most}.", field=name, remedy="Give lon and lat.")
    return np.stack([np.asarray(arrays["lon"], np.float64), np.asarray(arrays["lat"], np.float64)], axis=1)
