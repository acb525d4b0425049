"""How a question is answered: which pixels an index may propose, and how hard it has to look among them.

The fewer pixels a filter leaves, the more lists hold the best of them; where it leaves few enough, scoring all of them
is both faster and exact. Nothing here depends on how an index is cut into segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from indexing.areas import Within
from indexing.index.manifest import IndexManifest
from indexing.index.opened import Fresh
from indexing.index.proposals import Proposal
from indexing.index.segment import Segment
from indexing.index.tuning import Tuning
from indexing.pixels import Pixels, Snapshot
from service.grid import Block
from service.values import BLOCK, Float32Array, Int64Array, UInt8Array

FEW_PIXELS: Final = 200_000
"""That may be hits: up to so many all are scored. Blocks with few of them are not read whole."""
FEW_BLOCKS: Final = 32
"""With pixels that may be hits: up to so many are scored whole, in some milliseconds."""

_PIXELS: Final = BLOCK * BLOCK
_WIDER: Final = 0.75
"""Lists to look into grow with 1 / share to this power: 1/2 is enough for pixels here and there, while the best of a
region may all lie in lists that few of the best of the world do."""


class Index(Protocol):
    """What is asked of an index, be it on this machine or on several: see `OpenedIndex`."""

    @property
    def manifest(self) -> IndexManifest:
        """What it says about itself."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All there are."""

    def propose(
        self,
        directions: Float32Array,
        count: int,
        probes: int,
        allowed: Sequence[UInt8Array | None] | None = None,
        segments: Sequence[int] | None = None,
    ) -> list[Proposal]:
        """Candidates for each direction."""

    def rows(self, proposal: Proposal, *, scales: bool = False) -> tuple[Int64Array, Pixels]:
        """Ids and pixels of candidates."""

    def block(self, block: Block) -> Pixels | None:
        """A block as it was indexed."""

    def fresh(self, at: Snapshot) -> Fresh:
        """Which blocks the store still holds as they were read."""

    def changed(self, at: Snapshot) -> list[Block]:
        """Blocks of the store that are not held as they are."""

    def setting(self, k: int, recall: float | None = None, *, mixed: bool = False) -> Tuning | None:
        """How hard to look."""


@dataclass(frozen=True, eq=False)
class Reach:
    """What of an index may be proposed."""

    allowed: tuple[UInt8Array | None, ...] | None
    """For each segment a bit for each position, lowest first; None where all may be."""
    pixels: int
    """About how many pixels those are."""
    share: float
    """Of all pixels of the index."""
    blocks: int
    """In how many blocks they lie."""


def reach_of(at: Snapshot, within: Within, index: Index) -> Reach:
    """What of an index may be proposed: pixels within, of blocks that the store still holds as they were read."""
    fresh, total = index.fresh(at), index.manifest.count
    if within.is_all and all(usable.all() for usable in fresh):
        return Reach(None, total, 1.0, sum(map(len, fresh)))
    pixels = blocks = 0
    allowed = []
    for segment, usable in zip(index.segments, fresh, strict=True):
        bits = np.zeros((segment.slots, _PIXELS // 8), np.uint8)
        for slot in np.flatnonzero(usable).tolist():
            block, held = segment.record.blocks[slot][0], segment.record.counts[slot]
            if block not in within.blocks:
                continue
            mask = within.part(at, block)
            bits[slot] = 255 if mask is None else np.packbits(mask.ravel(), bitorder="little")
            some = held if mask is None else held * int(np.count_nonzero(mask)) // _PIXELS
            pixels, blocks = pixels + some, blocks + (mask is None or bool(mask.any()))
        allowed.append(bits.ravel())
    return Reach(tuple(allowed), pixels, pixels / max(1, total), blocks)


def effort(tuning: Tuning, k: int, share: float, lists: int) -> tuple[int, int]:
    """(probes, candidates): how many lists to look into, and how many pixels to rank.

    Args:
        tuning: What finds enough of all pixels.
        k: How many hits are wanted.
        share: Of the pixels may be hits.
        lists: There are.
    """
    probes, count = tuning.scaled(k)
    return min(int(np.ceil(probes / max(share, 1 / lists) ** _WIDER)), lists), count


def proposed(index: Index, reach: Reach, direction: Float32Array, probes: int, count: int) -> tuple[Proposal, int]:
    """Candidates for one direction, and how many lists were looked into: more, until there are enough candidates."""
    lists = index.manifest.parameters.lists
    while True:
        (found,) = index.propose(direction[None], count, probes, reach.allowed)
        if len(found.position) >= min(count, max(1, reach.pixels)) or probes >= lists:
            return found, probes
        probes = wider(probes, lists)


def wider(probes: int, lists: int) -> int:
    """How many lists to look into where so many may not be enough."""
    return min(4 * probes, lists)
