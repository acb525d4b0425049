"""Training pixels as they lie on disk: one record of fixed size a pixel, holding what is valid, as it was stored.

Nothing is standardised before a batch is made of it, so one set of records serves every student and every teacher.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.dpixels import DPixels
from service.families import Statistics
from service.sampling import standardise
from service.values import BoolArray, Float32Array, Int64Array

SENSORS: Final = (("s2", 10), ("s1_asc", 2), ("s1_desc", 2))
Records = npt.NDArray[np.void]
"""(n,) structured: of each of SENSORS `<name>` (T, channels) stored values, `<name>_doy` (T,) and `<name>_n`, how many
of the T are there; they come first, in the order of time."""


def record_type(s2: int, s1: int) -> np.dtype[Any]:
    """The record that holds up to s2 Sentinel-2 dates and up to s1 dates of each orbit."""
    parts: list[Any] = []
    for name, channels in SENSORS:
        times = max(s2 if name == "s2" else s1, 1)
        kind = "<u2" if name == "s2" else "<i2"
        parts += [(name, kind, (times, channels)), (f"{name}_doy", "<i2", (times,)), (f"{name}_n", "<i2")]
    return np.dtype(parts)


def to_records(dpixels: DPixels, kind: np.dtype[Any]) -> Records:
    """Records of d-pixels. Of more valid dates than a record holds, evenly spaced ones are kept.

    Args:
        dpixels: n pixels; reflectance in float32 is rounded to the stored integers.
        kind: Of `record_type`.
    """
    out = np.zeros(len(dpixels), kind)
    for name, _ in SENSORS:
        values, doy, valid = (getattr(dpixels, f"{name}{end}") for end in ("", "_doy", "_valid"))
        index, count = _packed(valid, kind[name].shape[0])
        held = np.arange(index.shape[1]) < count[:, None]
        row = np.arange(len(valid))[:, None]
        times = slice(0, index.shape[1])
        out[name][:, times] = np.where(held[..., None], np.rint(values[row, index]), 0)
        out[f"{name}_doy"][:, times] = np.where(held, doy[row, index], 0)
        out[f"{name}_n"] = count
    return out


def _packed(valid: BoolArray, most: int) -> tuple[Int64Array, Int64Array]:
    """(n, at most `most`) places of the valid ones, first ones first, and (n,) how many of them count."""
    order = np.argsort(~valid, axis=1, kind="stable")
    seen = valid.sum(axis=1)
    place = np.arange(min(most, valid.shape[1]))
    spread = place * np.maximum(seen - 1, 0)[:, None] // max(most - 1, 1)
    wanted = np.where(seen[:, None] > most, spread, place)
    return np.take_along_axis(order, wanted, axis=1), np.minimum(seen, most)


def with_dates(records: Records, min_s2: int, min_s1: int) -> Records:
    """Those with enough valid dates: of Sentinel-2, and of both orbits of Sentinel-1 together."""
    enough = (records["s2_n"] >= min_s2) & (records["s1_asc_n"] + records["s1_desc_n"] >= min_s1)
    return np.asarray(records[enough])


def to_dpixels(records: Records) -> DPixels:
    """The records as an encoder takes them."""
    parts = {f"{name}{end}": records[f"{name}{end}"] for name, _ in SENSORS for end in ("", "_doy")}
    valid = np.arange(records["s2"].shape[1]) < records["s2_n"][:, None]
    return DPixels(**parts, s2_valid=valid, shape=(len(records),))


def stream(records: Records, sensor: str, statistics: Statistics) -> tuple[Float32Array, Int64Array, BoolArray]:
    """One sensor's observations as a network takes them.

    Args:
        records: n of them.
        sensor: `s2`, or `s1`: ascending followed by descending passes.
        statistics: What to standardise with, each orbit by its own.

    Returns:
        (n, t, c) float32 standardised, (n, t) days and (n, t) what is valid; t no longer than these pixels need.
    """
    values, days, valid = [], [], []
    for name in ("s2",) if sensor == "s2" else ("s1_asc", "s1_desc"):
        count = records[f"{name}_n"]
        times = max(int(count.max(initial=0)), 1)
        mean, std = (getattr(statistics, f"{name}_{what}") for what in ("mean", "std"))
        values.append(standardise(records[name][:, :times], mean, std))
        days.append(records[f"{name}_doy"][:, :times].astype(np.int64))
        valid.append(np.arange(times) < count[:, None])
    return np.concatenate(values, axis=1), np.concatenate(days, axis=1), np.concatenate(valid, axis=1)
