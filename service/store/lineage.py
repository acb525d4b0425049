"""Which overview blocks do not show what stands below them, told from versions alone.

Each overview block records the versions of its children. Where they differ from what stands now it is dirty; where
it or anything between it and level 1 is dirty, it is stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Any, Protocol

import numpy as np

from service.globe import FINEST, LEVELS, Grids, ancestors, children
from service.grid import Block, Zone


class Standing(Protocol):
    """What is known of the blocks of one snapshot. Times are positions on its axis."""

    @property
    def grids(self) -> Grids:
        """Level-1 grids."""

    def listed(self, level: int, time: int) -> frozenset[Block]:
        """Blocks with a version."""

    def versions(self, time: int, blocks: Iterable[Block]) -> dict[Block, str]:
        """16 hex digits each; "" where nothing was written."""

    def block_values(self, name: str, time: int, blocks: Iterable[Block]) -> dict[Block, Any]:
        """What a per-block array holds; absent groups are left out."""

    def has_counts(self, zone: Zone, level: int) -> bool:
        """Whether observation counts are kept at a level of a zone."""


class Lineage:
    """The overview blocks of one snapshot: found lazily, and kept."""

    def __init__(self, now: Standing) -> None:
        self._now = now
        self._above: dict[int, frozenset[Block]] = {}
        self._stale: dict[tuple[int, Block], bool] = {}

    def above(self, time: int) -> frozenset[Block]:
        """Overview blocks that hold data or have any below them; a few more after blocks were emptied."""
        if time not in self._above:
            held = (block for level in (1, *LEVELS) for block in self._now.listed(level, time))
            self._above[time] = frozenset(ancestors(self._now.grids, held))
        return self._above[time]

    def stale(self, time: int, blocks: Iterable[Block]) -> frozenset[Block]:
        """Which of these overview blocks do not summarise the level-1 blocks below them as they stand."""
        asked = self.above(time).intersection(blocks)
        unknown = self._unknown(time, [block for block in asked if (time, block) not in self._stale])
        for level in LEVELS if unknown else ():
            dirty = set(self.dirty(time, unknown[level]))
            for block in unknown[level]:
                below = children(self._now.grids, block)
                self._stale[time, block] = block in dirty or any(self._stale.get((time, c), False) for c in below)
        return frozenset(block for block in asked if self._stale[time, block])

    def _unknown(self, time: int, asked: Collection[Block]) -> dict[int, set[Block]]:
        """Of some blocks and all overview blocks below them those of which nothing is known yet, by level."""
        unknown: dict[int, set[Block]] = {level: set() for level in LEVELS} if asked else {}
        for block in asked:
            unknown[block.level].add(block)
        if not asked:
            return unknown
        for level, below in zip(LEVELS[:0:-1], LEVELS[-2::-1], strict=True):
            found = {child for block in unknown[level] for child in children(self._now.grids, block)}
            unknown[below] |= {b for b in found & self.above(time) if (time, b) not in self._stale}
        return unknown

    def dirty(self, time: int, blocks: Collection[Block]) -> list[Block]:
        """Those that do not record what stands below them; also all that were made before overviews had counts."""
        groups = {(b.zone, b.level) for b in blocks}
        counted = {(zone, level) for zone, level in groups if self._now.has_counts(Zone.parse(zone), level)}
        known = [b for b in blocks if (b.zone, b.level) in counted]
        recorded = self._now.block_values("block_children", time, known)
        standing = self.standing(time, blocks)
        return [b for b in blocks if not np.array_equal(recorded.get(b, np.zeros(4, np.uint64)), standing[b])]

    def standing(self, time: int, blocks: Collection[Block]) -> dict[Block, np.ndarray[Any, Any]]:
        """(4,) uint64 of what stands below each block: the versions of its four children, 0 where there is none.

        A block of the world's finest level lies over many blocks of zones: of theirs it is one hash, and zeros.
        """
        below = {block: children(self._now.grids, block) for block in blocks}
        found = self._now.versions(time, {child for some in below.values() for child in some})
        out = {}
        for block, some in below.items():
            if block.level == FINEST.level:
                told = "".join(f"{child.name}={found[child]};" for child in sorted(some) if found[child])
                digest = hashlib.blake2b(told.encode(), digest_size=8).digest()
                four = [int.from_bytes(digest, "little") or 1 if told else 0, 0, 0, 0]
            else:
                held = {child: int(found[child] or "0", 16) for child in some}
                four = [held.get(child, 0) for child in block.children()]
            out[block] = np.array(four, np.uint64)
        return out

    def succeed(self, previous: Lineage, touched: Collection[tuple[int, Block]]) -> None:
        """Take over what an older snapshot's knew, but for blocks above those that changed since.

        Args:
            previous: Of the older snapshot.
            touched: (time, block) that were written in between.
        """
        over = {(t, b) for t in {t for t, _ in touched} for b in ancestors(self._now.grids, _at(touched, t))}
        # Threads that read the older one go on adding to what it knows, so it is copied before it is gone through.
        self._stale = {key: stale for key, stale in dict(previous._stale).items() if key not in over}
        for time, known in dict(previous._above).items():
            self._above[time] = known | _at(over, time)


def _at(pairs: Collection[tuple[int, Block]], time: int) -> set[Block]:
    return {block for t, block in pairs if t == time}
