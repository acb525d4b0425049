"""The mean of embeddings: what one pixel of an overview shows for the pixels below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from service.quant import quantise
from service.values import (
    NOT_EMBEDDED,
    OUTSIDE,
    REJECTED,
    VALID,
    WATER,
    Counts,
    UInt8Array,
    UInt16Array,
    Vectors,
)

UInt32Array = npt.NDArray[np.uint32]

_STRIP: Final = 8
"""Rows of an overview at once: 1 MB of float32, so that the passes over them find them in the processor's cache."""
_REASONS: Final = (WATER, REJECTED, NOT_EMBEDDED)
"""Why an overview pixel holds nothing: the commonest reason below it, in this order where two are as common."""


@dataclass(frozen=True, eq=False)
class Summary:
    """Pixels, and how much stands behind each."""

    vectors: Vectors
    """(h, w) pixels."""
    weight: UInt32Array
    """(h, w) uint32 how many level-1 vectors they are the mean of; 0 where there is none."""
    counts: Counts
    """(h, w) the means of their observation counts, rounded; of no meaning where the weight is 0."""

    @classmethod
    def of(cls, vectors: Vectors, counts: Counts) -> Self:
        """Pixels of level 1: each stands for itself."""
        return cls(vectors, vectors.valid.astype(np.uint32), counts)

    @classmethod
    def empty(cls, shape: tuple[int, int], dims: int) -> Self:
        """Pixels that hold nothing."""
        return cls.of(Vectors.empty(shape, dims), Counts.zeros(shape))

    def put(self, row: int, col: int, part: Summary) -> None:
        """Lay a smaller rectangle into this one, its first pixel at a row and column."""
        height, width = part.weight.shape
        at = slice(row, row + height), slice(col, col + width)
        for mine, its in zip(self._arrays, part._arrays, strict=True):
            mine[at] = its

    @property
    def _arrays(self) -> tuple[npt.NDArray[np.generic], ...]:
        return (self.vectors.codes, self.vectors.scales, self.vectors.status, self.weight, *self.counts.each)


def halved(below: Summary) -> Summary:
    """Halve a rectangle: the weighted mean of each 2 x 2 pixels, re-quantised (v2).

    Args:
        below: (2h, 2w) pixels.

    Returns:
        (h, w) pixels; their weight is the sum of the weights below.
    """
    total = np.asarray(sum(_quarters(below.weight)), np.uint32)
    out = Vectors.empty((*total.shape,), below.vectors.dims)
    np.copyto(out.status, np.where(total > 0, np.uint8(VALID), _reasons(below.vectors.status)))
    rows, cols = (np.flatnonzero((total > 0).any(axis=axis)) for axis in (1, 0))
    if len(rows):
        across = slice(cols[0], cols[-1] + 1)
        for start in range(rows[0], rows[-1] + 1, _STRIP):
            _fill(out, below, total, slice(start, min(start + _STRIP, rows[-1] + 1)), across)
    counts = (_mean_count(array, below.weight, total) for array in below.counts.each)
    return Summary(out, total, Counts(*counts))


def _fill(out: Vectors, below: Summary, total: UInt32Array, rows: slice, cols: slice) -> None:
    """Means of the vectors of some rows and columns of an overview."""
    wide = np.s_[2 * rows.start : 2 * rows.stop, 2 * cols.start : 2 * cols.stop]
    size = np.maximum(total[rows, cols], 1)
    share = below.vectors.scales[wide] * below.weight[wide]
    mean = np.zeros((*size.shape, out.dims), np.float32)
    part = np.empty_like(mean)
    for codes, own in zip(_quarters(below.vectors.codes[wide]), _quarters(share), strict=True):
        mean += np.multiply(codes, (own / size).astype(np.float32)[..., None], out=part)
    codes, scales = quantise(mean)
    held = total[rows, cols] > 0
    out.codes[rows, cols] = np.where(held[..., None], codes, np.int8(0))
    out.scales[rows, cols] = np.where(held, scales, np.float32(0))


def _quarters(array: npt.NDArray[np.generic]) -> list[npt.NDArray[np.generic]]:
    return [array[i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _mean_count(counts: UInt16Array, weight: UInt32Array, total: UInt32Array) -> UInt16Array:
    weighted = np.multiply(counts, weight, dtype=np.float64)
    return np.rint(sum(_quarters(weighted)) / np.maximum(total, 1)).astype(np.uint16)


def _reasons(status: UInt8Array) -> UInt8Array:
    """(h, w) the commonest reason for no data among each 2 x 2 statuses."""
    status = np.where(status == OUTSIDE, np.uint8(NOT_EMBEDDED), status)
    votes = np.stack([sum((part == r).astype(np.int8) for part in _quarters(status)) for r in _REASONS])
    return np.asarray(np.array(_REASONS, np.uint8)[votes.argmax(axis=0)])
