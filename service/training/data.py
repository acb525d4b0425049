"""Simulated training pixels: series of great variety.

The land here is drawn at random from wide ranges, far wider than the demonstration landscape, which is never used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.dpixels import DPixels
from service.families import Statistics
from service.sampling import standardise
from service.signals import (
    CLOUD,
    SNOW,
    Ground,
    backscatter,
    moisture,
    reflectance,
    stored_backscatter,
    stored_reflectance,
)
from service.values import BoolArray, Float32Array, Int64Array

S2_TIMES: Final = 64
"""Most Sentinel-2 dates of a training pixel; a pixel has 6 to 64 valid ones."""
S1_TIMES: Final = 36
"""Most Sentinel-1 dates of one orbit."""
AT_ONCE: Final = 2048
"""Pixels simulated in one go."""

# kind: share of pixels, seasons, leaf area, evergreen, then shares of water and roofs.
_KINDS: Final = (
    ("one season", 0.36), ("two seasons", 0.22), ("grass", 0.14), ("broadleaf", 0.08), ("evergreen", 0.07),
    ("bare", 0.05), ("built", 0.05), ("water", 0.03),
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """n simulated pixels, standardised, padded with what is not valid."""

    s2: Float32Array
    """(n, S2_TIMES, 10)."""
    s2_doy: Int64Array
    """(n, S2_TIMES)."""
    s2_valid: BoolArray
    """(n, S2_TIMES)."""
    s1: Float32Array
    """(n, 2 * S1_TIMES, 2): ascending, then descending, each standardised by its own statistics."""
    s1_doy: Int64Array
    s1_valid: BoolArray

    def __len__(self) -> int:
        return len(self.s2)


def random_ground(n: int, rng: np.random.Generator) -> Ground:
    """N pieces of land of every kind, at every latitude, drawn from wide ranges."""
    kind = rng.choice(len(_KINDS), n, p=[share for _, share in _KINDS])
    is_kind = {name: kind == code for code, (name, _) in enumerate(_KINDS)}

    def between(low: float, high: float, *shape: int) -> Float32Array:
        return rng.uniform(low, high, (n, *shape)).astype(np.float32)

    wild = is_kind["grass"] | is_kind["broadleaf"]
    start = between(-110, 230, 2)
    start = np.where(wild[:, None], between(50, 150, 2), start)
    length = np.where(wild[:, None], between(90, 220, 2), between(45, 210, 2))
    # A winter crop is two seasons of one plant: a thin stand through winter, then the main growth of spring.
    winter = is_kind["two seasons"] & (rng.random(n) < 0.5)
    start = np.where(winter[:, None], np.stack((between(-110, -40), between(50, 120)), axis=1), start)
    reap = between(150, 215)
    end = np.where(winter[:, None], reap[:, None] + between(-8, 8, 2), start + length)
    south = (rng.random(n) < 0.15)[:, None] * np.float32(182.5)
    leaves = between(0.8, 6.0, 2)
    leaves[:, 0] = np.where(winter, between(0.3, 2.0), leaves[:, 0])
    leaves[:, 1] *= is_kind["two seasons"] | (is_kind["grass"] & (rng.random(n) < 0.6))
    leaves[is_kind["evergreen"] | is_kind["bare"] | is_kind["water"]] *= 0.08
    leaves[is_kind["built"]] *= 0.35
    evergreen = np.where(is_kind["evergreen"], between(1.5, 6), 0) + np.where(wild, between(0, 1.8), between(0, 0.35))
    mixed = rng.random(n) < 0.06
    return Ground(
        start=(start + south).astype(np.float32),
        end=(end + south).astype(np.float32),
        rise=between(4, 18, 2),
        fall=between(3, 18, 2),
        leaves=leaves,
        evergreen=evergreen.astype(np.float32),
        needles=np.where(is_kind["evergreen"], between(0, 1), 0).astype(np.float32),
        pale=between(0, 1),
        straw=between(0, 1),
        soil=between(0.45, 1.9),
        red=rng.normal(0.05, 0.15, n).astype(np.float32),
        wet=between(0.05, 0.9),
        water=np.where(is_kind["water"], between(0.6, 1), np.where(mixed, between(0, 0.6), 0)).astype(np.float32),
        roofs=np.where(is_kind["built"], between(0.2, 1), np.where(mixed, between(0, 0.5), 0)).astype(np.float32),
        volume=np.stack((between(-15, -6), between(-20, -11)), axis=1),
        opacity=np.stack((between(0.05, 0.6), between(0.05, 0.5)), axis=1),
        rough=rng.normal(0, 1.8, n).astype(np.float32),
        tilt=rng.normal(0, 0.7, n).astype(np.float32),
    )


def training_series(n: int, seed: int, statistics: Statistics) -> Series:
    """Simulate n pixels for a year each: random land, weather, clouds, noise, missing orbits and sensors."""
    parts = [_standardised(part, statistics) for part in _simulated(n, seed)]
    names = ("s2", "s2_doy", "s2_valid", "s1", "s1_doy", "s1_valid")
    return Series(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def simulated_dpixels(n: int, seed: int) -> Iterator[DPixels]:
    """The same pixels as `training_series`, as stored values, up to AT_ONCE at a time."""
    for s2, s2_doy, s2_valid, *orbits in _simulated(n, seed):
        (asc, asc_doy), (desc, desc_doy) = (
            (np.where(valid[..., None], values, 0), doy) for values, doy, valid in orbits
        )
        yield DPixels(s2, s2_doy, s2_valid, asc, asc_doy, desc, desc_doy, shape=(len(s2),))


_Seen = tuple[Any, Any, Any, tuple[Any, Any, Any], tuple[Any, Any, Any]]


def _simulated(n: int, seed: int) -> Iterator[_Seen]:
    rng = np.random.default_rng(seed)
    for at in range(0, n, AT_ONCE):
        yield _some(min(AT_ONCE, n - at), rng)


def _some(n: int, rng: np.random.Generator) -> _Seen:
    """Stored values, days and what is usable: of Sentinel-2, then of each orbit of Sentinel-1."""
    ground = random_ground(n, rng)
    s2_doy, s2_valid = _dates(n, S2_TIMES, rng, least=6)
    s2 = _observed(ground, s2_doy, rng)
    s2_valid &= (rng.random(n) > 0.02)[:, None]
    orbits = []
    for sign in (1, -1):
        doy, valid = _dates(n, S1_TIMES, rng, least=8)
        db = backscatter(ground, doy, moisture(ground, doy, rng.normal(0, 1, doy.shape)))
        speckle = rng.normal(0, 1, db.shape) * rng.uniform(0.3, 1.6, (n, 1, 1))
        stored = stored_backscatter(db + sign * ground.tilt[:, None, None] + speckle + rng.normal(0, 0.3, (n, 1, 2)))
        orbits.append((stored, doy, valid & (rng.random(n) > 0.15)[:, None]))
    return s2, s2_doy, s2_valid, orbits[0], orbits[1]


def _standardised(seen: _Seen, statistics: Statistics) -> Series:
    s2, s2_doy, s2_valid, *orbits = seen
    radar = [
        standardise(values, *(getattr(statistics, f"s1_{orbit}_{name}") for name in ("mean", "std")))
        for orbit, (values, _, _) in zip(("asc", "desc"), orbits, strict=True)
    ]
    return Series(
        standardise(s2, statistics.s2_mean, statistics.s2_std),
        s2_doy,
        s2_valid,
        np.concatenate(radar, axis=1),
        np.concatenate([doy for _, doy, _ in orbits], axis=1),
        np.concatenate([valid for _, _, valid in orbits], axis=1),
    )


def _dates(n: int, most: int, rng: np.random.Generator, least: int) -> tuple[Int64Array, BoolArray]:
    """(n, most) random days, ascending, and which are usable: `least` to `most` of them, in clumps as with clouds."""
    doy = np.sort(rng.integers(1, 366, (n, most)), axis=1)
    wanted = rng.integers(least, most + 1, (n, 1))
    phase = rng.uniform(0, 2 * np.pi, (n, 1))
    luck = rng.random((n, most)) + rng.uniform(0, 0.6, (n, 1)) * np.cos(doy * (2 * np.pi / 365) + phase)
    return doy, luck.argsort(axis=1).argsort(axis=1) < wanted


def _observed(ground: Ground, doy: Int64Array, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """(n, T, 10) stored reflectance as an imperfect sensor sees it: haze, missed clouds, snow, calibration, noise."""
    n, sides = len(ground), (*doy.shape, 1)
    seen = reflectance(ground, doy, moisture(ground, doy, rng.normal(0, 1, doy.shape)))
    cold = (rng.random(n) < 0.15)[:, None] & (abs(doy - rng.choice((8, 190), (n, 1))) < rng.integers(10, 70, (n, 1)))
    snow = np.where(cold & (rng.random(doy.shape) < 0.5), rng.uniform(0.1, 1, doy.shape), 0)[..., None]
    seen += (SNOW - seen) * snow.astype(np.float32)
    missed = (rng.random(doy.shape) < rng.uniform(0, 0.12, (n, 1))) * rng.uniform(0.03, 0.7, doy.shape)
    seen += (CLOUD - seen) * missed[..., None].astype(np.float32)
    seen *= 1 + rng.normal(0, 0.04, sides) + rng.normal(0, 0.03, (n, 1, 10))
    seen += rng.normal(0, 1, (*doy.shape, 10)) * rng.uniform(0.001, 0.008, (n, 1, 1))
    return stored_reflectance(seen)
