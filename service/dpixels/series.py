"""D-pixels from dated series as people write them: named bands, stated units, calendar dates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from service.dpixels.value import BANDS, DPixels, check_frames
from service.errors import InvalidInput
from service.values import BoolArray, Float32Array, Float64Array, Int64Array, Window

Date = str | dt.date

UNUSABLE_SCL: Final = (0, 1, 2, 3, 8, 9)
"""Scene classes the published pipeline leaves out: no data, saturated, dark, cloud shadow, cloud (medium, high)."""
MAX_REFLECTANCE: Final = 6.5535
"""What uint16 can hold at 10000 a unit."""


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
    """One checked series: stored values (t, c), day of the year (t,), validity (t,)."""

    values: Float32Array
    doy: Int64Array
    valid: BoolArray


def from_json(pixels: Sequence[PixelSeries], window: Window) -> tuple[DPixels, bool]:
    """Check uploaded series and pack them.

    Args:
        pixels: One a pixel.
        window: Every date must lie within.

    Returns:
        The pixels, and whether any came with its bands in another order than the model's and was put right.

    Raises:
        InvalidInput: Something is wrong; `field` is its path, `pixels[3].s2.bands`.
        LimitExceeded: A series has more than MAX_FRAMES dates.
    """
    if not pixels:
        raise InvalidInput("is empty.", field="pixels", remedy="Send at least one pixel.")
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
    (v2, d2, m2), asc, desc = _packed(s2), _packed(orbits["ascending"]), _packed(orbits["descending"])
    return DPixels(v2, d2, m2, asc[0], asc[1], desc[0], desc[1], shape=(len(pixels),)), reordered


def _packed(parts: Sequence[_Part]) -> tuple[Float32Array, Int64Array, BoolArray]:
    """Pad series of several lengths with zeros that are not valid."""
    n, t = len(parts), max(len(part.doy) for part in parts)
    values = np.zeros((n, t, parts[0].values.shape[1]), np.float32)
    doy, valid = np.zeros((n, t), np.int64), np.zeros((n, t), bool)
    for i, part in enumerate(parts):
        k = len(part.doy)
        values[i, :k], doy[i, :k], valid[i, :k] = part.values, part.doy, part.valid
    return values, doy, valid


def _nothing(channels: int) -> _Part:
    return _Part(np.zeros((0, channels), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))


def _s2(series: S2Series | None, window: Window, path: str) -> _Part:
    if series is None:
        return _nothing(10)
    order = _band_order(series.bands, f"{path}.bands")
    doy = _days(series.dates, window, f"{path}.dates")
    values = _matrix(series.values, len(doy), 10, f"{path}.values")[:, order]
    return _Part(_s2_stored(values, series.unit, path), doy, _usable(series, len(doy), path))


def _band_order(bands: Sequence[str], path: str) -> list[int]:
    """The column of each model band, where the names are the ten and nothing else."""
    unknown = [name for name in bands if name not in BANDS]
    repeated = sorted({name for name in bands if list(bands).count(name) > 1})
    missing = [name for name in BANDS if name not in bands]
    for names, what in ((unknown, "unknown"), (repeated, "repeated"), (missing, "missing")):
        if names:
            listed = ", ".join(str(name)[:20] for name in names[:12])
            raise InvalidInput(f"{what} band {listed}.", field=path, remedy=f"Name each of {', '.join(BANDS)} once.")
    return [list(bands).index(name) for name in BANDS]


def _days(dates: Sequence[Date], window: Window, path: str) -> Int64Array:
    """Day of the year of each date; each within the window and there once."""
    check_frames(len(dates), path)
    seen: dict[dt.date, int] = {}
    for i, text in enumerate(dates):
        day = _date(text, f"{path}[{i}]")
        if day not in window:
            raise InvalidInput(f"{day} lies outside the window {window}.", field=f"{path}[{i}]")
        if day in seen:
            raise InvalidInput(
                f"{day} is there twice, also at {seen[day]}.",
                field=f"{path}[{i}]",
                remedy="Merge the observations of one day, as the published pipeline does.",
            )
        seen[day] = i
    return np.array([day.timetuple().tm_yday for day in seen], np.int64)


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


def _s2_stored(values: Float64Array, unit: str, path: str) -> Float32Array:
    """Stored integers: reflectance x 10000 to the nearest, dn as cast to uint16 by the published pipeline (truncated).

    Slightly negative reflectance, an artefact of the offset, becomes 0.
    """
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    scale = {"dn": 1.0, "reflectance": 10000.0}.get(unit)
    if scale is None:
        raise InvalidInput(f"{str(unit)[:20]!r} is not a unit.", field=f"{path}.unit", remedy="Use dn or reflectance.")
    if unit == "reflectance" and high > MAX_REFLECTANCE:
        raise InvalidInput(f"values reach {high:g}, no reflectance.", field=f"{path}.unit", remedy="Is it dn?")
    if unit == "dn" and 0 < high < 2:
        raise InvalidInput(f"values never exceed {high:g}, no dn.", field=f"{path}.unit", remedy="Is it reflectance?")
    if low * scale < -2000 or high * scale > 65535:
        worst = low if low * scale < -2000 else high
        raise InvalidInput(f"{worst:g} cannot be {unit}.", field=f"{path}.values", remedy="Is it a no-data value?")
    whole = np.trunc(values) if unit == "dn" else np.rint(values * scale)
    return np.asarray(np.maximum(whole, 0), np.float32)


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
        doy = _days(one.dates, window, f"{where}.dates")
        stored = s1_stored(_matrix(one.values, len(doy), 2, f"{where}.values"), one.unit, where)
        found[one.orbit] = _Part(stored, doy, np.ones(len(doy), bool))
    return found


def s1_stored(values: Float64Array, unit: str, path: str = "s1") -> Float32Array:
    """Backscatter as the published pipeline stores it.

    stored = trunc(clip((20 log10 a + 50) x 200, 0, 32767)) for power a > 0, else 0, in float64. The published formula
    takes 20 log10 of power, so it holds twice the physical decibels: with dB = 10 log10 a it is (2 dB + 50) x 200.

    Args:
        values: (..., 2) float64, finite.
        unit: `db`, `power` or `scaled`.
        path: Field path for errors.

    Raises:
        InvalidInput: Unknown unit, or values that cannot be of that unit.
    """
    if unit not in ("db", "power", "scaled"):
        raise InvalidInput(f"{str(unit)[:20]!r} is not a unit.", field=f"{path}.unit", remedy="Use db, power, scaled.")
    if values.size:
        _check_s1_unit(float(values.min()), float(values.max()), unit, f"{path}.unit")
    if unit == "scaled":
        return np.asarray(np.trunc(values), np.float32)
    with np.errstate(divide="ignore"):
        doubled = 2 * values if unit == "db" else 20 * np.log10(values)
    return np.asarray(np.trunc(np.clip((doubled + 50) * 200, 0, 32767)), np.float32)


def _check_s1_unit(low: float, high: float, unit: str, path: str) -> None:
    looks: Any = None
    if unit == "db":
        looks = (low > 0 and "power or scaled") or ((high > 40 or low < -100) and "scaled, or a no-data value")
    elif unit == "power":
        looks = (low < 0 and "db") or (high > 1000 and "scaled")
    else:
        looks = (low < 0 and "db, or a no-data value") or (high > 32767 and "a no-data value")
        looks = looks or (0 < high < 100 and "power")
    if looks:
        raise InvalidInput(f"values run from {low:g} to {high:g}: that looks like {looks}.", field=path)
