"""What has to be done for an index to hold what the store holds now: which segments stay, and which are made.

Segments never change. What is new goes to new ones; small ones are put together as they gather, each time with about
as much as they hold, so a pixel is written again only a few times however often an index grows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from indexing.index.manifest import IndexManifest, QuantiserRecord, SegmentRecord
from indexing.index.segment import MOST_BLOCKS, SegmentTask
from service.grid import Block
from service.values import Window

OUTGROWN: Final = 4
"""How many times the pixels that its lists were made for an index may hold."""
_DEAD: Final = 0.3
"""Share of the slots of a segment that may count for nothing."""
_SIMILAR: Final = 2
"""A segment is put together with what is new if it has at most so many times as many blocks."""
_FULL: Final = 0.5
"""Share of the blocks it may have from which on a segment is left alone."""


@dataclass(frozen=True)
class Plan:
    """What stays and what is made."""

    kept: tuple[SegmentRecord, ...]
    """With "" for the version of each slot that counts no more."""
    tasks: tuple[SegmentTask, ...]

    @property
    def blocks(self) -> int:
        """Blocks to be added."""
        return sum(len(task.blocks) for task in self.tasks)


def is_outgrown(manifest: IndexManifest, versions: Mapping[Block, str]) -> bool:
    """Whether lists should be learnt anew: by the pixels held, or where blocks to come are as full as those held."""
    share = manifest.count / max(len(manifest.blocks), 1)
    return max(manifest.count, len(versions) * share) > OUTGROWN * manifest.quantiser.trained


def plan(
    quantiser: QuantiserRecord,
    window: Window,
    level: int,
    versions: Mapping[Block, str],
    segments: Sequence[SegmentRecord] = (),
    most: int = MOST_BLOCKS,
) -> Plan:
    """What has to be done.

    Args:
        quantiser: Under which all segments are made.
        window: Of the index.
        level: Of the index.
        versions: Every block that holds data, with its version.
        segments: What there is, made under the same quantiser.
        most: Blocks of a segment.
    """
    standing = [_as_it_counts(segment, versions) for segment in segments]
    held = {block for segment in standing for block, version in segment.blocks if version}
    kept: list[SegmentRecord] = []
    tasks: list[SegmentTask] = []
    for zone in sorted({block.zone for block in versions} | {segment.zone for segment in standing}):
        mine = [segment for segment in standing if segment.zone == zone]
        fresh = [block for block in versions if block.zone == zone and block not in held]
        stays, gone = _sorted_out(mine, len(fresh), most)
        kept += [segment for segment in mine if segment.name in stays]
        fresh += [block for segment in gone for block, version in segment.blocks if version]
        tasks += [
            SegmentTask(window, level, quantiser, tuple((block, versions[block]) for block in part), tuple(gone))
            for part in _parts(sorted(fresh), most)
        ]
    return Plan(tuple(kept), tuple(tasks))


def _as_it_counts(segment: SegmentRecord, versions: Mapping[Block, str]) -> SegmentRecord:
    blocks = tuple((block, held if held and versions.get(block) == held else "") for block, held in segment.blocks)
    return replace(segment, blocks=blocks)


def _sorted_out(segments: Sequence[SegmentRecord], fresh: int, most: int) -> tuple[set[str], list[SegmentRecord]]:
    """Names of those that stay, and those whose blocks are made part of a new segment."""
    stays: set[str] = set()
    gone = []
    for segment in sorted(segments, key=lambda each: (_alive(each), each.name)):
        alive, slots = _alive(segment), len(segment.blocks)
        if not alive:
            continue
        small = alive < _FULL * most and fresh and alive <= _SIMILAR * fresh
        if small or slots - alive > _DEAD * slots:
            gone.append(segment)
            fresh += alive
        else:
            stays.add(segment.name)
    return stays, gone


def _alive(segment: SegmentRecord) -> int:
    return sum(bool(version) for _, version in segment.blocks)


def _parts(blocks: Sequence[Block], most: int) -> list[Sequence[Block]]:
    """Blocks in as few parts as can be, of the same size but for one."""
    count = -(-len(blocks) // most)
    cuts = [len(blocks) * n // count for n in range(count + 1)] if count else [0]
    return [blocks[a:b] for a, b in pairwise(cuts)]
