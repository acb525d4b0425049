"""Journey 2: from a query to the pixels most like it.

FAISS proposes, the stored int8 decides. Only blocks that are still as the index read them are answered from it;
blocks that changed or are new since are scanned exactly, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from indexing.areas import Within, drawn, within_of
from indexing.averages import MAX_BLOCKS, Average, average_of
from indexing.candidates import candidates
from indexing.exact import Reader, Top, rank, scan
from indexing.ids import cols_of, rows_of, zones_of
from indexing.mirror import Mirror
from indexing.opened import OpenedIndex, Serving
from indexing.pixels import BlockCache, PixelReader, Pixels, Places, Snapshot, lonlat_of
from indexing.question import Engine, Hit, Question, SearchResult
from service.deadline import Deadline
from service.errors import Conflict, Corrupt, IdentityMismatch, Unavailable
from service.grid import Block
from service.polygons import MAX_PIECES, Polygon
from service.queries import Query
from service.store.contract import Store
from service.values import (
    BLOCK,
    CacheUse,
    Float64Array,
    Int64Array,
    Window,
)

EXACT_BLOCKS: Final = 64
"""The most blocks scanned exactly for one answer: 4.2 million pixels, a second or two."""

_PIXELS: Final = BLOCK * BLOCK
_TOO_OLD: Final = "the index is too old"


@dataclass(frozen=True)
class Standing:
    """How an index stands to the store it was made from."""

    pixels: int
    """Pixels it holds."""
    recall: float
    """Share of the true 10 best that it was measured to find."""
    built: float
    """When, in seconds since 1970; 0 where not recorded."""
    behind: int
    """Blocks that changed or came since: scanned exactly at every search, up to `EXACT_BLOCKS` of them."""


class Searcher:
    """Searches one dataset's store. Safe to use from many threads; sees new indexes and revisions by itself.

    Args:
        store: Where the vectors are.
        dataset_id: The dataset's id; an index of another one is refused.
        folder: The folder of its indexes, which need not be there: small windows are searched without. Or the copies
            of what is published elsewhere.
        exact_blocks: The most blocks scanned for one answer.
        cache: Where decoded blocks are kept, shared with other searchers; its own if absent.
    """

    def __init__(
        self,
        store: Store,
        dataset_id: str,
        folder: Path | Mirror,
        *,
        exact_blocks: int = EXACT_BLOCKS,
        cache: BlockCache | None = None,
    ) -> None:
        self._store = store
        self._dataset = dataset_id
        self._exact_blocks = exact_blocks
        self._reader = PixelReader(store, cache or BlockCache())
        self._serving = Serving(store, dataset_id, folder)
        self._standings: dict[Window, tuple[object, Standing]] = {}

    def places(self, window: Window, lonlat: Float64Array) -> Places:
        """What (n, 2) points in degrees lie on: pixel ids and vectors, with the status where there is no vector."""
        return self._reader.places(self._reader.snapshot(window), lonlat)

    def average(
        self,
        window: Window,
        polygon: Polygon,
        most: int,
        field: str,
        *,
        blocks: int = MAX_BLOCKS,
        pieces: int = MAX_PIECES,
        deadline: Deadline | None = None,
    ) -> Average:
        """The mean of the unit vectors of the valid pixels whose centre lies in a polygon.

        Args:
            window: One of the store's windows.
            polygon: Where.
            most: How many pixels it may hold in blocks with data.
            field: What the caller calls the polygon, for errors.
            blocks: How many blocks with data it may touch.
            pieces: How many pieces its edges may take.
            deadline: When to give up, if ever.

        Raises:
            LimitExceeded: It holds more, touches too many blocks, or its edges are too long to be followed.
            Unavailable: It took too long.
            Corrupt: A block cannot be read.
        """
        at = self._reader.snapshot(window)
        shape = drawn(at, polygon, field, pieces)
        return average_of(shape, self._reading(at, deadline), most, field, blocks)

    def search(self, question: Question) -> SearchResult:
        """The k pixels of a window most like a query, fewer where it holds fewer.

        Raises:
            IdentityMismatch: The query, or the index, was made by another model than the dataset.
            InvalidInput: The query has another number of dimensions.
            NotFound: There is no such level.
            LimitExceeded: A polygon's edges are too long to be followed.
            Conflict: The index is of another dataset, window or grid.
            Unavailable: There is no index and too much to scan, too much has changed since it was built, or it took
                too long.
            Corrupt: The index or a block cannot be read. Names it.
        """
        query, k, where = question.query, question.k, question.where
        query.require_same_space(self._store.identity, self._store.dims, "the dataset")
        at = self._reader.snapshot(question.window, question.level)
        within = within_of(at, where.area, where.inside, where.outside)
        index = None if question.exact or question.level > 1 else self._serving.index(question.window)
        dropped = np.empty(0, np.int64) if where.exclude is None else np.unique(where.exclude)
        most, read = k + len(dropped), self._reading(at, question.deadline)
        if index is None or (within.is_part and len(within.blocks) <= self._exact_blocks):
            found = self._exactly(query, at, within, most, read)
        else:
            found = self._with_index(query, at, within, most, read, index, question.own)
        kept = ~np.isin(found.top.ids, dropped)
        hits = _hits(at, Top(found.top.ids[kept][:k], found.top.scores[kept][:k]))
        return SearchResult(
            hits, found.engine, at.revision, found.recall, found.scanned, found.candidates, question.level
        )

    def is_current(self, window: Window) -> bool:
        """Whether an index serves this window that holds every block as the store has it now."""
        try:
            index = self._serving.index(window)
        except (Corrupt, Conflict, IdentityMismatch):
            return False
        held = dict(index.manifest.blocks) if index else {}
        return index is not None and held == dict(self._reader.snapshot(window).versions)

    def describe(self, window: Window) -> str:
        """How a search of this window would be answered, in words.

        Raises:
            Unavailable, Corrupt, Conflict, IdentityMismatch: It could not be.
        """
        at = self._reader.snapshot(window)
        index = self._serving.index(window)
        if index is None:
            self._require_few(at, list(at.versions), "there is no index")
            return f"no index, {len(at.versions)} blocks are scanned exactly"
        changed = index.changed(at)
        self._require_few(at, changed, _TOO_OLD)
        manifest = index.manifest
        return f"{manifest.count:,} pixels, recall@10 {manifest.tuning.recall:.3f}, {len(changed)} blocks changed since"

    def standing(self, window: Window) -> Standing | None:
        """How the index of a window stands to the store now; None where there is no index. Cheap to ask often.

        Raises:
            Corrupt, Conflict, IdentityMismatch: The index cannot serve.
        """
        at, index = self._reader.snapshot(window), self._serving.index(window)
        if index is None:
            return None
        state = at.revision, index.generation
        known = self._standings.get(window)
        if known is None or known[0] != state:
            manifest, behind = index.manifest, len(index.changed(at))
            standing = Standing(manifest.count, manifest.tuning.recall, manifest.built, behind)
            known = self._standings[window] = state, standing
        return known[1]

    def behind(self, window: Window) -> int:
        """Blocks that a search of this window scans exactly: all there are, where there is no index.

        Raises:
            Corrupt, Conflict, IdentityMismatch: The index cannot serve.
        """
        standing = self.standing(window)
        return len(self._reader.snapshot(window).versions) if standing is None else standing.behind

    def cache_use(self) -> CacheUse:
        """How this store's blocks kept in memory were used."""
        return self._reader.use()

    def _reading(self, at: Snapshot, deadline: Deadline | None) -> Reader:
        """How a block of a snapshot is read, while there is time."""

        def read(block: Block) -> Pixels:
            if deadline:
                deadline.check()
            return self._reader.block(at, block)

        return read

    def _exactly(self, query: Query, at: Snapshot, within: Within, k: int, read: Reader) -> _Found:
        blocks = [block for block in at.versions if block in within.blocks]
        self._require_few(at, blocks, "there is no index")
        top, scanned = scan(query, blocks, read, k, mask=lambda block: within.mask(at, block))
        return _Found(top, "exact", 1.0, scanned, 0)

    def _with_index(
        self, query: Query, at: Snapshot, within: Within, k: int, read: Reader, index: OpenedIndex,
        own: Int64Array | None,
    ) -> _Found:  # fmt: skip
        fresh = index.fresh(at)
        changed = [block for block in index.changed(at) if block in within.blocks]
        self._require_few(at, changed, _TOO_OLD)
        usable = tuple(
            each & np.array([block in within.blocks for block, _ in segment.record.blocks], bool)
            for each, segment in zip(fresh, index.segments, strict=True)
        )
        ids = candidates(query, at, within, k, index, usable)
        proposed = len(ids)
        if own is not None:
            ids = np.concatenate([ids, within.held(at, own)])
        ids, found = self._reader.pixels(at, ids)
        top, scanned = scan(query, changed, read, k, mask=lambda block: within.mask(at, block))
        top = top.merged(rank(query, ids, found, k), k)
        recall = index.manifest.tuning.recall if within.is_all else None
        return _Found(top, "index+exact" if changed else "index", recall, scanned + len(ids), proposed)

    def _require_few(self, at: Snapshot, blocks: Sequence[Block], why: str) -> None:
        if len(blocks) > self._exact_blocks:
            raise Unavailable(
                f"{why} for window {at.window} of dataset {self._dataset!r}, and {len(blocks):,} blocks are too many "
                f"to scan (at most {self._exact_blocks:,}).",
                remedy=f"Run `smalti index build {self._dataset}`.",
            )


@dataclass(frozen=True)
class _Found:
    """What a search found, before it is told in degrees."""

    top: Top
    engine: Engine
    recall: float | None
    scanned: int
    candidates: int


def _hits(at: Snapshot, top: Top) -> tuple[Hit, ...]:
    lon, lat = lonlat_of(at, top.ids)
    numbers = zip(
        lon.tolist(), lat.tolist(), top.scores.tolist(), zones_of(top.ids),
        rows_of(top.ids).tolist(), cols_of(top.ids).tolist(), strict=True,
    )  # fmt: skip
    return tuple(Hit(x, y, score, n, zone, row, col) for n, (x, y, score, zone, row, col) in enumerate(numbers, 1))
