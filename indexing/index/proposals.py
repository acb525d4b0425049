"""Candidates out of several segments as if they were one: how an index is cut must never show in an answer.

The lists to look into are chosen once for a query. Each segment is searched in these same lists, what they find is
put together by estimated distance and cut once, equal estimates in the order of pixels. Ranking each segment's own
candidates instead would make answers depend on which pixels share a segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from indexing.index.ann import Quantiser, on_this_thread_alone
from indexing.index.segment import Segment
from service.together import together
from service.values import BoolArray, Float32Array, Int64Array, UInt8Array

Int32Array = npt.NDArray[np.int32]

_MORE: Final = 64
"""How many times as many as asked for are looked at, at most, where a great many pixels have the very same estimate."""
_AT_ONCE: Final = 32
"""Queries that a thread takes at a time."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """Candidates for one query, nearest first by an estimate; equal ones in the order of pixel ids."""

    segment: Int32Array
    """(n,) int32 number of the segment."""
    position: Int64Array
    """(n,) int64 position in it."""
    estimate: Float32Array
    """(n,) float32 squared distance of unit vectors, as FAISS estimates it: never a score."""


Allowed = Sequence[UInt8Array | None]
"""For each segment a bit for each of its positions, lowest first: only these can be proposed; all where None."""


def propose(
    quantiser: Quantiser,
    segments: Sequence[Segment],
    directions: Float32Array,
    count: int,
    probes: int,
    allowed: Allowed | None = None,
) -> list[Proposal]:
    """The `count` candidates estimated nearest to each direction, fewer where the lists hold fewer.

    Args:
        quantiser: The centres of the lists.
        segments: Which to search, each of them open.
        directions: (q, d) float32 of length 1.
        count: 1 or more.
        probes: How many of the lists to look into.
        allowed: Which positions of each of these segments may be proposed; blocks that do not count never are.
    """
    directions = np.ascontiguousarray(directions, np.float32)
    masks = [_combined(each, None if allowed is None else allowed[n]) for n, each in enumerate(segments)]

    def work(starts: Iterator[int]) -> list[tuple[int, list[Proposal]]]:
        on_this_thread_alone()
        return [
            (start, _some(quantiser, segments, directions[start : start + _AT_ONCE], count, probes, masks))
            for start in starts
        ]

    done = [each for part in together(work, list(range(0, len(directions), _AT_ONCE))) for each in part]
    return [proposal for _, part in sorted(done, key=lambda each: each[0]) for proposal in part]


def _combined(segment: Segment, allowed: UInt8Array | None) -> UInt8Array | None:
    counting = segment.counting
    if allowed is None or counting is None:
        return counting if allowed is None else allowed
    return allowed & counting


def _some(
    quantiser: Quantiser, segments: Sequence[Segment], directions: Float32Array, count: int, probes: int, masks: Allowed
) -> list[Proposal]:
    if not segments:
        return [Proposal(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32)) for _ in directions]
    asked = segments[0].generous(count)
    nearest = quantiser.nearest(directions, probes)
    found = _Found.of(segments, directions, nearest, asked, masks)
    out = []
    for query, lacks in enumerate(found.lacks(count).tolist()):
        one, more, kept = slice(query, query + 1), asked, (found, query)
        while lacks and more < _MORE * asked:
            more *= 4
            kept = _Found.of(segments, directions[one], (nearest[0][one], nearest[1][one]), more, masks), 0
            lacks = bool(kept[0].lacks(count)[0])
        out.append(kept[0].proposal(kept[1], count))
    return out


@dataclass(frozen=True, eq=False)
class _Found:
    """What several segments found for some queries, put together by estimate; equal ones in any order."""

    segments: Sequence[Segment]
    numbers: Int32Array
    """(q, n) number of the segment."""
    positions: Int64Array
    """(q, n); -1 behind the last."""
    estimates: Float32Array
    """(q, n) ascending."""
    whole: Float32Array
    """(q,) below this estimate nothing is left out."""

    @classmethod
    def of(
        cls,
        segments: Sequence[Segment],
        directions: Float32Array,
        nearest: tuple[Float32Array, Int64Array],
        asked: int,
        masks: Allowed,
    ) -> Self:
        """Ask each segment for so many."""
        parts = [each.search(directions, nearest, asked, mask) for each, mask in zip(segments, masks, strict=True)]
        estimates = np.concatenate([e for e, _ in parts], axis=1)
        positions = np.concatenate([p for _, p in parts], axis=1)
        numbers = np.repeat(np.array([each.number for each in segments], np.int32), asked)[None]
        numbers = np.broadcast_to(numbers, positions.shape)
        whole = np.min([np.where(p[:, -1] >= 0, e[:, -1], np.inf) for e, p in parts], axis=0)
        if len(segments) > 1:
            order = np.argsort(estimates, axis=1, kind="stable")
            estimates, positions, numbers = (
                np.take_along_axis(each, order, axis=1) for each in (estimates, positions, numbers)
            )
        return cls(segments, numbers, positions, estimates, whole)

    def lacks(self, count: int) -> BoolArray:
        """(q,) bool: whether pixels may have been left out that tie with the last of so many."""
        return np.asarray(self.whole <= self.estimates[:, min(count, self.estimates.shape[1]) - 1])

    @cached_property
    def _ties(self) -> list[bool]:
        return [bool(tie) for tie in (self.estimates[:, 1:] == self.estimates[:, :-1]).any(axis=1)]

    @cached_property
    def _held(self) -> list[int]:
        return [int(held) for held in (self.positions >= 0).sum(axis=1)]

    def proposal(self, query: int, count: int) -> Proposal:
        """The first of what was found for a query."""
        held = self._held[query]
        order: slice | Int64Array = slice(min(count, held))
        if self._ties[query]:
            order = np.lexsort((self._ids(query, held), self.estimates[query, :held]))[:count]
        return Proposal(self.numbers[query][order], self.positions[query][order], self.estimates[query][order])

    def _ids(self, query: int, held: int) -> Int64Array:
        ids = np.empty(held, np.int64)
        for segment in self.segments:
            mine = self.numbers[query, :held] == segment.number
            ids[mine] = segment.ids(self.positions[query, :held][mine])
        return ids
