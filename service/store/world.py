"""From the coarsest level of the zones to the finest of the world: one block of degrees from the pixels in it.

A pixel of the world is the mean, weighted as everywhere, of the valid pixels whose centres lie in it, each taken from
its own nominal zone. Towards the poles a pixel of the world becomes narrower than those of the zones, and no centre
may lie in it: then it is the pixel that holds its own centre.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.globe import FINEST
from service.grid import Block, ZoneGrid, zone_numbers
from service.quant import quantise
from service.store.mean import Summary
from service.values import (
    BLOCK,
    NOT_EMBEDDED,
    REJECTED,
    VALID,
    WATER,
    BoolArray,
    Counts,
    Float64Array,
    Int64Array,
    Vectors,
)

_CELLS: Final = BLOCK * BLOCK
_TOLD: Final = (WATER, REJECTED)
_NARROW: Final = 55.0
"""Degrees north or south up to which each pixel that holds the centre of one of the world's has its own in that."""


@dataclass(frozen=True, eq=False)
class Part:
    """A block of a zone, and what it shows."""

    grid: ZoneGrid
    """The zone's grid at the block's level."""
    block: Block
    summary: Summary
    """(256, 256) pixels."""


class _Sums:
    """What is added up for the 65,536 pixels of a block of the world, by flat index."""

    def __init__(self, dims: int) -> None:
        self.values = np.zeros((_CELLS, dims), np.float32)
        self.weight = np.zeros(_CELLS, np.uint32)
        self.counts = np.zeros((3, _CELLS))
        self.votes = np.zeros((len(_TOLD), _CELLS), np.int32)

    def add(self, cells: Int64Array, summary: Summary, pixels: Int64Array) -> None:
        """Add `pixels` of a summary, flat indices, to `cells`."""
        status = summary.vectors.status.ravel()[pixels]
        for votes, reason in zip(self.votes, _TOLD, strict=True):
            votes += np.bincount(cells[status == reason], minlength=_CELLS).astype(np.int32)
        valid = np.flatnonzero(status == VALID)
        order = valid[np.argsort(cells[valid], kind="stable")]
        if not len(order):
            return
        cells, pixels = cells[order], pixels[order]
        starts = np.flatnonzero(np.diff(cells, prepend=-1))
        weight = summary.weight.ravel()[pixels]
        share = np.multiply(summary.vectors.scales.ravel()[pixels], weight, dtype=np.float32)
        values = summary.vectors.codes.reshape(-1, summary.vectors.dims)[pixels] * share[:, None]
        at = cells[starts]
        self.values[at] += np.add.reduceat(values, starts)
        self.weight[at] += np.add.reduceat(weight, starts)
        for total, counts in zip(self.counts, summary.counts.each, strict=True):
            total[at] += np.add.reduceat(np.multiply(counts.ravel()[pixels], weight, dtype=np.float64), starts)

    def fill(self, other: _Sums) -> None:
        """Take from another what this one has nothing of."""
        empty = (self.weight == 0) & (other.weight > 0)
        self.values[empty], self.weight[empty] = other.values[empty], other.weight[empty]
        self.counts[:, empty] = other.counts[:, empty]
        silent = ~self.votes.any(axis=0)
        self.votes[:, silent] = other.votes[:, silent]

    def summary(self) -> Summary:
        """The means; where nothing is valid, the commonest reason that is told."""
        held, dims, shape = self.weight > 0, self.values.shape[1], (BLOCK, BLOCK)
        out = Vectors.empty((_CELLS,), dims)
        mean = np.asarray(self.values[held] / self.weight[held, None], np.float32)
        out.codes[held], out.scales[held] = quantise(mean)
        why = np.where(self.votes.any(axis=0), np.array(_TOLD, np.uint8)[self.votes.argmax(axis=0)], NOT_EMBEDDED)
        status = np.where(held, np.uint8(VALID), why.astype(np.uint8))
        counts = np.rint(self.counts / np.maximum(self.weight, 1)).astype(np.uint16).reshape(3, *shape)
        vectors = Vectors(out.codes.reshape(*shape, dims), out.scales.reshape(shape), status.reshape(shape))
        return Summary(vectors, self.weight.reshape(shape), Counts(*counts))


def gathered(block: Block, parts: Iterable[Part], dims: int) -> Summary:
    """One block of the world's finest level.

    Args:
        block: Which.
        parts: The blocks of zones that lie in it, looked at one after the other.
        dims: Embedding dimensions.

    Returns:
        (256, 256) pixels.
    """
    within = _Sums(dims)
    around = _Sums(dims) if _is_narrow(block) else None
    for part in parts:
        pixels = np.flatnonzero(np.isin(part.summary.vectors.status, (VALID, *_TOLD)))
        if len(pixels):
            cells, pixels = _lying_in(part, block, pixels)
            within.add(cells, part.summary, pixels)
            if around is not None:
                around.add(*_holding(part, block))
    if around is not None:
        within.fill(around)
    return within.summary()


def _is_narrow(block: Block) -> bool:
    """Whether the block has pixels so narrow that no centre may lie in them."""
    north = FINEST.y0 - block.rows.start * FINEST.pixel
    return bool(max(abs(north), abs(north - BLOCK * FINEST.pixel)) > _NARROW)


def _lying_in(part: Part, block: Block, pixels: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Of some pixels of a zone those whose centres lie in its nominal part and in the block: (cells, pixels)."""
    row, col = part.block.rows.start + pixels // BLOCK, part.block.cols.start + pixels % BLOCK
    lon, lat = part.grid.to_lonlat(row + 0.5, col + 0.5)
    row, col = (np.floor(axis).astype(np.int64) for axis in FINEST.from_lonlat(lon, lat))
    row, col = row - block.rows.start, col - block.cols.start
    held = (row >= 0) & (row < BLOCK) & (col >= 0) & (col < BLOCK) & _nominal(part, lon, lat)
    return row[held] * BLOCK + col[held], pixels[held]


def _holding(part: Part, block: Block) -> tuple[Int64Array, Summary, Int64Array]:
    """(cells of the block whose centres lie in the part, the part's summary, the pixels that hold them)."""
    lat = FINEST.y0 - (block.rows.start + np.arange(BLOCK) + 0.5) * FINEST.pixel
    lon = FINEST.x0 + (block.cols.start + np.arange(BLOCK) + 0.5) * FINEST.pixel
    lat, lon = (axis.ravel() for axis in np.meshgrid(lat, lon, indexing="ij"))
    cells = np.flatnonzero(_nominal(part, lon, lat))
    row, col = (np.floor(axis).astype(np.int64) for axis in part.grid.from_lonlat(lon[cells], lat[cells]))
    row, col = row - part.block.rows.start, col - part.block.cols.start
    held = (row >= 0) & (row < BLOCK) & (col >= 0) & (col < BLOCK)
    return cells[held], part.summary, row[held] * BLOCK + col[held]


def _nominal(part: Part, lon: Float64Array, lat: Float64Array) -> BoolArray:
    zone = part.grid.zone
    return np.asarray((zone_numbers(lon) == zone.number) & ((lat < 0) == zone.south))
