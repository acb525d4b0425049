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

from indexing.areas import drawn
from indexing.averages import MAX_BLOCKS, Average, average_of
from indexing.exact import Reader, Top, scan
from indexing.finding import Finder, Found, Limits
from indexing.fleet.share import ALL, Fleet, Share
from indexing.fleet.spread import SpreadIndex
from indexing.ids import cols_of, rows_of, zones_of
from indexing.index.mirror import Mirror
from indexing.index.opened import OpenedIndex, Serving
from indexing.medoids import some_of
from indexing.pixels import BlockCache, PixelReader, Pixels, Places, Snapshot, lonlat_of
from indexing.question import Hit, Question, RangeQuestion, RangeResult, SearchResult
from indexing.ranges import any_of, counted
from indexing.refining import refined
from service.deadline import Deadline
from service.errors import Conflict, Corrupt, IdentityMismatch
from service.grid import Block
from service.polygons import MAX_PIECES, Polygon
from service.queries import Query
from service.store.contract import Store
from service.values import CacheUse, Float32Array, Float64Array, Window

EXACT_BLOCKS: Final = 256
"""The most blocks read from a store and scanned for one answer: 17 million pixels, half a minute where none is near."""


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
        exact_blocks: The most blocks read from the store and scanned for one answer; four times as many where an
            index holds them.
        cache: Where decoded blocks are kept, shared with other searchers; its own if absent.
        share: Which shards of its indexes are searched here.
        fleet: Who is asked for the others; nobody if absent.
    """

    def __init__(
        self,
        store: Store,
        dataset_id: str,
        folder: Path | Mirror,
        *,
        exact_blocks: int = EXACT_BLOCKS,
        cache: BlockCache | None = None,
        share: Share = ALL,
        fleet: Fleet | None = None,
    ) -> None:
        self._store = store
        self._dataset = dataset_id
        self._limits = Limits(dataset_id, exact_blocks)
        self._reader = PixelReader(store, cache or BlockCache())
        self._serving = Serving(store, dataset_id, folder, share)
        self._fleet = fleet or Fleet((), 0.0)
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
        scaled: bool = False,
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
            scaled: Whether to take the mean of the dequantised vectors instead.

        Raises:
            LimitExceeded: It holds more, touches too many blocks, or its edges are too long to be followed.
            Unavailable: It took too long.
            Corrupt: A block cannot be read.
        """
        at = self._reader.snapshot(window)
        shape = drawn(at, polygon, field, pieces)
        return average_of(shape, self._reading(at, deadline, scales=scaled), most, field, blocks, scaled=scaled)

    def pixels_in(
        self, window: Window, polygon: Polygon, count: int, field: str, deadline: Deadline | None = None
    ) -> Float32Array:
        """(n, d) float32 vectors of `count` valid pixels whose centre lies in a polygon: see `some_of`.

        Args:
            window: One of the store's windows.
            polygon: Where.
            count: How many, if there are so many.
            field: What the caller calls the polygon, for errors.
            deadline: When to give up, if ever.

        Raises:
            LimitExceeded: Its edges are too long to be followed.
            Unavailable: It took too long.
            Corrupt: A block cannot be read.
        """
        at = self._reader.snapshot(window)
        ids = some_of(drawn(at, polygon, field), self._reading(at, deadline), count)
        _, held = self._reader.pixels(at, ids, scales=True)
        assert held.scales is not None  # noqa: S101  # they were asked for
        return np.asarray(held.codes * held.scales[:, None], np.float32)

    def search(self, question: Question) -> SearchResult:
        """The k pixels of a window most like a query, fewer where it holds fewer.

        Raises:
            IdentityMismatch: The query, or the index, was made by another model than the dataset.
            InvalidInput: The query has another number of dimensions, counts are asked for and none are recorded, or
                no setting of the index was measured to find as much as asked for.
            NotFound: There is no such level.
            LimitExceeded: A polygon's edges are too long to be followed.
            Conflict: The index is of another dataset, window or grid.
            Unavailable: There is no index and too much to scan, too much has changed since it was built, or it took
                too long.
            Corrupt: The index or a block cannot be read. Names it.
        """
        at = self._asked(question)
        finder = self._finder(at, question)
        if question.refine:
            fine = self._reader.snapshot(question.window)
            return self._told(question, fine, refined(question, finder, self._finder(fine, question, exact=True)))
        return self._told(question, at, finder.spaced(question, finder.within(question.where)))

    def search_many(
        self, queries: Sequence[Query], window: Window, k: int, *, recall: float | None = None
    ) -> list[Top]:
        """The k pixels most like each of many queries: much less work for each than one by one.

        Raises:
            As `search` does.
        """
        if not queries:
            return []
        questions = [Question(query, window, k, recall=recall) for query in queries]
        at = [self._asked(question) for question in questions][-1]
        return self._finder(at, questions[0]).many(questions)

    def count(self, question: RangeQuestion) -> RangeResult:
        """How many pixels are at least so alike, in each polygon: every one of them is scored.

        Raises:
            As `search` does, but for the index. Unavailable where there is too much to scan.
        """
        at = self._asked(question)
        finder = self._finder(at, question, exact=True)
        within, shapes, left = finder.within(question.where), [], MAX_PIECES
        for n, polygon in enumerate(question.polygons):
            shapes.append(drawn(at, polygon, f"areas[{n}]", left))
            left -= shapes[-1].pieces
        if shapes:
            within = within.only(any_of(shapes), frozenset().union(*(shape.near for shape in shapes)))
        blocks = finder.scannable(within, "every pixel is to be scored", here=True)
        query, read = question.query, finder.read
        counts, scanned = counted(query, at, within, shapes, blocks, read, question.least)
        top = Top.none()
        if question.most:
            top, _ = scan(
                query, blocks, read, question.most, mask=lambda block: within.part(at, block), least=question.least
            )
        return RangeResult(counts, _hits(at, query, top), at.revision, scanned, at.level, at.stale)

    def index(self, window: Window, level: int = 1) -> OpenedIndex | None:
        """What is here of the index that serves now; None where there is none.

        Raises:
            Corrupt, Conflict, IdentityMismatch: It cannot serve.
        """
        return self._serving.index(window, level)

    def is_current(self, window: Window) -> bool:
        """Whether an index serves this window that holds every block as the store has it now."""
        try:
            index = self._serving.index(window)
        except (Corrupt, Conflict, IdentityMismatch):
            return False
        return index is not None and not index.changed(self._reader.snapshot(window))

    def describe(self, window: Window) -> str:
        """How a search of this window would be answered, in words.

        Raises:
            Unavailable, Corrupt, Conflict, IdentityMismatch: It could not be.
        """
        at = self._reader.snapshot(window)
        index = self._serving.index(window)
        if index is None:
            self._limits.require_few(at, len(at.versions), 0, "there is no index")
            return f"no index, {len(at.versions)} blocks are scanned exactly"
        changed = index.changed(at)
        self._limits.require_few(at, len(changed), 0, "the index is too old")
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

    def _asked(self, question: Question | RangeQuestion) -> Snapshot:
        """What is there to be searched, once the question can be asked of it."""
        question.query.require_same_space(self._store.identity, self._store.dims, "the dataset")
        self._limits.require_recorded(self._store, question.level, question.where)
        return self._reader.snapshot(question.window, question.level)

    def _reading(self, at: Snapshot, deadline: Deadline | None, *, scales: bool = False) -> Reader:
        """How a block is read from the store, with the status of its pixels, while there is time."""

        def read(block: Block) -> Pixels:
            if deadline:
                deadline.check()
            return self._reader.block(at, block, scales=scales)

        return read

    def _finder(self, at: Snapshot, question: Question | RangeQuestion, *, exact: bool = False) -> Finder:
        """What looks for pixels of a snapshot, in the index that serves now.

        Where everything is scored anyway an index is only where pixels are near, and one that cannot serve is none.
        """
        euclidean = question.query.metric == "euclidean"
        exact = exact or euclidean or (isinstance(question, Question) and question.exact)
        try:
            index = self._serving.index(at.window, at.level)
        except (Corrupt, Conflict, IdentityMismatch):
            if not exact:
                raise
            index = None
        spread = index is not None and len(index.held) < len(index.segments)
        asked = SpreadIndex(index, self._fleet, question.deadline) if index is not None and spread else index
        return Finder(self._reader, at, asked, self._limits, question.deadline, scales=euclidean, exact=exact)

    def _told(self, question: Question, at: Snapshot, found: Found) -> SearchResult:
        return SearchResult(
            hits=_hits(at, question.query, found.top),
            engine=found.engine,
            revision=at.revision,
            recall=found.recall,
            scanned=found.scanned,
            candidates=found.candidates,
            level=at.level,
            missing=found.missing,
            probes=found.probes,
            stale=at.stale + found.stale,
            exhausted=len(found.top.ids) < question.k,
        )


def _hits(at: Snapshot, query: Query, top: Top) -> tuple[Hit, ...]:
    """The pixels in degrees, ranked."""
    if not len(top.ids):
        return ()
    lon, lat = lonlat_of(at, top.ids)
    numbers = zip(
        lon.tolist(), lat.tolist(), top.scores.tolist(), zones_of(top.ids),
        rows_of(top.ids).tolist(), cols_of(top.ids).tolist(), strict=True,
    )  # fmt: skip
    euclidean = query.metric == "euclidean"
    return tuple(
        Hit(x, y, score, n, zone, row, col, distance=query.distance_at(score) if euclidean else None)
        for n, (x, y, score, zone, row, col) in enumerate(numbers, 1)
    )
