"""TESSERA v1.0: 40 observations drawn at random from a pixel's own, the same ones every time.

The published code draws from an unseeded global generator, so its vectors never repeat. Here the seed is a hash of
the pixel's own observations: whoever embeds that pixel, alone or among others, today or in a year, draws the same.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.values import BoolArray, Int64Array

UInt64Array = npt.NDArray[np.uint64]

DRAWS: Final = 40
"""Observations that every v1.0 sequence has."""

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


def mixed(x: UInt64Array) -> UInt64Array:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of each number depends on all of its bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stream(seeds: UInt64Array, count: int) -> UInt64Array:
    """(n,) seeds -> (n, count): the first numbers of each seed's splitmix64."""
    return mixed(seeds[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)


def seeds(values: npt.NDArray[Any], doy: npt.NDArray[Any], among: BoolArray) -> UInt64Array:
    """A hash of the observations that may be drawn, in their order; nothing else has a say.

    Args:
        values: (n, t, c) as stored; integers and floats of the same value are the same.
        doy: (n, t) integer.
        among: (n, t).

    Returns:
        (n,).
    """
    keys = stream(np.array([values.shape[2]], np.uint64), values.shape[2] + 2)[0] | np.uint64(1)
    rank = np.cumsum(among, axis=1)
    frames = rank.astype(np.uint64) * keys[0] + doy.astype(np.uint64) * keys[1]
    for channel in range(values.shape[2]):
        # + 0 makes one zero of the two
        frames += (values[..., channel].astype(np.float32) + np.float32(0)).view(np.uint32) * keys[channel + 2]
    return mixed(np.where(among, mixed(frames), np.uint64(0)).sum(axis=1, dtype=np.uint64))


def drawn(among: BoolArray, seed: UInt64Array, draws: int = DRAWS) -> Int64Array:
    """How often each observation is drawn: without putting back where there are enough, else with.

    Args:
        among: (n, t) which observations may be drawn.
        seed: (n,).
        draws: How many.

    Returns:
        (n, t); each row sums to `draws`, or to 0 where there is nothing to draw from.
    """
    count = among.sum(axis=1)
    out = np.zeros(among.shape, np.int64)
    rank = np.maximum(np.cumsum(among, axis=1) - 1, 0)  # never the place itself: padding must not have a say
    if len(enough := np.flatnonzero(count >= draws)):
        keys = np.take_along_axis(stream(seed[enough], int(count.max())), rank[enough], axis=1)
        keys[~among[enough]] = ~np.uint64(0)
        chosen = np.argpartition(keys, draws - 1, axis=1)[:, :draws]
        out[enough[:, None], chosen] = 1
    if len(few := np.flatnonzero((count < draws) & (count > 0))):
        high = stream(seed[few], draws) >> np.uint64(32)
        picked = ((high * count[few, None].astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
        flat = np.arange(len(few))[:, None] * draws + picked
        tally = np.bincount(flat.ravel(), minlength=len(few) * draws).reshape(-1, draws)
        often = np.take_along_axis(tally, np.minimum(rank[few], draws - 1), axis=1)
        out[few] = np.where(among[few], often, 0)
    return out
