"""What the two sensors see of a piece of land through a year: a small forward model, not a calibrated one.

Leaves come and go in up to two seasons; what they do not hide is soil or straw, water or buildings. Optical: linear
mixing of ten-band end members by canopy cover. Radar: the water-cloud model, canopy scattering over soil that it
attenuates (Attema and Ulaby 1978). End members are typical values chosen by us.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.values import Float32Array, Int64Array

YEAR: Final = 365.0

# Reflectance in the order B04 B02 B03 B08 B8A B05 B06 B07 B11 B12.
LEAVES: Final = np.array([0.028, 0.025, 0.060, 0.430, 0.450, 0.100, 0.290, 0.390, 0.185, 0.085], np.float32)
PALE_LEAVES: Final = np.array([0.060, 0.040, 0.105, 0.400, 0.420, 0.165, 0.310, 0.370, 0.240, 0.130], np.float32)
NEEDLES: Final = np.array([0.022, 0.020, 0.035, 0.210, 0.220, 0.055, 0.140, 0.185, 0.095, 0.045], np.float32)
STRAW: Final = np.array([0.190, 0.085, 0.130, 0.310, 0.330, 0.220, 0.255, 0.280, 0.360, 0.250], np.float32)
SOIL: Final = np.array([0.135, 0.070, 0.100, 0.205, 0.220, 0.155, 0.170, 0.185, 0.270, 0.225], np.float32)
WATER: Final = np.array([0.022, 0.036, 0.034, 0.012, 0.011, 0.022, 0.017, 0.016, 0.008, 0.006], np.float32)
ROOFS: Final = np.array([0.150, 0.115, 0.130, 0.210, 0.220, 0.165, 0.180, 0.200, 0.215, 0.190], np.float32)
SNOW: Final = np.array([0.820, 0.840, 0.830, 0.780, 0.740, 0.810, 0.800, 0.790, 0.110, 0.090], np.float32)
CLOUD: Final = np.array([0.580, 0.610, 0.590, 0.600, 0.600, 0.590, 0.600, 0.600, 0.400, 0.320], np.float32)

WATER_DB: Final = np.array([-19.5, -26.5], np.float32)
ROOFS_DB: Final = np.array([-4.5, -11.0], np.float32)


@dataclass(frozen=True)
class Ground:
    """What grows and lies in n places. Arrays are float32, (n,) unless told."""

    start: Float32Array
    """(n, 2) day of the year at which half of each season's leaves have come; below 0: in the year before."""
    end: Float32Array
    """(n, 2) day at which half of them have gone."""
    rise: Float32Array
    """(n, 2) days the coming takes, e-fold."""
    fall: Float32Array
    """(n, 2) days the going takes."""
    leaves: Float32Array
    """(n, 2) leaf area index at each season's height."""
    evergreen: Float32Array
    """Leaf area index that is always there."""
    needles: Float32Array
    """Share of the leaves that are needles, 0..1."""
    pale: Float32Array
    """0..1: dark green to yellow green."""
    straw: Float32Array
    """Share of the ground that dry matter covers after a season, 0..1."""
    soil: Float32Array
    """Brightness of the soil, about 1."""
    red: Float32Array
    """Redness of the soil, about 0."""
    wet: Float32Array
    """Mean soil moisture, 0..1."""
    water: Float32Array
    """Share of open water, 0..1."""
    roofs: Float32Array
    """Share of buildings and roads, 0..1."""
    volume: Float32Array
    """(n, 2) VV, VH of a closed canopy, dB."""
    opacity: Float32Array
    """(n, 2) how fast leaves hide the soil from the radar, per leaf area."""
    rough: Float32Array
    """Of the soil, dB on its backscatter."""
    tilt: Float32Array
    """dB between ascending and descending looks, halved."""

    def __getitem__(self, rows: Any) -> Ground:
        return Ground(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def __len__(self) -> int:
        return len(self.soil)


def canopy(ground: Ground, doy: npt.NDArray[Any]) -> tuple[Float32Array, Float32Array]:
    """(n, T) leaf area index and (n, T) share of the ground covered by straw, on days (n, T) or (1, T)."""
    day = np.asarray(doy, np.float32)
    leaves = np.repeat(ground.evergreen[:, None], day.shape[1], axis=1)
    straw = np.zeros_like(leaves)
    for season in range(2):
        start, end, rise, fall, peak = (
            getattr(ground, name)[:, season, None] for name in ("start", "end", "rise", "fall", "leaves")
        )
        for shift in (-YEAR, 0.0, YEAR):
            gone = _sigmoid((day - shift - end) / fall)
            leaves += peak * _sigmoid((day - shift - start) / rise) * (1 - gone)
            straw = np.maximum(straw, gone * np.exp(-np.maximum(day - shift - end, 0) / 45) * np.minimum(peak, 1))
    return leaves, straw * ground.straw[:, None]


def moisture(ground: Ground, doy: npt.NDArray[Any], rain: npt.NDArray[Any]) -> Float32Array:
    """(n, T) soil moisture 0..1: wetter in winter, and `rain` (n, T) or (1, T) around 0."""
    season = 0.15 * np.cos((np.asarray(doy, np.float32) - 15) * np.float32(2 * np.pi / YEAR))
    return np.asarray(np.clip(ground.wet[:, None] + season + 0.2 * rain, 0, 1), np.float32)


def reflectance(ground: Ground, doy: npt.NDArray[Any], wet: Float32Array) -> Float32Array:
    """(n, T, 10) surface reflectance, clear sky, in the order of service.dpixels.BANDS."""
    leaves, straw = canopy(ground, doy)
    cover = (1 - np.exp(-0.55 * leaves))[..., None]
    pale = ground.pale[:, None, None]
    needles = ground.needles[:, None, None]
    green = (LEAVES + (PALE_LEAVES - LEAVES) * pale) * (1 - needles) + NEEDLES * needles
    slope = np.array([1.0, -0.5, -0.1, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9, 0.8], np.float32)
    soil = SOIL * ground.soil[:, None, None] * (1 + ground.red[:, None, None] * slope)
    drying = np.array([0.35] * 8 + [0.45, 0.55], np.float32)
    bare = soil * (1.1 - drying * wet[..., None])
    bare += (STRAW - bare) * straw[..., None]
    land = bare + (green - bare) * cover
    water, roofs = ground.water[:, None, None], ground.roofs[:, None, None]
    land += (ROOFS * (0.8 + 0.4 * ground.soil[:, None, None] / 2) - land) * roofs
    land += (WATER - land) * water
    return np.asarray(land, np.float32)


def backscatter(ground: Ground, doy: npt.NDArray[Any], wet: Float32Array) -> Float32Array:
    """(n, T, 2) gamma0 of VV and VH in physical decibel, 10 log10 of power, before tilt and speckle."""
    leaves, _ = canopy(ground, doy)
    hidden = np.exp(-2 * ground.opacity[:, None, :] * leaves[..., None])
    soil = np.array([-14.0, -22.5], np.float32) + 6 * wet[..., None] + ground.rough[:, None, None]
    power = _power(ground.volume)[:, None, :] * (1 - hidden) + _power(soil) * hidden
    roofs, water = ground.roofs[:, None, None], ground.water[:, None, None]
    power += (_power(ROOFS_DB) - power) * roofs
    power += (_power(WATER_DB) - power) * water
    return np.asarray(10 * np.log10(power), np.float32)


def stored_reflectance(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Reflectance as it is stored: x 10000, never 0, since 0 is no data in scenes."""
    return np.asarray(np.clip(values * 10000, 1, 20000).astype(np.uint16))


def stored_backscatter(db: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Physical decibel as it is stored: (2 dB + 50) x 200, truncated, 1..32767."""
    return np.asarray(np.clip((2 * db + 50) * 200, 1, 32767).astype(np.int16))


def hashed(seed: int, *places: npt.NDArray[Any] | int) -> npt.NDArray[np.uint64]:
    """64 random bits for each place: the same for the same place, however the land is cut (SplitMix64 finaliser)."""
    state: Any = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
    with np.errstate(over="ignore"):
        for place in places:
            mixed = (state ^ np.asarray(place).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = mixed ^ (mixed >> np.uint64(31))
    return np.asarray(state)


def uniform(seed: int, *places: npt.NDArray[Any] | int) -> Float32Array:
    """A number in [0, 1) for each place."""
    return np.asarray((hashed(seed, *places) >> np.uint64(40)).astype(np.float32) / np.float32(2**24), np.float32)


def normal(seed: int, *places: npt.NDArray[Any] | int) -> Float32Array:
    """A roughly normal number of mean 0 and variance 1 for each place: the sum of four 16-bit uniforms."""
    bits = hashed(seed, *places)
    quarters = np.ascontiguousarray(bits).reshape(*bits.shape, 1).view(np.uint16).astype(np.float32).sum(axis=-1)
    return np.asarray((quarters / np.float32(65535) - 2) * np.float32(np.sqrt(3)), np.float32)


def smooth(seed: int, row: Int64Array, col: Int64Array, size: float) -> Float32Array:
    """Value noise: random numbers on a lattice of `size` pixels, blended in between; in [0, 1]."""
    y, x = row / size, col / size
    y0, x0 = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    fy, fx = (v * v * (3 - 2 * v) for v in (y - y0, x - x0))
    a, b, c, d = (uniform(seed, y0 + i, x0 + j) for i in (0, 1) for j in (0, 1))
    return np.asarray((a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy, np.float32)


def _power(db: npt.NDArray[Any]) -> Float32Array:
    return np.asarray(np.power(np.float32(10), db / np.float32(10)), np.float32)


def _sigmoid(x: npt.NDArray[Any]) -> Float32Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)
