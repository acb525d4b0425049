"""D-pixels as a network takes them: standardised, sampled by the model's own rule, in the short form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.dpixels import BANDS, DPixels
from service.errors import InvalidInput
from service.families import SAMPLINGS, Statistics
from service.sampling.draws import DRAWS, drawn, seeds
from service.sampling.packing import Sequences, packed, sequences
from service.sampling.rules import LONGEST, RULES
from service.values import BoolArray, Float32Array

DUMMY_DAY: Final = 180
"""Day of the frame of zeros that stands for an orbit without frames (v1.0 QAT)."""


@dataclass(frozen=True)
class Prepared:
    """n pixels ready for a network."""

    s2: Sequences
    s1: Sequences
    wanted: BoolArray
    """(n,) what the model's own rule embeds; never a pixel without any valid observation."""


@dataclass(frozen=True)
class _Series:
    """One sensor: stored and standardised values, days, and which frames are valid; (n, t, ...)."""

    stored: npt.NDArray[Any]
    values: Float32Array
    doy: npt.NDArray[Any]
    valid: BoolArray


def prepare(
    dpixels: DPixels,
    statistics: Statistics,
    sampling: str,
    bands: Sequence[str] = BANDS,
    longest: int = LONGEST,
) -> Prepared:
    """Standardise and sample. Each pixel comes out the same, whatever pixels it comes with.

    Radar: each orbit is standardised by its own statistics, ascending before descending, validity as stored. What a
    pixel needs beside one valid observation of either sensor: v1.1 and v2 nothing; v1.0 a Sentinel-2 value other than
    0 in any frame, clouded ones included, and `v1.0-early` a Sentinel-1 frame, valid or not. A frame on day 0 is
    padding, no frame.

    Args:
        dpixels: n pixels.
        statistics: Of the checkpoint.
        sampling: One of SAMPLINGS.
        bands: Order of the Sentinel-2 bands in the network's input.
        longest: Longest sequence, at most 256; v1.0 always draws 40.

    Raises:
        InvalidInput: No such sampling.
    """
    if sampling not in SAMPLINGS:
        raise InvalidInput(f"{sampling[:40]!r} is no rule.", field="sampling", remedy=f"Use one of {SAMPLINGS}.")
    s2, s1 = _optical(dpixels, statistics, bands), _radar(dpixels, statistics, with_dummies=sampling == "v1.0")
    seen = np.asarray(s2.valid.any(axis=1) | s1.valid.any(axis=1))
    if sampling in RULES:
        held = [sequences(one.values, one.doy, one.valid, longest, sampling) for one in (s2, s1)]
        return Prepared(held[0], held[1], seen)
    wanted = seen & ((s2.doy > 0) & (s2.stored != 0).any(axis=2)).any(axis=1)
    if sampling == "v1.0-early":
        wanted &= (s1.doy > 0).any(axis=1)
    return Prepared(_drawn(s2), _drawn(s1), wanted)


def standardise(values: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Float32Array:
    """(..., c) stored values -> (x - mean) / (std + 1e-9), all in float32 as published."""
    centre, width = np.asarray(mean, np.float32), np.asarray(std, np.float32) + np.float32(1e-9)
    out = values.astype(np.float32)
    out -= centre
    out /= width
    return np.asarray(out, np.float32)


def _optical(dpixels: DPixels, statistics: Statistics, bands: Sequence[str]) -> _Series:
    stored = dpixels.s2[..., [BANDS.index(band) for band in bands]]
    values = standardise(stored, statistics.s2_mean, statistics.s2_std)
    return _Series(stored, values, dpixels.s2_doy, dpixels.s2_valid)


def _radar(dpixels: DPixels, statistics: Statistics, with_dummies: bool) -> _Series:
    """Both orbits, ascending then descending; not sorted by date."""
    parts = []
    for orbit in ("asc", "desc"):
        stored, doy = getattr(dpixels, f"s1_{orbit}"), getattr(dpixels, f"s1_{orbit}_doy")
        if with_dummies:
            day = np.where((doy > 0).any(axis=1, keepdims=True), 0, DUMMY_DAY)
            stored = np.concatenate((stored, np.zeros((len(stored), 1, 2), stored.dtype)), axis=1)
            doy = np.concatenate((doy, day), axis=1)
        mean, std = getattr(statistics, f"s1_{orbit}_mean"), getattr(statistics, f"s1_{orbit}_std")
        parts.append((stored, standardise(stored, mean, std), doy, (stored != 0).any(axis=2)))
    return _Series(*(np.concatenate(both, axis=1) for both in zip(*parts, strict=True)))


def _drawn(series: _Series) -> Sequences:
    """40 of the valid frames, or of all frames where none is valid; drawn in the order of the series."""
    among = np.where(series.valid.any(axis=1, keepdims=True), series.valid, series.doy > 0)
    many = drawn(among, seeds(series.stored, series.doy, among))
    pixel, time = np.nonzero(many)
    place = (np.cumsum(many > 0, axis=1) - 1)[pixel, time]
    order = np.zeros((len(many), DRAWS), np.int64)
    order[many.any(axis=1)] = np.repeat(place, many[pixel, time]).reshape(-1, DRAWS)
    return packed(series.values, series.doy, many, order, np.full(len(many), DRAWS))
