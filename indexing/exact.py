"""Exact search: every pixel of some blocks scored, one block in memory at a time.

float32 proposes, float64 decides. A pixel is dropped on its float32 score only when that score lies further below
the k-th best than float32 can be wrong; what is left is ranked by its float64 cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from indexing.ids import pixel_ids
from indexing.pixels import Pixels
from service.grid import Block, Zone
from service.queries import Query
from service.values import BoolArray, Float32Array, Float64Array, Int8Array, Int64Array

MARGIN: Final = 1e-4
"""A float32 cosine of up to 1024 dimensions is nearer than this to the true one (bound: (d + 3) * 2**-24 = 6e-5)."""

DECIMALS: Final = 12
"""Scores are compared to this many decimals: below it they depend on the order of additions, not on the pixels."""

_ROWS: Final = 4096
"""Candidates ranked in float64 at once."""

Reader = Callable[[Block], Pixels]
"""Reads a block: (rows, cols) pixels whose first one is the block's first."""
Mask = Callable[[Block], BoolArray]
"""(rows, cols) bool for a block: which of its pixels may be hits."""


@dataclass(frozen=True)
class Top:
    """The best pixels found so far, best first; equal scores by ascending id."""

    ids: Int64Array
    """(n,) int64 pixel ids."""
    scores: Float64Array
    """(n,) float64 cosine, -1 to 1."""

    @classmethod
    def none(cls) -> Self:
        """No pixel."""
        return cls(np.empty(0, np.int64), np.empty(0, np.float64))

    def merged(self, other: Top, k: int) -> Top:
        """The best k of both; a pixel in both counts once."""
        ids, first = np.unique(np.concatenate([self.ids, other.ids]), return_index=True)
        scores = np.concatenate([self.scores, other.scores])[first]
        order = np.lexsort((ids, -scores))[:k]
        return Top(ids[order], scores[order])


def rank(query: Query, ids: Int64Array, codes: Int8Array, k: int) -> Top:
    """The best k of (n,) pixels with (n, d) int8 codes, by float64 cosine."""
    top = Top.none()
    for start in range(0, len(ids), _ROWS):
        rows = slice(start, start + _ROWS)
        scores = np.clip(np.round(query.exact_scores(codes[rows]), DECIMALS), -1.0, 1.0)
        top = top.merged(Top(ids[rows], scores), k)
    return top


def scan(query: Query, blocks: Iterable[Block], read: Reader, k: int, *, mask: Mask | None = None) -> tuple[Top, int]:
    """The best k pixels of some blocks, the same as a float64 cosine of all of them would give.

    Args:
        query: What to look for.
        blocks: Blocks of one level; memory holds one at a time.
        read: How to read one.
        k: How many hits, 1 or more.
        mask: Which pixels of a block may be hits; all with data where absent.

    Returns:
        The hits, and how many pixels were scored.

    Raises:
        Corrupt, Unavailable: As `read` does.
    """
    top, scanned = Top.none(), 0
    for block in blocks:
        held = read(block)
        usable = held.norms > 0 if mask is None else (held.norms > 0) & mask(block)
        scanned += int(usable.sum())
        scores = query.scores(held.codes, held.norms)
        top = top.merged(_best_of(query, block, held.codes, scores, usable, k, top), k)
    return top, scanned


def _best_of(
    query: Query, block: Block, codes: Int8Array, scores: Float32Array, usable: BoolArray, k: int, top: Top
) -> Top:
    """The pixels of one block that may enter `top`, ranked."""
    values = scores[usable]
    if not len(values):
        return Top.none()
    floor = float(np.partition(values, len(values) - k)[len(values) - k]) if len(values) > k else -np.inf
    if len(top.ids) == k:
        floor = max(floor, float(top.scores[-1]))
    rows, cols = np.nonzero(usable & (scores >= floor - MARGIN))
    ids = pixel_ids(Zone.parse(block.zone), rows + block.rows.start, cols + block.cols.start, block.level)
    return rank(query, ids, codes[rows, cols], k)
