"""What the pixels of a polygon have in common: the mean of their unit vectors, or of the vectors themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from indexing.areas import Drawn
from indexing.exact import Reader
from indexing.pixels import Pixels
from service.errors import LimitExceeded
from service.values import BLOCK, VALID, BoolArray, Float32Array, Float64Array, Int8Array, Int64Array, UInt8Array

MAX_BLOCKS: Final = 1024
"""Blocks that the polygons of one question may touch."""
_ROWS: Final = 2048
"""Pixels converted to float64 at once."""


@dataclass(frozen=True, eq=False)
class Average:
    """The mean of some pixels."""

    vector: Float32Array
    """(d,) float32 mean of the unit vectors, or of the vectors; anything where `pixels` is 0."""
    pixels: int
    """Valid pixels, those it is the mean of."""
    inside: int
    """Pixels in blocks with data whose centre lies in the polygon, valid or not."""
    blocks: int
    """Blocks with data that the polygon touches."""
    pieces: int
    """Pieces that its edges took."""
    statuses: UInt8Array
    """(n,) what keeps the others from being valid, most frequent first."""


def average_of(
    drawn: Drawn, read: Reader, most: int, field: str, blocks: int = MAX_BLOCKS, *, scaled: bool = False
) -> Average:
    """The mean of the valid pixels in a polygon, summed in float64.

    Args:
        drawn: The polygon, on the grids of a snapshot.
        read: How to read a block; with its scales, if `scaled`.
        most: How many pixels it may hold.
        field: What the caller calls it, for errors.
        blocks: How many blocks it may touch.
        scaled: Whether to take the mean of the dequantised vectors, not of the unit vectors.

    Raises:
        LimitExceeded: It holds more pixels, or touches more blocks.
        Corrupt, Unavailable: As `read` does.
    """
    inside = _count(drawn, most, blocks, field)
    total, pixels, others = np.zeros(0), 0, np.zeros(256, np.int64)
    for block in sorted(drawn.near):
        mask = drawn.mask(block)
        if not mask.any():
            continue
        held = read(block)
        used = mask & (held.norms > 0)
        others += _statuses(held, mask & ~used)
        pixels += int(used.sum())
        part = _sum(held.codes[used], held.scales[used] if scaled and held.scales is not None else None)
        total = part if not len(total) else total + part
    mean = np.asarray(total / max(1, pixels), np.float32)
    ranked = np.argsort(-others, kind="stable")[: np.count_nonzero(others)]
    return Average(mean, pixels, inside, len(drawn.near), drawn.pieces, ranked.astype(np.uint8))


def _count(drawn: Drawn, most: int, blocks: int, field: str) -> int:
    """Pixels in the polygon, found without reading one."""
    remedy = "Draw a smaller one, or give points."
    if len(drawn.near) > blocks:
        raise LimitExceeded(
            f"touches {len(drawn.near):,} blocks; {blocks:,} are left of {MAX_BLOCKS:,} for all polygons.",
            field=field,
            remedy=remedy,
        )
    count = len(drawn.whole) * BLOCK * BLOCK
    if count <= most:
        count += sum(int(drawn.mask(block).sum()) for block in drawn.near - drawn.whole)
    if count > most:
        raise LimitExceeded(f"holds over {most:,} pixels.", field=field, remedy=remedy)
    return count


def _statuses(held: Pixels, left: BoolArray) -> Int64Array:
    """(256,) how many of the pixels left over have each status; one whose codes are all 0 is valid all the same."""
    if held.status is None:
        return np.zeros(256, np.int64)
    counts = np.bincount(held.status[left], minlength=256)
    counts[VALID] = 0
    return counts


def _sum(codes: Int8Array, scales: Float32Array | None) -> Float64Array:
    """(d,) float64 sum of scale x c over (n, d) codes; of c / |c| where there are no scales."""
    total = np.zeros(codes.shape[-1])
    for start in range(0, len(codes), _ROWS):
        wide = codes[start : start + _ROWS].astype(np.float64)
        weights = 1 / np.linalg.norm(wide, axis=1) if scales is None else scales[start : start + _ROWS]
        total += weights @ wide
    return total
