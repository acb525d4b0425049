"""Which blocks of a published layout hold data: from what is stored, without reading a pixel.

A chunk that holds nothing but the fill value is not stored. Where chunks lie in shards, the shard's index says which
are; without shards, the list of objects does. A block counts as held where a stored chunk touches it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from service.errors import LimitExceeded
from service.grid import Block, ZoneGrid
from service.store.ahead import Sharding
from service.store.faults import Array, reading
from service.store.layer import Layer
from service.values import BLOCK, BoolArray

Coordinates = tuple[int, ...]

ASKED: Final = 1024
"""Objects of a zone that are asked for one by one where a location cannot be listed."""
INDEX_BYTES: Final = 64_000_000
"""Of shards' indexes that are read to know blocks exactly: 250 published shards. What else is stored counts whole."""
MOST_BLOCKS: Final = 300_000
"""Blocks of one window that are known one by one: two million square kilometres."""
_AT_ONCE: Final = 64
"""Indexes in memory at once: a published one has 262 kB."""


@dataclass(frozen=True)
class Scales:
    """The scales of one zone: what tells where data is."""

    location: str
    """Of the store, for messages."""
    array: Array
    """([time,] row, column)."""
    grid: ZoneGrid
    """Of the zone and hemisphere asked for."""
    row0: int = 0
    """Array row of the grid's first row."""
    col0: int = 0
    """Array column of the grid's first column."""

    @classmethod
    def of(cls, layer: Layer) -> Scales:
        """Of a layer that has its arrays as they are stored."""
        return cls(layer.location, layer.scales, layer.grid, layer.row0)

    @property
    def sides(self) -> tuple[int, int]:
        """(rows, columns) of one stored object: a shard, or a chunk where there are none."""
        rows, cols = (self.array.shards or self.array.chunks)[-2:]
        return rows, cols


def held_blocks(parts: Iterable[tuple[Scales, Iterable[Coordinates]]]) -> tuple[Block, ...]:
    """Blocks of several zones that may hold data, in order of name.

    Args:
        parts: Of each zone the scales, in a layout without versions per block, and the coordinates of the objects of
            one time that are there, or may be.

    Raises:
        LimitExceeded: The store is too large to be known block by block.
        Corrupt: An index cannot be read.
        Unavailable: The transport failed.
    """
    found, read = set[Block](), 0
    for scales, objects in parts:
        sharding = Sharding.of(scales.array) if scales.array.shards else None
        here, size = list(objects), sharding.index_bytes if sharding else 0
        for start in range(0, len(here), _AT_ONCE):
            some = here[start : start + _AT_ONCE]
            read += size * len(some)
            exact = sharding if read <= INDEX_BYTES else None
            for top, left, held in _masks(scales, exact, some):
                found |= _blocks(scales, top, left, held)
            if len(found) > MOST_BLOCKS:
                raise LimitExceeded(
                    f"{scales.location} is too large to be gone through block by block.",
                    remedy="Ask for a tile, a point or a small area.",
                )
    return tuple(sorted(found))


def possible_objects(scales: Scales, *before: int) -> list[Coordinates]:
    """Coordinates of all objects that may be there, where a location cannot be listed.

    Args:
        scales: Of one zone.
        before: Coordinates along the axes before rows and columns: the time.

    Raises:
        LimitExceeded: Too many to ask for each.
    """
    height, width = scales.sides
    top, left = max(scales.row0, 0), max(scales.col0, 0)
    most_rows, most_cols = scales.array.shape[-2:]
    rows = range(top // height, -(-min(scales.row0 + scales.grid.height, most_rows) // height))
    cols = range(left // width, -(-min(scales.col0 + scales.grid.width, most_cols) // width))
    if len(rows) * len(cols) > ASKED:
        raise LimitExceeded(
            f"{scales.location} cannot be listed, and zone {scales.grid.zone.name} may have "
            f"{len(rows) * len(cols):,} shards; at most {ASKED:,} are asked for.",
            remedy="Read it from a bucket, which can be listed.",
        )
    return [(*before, i, j) for i in rows for j in cols]


def _masks(
    scales: Scales, sharding: Sharding | None, at: Sequence[Coordinates]
) -> Iterator[tuple[int, int, BoolArray]]:
    """(first row, first column, which of its parts are stored) of each object that is there, on the array."""
    found = _indexes(scales, sharding, at) if sharding else [np.ones((1, 1), bool)] * len(at)
    height, width = scales.sides
    for (*_, i, j), mask in zip(at, found, strict=True):
        if mask is not None:
            yield i * height, j * width, mask


def _indexes(scales: Scales, sharding: Sharding, at: Sequence[Coordinates]) -> list[BoolArray | None]:
    """(rows, columns) which chunks of each shard are stored; None for shards that are not there."""
    array = scales.array
    keys = [f"{array.path}/{array.metadata.encode_chunk_key(coordinates)}" for coordinates in at]
    with reading(scales.location, f"the shard indexes of {array.path}"):
        texts = sync(_texts(array.store, keys, sharding))
    return [None if text is None else _stored(sharding, text) for text in texts]


async def _texts(store: Store, keys: Sequence[str], sharding: Sharding) -> list[bytes | None]:
    prototype, span = default_buffer_prototype(), sharding.index_span
    found = await asyncio.gather(*(store.get(key, prototype, span) for key in keys))
    return [None if one is None else one.to_bytes() for one in found]


def _stored(sharding: Sharding, text: bytes) -> BoolArray:
    index = sharding.index(text)
    if index is None:  # cut short: whoever reads it is told so
        return np.ones(sharding.per_shard[-2:], bool)
    return np.asarray((index.starts >= 0).reshape(-1, *sharding.per_shard[-2:]).any(axis=0))


def _blocks(scales: Scales, top: int, left: int, held: BoolArray) -> set[Block]:
    """The blocks that the stored parts of one object touch, within the grid."""
    height, width = (side // parts for side, parts in zip(scales.sides, held.shape, strict=True))
    rows, cols = np.nonzero(held)
    tops, lefts = top + rows * height - scales.row0, left + cols * width - scales.col0
    first, last = np.maximum(tops, 0), np.minimum(tops + height, scales.grid.height) - 1
    start, stop = np.maximum(lefts, 0), np.minimum(lefts + width, scales.grid.width) - 1
    inside = (last >= first) & (stop >= start)
    edges = np.unique(np.stack([first, last, start, stop], axis=1)[inside] // BLOCK, axis=0)
    grid = scales.grid
    return {
        Block(grid.zone.name, row, col, grid.level)
        for first, last, start, stop in edges.tolist()
        for row in range(first, last + 1)
        for col in range(start, stop + 1)
    }
