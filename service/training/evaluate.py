"""How good vectors are: nearest neighbours on real, labelled parcels, beside what anyone could do without an encoder.

The French parcels have no B8A. For this evaluation alone B8A is set to B08; every score says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.dpixels import BANDS, DPixels
from service.encoder import Encoder
from service.errors import Unavailable
from service.values import Float32Array, Float64Array, Int64Array

PARCELS: Final = "worldcereal/2023_FRA_LPIS_POLY_110.geoparquet"
NO_DATA: Final = 65535
YEAR: Final = 2023
CROPS: Final = 6
"""The largest classes are scored."""
NEIGHBOURS: Final = 5


@dataclass(frozen=True)
class Parcels:
    """Labelled time series, one a parcel, ten-day composites of one calendar year."""

    values: Float64Array
    """(n, t, 12) reflectance x 10000 in the order of BANDS (B8A = B08), then stored VV, VH; NaN where missing."""
    doy: Int64Array
    """(t,) day of the year of each composite."""
    label: Int64Array
    """(n,) crop code."""


@dataclass(frozen=True)
class Score:
    """Share of parcels whose crop is found, with its 95 % interval."""

    accuracy: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.accuracy:.3f} ({self.low:.3f} to {self.high:.3f})"


def read_parcels(data: Path) -> Parcels:
    """Read the parcels of the six largest crops, calendar year 2023.

    Radar there is sigma0 with dB = 20 log10(DN) - 83, which is 10 log10 of power; stored is (2 dB + 50) x 200.

    Raises:
        Unavailable: The file, or pyarrow to read it, is not there.
    """
    try:
        from pyarrow import parquet  # a development dependency
    except ModuleNotFoundError:
        raise Unavailable("pyarrow is not installed.", remedy="Run `make setup`.") from None
    if not (data / PARCELS).exists():
        raise Unavailable(f"no parcels at {data / PARCELS}.")
    optical = [f"S2-L2A-{'B08' if band == 'B8A' else band}" for band in BANDS]
    columns = [*dict.fromkeys(optical), "S1-SIGMA0-VV", "S1-SIGMA0-VH", "sample_id", "timestamp", "ewoc_code"]
    table = parquet.read_table(data / PARCELS, columns=columns)
    column = {name: table[name].to_numpy() for name in columns}
    inside = column["timestamp"].astype("datetime64[Y]") == np.datetime64(str(YEAR))
    column = {name: values[inside] for name, values in column.items()}
    samples, row = np.unique(column["sample_id"], return_inverse=True)
    days, at = np.unique(column["timestamp"].astype("datetime64[D]"), return_inverse=True)
    values = np.full((len(samples), len(days), 12), np.nan)
    for i, name in enumerate([*optical, "S1-SIGMA0-VV", "S1-SIGMA0-VH"]):
        raw = column[name].astype(float)
        raw[(raw == NO_DATA) | ((raw <= 0) & (i >= 10))] = np.nan
        values[row, at, i] = raw if i < 10 else (2 * (20 * np.log10(raw) - 83) + 50) * 200
    label = np.zeros(len(samples), np.int64)
    label[row] = column["ewoc_code"]
    codes, counts = np.unique(label, return_counts=True)
    kept = np.isin(label, codes[np.argsort(-counts, kind="stable")[:CROPS]])
    doy = (days - np.datetime64(f"{YEAR}-01-01")).astype(int) + 1
    return Parcels(values[kept], doy, label[kept])


def as_dpixels(parcels: Parcels) -> DPixels:
    """The parcels as an encoder takes them: composites count as observations, radar as ascending."""
    n, t = parcels.values.shape[:2]
    doy = np.broadcast_to(parcels.doy, (n, t))
    s2, s1 = parcels.values[..., :10], np.clip(np.trunc(parcels.values[..., 10:]), 0, 32767)
    seen = np.asarray(np.isfinite(s2).all(axis=2))
    none = np.zeros((n, 0, 2), np.float32)
    return DPixels(
        np.nan_to_num(s2).astype(np.float32),
        doy,
        seen,
        np.where(np.isfinite(s1).all(axis=2, keepdims=True), s1, 0).astype(np.float32),
        doy,
        none,
        np.zeros((n, 0), np.int64),
        shape=(n,),
    )


def monthly_features(parcels: Parcels) -> Float64Array:
    """(n, 12 * 12) monthly means of every band, gaps filled in time and scaled to mean 0 and deviation 1: the rival."""
    month = (parcels.doy - 1) * 12 // 366
    n, _, bands = parcels.values.shape
    means = np.full((n, 12, bands), np.nan)
    for m in range(12):
        part = parcels.values[:, month == m]
        known = np.isfinite(part)
        count = known.sum(axis=1)
        means[:, m] = np.where(count > 0, np.where(known, part, 0).sum(axis=1) / np.maximum(count, 1), np.nan)
    flat = np.stack([_filled(row) for row in means]).reshape(n, -1)
    return np.asarray((flat - flat.mean(axis=0)) / np.maximum(flat.std(axis=0), 1e-9), np.float64)


def _filled(means: Float64Array) -> Float64Array:
    """(12, bands) with missing months interpolated in time; a band never seen becomes 0."""
    out = means.copy()
    for band in out.T:
        known = np.isfinite(band)
        band[~known] = np.interp(np.flatnonzero(~known), np.flatnonzero(known), band[known]) if known.any() else 0
    return out


def leave_one_out(features: npt.NDArray[Any], label: Int64Array, k: int = NEIGHBOURS) -> npt.NDArray[np.bool_]:
    """(n,) whether the majority of the k nearest others (Euclid; ties to the nearer) names the right class."""
    x = np.asarray(features, np.float64)
    square = (x**2).sum(axis=1)
    distance = square[:, None] + square - 2 * x @ x.T
    np.fill_diagonal(distance, np.inf)
    nearest = label[np.argsort(distance, axis=1, kind="stable")[:, :k]]
    votes = (nearest[:, :, None] == nearest[:, None, :]).sum(axis=2)
    winner = nearest[np.arange(len(label)), votes.argmax(axis=1)]
    return np.asarray(winner == label)


def score(right: npt.NDArray[np.bool_]) -> Score:
    """Share of the right ones with the Wilson interval at 95 %."""
    n, p, z = len(right), float(right.mean()), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Score(p, float(middle - half), float(middle + half))


def evaluate(data: Path, encoders: Mapping[str, Encoder]) -> dict[str, Score]:
    """Score encoders on the parcels, beside monthly means and the majority class.

    Args:
        data: Folder of real data.
        encoders: By the name they are to have in the answer.
    """
    parcels = read_parcels(data)
    _, counts = np.unique(parcels.label, return_counts=True)
    codes = np.unique(parcels.label)
    scores = {
        "majority": score(parcels.label == codes[counts.argmax()]),
        "monthly means": score(leave_one_out(monthly_features(parcels), parcels.label)),
    }
    dpixels = as_dpixels(parcels)
    for name, encoder in encoders.items():
        vectors: Float32Array = encoder.encode(dpixels).floats
        scores[name] = score(leave_one_out(vectors, parcels.label))
    return scores
