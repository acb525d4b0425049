"""From any CRS to degrees, and from degrees to UTM, for all places of a picture at once and on any thread.

Web Mercator and UTM are computed here. pyproj makes each transformation anew for every thread that uses it, which
takes milliseconds and 90 kB: with 120 zones that is what a first tile would wait for. Other CRS do go through pyproj,
to degrees, so each of them needs one.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from service.grid import transformer
from service.values import Float64Array

LONLAT: Final = "EPSG:4326"
Places = tuple[Float64Array, Float64Array]

_A: Final = 6_378_137.0
_F: Final = 1 / 298.257223563
_N: Final = _F / (2 - _F)
_E: Final = float(np.sqrt(_F * (2 - _F)))
_SCALE: Final = 0.9996 * _A / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64 + _N**6 / 256)
_ALPHA: Final = tuple(
    float(np.polyval([*reversed(terms), *[0.0] * first], _N))
    for first, terms in enumerate(
        (
            (1 / 2, -2 / 3, 5 / 16, 41 / 180, -127 / 288, 7891 / 37800),
            (13 / 48, -3 / 5, 557 / 1440, 281 / 630, -1983433 / 1935360),
            (61 / 240, -103 / 140, 15061 / 26880, 167603 / 181440),
            (49561 / 161280, -179 / 168, 6601661 / 7257600),
            (34729 / 80640, -3418889 / 1995840),
            (212378941 / 319334400,),
        ),
        start=1,
    )
)
"""Series in the third flattening n, whose order-j terms begin with n^j."""
_FARTHEST: Final = 80.0
"""Degrees from the central meridian beyond which there is no answer."""


def to_lonlat(crs: str, x: Float64Array, y: Float64Array) -> Places:
    """Longitude and latitude, degrees on WGS 84, of places of a CRS (`EPSG:3857`, WKT); inf where there is none."""
    if crs == LONLAT:
        return x, y
    if crs == "EPSG:3857":
        return np.degrees(x / _A), np.degrees(np.arctan(np.sinh(y / _A)))
    lon, lat = transformer(crs, LONLAT).transform(x, y)
    return np.asarray(lon), np.asarray(lat)


def from_lonlat(crs: str, lon: Float64Array, lat: Float64Array) -> Places:
    """Places of a CRS, of longitudes and latitudes in degrees on WGS 84; inf where there are none."""
    if crs == LONLAT:
        return lon, lat
    code = int(crs.removeprefix("EPSG:")) if crs.startswith("EPSG:") else 0
    if code // 100 in (326, 327) and 1 <= code % 100 <= 60:
        east, north = _utm(lon - (code % 100 * 6 - 183), lat)
        return east, north + (10_000_000 if code // 100 == 327 else 0)
    x, y = transformer(LONLAT, crs).transform(lon, lat)
    return np.asarray(x), np.asarray(y)


def _utm(lon: Float64Array, lat: Float64Array) -> Places:
    """Easting and northing from the equator, metres, of places at degrees from the central meridian.

    Krueger's series to the sixth order, exact to nanometres within 3000 km: C. F. F. Karney 2011, "Transverse Mercator
    with an accuracy of a few nanometers", equations 7 to 11 and 35.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        turn = np.radians((lon + 180) % 360 - 180)
        tau = np.tan(np.radians(lat))
        secant = np.hypot(1.0, tau)
        sigma = np.sinh(_E * np.arctanh(_E * tau / secant))
        conformal = tau * np.hypot(1.0, sigma) - sigma * secant
        cosine = np.cos(turn)
        sphere = np.arctan2(conformal, cosine) + 1j * np.arcsinh(np.sin(turn) / np.hypot(conformal, cosine))
        plane = _SCALE * (sphere + _series(2 * sphere))
    far = ~(np.abs(turn) <= np.radians(_FARTHEST)) | ~(np.abs(lat) <= 90)
    return np.where(far, np.inf, plane.imag + 500_000), np.where(far, np.inf, plane.real)


def _series(angle: np.ndarray) -> np.ndarray:
    """Sum of alpha_j sin(j * angle), by Clenshaw's recurrence: one sine and one cosine."""
    twice = 2 * np.cos(angle)
    last = before = np.zeros_like(angle)
    for alpha in reversed(_ALPHA):
        last, before = alpha + twice * last - before, last
    return np.asarray(last * np.sin(angle))
