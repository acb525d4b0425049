"""How hard an index has to look: measured when it is built, on pixels held out, and written to its manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from indexing.index.ann import unit
from indexing.index.manifest import QuantiserRecord, SegmentRecord
from indexing.index.proposals import propose
from indexing.index.rows import PIXELS
from indexing.index.segment import Segment, open_quantiser
from indexing.index.truth import ENOUGH, ENOUGH_AT_100, LADDER, MIXED, Neighbours, Settings, Truth
from indexing.index.tuning import Tuning
from service.values import Int64Array

_AT_ONCE: Final = 32
"""Queries that are asked together: with a few thousand candidates each, of many segments, they take some 100 MB."""


_SHARE: Final = 16
"""More than one in so many pixels as candidates is not measured: then all could as well be scored."""


def tunings_of(
    home: Path, quantiser: QuantiserRecord, records: Sequence[SegmentRecord], ladder: Settings = LADDER
) -> tuple[Tuning, ...]:
    """What each setting finds of the true neighbours of the held-out queries, cheapest first.

    Raises:
        Corrupt: A file is missing or damaged. Names it.
    """
    centres, queries = open_quantiser(home / quantiser.name, quantiser)
    bits = quantiser.parameters.bits
    segments = [Segment.open(home, n, record, centres, bits) for n, record in enumerate(records)]
    firsts = np.cumsum([0, *(each.slots * PIXELS for each in segments)])[:-1].astype(np.int64)
    truth = Truth.of(
        [
            (Neighbours.read(home / each.name / "truth.npz"), first, each.alive)
            for each, first in zip(segments, firsts, strict=True)
        ]
    )
    directions = unit(queries)
    mixed = range(len(queries))[MIXED]
    alone = [n for n in range(len(queries)) if n not in mixed]
    tunings: list[Tuning] = []
    for probes, candidates in _reaching(ladder, centres.lists, sum(each.pixels for each in records)):
        proposed: list[Int64Array] = []
        for start in range(0, len(queries), _AT_ONCE):
            part = propose(centres, segments, directions[start : start + _AT_ONCE], max(candidates), probes)
            proposed += [firsts[each.segment] + each.position for each in part]
        found = truth.recall(proposed, candidates, alone)
        between = truth.recall(proposed, candidates, mixed) or found  # of fewer than three pixels none is mixed
        tunings += [
            Tuning(probes, count, *shares, len(queries))
            for count, shares in zip(candidates, (a + b for a, b in zip(found, between, strict=True)), strict=True)
        ]
        if _is_enough(tunings[-1]):
            break
    return tuple(sorted(tunings, key=lambda each: each.cost))


def _is_enough(found: Tuning) -> bool:
    deep, between = min(found.recall_at_100, found.mixed_at_100), found.mixed
    return found.recall >= ENOUGH and min(deep, between) >= ENOUGH_AT_100


def _reaching(ladder: Settings, lists: int, pixels: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The settings there are lists for. The last looks into all of them: only more candidates find more."""
    most = max(pixels // _SHARE, ladder[0][1][-1])
    for probes, candidates in ladder:
        if probes >= lists:
            yield lists, tuple(sorted({n for _, each in ladder for n in each if min(candidates[0], most) <= n <= most}))
            return
        few = tuple(n for n in candidates if n <= most)
        if few:
            yield probes, few
