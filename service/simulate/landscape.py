"""A landscape of known truth on a 10 m grid: fields, forest, a river and a lake, a town; clouds and radar; two years.

Everything is a function of seed and place, so a block of it is the same however the land is cut, and memory is
bounded by the block that is asked for. From `CHANGED` on, part of the forest is a field: the one change.
It is for demonstration and tests, and never part of any training set.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.errors import InvalidInput
from service.signals import (
    CLOUD,
    Ground,
    backscatter,
    hashed,
    moisture,
    normal,
    reflectance,
    smooth,
    stored_backscatter,
    stored_reflectance,
    uniform,
)
from service.values import Float32Array, Int64Array, UInt8Array, Window

CHANGED: Final = 2024
"""First year in which the clearing is a field."""

CLASSES: Final = (
    "water",
    "broadleaf forest",
    "conifer forest",
    "town",
    "grassland",
    "winter cereal",
    "rapeseed",
    "maize",
    "sugar beet",
)
"""Names of the codes of `land_cover`."""
_CODE: Final = {name: code for code, name in enumerate(CLASSES)}
CROPS: Final = ("grassland", "winter cereal", "winter cereal", "rapeseed", "maize", "maize", "sugar beet")
FIELD: Final = 24.0
"""Mean side of a field, pixels."""
S2_EVERY: Final = 5
S1_EVERY: Final = 12
DATES_AT_ONCE: Final = 8

# What each class is made of: start, end, rise, fall, leaves of two seasons, then the rest in the order of Ground.
_DEFAULT: Final[dict[str, Any]] = {
    "start": (100, 100), "end": (300, 300), "rise": (12, 12), "fall": (12, 12), "leaves": (0, 0), "evergreen": 0.0,
    "needles": 0.0, "pale": 0.3, "straw": 0.3, "soil": 1.0, "red": 0.05, "wet": 0.45, "water": 0.0, "roofs": 0.0,
    "volume": (-8.5, -14.5), "opacity": (0.12, 0.10), "rough": 0.0, "tilt": 0.0,
}  # fmt: skip
_RECIPES: Final[dict[str, dict[str, Any]]] = {
    "water": {"water": 1.0},
    "broadleaf forest": {
        "start": (112, 100), "end": (298, 300), "rise": (7, 12), "fall": (10, 12), "leaves": (4.5, 0),
        "evergreen": 0.9, "pale": 0.1, "straw": 0.6, "volume": (-8.0, -13.0), "opacity": (0.6, 0.5),
    },
    "conifer forest": {"evergreen": 4.0, "needles": 0.85, "volume": (-8.8, -14.0), "opacity": (0.5, 0.45)},
    "town": {"roofs": 0.6, "leaves": (1.5, 0), "evergreen": 0.4, "start": (110, 100), "end": (290, 300)},
    "grassland": {
        "start": (75, 215), "end": (170, 320), "rise": (14, 12), "fall": (9, 20), "leaves": (2.6, 1.9),
        "evergreen": 1.0, "pale": 0.35, "straw": 0.2,
    },
    "winter cereal": {
        "start": (-70, 95), "end": (185, 186), "rise": (15, 10), "fall": (8, 7), "leaves": (0.8, 4.2), "straw": 0.9,
        "volume": (-13.5, -18.5), "opacity": (0.30, 0.12), "pale": 0.2,
    },
    "rapeseed": {
        "start": (-95, 80), "end": (175, 178), "rise": (12, 9), "fall": (8, 7), "leaves": (1.4, 4.0), "straw": 0.5,
        "volume": (-9.0, -13.0), "opacity": (0.15, 0.16), "pale": 0.8,
    },
    "maize": {
        "start": (172, 100), "end": (268, 300), "rise": (8, 12), "fall": (8, 12), "leaves": (4.4, 0), "straw": 0.5,
        "volume": (-8.6, -14.3), "opacity": (0.16, 0.14), "pale": 0.25,
    },
    "sugar beet": {
        "start": (158, 100), "end": (302, 300), "rise": (9, 12), "fall": (5, 12), "leaves": (4.6, 0), "straw": 0.1,
        "volume": (-7.8, -13.2), "opacity": (0.2, 0.2), "pale": 0.5,
    },
}  # fmt: skip
_SPREAD: Final = {
    "start": 5.0, "end": 5.0, "leaves": 0.12, "evergreen": 0.1, "pale": 0.08, "straw": 0.1, "soil": 0.15, "red": 0.05,
    "wet": 0.06, "volume": 0.4, "rough": 0.8, "tilt": 0.5,
}  # fmt: skip


@dataclass(frozen=True)
class Landscape:
    """The land. Rows count southwards and columns eastwards from its upper-left corner."""

    seed: int
    height: int = 256
    """Pixels of 10 m."""
    width: int = 256

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise InvalidInput(f"{self.height} x {self.width} pixels is no landscape.", field="height")

    def land_cover(self, year: int) -> UInt8Array:
        """(H, W) uint8 codes into CLASSES."""
        return self._cover(year, *self._grid(slice(None), slice(None)))[0]

    def stands(self, year: int) -> Int64Array:
        """(H, W) a number that is the same all over one field, stand of trees or block of a town."""
        cover, stand = self._cover(year, *self._grid(slice(None), slice(None)))
        return stand * len(CLASSES) + cover

    def dpixels(self, year: int, rows: slice = slice(None), cols: slice = slice(None)) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a published d-pixel folder for some rows and columns; see service.dpixels.from_arrays."""
        return self.dpixels_at(year, *self._grid(rows, cols))

    def dpixels_in(self, window: Window, row: Int64Array, col: Int64Array) -> dict[str, npt.NDArray[Any]]:
        """The frames of the days of a window, at (h, w) rows and columns as `dpixels_at` has them."""
        years = range(window.start.year, window.end.year + 1)
        parts = [_within(window, year, self.dpixels_at(year, row, col)) for year in years]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def dpixels_at(self, year: int, row: Int64Array, col: Int64Array) -> dict[str, npt.NDArray[Any]]:
        """The same at (h, w) rows and columns in any order; the land goes on beyond the landscape's edges."""
        s2_doy, asc_doy, desc_doy = s2_days(self.seed, year), s1_days(self.seed, 0), s1_days(self.seed, 1)
        bands, scl = self.optical(year, s2_doy, row, col)
        return {
            "bands": bands,
            "masks": ((scl == 4) | (scl == 5) | (scl == 6)).astype(np.uint8),
            "doys": s2_doy.astype(np.uint16),
            "sar_ascending": self.radar(year, asc_doy, 0, row, col),
            "sar_ascending_doy": asc_doy.astype(np.int16),
            "sar_descending": self.radar(year, desc_doy, 1, row, col),
            "sar_descending_doy": desc_doy.astype(np.int16),
        }

    def optical(
        self, year: int, doy: Int64Array, row: Int64Array, col: Int64Array
    ) -> tuple[npt.NDArray[np.uint16], UInt8Array]:
        """(T, h, w, 10) reflectance x 10000 and (T, h, w) scene classes of some days at (h, w) places."""
        ground = self._ground(year, row, col)
        bands = np.empty((len(doy), *row.shape, 10), np.uint16)
        scl = np.empty((len(doy), *row.shape), np.uint8)
        for start in range(0, len(doy), DATES_AT_ONCE):
            part = slice(start, start + DATES_AT_ONCE)
            scl[part] = self.scene_classes(year, doy[part], row, col)
            bands[part] = self._optical(year, doy[part], row, col, ground, scl[part])
        return bands, scl

    def radar(self, year: int, doy: Int64Array, orbit: int, row: Int64Array, col: Int64Array) -> npt.NDArray[np.int16]:
        """(T, h, w, 2) scaled VV and VH of some days at (h, w) places; orbit 0 is ascending, 1 descending."""
        return self._radar(year, doy, orbit, row, col, self._ground(year, row, col))

    def scene_classes(self, year: int, doy: Int64Array, row: Int64Array, col: Int64Array) -> UInt8Array:
        """(T, h, w) Sentinel-2 scene classes: 4 land, 6 water, 9 cloud, 3 its shadow.

        Args:
            year: Which.
            doy: (T,) days.
            row: (h, w) rows.
            col: (h, w) columns.
        """
        cover, _ = self._cover(year, row, col)
        out = np.where(cover == _CODE["water"], 6, 4).astype(np.uint8)[None].repeat(len(doy), axis=0)
        for i, day in enumerate(doy):
            key = self.seed * 7919 + year * 400 + int(day)
            amount = 0.52 + 0.15 * np.cos((day - 20) * 2 * np.pi / 365) + 0.55 * (float(uniform(key, 1)) - 0.5)
            for code, move in ((3, 14), (9, 0)):
                where = (
                    smooth(key, row + move, col + move, 90) * 0.6 + smooth(key + 1, row + move, col + move, 23) * 0.4
                )
                out[i][where < amount] = code
        return out

    def _grid(self, rows: slice, cols: slice) -> tuple[Int64Array, Int64Array]:
        row, col = np.arange(self.height)[rows], np.arange(self.width)[cols]
        out = np.meshgrid(row, col, indexing="ij")
        return out[0], out[1]

    def _cover(self, year: int, row: Int64Array, col: Int64Array) -> tuple[UInt8Array, Int64Array]:
        """Class codes, and a number that is the same all over one field, stand or town block."""
        h, w, seed = float(self.height), float(self.width), self.seed
        parcel = self._parcels(row, col)
        crop = np.array([_CODE[name] for name in CROPS], np.uint8)[hashed(seed + 1, parcel) % np.uint64(len(CROPS))]
        cover = crop
        woods = smooth(seed + 2, row, col, 38) * 0.5 + smooth(seed + 3, row, col, 11) * 0.2
        woods += 0.9 - np.hypot((row - 0.66 * h) / (0.42 * h), (col - 0.22 * w) / (0.34 * w))
        conifer = smooth(seed + 4, row, col, 45) > 0.55
        forest = woods > 0.38
        cover = np.where(forest, np.where(conifer, _CODE["conifer forest"], _CODE["broadleaf forest"]), cover)
        edge = 0.25 * (smooth(seed + 5, row, col, 17) - 0.5)
        town = np.hypot((row - 0.70 * h) / (0.19 * h), (col - 0.74 * w) / (0.19 * w)) + edge < 1
        cover = np.where(town, _CODE["town"], cover)
        bank = 0.5 * w + 0.08 * w * np.sin(row / h * 7 + seed) + 3 * np.sin(row / 9.0)
        lake = np.hypot((row - 0.24 * h) / (0.10 * h), (col - 0.30 * w) / (0.15 * w)) + edge < 1
        cover = np.where((abs(col - bank) < 0.014 * w + 1) | lake, _CODE["water"], cover)
        if year >= CHANGED:
            cover = np.where(self.clearing(row, col) & forest, _CODE["maize"], cover)
        stand = np.where(forest | town, hashed(seed + 6, row // 9, col // 9), hashed(seed + 7, parcel))
        return cover.astype(np.uint8), stand.astype(np.int64)

    def clearing(self, row: Int64Array, col: Int64Array) -> npt.NDArray[np.bool_]:
        """Where forest is cut before CHANGED."""
        return (abs(row - 0.70 * self.height) < 0.09 * self.height) & (abs(col - 0.20 * self.width) < 0.11 * self.width)

    def _parcels(self, row: Int64Array, col: Int64Array) -> Int64Array:
        """The field each pixel would belong to: nearest of jittered points, by the larger of two turned distances."""
        angle = float(uniform(self.seed, 11)) * 1.2
        u = (row * np.cos(angle) - col * np.sin(angle)) / FIELD
        v = (row * np.sin(angle) + col * np.cos(angle)) / (0.7 * FIELD)
        best, which = np.full(row.shape, np.inf), np.zeros(row.shape, np.int64)
        for du in (-1, 0, 1):
            for dv in (-1, 0, 1):
                i, j = np.floor(u).astype(np.int64) + du, np.floor(v).astype(np.int64) + dv
                away = np.maximum(
                    abs(u - i - 0.2 - 0.6 * uniform(self.seed + 8, i, j)),
                    abs(v - j - 0.2 - 0.6 * uniform(self.seed + 9, i, j)),
                )
                nearer = away < best
                best = np.where(nearer, away, best)
                which = np.where(nearer, (i + 4096) * 8192 + j + 4096, which)
        return which

    def _ground(self, year: int, row: Int64Array, col: Int64Array) -> Ground:
        """What each pixel is made of: its class, its field's own ways, a little of its own, and the year's weather."""
        cover, stand = (a.ravel() for a in self._cover(year, row, col))
        r, c = row.ravel(), col.ravel()
        early = 6 * float(normal(self.seed, year))
        made: dict[str, Float32Array] = {}
        for number, name in enumerate(_DEFAULT):
            values = np.array([{**_DEFAULT, **_RECIPES[k]}[name] for k in CLASSES], np.float32)[cover]
            own = normal(self.seed + 100 + number, stand) + 0.25 * normal(self.seed + 200 + number, r, c)
            own = own * _SPREAD.get(name, 0.0) + (early if name in ("start", "end") else 0)
            own = own[:, None] if values.ndim == 2 else own
            made[name] = np.asarray(values + (own * values if name == "leaves" else own), np.float32)
        made |= {k: np.clip(made[k], 0, 1) for k in ("pale", "straw", "wet")}
        made["evergreen"] = np.maximum(made["evergreen"], 0)
        town = cover == _CODE["town"]
        made["roofs"] = np.where(town, 0.25 + 0.6 * uniform(self.seed + 10, stand), made["roofs"]).astype(np.float32)
        return Ground(**made)

    def _optical(
        self, year: int, doy: Int64Array, row: Int64Array, col: Int64Array, ground: Ground, scl: UInt8Array
    ) -> npt.NDArray[np.uint16]:
        key = self.seed * 31 + year
        days = doy[None, :]
        wet = moisture(ground, days, normal(key, doy // 10)[None, :])
        clear = reflectance(ground, days, wet).transpose(1, 0, 2).reshape(len(doy), *row.shape, 10)
        noise = normal(key, doy[:, None, None, None], row[..., None], col[..., None], np.arange(10))
        haze = 1 + 0.03 * normal(key + 1, doy)[:, None, None, None]
        seen = clear * haze * (1 + 0.02 * noise) + 0.002 * noise
        seen[scl == 3] *= 0.35
        thick = (0.6 + 0.4 * smooth(key, row, col, 15))[None, ..., None]
        seen = np.where((scl == 9)[..., None], seen + (CLOUD - seen) * thick, seen)
        return stored_reflectance(seen)

    def _radar(
        self, year: int, doy: Int64Array, orbit: int, row: Int64Array, col: Int64Array, ground: Ground
    ) -> npt.NDArray[np.int16]:
        key = self.seed * 37 + year * 2 + orbit
        days = doy[None, :]
        wet = moisture(ground, days, normal(key, doy // 10)[None, :])
        db = backscatter(ground, days, wet) + (1 - 2 * orbit) * ground.tilt[:, None, None]
        db = db.transpose(1, 0, 2).reshape(len(doy), *row.shape, 2)
        speckle = 1.3 * normal(key, doy[:, None, None, None], row[..., None], col[..., None], np.arange(2))
        return stored_backscatter(db + speckle)


def s2_days(seed: int, year: int) -> Int64Array:
    """Days of the year on which Sentinel-2 passes."""
    return np.arange(1 + (seed + year) % S2_EVERY, 366, S2_EVERY, dtype=np.int64)


def s1_days(seed: int, orbit: int) -> Int64Array:
    """Days of the year on which Sentinel-1 passes, ascending (0) or descending (1)."""
    return np.arange(1 + (seed + 5 * orbit) % S1_EVERY, 366, S1_EVERY, dtype=np.int64)


def _within(window: Window, year: int, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The frames of one year that fall into a window."""
    if window == Window.year(year):
        return arrays
    out: dict[str, npt.NDArray[Any]] = {}
    sar = tuple((f"sar_{orbit}_doy", f"sar_{orbit}") for orbit in ("ascending", "descending"))
    for days, *frames in (("doys", "bands", "masks"), *sar):
        kept = [dt.date(year, 1, 1) + dt.timedelta(int(day) - 1) in window for day in arrays[days]]
        out |= {name: arrays[name][kept] for name in (days, *frames)}
    return out
