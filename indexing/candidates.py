"""Which pixels an index proposes for a query, where only some of them may be hits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from indexing.areas import Within
from indexing.opened import Fresh, OpenedIndex
from indexing.pixels import Snapshot
from indexing.segment import Segment
from service.queries import Query
from service.values import BLOCK, BoolArray, Int64Array, UInt8Array

_PIXELS: Final = BLOCK * BLOCK


def candidates(query: Query, at: Snapshot, within: Within, k: int, index: OpenedIndex, usable: Fresh) -> Int64Array:
    """Ids of candidates from the usable blocks of an index; looks into more lists until there are enough."""
    share = float(np.mean(np.concatenate(usable))) if usable else 0.0
    if not share:
        return np.empty(0, np.int64)
    probes, count = index.manifest.tuning.scaled(k)
    probes = min(int(probes / share), index.quantiser.lists)
    allowed = None if share == 1 and within.is_all else [_bits(at, within, *each) for each in _each(index, usable)]
    direction = query.direction.astype(np.float32)[None]
    while True:
        (proposal,) = index.propose(direction, count, probes, allowed)
        if len(proposal.position) >= count or probes >= index.quantiser.lists:
            return index.ids(proposal)
        probes = min(4 * probes, index.quantiser.lists)


def _each(index: OpenedIndex, usable: Fresh) -> Iterator[tuple[Segment, BoolArray]]:
    yield from zip(index.segments, usable, strict=True)


def _bits(at: Snapshot, within: Within, segment: Segment, usable: BoolArray) -> UInt8Array:
    """A bit for each position of a segment, lowest first: whether it may be proposed."""
    if within.is_all:
        return segment.whole(usable)
    bits = np.zeros((len(usable), _PIXELS // 8), np.uint8)
    for slot in np.flatnonzero(usable):
        block = segment.record.blocks[slot][0]
        bits[slot] = np.packbits(within.mask(at, block).ravel(), bitorder="little")
    return bits.ravel()
