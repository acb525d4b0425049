"""An index whose shards lie on several machines, searched as if one held them all.

The asker chooses how hard to look and which pixels may be proposed; every shard is searched in the same lists, on
whichever machine; what all find is put together by estimated distance and cut once. So an answer is the one that a
single machine would give, to the bit, as long as nothing is missing, and what is missing is told by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from indexing.exact import Mask, Top
from indexing.fleet.allowed import PIXELS, Allowed
from indexing.fleet.gathered import Table, table_of
from indexing.fleet.scanning import Scanning
from indexing.fleet.shards import Candidates, Proposing, name_of
from indexing.fleet.share import Fleet
from indexing.index.opened import Fresh, OpenedIndex
from indexing.index.proposals import Proposal
from indexing.index.segment import Segment
from indexing.index.tuning import Tuning
from indexing.pixels import Pixels, Snapshot
from service.deadline import Deadline
from service.errors import Unavailable
from service.grid import Block
from service.queries import Query, norms_of
from service.values import Float32Array, Int8Array, Int64Array, UInt8Array

_NAMED: Final = 3
_BLOCK_S: Final = 0.02
"""Time to score a block: many of them may take longer than a peer is otherwise given."""
_LONGEST_S: Final = 60.0
_SLOT_BYTES: Final = PIXELS // 8

Scan = Callable[[Sequence[Block]], tuple[Top, int]]
"""Scores the pixels of some blocks on this machine: the best, and how many were scored."""


@dataclass(frozen=True, eq=False)
class _Sent:
    """Pixels that came from other machines with their codes."""

    keys: Int64Array
    """(n,) ascending, each once: see `_keys`."""
    codes: Int8Array
    scales: Float32Array

    def joined(self, keys: Int64Array, codes: Int8Array, scales: Float32Array) -> _Sent:
        """These and others."""
        every, first = np.unique(np.concatenate([self.keys, keys]), return_index=True)
        return _Sent(every, np.concatenate([self.codes, codes])[first], np.concatenate([self.scales, scales])[first])


class SpreadIndex:
    """An index for one question, some of whose shards are asked of other machines.

    Args:
        index: What this machine has of it.
        fleet: The other machines.
        deadline: When the question has to be answered, if ever.
    """

    def __init__(self, index: OpenedIndex, fleet: Fleet, deadline: Deadline | None = None) -> None:
        self._index, self._fleet, self._deadline = index, fleet, deadline
        self._name = name_of(index.manifest)
        self._missing: set[str] = set()
        dims = index.manifest.parameters.dims
        self._sent = _Sent(np.empty(0, np.int64), np.empty((0, dims), np.int8), np.empty(0, np.float32))
        self.manifest = index.manifest
        self.segments: tuple[Segment, ...] = index.segments
        self.generation: Path = index.generation

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the shards that could not be asked, sorted."""
        return tuple(sorted(self._missing))

    def propose(
        self,
        directions: Float32Array,
        count: int,
        probes: int,
        allowed: Sequence[UInt8Array | None] | None = None,
        segments: Sequence[int] | None = None,
    ) -> list[Proposal]:
        """See `OpenedIndex.propose`; shards that nobody answers for are left out, and noted.

        Raises:
            Unavailable: The time for the question is over, or nobody answers for any of them.
        """
        chosen = range(len(self.segments)) if segments is None else segments
        held = set(self._index.held)
        mine, theirs = [n for n in chosen if n in held], [n for n in chosen if n not in held]
        if not theirs:
            return self._index.propose(directions, count, probes, allowed, mine)
        if self._deadline is not None:
            self._deadline.check()
        ours: list[Proposal] = []
        answers, missing = self._fleet.gather(
            self._question(directions, count, probes, allowed, theirs),
            [self.segments[n].name for n in theirs],
            lambda: ours.extend(self._index.propose(directions, count, probes, allowed, mine)),
            None if self._deadline is None else self._deadline.left,
        )
        self._missing.update(missing)
        if not mine and len(missing) == len(theirs):
            raise Unavailable(
                f"none of the {len(missing)} shards of this index can be asked: {', '.join(missing[:_NAMED])}"
                f"{' and others' if len(missing) > _NAMED else ''}.",
                remedy="Start the servers that hold them; see the log for what is wrong with each.",
            )
        tables = [table_of(ours), *(self._table(found, believed) for found, believed in answers)]
        return self._merged(tables, len(directions), count)

    def scan(self, query: Query, blocks: Sequence[Block], mask: Mask, k: int, here: Scan) -> tuple[Top, int]:
        """The best k pixels of some blocks, each scored on a machine that holds it; exact, whoever answers.

        Args:
            query: What to look for.
            blocks: Blocks that the store still holds as they were read.
            mask: Which of their pixels may be hits.
            k: How many, 1 or more.
            here: Does what is here, and what nobody answers for.

        Returns:
            The hits, and how many pixels were scored.

        Raises:
            Corrupt, Unavailable: As `here` does.
        """
        places = {block: self.elsewhere[block] for block in blocks if block in self.elsewhere}
        if not places:
            return here(blocks)
        seconds = min(self._fleet.seconds + _BLOCK_S * len(places), _LONGEST_S)
        if self._deadline is not None:
            seconds = min(seconds, max(self._deadline.left, 0.001))
        question = self._scanning(query, places, mask, k, seconds)
        own = [block for block in blocks if block not in places]
        found: list[tuple[Top, int]] = []
        answers, missing = self._fleet.gather(
            question,
            question.slots,
            lambda: found.append(here(own)),
            patience=seconds,
        )
        for answer, believed in answers:
            if believed:
                found.append((Top(answer.ids, answer.scores), answer.scanned))
        found.append(here([block for block, (name, _) in places.items() if name in missing]))
        top = Top.none()
        for other, _ in found:
            top = top.merged(other, k)
        return top, sum(count for _, count in found)

    def ids(self, proposal: Proposal) -> Int64Array:
        """(n,) pixel ids of candidates."""
        return self._ids(proposal.segment.astype(np.int64), proposal.position)

    def rows(self, proposal: Proposal, *, scales: bool = False) -> tuple[Int64Array, Pixels]:
        """See `OpenedIndex.rows`."""
        here = np.isin(proposal.segment, self._index.held)
        ids = self.ids(proposal)
        codes = np.empty((len(ids), self._sent.codes.shape[1]), np.int8)
        own = Proposal(proposal.segment[here], proposal.position[here], proposal.estimate[here])
        _, rows = self._index.rows(own, scales=scales)
        there = np.searchsorted(
            self._sent.keys, _keys(proposal.segment[~here].astype(np.int64), proposal.position[~here])
        )
        codes[here], codes[~here] = rows.codes, self._sent.codes[there]
        lengths = None
        if rows.scales is not None:
            lengths = np.empty(len(ids), np.float32)
            lengths[here], lengths[~here] = rows.scales, self._sent.scales[there]
        return ids, Pixels(codes, norms_of(codes), None, lengths)

    def block(self, block: Block) -> Pixels | None:
        """See `OpenedIndex.block`: blocks of other machines' shards are read from the store."""
        return self._index.block(block)

    def fresh(self, at: Snapshot) -> Fresh:
        """See `OpenedIndex.fresh`."""
        return self._index.fresh(at)

    def changed(self, at: Snapshot) -> list[Block]:
        """See `OpenedIndex.changed`."""
        return self._index.changed(at)

    def setting(self, k: int, recall: float | None = None, *, mixed: bool = False) -> Tuning | None:
        """See `OpenedIndex.setting`."""
        return self._index.setting(k, recall, mixed=mixed)

    @cached_property
    def elsewhere(self) -> dict[Block, tuple[str, int]]:
        """Where the blocks lie that this machine does not hold."""
        return {
            block: (segment.name, slot)
            for segment in self.segments
            if segment.rows is None
            for slot, (block, version) in enumerate(segment.record.blocks)
            if version
        }

    def _scanning(
        self, query: Query, places: dict[Block, tuple[str, int]], mask: Mask, k: int, seconds: float
    ) -> Scanning:
        slots = {segment.name: segment.slots for segment in self.segments}
        bits = {name: np.zeros((slots[name], _SLOT_BYTES), np.uint8) for name in {name for name, _ in places.values()}}
        for block, (name, slot) in places.items():
            part = mask(block)
            bits[name][slot] = 255 if part is None else np.packbits(part.ravel(), bitorder="little")
        allowed = {name: Allowed.of(each.ravel()) for name, each in bits.items()}
        return Scanning(self._name, query, k, seconds, {name: slots[name] for name in bits}, allowed, places)

    def _question(
        self,
        directions: Float32Array,
        count: int,
        probes: int,
        allowed: Sequence[UInt8Array | None] | None,
        theirs: Sequence[int],
    ) -> Proposing:
        masks = {}
        for number in theirs:
            segment = self.segments[number]
            told, counting = None if allowed is None else allowed[number], segment.counting
            both = told if counting is None else counting if told is None else told & counting
            if both is not None:
                masks[segment.name] = Allowed.of(both)
        slots = {self.segments[n].name: self.segments[n].slots for n in theirs}
        return Proposing(self._name, directions, count, probes, slots, masks)

    def _table(self, found: Candidates, believed: frozenset[str]) -> Table:
        """What a peer proposes of the shards that it is believed for; its codes are kept."""
        numbers = {segment.name: segment.number for segment in self.segments}
        keep = np.array([name in believed for name in found.asked], bool)[found.shard]
        segment = np.array([numbers[name] for name in found.asked], np.int64)[found.shard[keep]]
        position = found.position[keep]
        self._sent = self._sent.joined(_keys(segment, position), found.codes[keep], found.scales[keep])
        return Table(found.query[keep], segment, position, found.estimate[keep])

    def _merged(self, tables: Sequence[Table], queries: int, count: int) -> list[Proposal]:
        """The first `count` of what all propose for each direction, equal estimates in the order of pixels."""
        query, segment, position, estimate = (
            np.concatenate([getattr(table, name) for table in tables])
            for name in ("query", "segment", "position", "estimate")
        )
        order = np.lexsort((self._ids(segment, position), estimate, query))
        ends = np.searchsorted(query[order], np.arange(queries + 1)).tolist()
        parts = [order[start : min(start + count, end)] for start, end in pairwise(ends)]
        return [Proposal(segment[part].astype(np.int32), position[part], estimate[part]) for part in parts]

    def _ids(self, segment: Int64Array, position: Int64Array) -> Int64Array:
        ids = np.empty(len(position), np.int64)
        for number in np.unique(segment).tolist():
            mine = segment == number
            ids[mine] = self.segments[number].ids(position[mine])
        return ids


def _keys(segment: Int64Array, position: Int64Array) -> Int64Array:
    """(n,) int64, one for each pixel of an index."""
    return np.asarray(segment << 32 | position, np.int64)
