"""Exact search: every pixel of some blocks scored, by as many threads as there are cores, a block each in memory.

int8 proposes, float64 decides. A pixel is dropped on a first look only when it scores further below the k-th best than
that look can be wrong; what is left is ranked by its score in float64.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from indexing.ids import first_id, ids_at
from indexing.pixels import Pixels
from indexing.screens import DECIMALS, ROUNDING, Scores, exact_scores, screen_of
from service.grid import Block
from service.queries import Query
from service.together import together
from service.values import BLOCK, BoolArray, Float64Array, Int64Array

Reader = Callable[[Block], Pixels]
"""Reads a block: (rows, cols) pixels whose first one is the block's first."""
Mask = Callable[[Block], BoolArray | None]
"""(rows, cols) bool for a block: which of its pixels may be hits; None where all may."""

_SPARSE: Final = 4096
"""Of the 65,536 pixels of a block: up to so many are picked out before anything is multiplied."""
_PENDING: Final = 8192
"""Pixels that wait to be ranked, at least: ranking few at a time costs more than keeping them."""


@dataclass(frozen=True)
class Top:
    """The best pixels found so far, best first; equal scores by ascending id."""

    ids: Int64Array
    """(n,) int64 pixel ids."""
    scores: Float64Array
    """(n,) float64; see `Query`."""

    @classmethod
    def none(cls) -> Self:
        """No pixel."""
        return cls(np.empty(0, np.int64), np.empty(0, np.float64))

    def merged(self, other: Top, k: int) -> Top:
        """The best k of both; a pixel in both counts once."""
        if not len(other.ids):
            return self
        ids, first = np.unique(np.concatenate([self.ids, other.ids]), return_index=True)
        scores = np.concatenate([self.scores, other.scores])[first]
        order = np.lexsort((ids, -scores))[:k]
        return Top(ids[order], scores[order])

    def followed(self, other: Top) -> Top:
        """These, then others that are no better."""
        return Top(np.concatenate([self.ids, other.ids]), np.concatenate([self.scores, other.scores]))

    def kept(self, keep: BoolArray) -> Top:
        """Those of which (n,) `keep` is true."""
        return Top(self.ids[keep], self.scores[keep])


def rank(query: Query, ids: Int64Array, rows: Pixels, k: int) -> Top:
    """The best k of (n,) pixels, by their scores in float64; an id that comes twice counts once."""
    return Top.none().merged(Top(ids, exact_scores(query, rows)), k)


def scan(
    query: Query,
    blocks: Iterable[Block],
    read: Reader,
    k: int,
    *,
    mask: Mask | None = None,
    least: float = -np.inf,
) -> tuple[Top, int]:
    """The best k pixels of some blocks, the same as the scores of all of them in float64 would give.

    Args:
        query: What to look for.
        blocks: Blocks of one level; memory holds one for each thread at a time.
        read: How to read one, with scales where the query's metric needs them. Called from several threads.
        k: How many hits, 1 or more.
        mask: Which pixels of a block may be hits; all with data where absent.
        least: Score of a hit, at least.

    Returns:
        The hits, and how many pixels were scored.

    Raises:
        Corrupt, Unavailable: As `read` does.
    """
    floor = _Floor(least - ROUNDING)

    def work(mine: Iterator[Block]) -> tuple[Top, int]:
        best, scanned = _Best(query, k, floor), 0
        for block in mine:
            held, usable = read(block), mask(block) if mask else None
            scanned += held.count if usable is None else int(np.count_nonzero(held.norms[usable]))
            best.see(block, held, usable)
        return best.settled(), scanned

    top, scanned = Top.none(), 0
    for part, count in together(work, list(blocks)):
        top, scanned = top.merged(part, k), scanned + count
    return top.kept(top.scores >= round(least, DECIMALS)) if least > -np.inf else top, scanned


class _Floor:
    """What the k-th best pixel of all threads is known to score at least."""

    def __init__(self, value: float) -> None:
        self.value = value
        self._lock = threading.Lock()

    def rise(self, value: float) -> None:
        """It is this at least."""
        with self._lock:
            self.value = max(self.value, value)


class _Best:
    """The best pixels that one thread has found."""

    def __init__(self, query: Query, k: int, floor: _Floor) -> None:
        self._query, self._k, self._floor = query, k, floor
        self._screen = screen_of(query)
        self._top = Top.none()
        self._pending: list[tuple[Block, Int64Array, Pixels, Scores]] = []
        self._waiting = 0

    def see(self, block: Block, held: Pixels, usable: BoolArray | None) -> None:
        """Take the pixels of a block into account."""
        width = held.norms.shape[-1]
        picked = None if usable is None or np.count_nonzero(usable) > _SPARSE else np.flatnonzero(usable)
        if picked is not None:
            held, usable = held.taken(picked), None
        cells = self._possible(held, usable)
        if not len(cells):
            return
        rows = held.taken(cells)
        cells = cells if picked is None else picked[cells]
        scores = self._screen.look_again(rows)
        near = np.flatnonzero(scores >= self._floor.value - self._screen.error)
        if not len(near):
            return
        row, col = np.divmod(cells[near], width)
        self._pending.append((block, row * BLOCK + col, rows.taken(near), scores[near]))
        self._waiting += len(near)
        self._raise_floor()

    def settled(self) -> Top:
        """The best k of all that was seen."""
        for block, offsets, rows, scores in self._pending:
            near = np.flatnonzero(scores >= self._floor.value - self._screen.error)
            if not len(near):
                continue
            ids = ids_at(np.array([first_id(block)]), offsets[near])
            self._top = self._top.merged(Top(ids, exact_scores(self._query, rows.taken(near))), self._k)
        self._pending, self._waiting = [], 0
        return self._top

    def _possible(self, held: Pixels, usable: BoolArray | None) -> Int64Array:
        """Cells of pixels that may be among the best."""
        norms, mask = held.norms.ravel(), None if usable is None else usable.ravel()
        if self._floor.value > -np.inf:
            cells = self._screen.above(held, self._floor.value)
            cells = cells[norms[cells] > 0]
            return cells if mask is None else cells[mask[cells]]
        values, above, below = self._screen.look(held)
        cells = np.flatnonzero(norms > 0 if mask is None else (norms > 0) & mask)
        if len(cells) <= self._k:
            return cells
        lowest = values[cells] - (below if isinstance(below, float) else below[cells])
        self._floor.rise(float(np.partition(lowest, len(cells) - self._k)[len(cells) - self._k]))
        return cells[values[cells] >= self._floor.value - above]

    def _raise_floor(self) -> None:
        if self._waiting > max(_PENDING, 4 * self._k):
            self.settled()
        lowest = [scores - self._screen.error for *_, scores in self._pending]
        known = np.concatenate([self._top.scores - ROUNDING, *lowest])
        if len(known) >= self._k:
            self._floor.rise(float(np.partition(known, len(known) - self._k)[len(known) - self._k]))
