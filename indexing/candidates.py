"""Which pixels an index proposes for a query, where only some of them may be hits."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from indexing.areas import Within
from indexing.ids import ids_at
from indexing.opened import OpenedIndex
from indexing.pixels import Snapshot
from service.queries import Query
from service.values import BLOCK, BoolArray, Int64Array, UInt8Array

_PIXELS: Final = BLOCK * BLOCK


def candidates(query: Query, at: Snapshot, within: Within, k: int, index: OpenedIndex, usable: BoolArray) -> Int64Array:
    """Ids of candidates from the usable blocks of an index; looks into more lists until there are enough."""
    if not usable.any():
        return np.empty(0, np.int64)
    probes, count = index.manifest.tuning.scaled(k)
    probes = min(int(probes / usable.mean()), index.ann.lists)
    allowed = None if usable.all() and within.is_all else _bits(at, within, index, usable)
    direction = query.direction.astype(np.float32)
    while True:
        positions = index.ann.candidates(direction, count, probes, allowed)
        if len(positions) >= count or probes >= index.ann.lists:
            return ids_at(index.first_ids[positions // _PIXELS], positions % _PIXELS)
        probes = min(4 * probes, index.ann.lists)


def _bits(at: Snapshot, within: Within, index: OpenedIndex, usable: BoolArray) -> UInt8Array:
    """A bit for each position of the index, lowest first: whether it may be proposed."""
    if within.is_all:
        return _whole_blocks(usable.tobytes())
    bits = np.zeros((len(usable), _PIXELS // 8), np.uint8)
    for ordinal in np.flatnonzero(usable):
        block = index.manifest.blocks[ordinal][0]
        bits[ordinal] = np.packbits(within.mask(at, block).ravel(), bitorder="little")
    return bits.ravel()


@lru_cache(maxsize=2)
def _whole_blocks(usable: bytes) -> UInt8Array:
    """The same where whole blocks, (blocks,) bool, may be proposed or not: kept, as it only changes with the store."""
    bits = np.repeat(np.frombuffer(usable, np.uint8) * np.uint8(255), _PIXELS // 8)
    bits.flags.writeable = False
    return bits
