"""The short form of a sequence: each observation once, with the logarithm of how often it counts.

Order never matters to attention, only how often each observation is there. Where the network pools with a recurrent
cell (v1.x) the published sequence goes along as `order`, and only that cell walks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.sampling.rules import LENGTHS, LONGEST, PADDING, STEP, bin_of, multiplicities, orders
from service.values import BoolArray, Float32Array, Int64Array


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
    order: Int64Array | None = None
    """(n, steps) the published sequence, repetitions and all, as places among the observations; 0 after its end."""
    steps: Float32Array | None = None
    """(n, steps) 0 within the published sequence, PADDING after its end."""
    step_bucket: Int64Array | None = None
    """(n,) the least of LENGTHS that holds the pixel's own published sequence."""


def sequences(
    values: npt.NDArray[Any], doy: npt.NDArray[Any], valid: BoolArray, longest: int = LONGEST, sampling: str = "v2"
) -> Sequences:
    """Pick the observations that count by a rule of RULES, and pack them to the front.

    A pixel without any gets the published stand-in: observations of zeros on day 0, one for v2 and 8 for v1.1.

    Args:
        values: (n, t, c) standardised float32; anything where not valid.
        doy: (n, t) integer.
        valid: (n, t).
        longest: Longest sequence the model was trained for, at most 256.
        sampling: `v2` or `v1.1`; only the latter has an order.
    """
    seen = valid.sum(axis=1)
    most = int(seen.max(initial=0))
    table = multiplicities(most, longest, sampling)
    many = np.where(valid, table[seen[:, None], np.cumsum(valid, axis=1) - 1], 0)
    if sampling == "v2":
        return packed(values, doy, many)
    ends = np.clip(-(-seen // STEP) * STEP, STEP, bin_of(longest))
    return packed(values, doy, many, orders(most, longest, sampling)[seen], ends)


def packed(
    values: npt.NDArray[Any],
    doy: npt.NDArray[Any],
    many: npt.NDArray[np.integer],
    order: Int64Array | None = None,
    ends: Int64Array | None = None,
) -> Sequences:
    """Observations that count at least once, packed to the front.

    Args:
        values: (n, t, c) standardised float32.
        doy: (n, t) integer.
        many: (n, t) how often each counts; 0 throughout gives the stand-in.
        order: (n, p) places among the packed observations, p at least any of `ends`.
        ends: (n,) length of each published sequence.
    """
    taken = many > 0
    pixel, time = np.nonzero(taken)
    place = (np.cumsum(taken, axis=1) - 1)[pixel, time]
    size = taken.sum(axis=1)
    bucket = _bucket(np.maximum(size, 1))
    sides = len(many), int(bucket.max(initial=LENGTHS[0]))
    out = Sequences(
        np.zeros((*sides, values.shape[2]), np.float32),
        np.zeros(sides, np.int64),
        np.full(sides, PADDING, np.float32),
        bucket,
        *_steps(order, ends),
    )
    out.values[pixel, place] = values[pixel, time]
    out.doy[pixel, place] = doy[pixel, time]
    out.logm[pixel, place] = np.log(many[pixel, time].astype(np.float32))
    # The one stand-in counts for all of its copies: a softmax over copies of one observation is that observation.
    out.logm[size == 0, 0] = 0
    return out


def _steps(order: Int64Array | None, ends: Int64Array | None) -> tuple[Any, ...]:
    """(order, steps, step_bucket), cut or padded to one of LENGTHS."""
    if order is None or ends is None:
        return ()
    bucket = _bucket(ends)
    length = int(bucket.max(initial=LENGTHS[0]))
    missing = max(length - order.shape[1], 0)
    order = np.pad(order, ((0, 0), (0, missing)))[:, :length]
    steps = np.where(np.arange(length) < ends[:, None], np.float32(0), PADDING)
    return order, steps, bucket


def _bucket(length: Int64Array) -> Int64Array:
    return np.array(LENGTHS)[np.searchsorted(LENGTHS, length)]
