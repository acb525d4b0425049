"""How n observations become the sequence an encoder sees: the v2 rule, and its exact short form.

The published rule repeats or drops observations until their number is a multiple of 8. Order never matters to the
network, only how often each observation is there, so we keep each observation once, with the logarithm of its
multiplicity, and pad to one of a few lengths with observations of multiplicity zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.values import BoolArray, Float32Array, Int64Array

STEP: Final = 8
"""Published sequence lengths are multiples of this."""
LONGEST: Final = 256
"""Longest published sequence."""
LENGTHS: Final = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256)
"""Padded lengths that we run. The finest where most pixels are: padding costs as much as observations."""
PADDING: Final = np.float32(-1e9)
"""log(0), as far as a softmax in float32 can tell."""


def bin_of(n: int, longest: int = LONGEST) -> int:
    """Published sequence length for n observations: the next multiple of 8, at most `longest`; 0 for none."""
    return min(-(-n // STEP) * STEP, longest)


def pattern(n: int, length: int) -> Int64Array:
    """Which of n observations each place of a sequence takes: the rule P of TESSERA v2.

    n >= length: linspace(0, n - 1, length), truncated. Else all n, then r = length - n more: the middles of r nearly
    equal parts of 0..n-1 (numpy.array_split) if r <= n, else 0, 1, 2, ... around and around.

    Args:
        n: At least 1.
        length: At least 1.

    Returns:
        (length,) indices below n.
    """
    if n >= length:
        return np.linspace(0, n - 1, length).astype(np.int64)
    rest = length - n
    if rest > n:
        extra = np.arange(rest) % n
    else:
        sizes = np.full(rest, n // rest) + (np.arange(rest) < n % rest)
        extra = np.cumsum(sizes) - sizes + sizes // 2
    return np.concatenate((np.arange(n), extra))


@lru_cache(maxsize=8)
def multiplicities(most: int, longest: int = LONGEST) -> npt.NDArray[np.int16]:
    """(most + 1, max(most, 1)) int16: how often the rule takes each of n observations, for n = 0..most."""
    table = np.zeros((most + 1, max(most, 1)), np.int16)
    for n in range(1, most + 1):
        table[n, :n] = np.bincount(pattern(n, bin_of(n, longest)), minlength=n)
    table.flags.writeable = False
    return table


@dataclass(frozen=True)
class Sequences:
    """The observations of one sensor that count, each once, for n pixels; padded to one of LENGTHS."""

    values: Float32Array
    """(n, length, c) standardised; 0 in padding."""
    doy: Int64Array
    """(n, length) day of the year; 0 in padding."""
    logm: Float32Array
    """(n, length) log(multiplicity); PADDING in padding."""
    bucket: Int64Array
    """(n,) the least of LENGTHS that holds the pixel's own observations."""


def sequences(values: npt.NDArray[Any], doy: npt.NDArray[Any], valid: BoolArray, longest: int = LONGEST) -> Sequences:
    """Pick the observations that count and pack them to the front.

    A pixel without any gets the published stand-in: one observation of zeros on day 0.

    Args:
        values: (n, t, c) standardised float32; anything where not valid.
        doy: (n, t) integer.
        valid: (n, t).
        longest: Longest sequence the model was trained for, at most 256.
    """
    n, seen = len(valid), valid.sum(axis=1)
    table = multiplicities(int(seen.max(initial=0)), longest)
    many = np.where(valid, table[seen[:, None], np.cumsum(valid, axis=1) - 1], 0)
    taken = many > 0
    pixel, time = np.nonzero(taken)
    place = (np.cumsum(taken, axis=1) - 1)[pixel, time]
    length = np.maximum(taken.sum(axis=1), 1)
    bucket = np.array(LENGTHS)[np.searchsorted(LENGTHS, length)]
    sides = n, int(bucket.max(initial=LENGTHS[0]))
    out = Sequences(
        np.zeros((*sides, values.shape[2]), np.float32),
        np.zeros(sides, np.int64),
        np.full(sides, PADDING, np.float32),
        bucket,
    )
    out.values[pixel, place] = values[pixel, time]
    out.doy[pixel, place] = doy[pixel, time]
    out.logm[pixel, place] = np.log(many[pixel, time].astype(np.float32))
    out.logm[seen == 0, 0] = 0
    return out
