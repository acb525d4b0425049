"""Looking for the pixels of one snapshot: out of an index what it holds, block by block what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from indexing.areas import Within, within_of
from indexing.batches import ranked
from indexing.exact import Top, rank, scan
from indexing.fleet.spread import SpreadIndex
from indexing.ids import cells_of
from indexing.index.tuning import Tuning
from indexing.pixels import PixelReader, Pixels, Snapshot, block_of, by_block
from indexing.planner import FEW_BLOCKS, FEW_PIXELS, Index, Reach, effort, proposed, reach_of, wider
from indexing.question import Engine, Question, Where
from indexing.spacing import Around, spread
from service.deadline import Deadline
from service.errors import InvalidInput, NotFound, Unavailable
from service.grid import Block
from service.queries import Query
from service.store.contract import Store
from service.values import BLOCK, BoolArray, Int64Array

_MAPPED: Final = 4
"""Blocks that an index holds cost this much less to scan than those of a store."""
_DEEPER: Final = 8
_LEAST_DEEP: Final = 1024
"""Hits that shall keep their distance are chosen among so many times as many pixels at a time, or so many at least."""
_WIDER: Final = 8
"""Times as many, where all of those lie too near."""
_TOO_OLD: Final = "the index is too old"
_EMPTY: Final = np.empty(0, np.int64)


@dataclass(frozen=True)
class Found:
    """What was found, before it is told in degrees."""

    top: Top
    engine: Engine
    recall: float | None
    scanned: int
    candidates: int
    probes: int = 0
    missing: tuple[str, ...] = ()
    stale: int = 0
    """Overview blocks that told where to look, and are older than the pixels below them."""

    def after(self, before: Found | None) -> Found:
        """The same with what was done before it."""
        if before is None:
            return self
        return replace(
            self,
            engine=self.engine if self.engine == before.engine else "index+exact",
            recall=None if self.recall is None or before.recall is None else min(self.recall, before.recall),
            scanned=self.scanned + before.scanned,
            candidates=self.candidates + before.candidates,
            probes=max(self.probes, before.probes),
            missing=tuple(sorted({*self.missing, *before.missing})),
        )


@dataclass(frozen=True)
class Limits:
    """What can be asked of a dataset."""

    dataset: str
    blocks: int
    """The most that are read from the store and scanned for one answer."""

    @property
    def pixels(self) -> int:
        """Up to so many that may be hits are all scored."""
        return min(FEW_PIXELS, self.blocks * BLOCK * BLOCK)

    def are_few(self, read: int, mapped: int) -> bool:
        """Whether so many blocks of the store, and so many that an index holds, may be scanned for one answer."""
        return read + mapped / _MAPPED <= self.blocks

    def require_few(self, at: Snapshot, read: int, mapped: int, why: str) -> None:
        """Refuse to scan more blocks than one answer may take.

        Args:
            at: Of what.
            read: Blocks to be read from the store.
            mapped: Blocks that an index holds.
            why: All have to be.

        Raises:
            Unavailable: Those are too many.
        """
        if not self.are_few(read, mapped):
            raise Unavailable(
                f"{why} for window {at.window} of dataset {self.dataset!r}, and {read + mapped:,} blocks are too many "
                f"to scan (at most {self.blocks:,}, or {_MAPPED * self.blocks:,} that an index holds).",
                remedy=f"Run `smalti index build {self.dataset}`, or ask for a smaller area.",
            )

    def require_recorded(self, store: Store, level: int, where: Where) -> None:
        """Refuse levels and counts that are not there.

        Raises:
            NotFound: There is no such level.
            InvalidInput: No counts are recorded.
        """
        if level not in store.levels():
            raise NotFound(
                f"dataset {self.dataset!r} has no level {level}, only {', '.join(map(str, store.levels()))}.",
                field="level",
            )
        if any(where.least_counts) and level not in store.counted():
            asked = next(name for name in ("min_s2", "min_s1_asc", "min_s1_desc") if getattr(where, name))
            raise InvalidInput(f"dataset {self.dataset!r} records no observation counts at level {level}.", field=asked)


class Finder:
    """Looks for pixels of one snapshot. One for each question.

    Args:
        reader: Reads them.
        at: The snapshot.
        index: What serves it, if anything does.
        limits: How much may be scanned.
        deadline: When to give up, if ever.
        scales: Whether pixels are read with their scales.
        exact: Whether every pixel is scored, whatever there is of an index.
    """

    def __init__(
        self,
        reader: PixelReader,
        at: Snapshot,
        index: Index | None,
        limits: Limits,
        deadline: Deadline | None,
        *,
        scales: bool,
        exact: bool,
    ) -> None:
        self.at, self._index = at, index
        self._reader, self._limits, self._deadline = reader, limits, deadline
        self._scales, self._exact = scales, exact
        self._changed = frozenset(at.versions if index is None else index.changed(at))

    def within(self, where: Where) -> Within:
        """Which pixels may be hits, but for single ones that are left out."""
        least = where.least_counts

        def enough(block: Block) -> BoolArray:
            self._check_time()
            return self._reader.enough(self.at, block, least)

        return within_of(self.at, where.area, where.inside, where.outside, (enough,) if any(least) else ())

    def read(self, block: Block) -> Pixels:
        """(256, 256) pixels of a block: as the index holds it where the store still does, else out of the store.

        Raises:
            Unavailable: There is no time left.
        """
        self._check_time()
        held = None if self._index is None or block in self._changed else self._index.block(block)
        return held if held is not None else self._reader.block(self.at, block, scales=self._scales)

    def scannable(self, within: Within, why: str, *, here: bool = False) -> list[Block]:
        """The blocks within, if they are few enough to be scanned.

        Args:
            within: Where hits may come from.
            why: They are to be.
            here: Whether they are all read on this machine, be they held by others.

        Raises:
            Unavailable: They are too many.
        """
        blocks = self._blocks_of(within)
        mapped = self._mapped(blocks, here=here)
        self._limits.require_few(self.at, len(blocks) - mapped, mapped, why)
        return blocks

    def _blocks_of(self, within: Within) -> list[Block]:
        return [block for block in self.at.versions if block in within.blocks]

    def _mapped(self, blocks: Sequence[Block], *, here: bool = False) -> int:
        """How many of some blocks an index holds, where that makes a difference."""
        index = self._index
        if index is None or len(blocks) <= self._limits.blocks:
            return 0
        elsewhere = set(index.elsewhere) if isinstance(index, SpreadIndex) and not here else set[Block]()
        held = (block in elsewhere or index.block(block) is not None for block in blocks if block not in self._changed)
        return sum(held)

    def _is_scannable(self, within: Within) -> bool:
        blocks = self._blocks_of(within)
        mapped = self._mapped(blocks)
        return self._limits.are_few(len(blocks) - mapped, mapped)

    def _check_time(self) -> None:
        if self._deadline:
            self._deadline.check()

    def spaced(self, question: Question, within: Within) -> Found:
        """The best k, that keep their distance where they are asked to.

        Found in rounds, each without what lies too near to the pixels that those before it kept. A round looks at many
        more than are wanted, as the best lie side by side. They keep the same distance from pixels that shall be no
        hit: what lies beside an example that is left out is no other place.
        """
        if not question.spacing:
            return self.best(question, within, question.k)
        kept, done, most = Top.none(), None, max(_DEEPER * question.k, _LEAST_DEEP)
        dropped = self._dropped(question)
        while True:
            self._check_time()
            far = self._away(within, np.concatenate([kept.ids, dropped]), question.spacing)
            done = self.best(question, far, most).after(done)
            chosen = spread(self.at, done.top.ids, question.spacing, question.k, kept.ids, dropped)
            kept = kept.followed(Top(done.top.ids[chosen], done.top.scores[chosen]))
            if len(kept.ids) >= question.k or len(done.top.ids) < most:
                return replace(done, top=kept)
            if not len(chosen):  # all lie where only `spread` can tell that it is too near: else they would come again
                most *= _WIDER

    def best(self, question: Question, within: Within, k: int) -> Found:
        """The best k pixels within."""
        dropped = self._dropped(question)
        found = self._best(question, within, k + len(dropped))
        if not len(dropped):
            return found
        top = found.top.kept(~np.isin(found.top.ids, dropped))
        return replace(found, top=Top(top.ids[:k], top.scores[:k]))

    def _dropped(self, question: Question) -> Int64Array:
        """Ids of the pixels of this level that shall be no hit."""
        exclude = question.where.exclude
        return _EMPTY if exclude is None else np.unique(cells_of(self.at.known(exclude), self.at.level))

    def many(self, questions: Sequence[Question]) -> list[Top]:
        """The best k for each of several questions that differ in their queries alone, and filter nothing."""
        first, index = questions[0], self._index
        within = self.within(first.where)
        mixed = any(question.query.is_mixed for question in questions)
        tuning = None if index is None else index.setting(first.k, first.recall, mixed=mixed)
        few = mixed and index is not None and index.manifest.count <= self._limits.pixels
        if index is None or tuning is None or few or self._changed or self._exact:
            return [self.best(question, within, question.k).top for question in questions]
        probes, count = tuning.scaled(first.k)
        directions = np.stack([question.query.direction for question in questions])
        proposals = index.propose(directions.astype(np.float32), count, probes)
        return ranked(index, proposals, directions, first.k)

    def _away(self, within: Within, kept: Int64Array, metres: float) -> Within:
        if not len(kept):
            return within
        return within.filtered(Around(self.at, kept, metres).away)

    def _best(self, question: Question, within: Within, k: int) -> Found:
        index, few = self._index, self._limits.pixels
        if self._exact or index is None:
            return self._scanned(question, within, k, "every pixel is to be scored" if index else "there is no index")
        if few and within.is_part and len(within.blocks) <= min(FEW_BLOCKS, self._limits.blocks):
            return self._scanned(question, within, k, "")
        reach = reach_of(self.at, within, index)
        if (within.is_part or question.query.is_mixed) and reach.pixels <= few and self._is_scannable(within):
            return self._scanned(question, within, k, "")
        return self._indexed(question, within, k, index, reach)

    def _scanned(self, question: Question, within: Within, k: int, why: str) -> Found:
        blocks = self.scannable(within, why)
        top, count = self._best_of(question.query, blocks, within, k)
        return Found(top, "exact", 1.0, count, 0)

    def _best_of(self, query: Query, blocks: Sequence[Block], within: Within, k: int) -> tuple[Top, int]:
        """The best of all pixels of some blocks, and how many were scored: on machines that hold them, if not here."""

        def mask(block: Block) -> BoolArray | None:
            return within.part(self.at, block)

        def here(some: Sequence[Block]) -> tuple[Top, int]:
            return scan(query, some, self.read, k, mask=mask)

        if not isinstance(self._index, SpreadIndex):
            return here(blocks)
        top, count = self._index.scan(query, [b for b in blocks if b not in self._changed], mask, k, here)
        newer, more = here([block for block in blocks if block in self._changed])
        return top.merged(newer, k), count + more

    def _indexed(self, question: Question, within: Within, k: int, index: Index, reach: Reach) -> Found:
        mixed = question.query.is_mixed
        tuning = index.setting(question.k, question.recall, mixed=mixed)
        if tuning is None:
            if len(self.at.versions) <= self._limits.blocks:
                return self._scanned(question, within, k, "")
            best = max(each.measured(min(question.k, 100), mixed=mixed) or 0.0 for each in index.manifest.tunings)
            raise InvalidInput(
                f"no setting of this index was measured to find {question.recall}; the best finds {best:.4f}.",
                field="recall",
                remedy="Ask for less, or for `exact`.",
            )
        changed = [block for block in self.at.versions if block in self._changed and block in within.blocks]
        self._limits.require_few(self.at, len(changed), 0, _TOO_OLD)
        top, probes, count = self._proposed(question, index, reach, tuning, k)
        top = top.merged(self._own(question, within, k), k)
        scanned = 0
        if changed:
            newer, scanned = scan(question.query, changed, self.read, k, mask=lambda block: within.part(self.at, block))
            top = top.merged(newer, k)
        missing: tuple[str, ...] = getattr(index, "missing", ())
        recall = tuning.measured(question.k, mixed=mixed) if within.is_all and not missing else None
        engine: Engine = "index+exact" if changed else "index"
        return Found(top, engine, recall, scanned + count, count, probes, missing)

    def _proposed(self, question: Question, index: Index, reach: Reach, tuning: Tuning, k: int) -> tuple[Top, int, int]:
        """The best of what an index proposes, how many lists were looked into, and how many pixels ranked.

        The best that a filter leaves may lie anywhere: once found they must still be the best when four times as many
        lists are looked into.
        """
        direction, lists = question.query.direction.astype(np.float32), index.manifest.parameters.lists
        probes, count = effort(tuning, k, reach.share, lists)
        before, scored = Top.none(), 0
        while True:
            self._check_time()
            proposal, probes = proposed(index, reach, direction, probes, count)
            ids, rows = index.rows(proposal, scales=self._scales)
            top, scored = rank(question.query, ids, rows, k), scored + len(ids)
            if reach.share == 1 or probes >= lists or (len(top.ids) and np.array_equal(top.ids, before.ids)):
                return top, probes, scored
            before, probes = top, wider(probes, lists)

    def _own(self, question: Question, within: Within, k: int) -> Top:
        """The best of those that the query was made from, whatever the index proposes."""
        if question.own is None or self.at.level > 1:
            return Top.none()
        groups = by_block(self.at.known(question.own))  # of another window, perhaps, which holds other blocks
        own = np.concatenate([group for group in groups if block_of(group[0]) in self.at.versions] or [_EMPTY])
        if not len(own):
            return Top.none()
        ids, rows = self._reader.pixels(self.at, within.held(self.at, own), scales=self._scales)
        return rank(question.query, ids, rows, k)
