"""The d-pixel as a value: pixel first, time second, padded with invalid observations."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.errors import InvalidInput, LimitExceeded
from service.values import BoolArray, Counts, Int64Array, Window

BANDS: Final = ("B04", "B02", "B03", "B08", "B8A", "B05", "B06", "B07", "B11", "B12")
"""Sentinel-2 bands in the order of every published TESSERA encoder. Not the order of wavelength."""

MAX_FRAMES: Final = 1000
"""Most observations of one sensor and orbit: three a day of a year. Tables and counts are sized by it."""

BLOCK_OF_PIXELS: Final = 4096
"""Pixels that are looked at together where arrays may be larger than memory."""

MERGE: Final = "Merge the observations of one day, as the published pipeline does."
"""What to do about two observations of one pixel, sensor, orbit and day."""

Number = npt.NDArray[Any]
Days = npt.NDArray[np.datetime64]


@dataclass(frozen=True, eq=False)
class DPixels:
    """n pixels with up to t2 Sentinel-2 and ta + td Sentinel-1 observations each.

    Arrays may be views with any strides. Padding is an observation that is not valid, on day 0, with any content; it
    never reaches an encoder. One that is not valid on a day of the year was taken but cannot be used: only TESSERA
    v1.0 falls back on those, where a pixel has no others. Whoever makes one has checked days and values: see the
    builders.
    """

    s2: Number
    """(n, t2, 10) uint16 or float32: reflectance x 10000, offset removed, bands in the order of BANDS."""
    s2_doy: Number
    """(n, t2) integer day of the year, 1..366 where valid."""
    s2_valid: BoolArray
    """(n, t2) bool."""
    s1_asc: Number
    """(n, ta, 2) integer or float32: VV, VH of ascending passes as stored, (2 dB + 50) x 200. Both 0: none."""
    s1_asc_doy: Number
    """(n, ta) integer day of the year."""
    s1_desc: Number
    """(n, td, 2) likewise, descending passes."""
    s1_desc_doy: Number
    """(n, td) integer day of the year."""
    shape: tuple[int, ...]
    """What the n pixels were, (H, W) row by row or (n,)."""

    def __post_init__(self) -> None:
        n = self.s2_valid.shape[0]
        if int(np.prod(self.shape)) != n:
            raise InvalidInput(f"{n} pixels do not make the shape {self.shape}.", field="shape")
        for name, bands in (("s2", 10), ("s1_asc", 2), ("s1_desc", 2)):
            values, doy = getattr(self, name), getattr(self, f"{name}_doy")
            check_frames(values.shape[1], name)
            if values.shape != (n, doy.shape[1] if doy.ndim == 2 else -1, bands) or doy.shape[0] != n:
                raise InvalidInput(f"{values.shape} values and {doy.shape} days for {n} pixels.", field=name)
        if self.s2_valid.dtype != np.bool_ or self.s2_valid.shape != self.s2_doy.shape:
            raise InvalidInput("is not a bool for every Sentinel-2 observation.", field="s2_valid")

    def __len__(self) -> int:
        return int(self.s2_valid.shape[0])

    def __getitem__(self, rows: slice) -> DPixels:
        """Some of the pixels, as views."""
        cut = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "shape"}
        return DPixels(**cut, shape=(cut["s2_valid"].shape[0],))

    @property
    def nbytes(self) -> int:
        """Memory that the arrays hold; what is repeated along an axis counts once."""
        return sum(_held(getattr(self, f.name)) for f in fields(self) if f.name != "shape")

    @property
    def s1_asc_valid(self) -> BoolArray:
        """(n, ta) bool: whether VV or VH is not 0, on stored values."""
        return _seen(self.s1_asc)

    @property
    def s1_desc_valid(self) -> BoolArray:
        """(n, td) bool."""
        return _seen(self.s1_desc)


def _held(array: Number) -> int:
    size: int = array.itemsize * prod(count for count, step in zip(array.shape, array.strides, strict=True) if step)
    return size


def _seen(values: Number) -> BoolArray:
    return np.asarray((values[..., 0] != 0) | (values[..., 1] != 0))


def check_frames(frames: int, name: str) -> None:
    """Refuse more observations than a year can have.

    Raises:
        LimitExceeded: More than MAX_FRAMES; names the array.
    """
    if frames > MAX_FRAMES:
        raise LimitExceeded(
            f"has {frames:,} observations, at most {MAX_FRAMES:,} are taken.",
            field=name,
            remedy="Send those of one window; merge the observations of one day.",
        )


def day_of_year(days: Days) -> Int64Array:
    """1..366 for each datetime64[D]."""
    return np.asarray((days - days.astype("datetime64[Y]")).astype(np.int64) + 1)


def check_days(doy: Number, window: Window | None, name: str) -> None:
    """Refuse days of the year that a window has not; where no window is named, there is nothing to hold them against.

    Args:
        doy: Integers; 0 stands for no observation.
        window: When.
        name: Field for errors.

    Raises:
        InvalidInput: A day that does not lie in the window.
    """
    if window is None:
        return
    days = np.arange(np.datetime64(window.start), np.datetime64(window.end) + 1)
    known = np.isin(doy, [0, *day_of_year(days)])
    if not known.all():
        first = int(doy[~known][0])
        raise InvalidInput(f"day {first} of the year lies outside the window {window}.", field=name)


def counts(dpixels: DPixels) -> Counts:
    """(n,) valid observations of each pixel, by sensor and orbit."""
    valid = dpixels.s2_valid, dpixels.s1_asc_valid, dpixels.s1_desc_valid
    return Counts(*(v.sum(axis=1).astype(np.uint16) for v in valid))
