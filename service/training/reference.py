"""The published procedures, literally: repeat or draw observations, group pixels by length, run torch.

Slow and plain on purpose: one pixel after the other, every repetition through the whole network. It is what the
encoder is held against, so it shares no more with it than the rules for a number of observations.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from service.dpixels import DPixels
from service.families import Statistics
from service.sampling import DRAWS, bin_of, drawn, pattern, resample, seeds
from service.training.networks import Network
from service.values import Float32Array, Int64Array

Frames = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]
"""One sensor and orbit of one pixel: (t, c) stored values, (t,) days, (t,) which are valid."""
Stream = tuple[Float32Array, Int64Array]
"""A sequence as the network sees it: (t, c) standardised values, (t,) days."""
Own = tuple[Float32Array, Float32Array]
"""Means and standard deviations of one sensor and orbit."""


def reference_vectors(
    network: Network,
    dpixels: DPixels,
    statistics: Statistics,
    batch: int = 1024,
    sampling: str = "v2",
    rng: np.random.Generator | None = None,
) -> Float32Array:
    """Vectors by a published rule with repeated observations.

    Args:
        network: Of the family that the rule belongs to, in evaluation mode.
        dpixels: n pixels.
        statistics: Of the checkpoint.
        batch: Pixels of one length that run together.
        sampling: `v1.0-early`, `v1.0`, `v1.1` or `v2`.
        rng: For v1.0: draw from this, as the published code does; absent: our draws, which repeat.

    Returns:
        (n, d) float32, d as the network gives; NaN where the model's rule embeds nothing, or no observation is valid.
    """
    groups: dict[tuple[int, int], list[tuple[int, Stream, Stream]]] = defaultdict(list)
    own = [_arrays(statistics, sensor) for sensor in ("s2", "s1_asc", "s1_desc")]
    for i in range(len(dpixels)):
        if both := _published(dpixels, i, own, sampling, rng):
            groups[len(both[0][1]), len(both[1][1])].append((i, *both))
    out = np.full((len(dpixels), network.config.repr_dim), np.nan, np.float32)
    for _, members in sorted(groups.items()):
        for start in range(0, len(members), batch):
            pixels, optical, radar = zip(*members[start : start + batch], strict=True)
            with torch.inference_mode():
                out[list(pixels)] = network(*_stacked(optical), *_stacked(radar)).numpy()
    return out


def _published(
    dpixels: DPixels, i: int, own: list[Own], sampling: str, rng: np.random.Generator | None
) -> tuple[Stream, Stream] | None:
    """Both sequences of one pixel; None where it is not embedded."""
    optical = dpixels.s2[i], dpixels.s2_doy[i], dpixels.s2_valid[i]
    orbits: list[Frames] = [
        (stored[i], doy[i], (stored[i, :, 0] != 0) | (stored[i, :, 1] != 0))
        for stored, doy in ((dpixels.s1_asc, dpixels.s1_asc_doy), (dpixels.s1_desc, dpixels.s1_desc_doy))
    ]
    if not optical[2].any() and not any(valid.any() for _, _, valid in orbits):
        return None
    if sampling in ("v1.0", "v1.0-early"):
        return _v10(optical, orbits, own, sampling == "v1.0-early", rng)
    s2 = _valid(optical, own[0])
    asc, desc = (_valid(orbit, one) for orbit, one in zip(orbits, own[1:], strict=True))
    s1 = np.concatenate((asc[0], desc[0])), np.concatenate((asc[1], desc[1]))
    return _filled(s2, sampling), _filled(s1, sampling)


def _arrays(statistics: Statistics, sensor: str) -> Own:
    mean, std = getattr(statistics, f"{sensor}_mean"), getattr(statistics, f"{sensor}_std")
    return np.array(mean, np.float32), np.array(std, np.float32) + np.float32(1e-9)


def _standardised(stored: npt.NDArray[Any], own: Own) -> Float32Array:
    return np.asarray((stored.astype(np.float32) - own[0]) / own[1], np.float32)


def _valid(frames: Frames, own: Own) -> Stream:
    stored, doy, valid = frames
    return _standardised(stored[valid], own), doy[valid].astype(np.int64)


def _filled(stream: Stream, sampling: str) -> Stream:
    """Repeat or drop to a multiple of 8; zeros on day 0 where there is nothing: one for v2, 8 for v1.1."""
    values, doy = stream
    if not len(doy):
        count = 8 if sampling == "v1.1" else 1
        return np.zeros((count, values.shape[1]), np.float32), np.zeros(count, np.int64)
    order = _rule(sampling, len(doy))
    return values[order], doy[order]


@lru_cache(maxsize=4096)
def _rule(sampling: str, n: int) -> Int64Array:
    return (resample if sampling == "v1.1" else pattern)(n, bin_of(n))


def _v10(
    optical: Frames, orbits: list[Frames], own: list[Own], early: bool, rng: np.random.Generator | None
) -> tuple[Stream, Stream] | None:
    """40 of each sensor; frames on day 0 are padding of ours and do not exist."""
    optical, *orbits = (_existing(one) for one in (optical, *orbits))
    if not early:  # an orbit without frames gets one of zeros
        dummy: Frames = np.zeros((1, 2), np.int16), np.array([180]), np.array([False])
        orbits = [one if len(one[1]) else dummy for one in orbits]
    if not optical[0].any() or not sum(len(doy) for _, doy, _ in orbits):
        return None
    sequences = []
    for parts, stats in (([optical], own[:1]), (orbits, own[1:])):
        stored, doy, valid = (np.concatenate(each) for each in zip(*parts, strict=True))
        values = np.concatenate([_standardised(one[0], s) for one, s in zip(parts, stats, strict=True)])
        among = valid if valid.any() else np.ones(len(valid), bool)
        order = _forty(stored, doy, among, rng)
        sequences.append((values[order], doy[order].astype(np.int64)))
    return sequences[0], sequences[1]


def _existing(frames: Frames) -> Frames:
    there = frames[1] > 0
    return frames[0][there], frames[1][there], frames[2][there]


def _forty(
    stored: npt.NDArray[Any],
    doy: npt.NDArray[Any],
    among: npt.NDArray[np.bool_],
    rng: np.random.Generator | None,
) -> Int64Array:
    if rng is not None:
        chosen = rng.choice(np.flatnonzero(among), DRAWS, replace=int(among.sum()) < DRAWS)
        return np.sort(chosen)
    seed = seeds(stored[None], doy[None], among[None])
    return np.repeat(np.arange(len(among)), drawn(among[None], seed)[0])


def _stacked(streams: tuple[Stream, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.from_numpy(np.stack(each)) for each in zip(*streams, strict=True))  # type: ignore[return-value]
