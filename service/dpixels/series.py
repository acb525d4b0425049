"""D-pixels from dated series as people write them: named bands, stated units, calendar dates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from service.dpixels.scratch import zeros
from service.dpixels.stored import UNUSABLE_SCL, one_piece
from service.dpixels.value import BANDS, MERGE, Days, DPixels, check_frames, day_of_year
from service.errors import InvalidInput
from service.values import BoolArray, Float32Array, Float64Array, Int64Array, Window

Date = str | dt.date


@dataclass(frozen=True)
class S2Series:
    """Sentinel-2 L2A observations of one pixel. Give `mask` or `scl`, not both."""

    bands: Sequence[str]
    """The band of each column of `values`: the ten of BANDS, in any order."""
    dates: Sequence[Date]
    """UTC date of each row, ISO text or date."""
    unit: Literal["dn", "reflectance"]
    """dn: reflectance x 10000, offset removed; fractions cut off, as a cast to uint16 does. reflectance: rounded."""
    values: Sequence[Sequence[float]]
    """(t, 10)."""
    mask: Sequence[bool | int] | None = None
    """(t,) true where usable."""
    scl: Sequence[int] | None = None
    """(t,) scene class 0..11; 0 1 2 3 8 9 are not usable."""


@dataclass(frozen=True)
class S1Series:
    """Sentinel-1 backscatter of one pixel from one orbit direction."""

    orbit: Literal["ascending", "descending"]
    dates: Sequence[Date]
    """UTC date of each row."""
    unit: Literal["db", "power", "scaled"]
    """db: 10 log10 of power; power: linear gamma0; scaled: as published, (2 dB + 50) x 200."""
    values: Sequence[Sequence[float]]
    """(t, 2) VV, VH."""


@dataclass(frozen=True)
class PixelSeries:
    """What is known of one pixel."""

    s2: S2Series | None = None
    s1: tuple[S1Series, ...] = ()
    """At most one series an orbit direction."""


@dataclass(frozen=True)
class _Part:
    """One checked series in the order of its dates: stored values (t, c), day of the year (t,), validity (t,)."""

    values: Float32Array
    doy: Int64Array
    valid: BoolArray


def from_json(pixels: Iterable[PixelSeries], window: Window) -> tuple[DPixels, bool]:
    """Check uploaded series and pack them.

    Args:
        pixels: One a pixel; each is let go before the next is asked for.
        window: Every date must lie within.

    Returns:
        The pixels, and whether any came with its bands in another order than the model's and was put right.

    Raises:
        InvalidInput: Something is wrong; `field` is its path, `pixels[3].s2.bands`.
        LimitExceeded: A series has more than MAX_FRAMES dates.
    """
    s2, orbits, reordered = [], {"ascending": [], "descending": []}, False  # type: ignore[var-annotated]
    for index, pixel in enumerate(pixels):
        path = f"pixels[{index}]"
        if pixel.s2 is None and not pixel.s1:
            raise InvalidInput("has observations of neither sensor.", field=path, remedy="Send s2, s1 or both.")
        s2.append(_s2(pixel.s2, window, f"{path}.s2"))
        reordered |= pixel.s2 is not None and tuple(pixel.s2.bands) != BANDS
        by_orbit = _by_orbit(pixel.s1, window, f"{path}.s1")
        for orbit, parts in orbits.items():
            parts.append(by_orbit.get(orbit, _nothing(2)))
    if not s2:
        raise InvalidInput("is empty.", field="pixels", remedy="Send at least one pixel.")
    (v2, d2, m2), asc, desc = _packed(s2), _packed(orbits["ascending"]), _packed(orbits["descending"])
    return DPixels(v2, d2, m2, asc[0], asc[1], desc[0], desc[1], shape=(len(s2),)), reordered


def _packed(parts: Sequence[_Part]) -> tuple[Float32Array, Int64Array, BoolArray]:
    """Pad series of several lengths with zeros that are not valid."""
    n, t = len(parts), max(len(part.doy) for part in parts)
    values = zeros((n, t, parts[0].values.shape[1]), np.float32)
    doy, valid = zeros((n, t), np.int64), zeros((n, t), np.bool_)
    for i, part in enumerate(parts):
        k = len(part.doy)
        values[i, :k], doy[i, :k], valid[i, :k] = part.values, part.doy, part.valid
    return values, doy, valid


def _nothing(channels: int) -> _Part:
    return _Part(np.zeros((0, channels), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))


def _s2(series: S2Series | None, window: Window, path: str) -> _Part:
    if series is None:
        return _nothing(10)
    order = band_order(series.bands, f"{path}.bands")
    days = _days(series.dates, window, f"{path}.dates")
    values = _matrix(series.values, len(days), 10, f"{path}.values")[:, order]
    return _in_order(days, one_piece("s2", values, series.unit, path), _usable(series, len(days), path))


def _in_order(days: Days, values: Float32Array, valid: BoolArray) -> _Part:
    """Sampling rules speak of the first and the last observation, so the order of rows must not matter."""
    order = np.argsort(days, kind="stable")
    return _Part(values[order], day_of_year(days[order]), valid[order])


def band_order(bands: Sequence[str], path: str) -> list[int]:
    """The column of each model band, where the names are the ten and nothing else."""
    unknown = [name for name in bands if name not in BANDS]
    repeated = sorted({name for name in bands if list(bands).count(name) > 1})
    missing = [name for name in BANDS if name not in bands]
    for names, what in ((unknown, "unknown"), (repeated, "repeated"), (missing, "missing")):
        if names:
            listed = ", ".join(str(name)[:20] for name in names[:12])
            raise InvalidInput(f"{what} band {listed}.", field=path, remedy=f"Name each of {', '.join(BANDS)} once.")
    return [list(bands).index(name) for name in BANDS]


def _days(dates: Sequence[Date], window: Window, path: str) -> Days:
    """The dates, each within the window and there once."""
    check_frames(len(dates), path)
    seen: dict[dt.date, int] = {}
    for i, text in enumerate(dates):
        day = _date(text, f"{path}[{i}]")
        if day not in window:
            raise InvalidInput(f"{day} lies outside the window {window}.", field=f"{path}[{i}]")
        if day in seen:
            raise InvalidInput(f"{day} is there twice, also at {seen[day]}.", field=f"{path}[{i}]", remedy=MERGE)
        seen[day] = i
    return np.array(list(seen), "datetime64[D]")


def _date(text: Date, path: str) -> dt.date:
    try:
        return text if isinstance(text, dt.date) else dt.date.fromisoformat(text)
    except (TypeError, ValueError):
        raise InvalidInput(f"{str(text)[:40]!r} is not a date.", field=path, remedy="Write 2024-05-31.") from None


def _matrix(values: Sequence[Sequence[float]], rows: int, columns: int, path: str) -> Float64Array:
    try:
        array = np.array(values, np.float64).reshape(len(values), -1 if len(values) else columns)
    except (TypeError, ValueError):
        raise InvalidInput("is not a table of numbers.", field=path, remedy=f"Each row has {columns}.") from None
    if array.shape != (rows, columns):
        raise InvalidInput(
            f"has {array.shape[0]} rows of {array.shape[1]}.",
            field=path,
            remedy=f"It needs a row of {columns} for each of the {rows} dates.",
        )
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise InvalidInput("holds a value that is not finite.", field=f"{path}[{row}]", remedy="Leave that date out.")
    return array


def _usable(series: S2Series, rows: int, path: str) -> BoolArray:
    if (series.mask is None) == (series.scl is None):
        raise InvalidInput("needs either mask or scl.", field=path, remedy="Give exactly one of them.")
    name, given = ("mask", series.mask) if series.mask is not None else ("scl", series.scl)
    values = np.asarray(given)
    most = 1 if name == "mask" else 11
    if values.shape != (rows,):
        raise InvalidInput(f"has {values.size} entries for {rows} dates.", field=f"{path}.{name}")
    if rows and (values.dtype.kind not in "biu" or values.min() < 0 or values.max() > most):
        raise InvalidInput("holds something else.", field=f"{path}.{name}", remedy=f"Whole numbers 0..{most}.")
    return values.astype(bool) if name == "mask" else ~np.isin(values, UNUSABLE_SCL)


def _by_orbit(series: Sequence[S1Series], window: Window, path: str) -> dict[str, _Part]:
    found: dict[str, _Part] = {}
    for i, one in enumerate(series):
        where = f"{path}[{i}]"
        if one.orbit not in ("ascending", "descending") or one.orbit in found:
            raise InvalidInput(
                f"{str(one.orbit)[:20]!r} is no orbit direction, or comes twice.",
                field=f"{where}.orbit",
                remedy="Use ascending and descending, each once.",
            )
        days = _days(one.dates, window, f"{where}.dates")
        stored = one_piece("s1", _matrix(one.values, len(days), 2, f"{where}.values"), one.unit, where)
        found[one.orbit] = _in_order(days, stored, np.ones(len(days), bool))
    return found
