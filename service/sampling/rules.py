"""The published rules for a number of observations alone: lengths, which observations repeat, and in what order.

Tables of every count up to a power of two are kept, so that one look-up serves all pixels of a batch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from service.values import Int64Array

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
    extra = np.arange(rest) % n if rest > n else _middles(n, rest)
    return np.concatenate((np.arange(n), extra))


def resample(n: int, length: int) -> Int64Array:
    """Which of n observations each place of a sequence takes: the rule R of TESSERA v1.1.

    n > length: the middles of `length` nearly equal parts of 0..n-1. Else all n, then e = length - n more:
    linspace(0, n - 1, e + 2) without its ends, rounded half to even. They come after the n, out of order: the network
    pools with a recurrent cell, which sees that.

    Args:
        n: At least 1.
        length: At least 1.

    Returns:
        (length,) indices below n.
    """
    if n > length:
        return _middles(n, length)
    extra = np.rint(np.linspace(0, n - 1, length - n + 2)[1:-1])
    return np.concatenate((np.arange(n), np.clip(extra.astype(np.int64), 0, n - 1)))


def _middles(n: int, parts: int) -> Int64Array:
    """Element floor(len / 2) of each part of numpy.array_split(arange(n), parts); parts <= n."""
    sizes = np.full(parts, n // parts) + (np.arange(parts) < n % parts)
    return np.asarray(np.cumsum(sizes) - sizes + sizes // 2, np.int64)


RULES: Final = {"v1.1": resample, "v2": pattern}
"""Rules that depend on the number of observations alone, by sampling."""


def multiplicities(most: int, longest: int = LONGEST, sampling: str = "v2") -> npt.NDArray[np.int16]:
    """(at least most + 1, at least most) int16: how often the rule takes each of n observations, n = 0, 1, 2, ..."""
    return _tables(_rounded(most), longest, sampling)[0]


def orders(most: int, longest: int = LONGEST, sampling: str = "v1.1") -> Int64Array:
    """(at least most + 1, longest): the sequence for n = 0, 1, 2, ... as places among the observations that it takes.

    Behind its end, and for n = 0, the places are 0.
    """
    return _tables(_rounded(most), longest, sampling)[1]


def _rounded(most: int) -> int:
    """The next power of two: a few tables serve everybody."""
    return 1 << max(most - 1, 31).bit_length()


@lru_cache(maxsize=16)
def _tables(most: int, longest: int, sampling: str) -> tuple[npt.NDArray[np.int16], Int64Array]:
    many, places = np.zeros((most + 1, most), np.int16), np.zeros((most + 1, longest), np.int64)
    for n in range(1, most + 1):
        taken = RULES[sampling](n, length := bin_of(n, longest))
        many[n, :n] = np.bincount(taken, minlength=n)
        places[n, :length] = (np.cumsum(many[n] > 0) - 1)[taken]
    many.flags.writeable = places.flags.writeable = False
    return many, places
