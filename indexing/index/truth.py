"""What an index is measured by: the exact neighbours of held-out pixels, and how many of them it proposes.

Held-out queries are int8 codes like the pixels themselves, so a product of the two is a whole number and the truth is
no estimate. Each segment keeps its own best, so an index that grows is measured by looking at what is new alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from indexing.index.ann import unit
from indexing.index.manifest import REBUILD
from service.errors import Corrupt
from service.linear import code_norms, pack_codes, packed_products
from service.values import BoolArray, Float32Array, Float64Array, Int8Array, Int64Array

HELD_OUT: Final = 288
_NOISE: Final = 0.2
"""A third of the held-out queries are moved by this share of their length: a query is seldom a stored pixel."""
_MOVED: Final = slice(1, None, 3)
MIXED: Final = slice(2, None, 3)
"""Another third are means of two pixels drawn at random: such as examples of several kinds come to, far from all."""
_DEEP: Final = 128
"""Neighbours kept of each query and segment: the 100 best of all, and what ties with the last."""
_ROWS: Final = 1024
_STEP: Final = 13
"""One in so many pixels, from all over the first blocks, tells how near the nearest are at least. The first rows of a
block would not: where they are far from all else, every pixel would be kept for every query, a gigabyte of them."""
_TIE: Final = 1e-6
_K: Final = 10
_K_DEEP: Final = 100

Settings = Sequence[tuple[int, tuple[int, ...]]]
LADDER: Final[Settings] = (
    (4, (50, 100, 150)),
    (8, (50, 100, 150, 200)),
    (16, (100, 200, 500)),
    (32, (200, 500, 1000)),
    (64, (200, 500, 1000, 2000)),
    (128, (1000, 2000, 4000)),
    (256, (4000, 8000)),
)
"""(lists to look into, candidates) that are measured."""
ENOUGH: Final = 0.9995
ENOUGH_AT_100: Final = 0.995
"""From these recalls of the 10 and of the 100 best on, looking into more lists is not measured; where pixels are mixed,
from the latter on."""


def held_out(pixels: Int8Array, random: np.random.Generator) -> Int8Array:
    """(n, d) int8 queries out of as many pixels' codes: a third as they are, a third moved, a third mixed of two."""
    vectors = unit(pixels)
    noise = random.standard_normal(vectors.shape).astype(np.float32)
    noise *= _NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    queries = pixels.copy()
    for third, made in ((_MOVED, vectors + noise), (MIXED, vectors + np.roll(vectors, 1, axis=0))):
        most = np.abs(made).max(axis=1, keepdims=True)
        rounded = np.rint(made * (127 / np.maximum(most, _TIE))).astype(np.int8)
        queries[third] = np.where(most > _TIE, rounded, pixels)[third]  # two opposite ones have no mean
    return queries


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The best of some pixels for each held-out query: highest cosine first, ties by position; see `_DEEP`."""

    positions: Int64Array
    """(q, n) int64; -1 where there are fewer."""
    scores: Float64Array
    """(q, n) float64 cosines; -2 there."""

    def save(self, path: Path) -> None:
        """Write them to a file."""
        with path.open("wb") as file:
            np.savez(file, positions=self.positions.astype(np.int32), scores=self.scores)

    @classmethod
    def read(cls, path: Path) -> Neighbours:
        """Read them back.

        Raises:
            Corrupt: It is no such file.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                return cls(held["positions"].astype(np.int64), held["scores"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise Corrupt(f"{path} cannot be read: {error}.", remedy=REBUILD) from None


class Seeing:
    """Finds the neighbours of held-out queries as pixels go by; `look` may be called from several threads."""

    def __init__(self, queries: Int8Array) -> None:
        self._packed = pack_codes(queries)
        self._lengths = code_norms(queries).astype(np.float64)
        shape = (len(queries), _DEEP)
        self.best = Neighbours(np.full(shape, -1, np.int64), np.full(shape, -2.0))

    def look(self, positions: Int64Array, codes: Int8Array, norms: Float32Array) -> Neighbours:
        """The neighbours among (n,) pixels with (n, d) codes and their norms, of those that may still matter."""
        floors = ((self.best.scores[:, -1] - _TIE) * self._lengths).astype(np.float32)
        held: list[tuple[Int64Array, Int64Array, Float32Array]] = []
        with np.errstate(divide="ignore"):
            inverse = np.float32(1) / norms
        if (self.best.positions[:, -1] < 0).any():
            few = slice(None, None, _STEP)
            scores = packed_products(codes[few], self._packed) * inverse[few, None]
            floors = np.maximum(floors, self._first_floors(scores))
        for top in range(0, len(codes), _ROWS):
            part = slice(top, top + _ROWS)
            scores = packed_products(codes[part], self._packed) * inverse[part, None]
            row, query = np.divmod(np.flatnonzero(scores > floors), scores.shape[1])
            held.append((query, row + top, scores[row, query]))
        query, row, found = (np.concatenate(each) for each in zip(*held, strict=True))
        return self._sorted(query, positions[row], found / self._lengths[query])

    def take(self, found: Neighbours) -> None:
        """Take what `look` found into account."""
        positions = np.concatenate([self.best.positions, found.positions], axis=1)
        scores = np.concatenate([self.best.scores, found.scores], axis=1)
        self.best = _best_of(positions, scores)

    @staticmethod
    def _first_floors(scores: Float32Array) -> Float32Array:
        if len(scores) <= _DEEP:
            return np.full(scores.shape[1], -np.inf, np.float32)
        best = np.partition(scores, len(scores) - _DEEP, axis=0)[len(scores) - _DEEP]
        return np.asarray(best - np.abs(best) * _TIE - _TIE, np.float32)

    def _sorted(self, query: Int64Array, positions: Int64Array, scores: Float64Array) -> Neighbours:
        """Pixels by query, as a table of the best of each."""
        order = np.lexsort((positions, -scores, query))
        query, positions, scores = query[order], positions[order], scores[order]
        begins = np.searchsorted(query, np.arange(len(self._lengths)))
        rank = np.arange(len(query)) - begins[query]
        kept = rank < _DEEP
        out = Neighbours(np.full(self.best.positions.shape, -1, np.int64), np.full(self.best.scores.shape, -2.0))
        out.positions[query[kept], rank[kept]] = positions[kept]
        out.scores[query[kept], rank[kept]] = scores[kept]
        return out


def _best_of(positions: Int64Array, scores: Float64Array) -> Neighbours:
    order = np.lexsort((positions, -scores), axis=1)[:, :_DEEP]
    return Neighbours(np.take_along_axis(positions, order, axis=1), np.take_along_axis(scores, order, axis=1))


@dataclass(frozen=True, eq=False)
class Truth:
    """The neighbours of the held-out queries in a whole index."""

    neighbours: Neighbours
    """Positions are those of all segments one after the other."""
    known: Float64Array
    """(q,) score down to which these are all there are."""

    @classmethod
    def of(cls, parts: Sequence[tuple[Neighbours, Int64Array, BoolArray]]) -> Truth:
        """Of an index.

        Args:
            parts: For each segment its neighbours, its first position among those of all, and (slots,) bool: which
                of its blocks still count. What a block held that does not count is not made up for by the next best:
                they were not kept. So the truth is known down to the last that was kept.
        """
        positions, scores, known = [], [], np.full(len(parts[0][0].scores), -2.0)
        for held, first, counts in parts:
            live = (held.positions >= 0) & counts[np.maximum(held.positions, 0) >> 16]
            positions.append(np.where(live, held.positions + first, -1))
            scores.append(np.where(live, held.scores, -2.0))
            full = (held.positions[:, -1] >= 0) & ~live.all(axis=1)
            known = np.maximum(known, np.where(full, held.scores[:, -1], -2.0))
        return cls(_best_of(np.concatenate(positions, axis=1), np.concatenate(scores, axis=1)), known)

    def recall(
        self, proposed: Sequence[Int64Array], candidates: Sequence[int], queries: Sequence[int]
    ) -> list[tuple[float, float]]:
        """Shares of the 10 and of the 100 best found among the first so many of what was proposed for some queries.

        Pixels that tie with the last of them are as good as it. Nothing where none of these queries has any truth.
        """
        shares = np.array([list(self._shares(*each, candidates)) for each in self._best(proposed, queries)])
        return [(float(ten), float(hundred)) for ten, hundred in shares.mean(axis=0)] if len(shares) else []

    def _best(
        self, proposed: Sequence[Int64Array], queries: Sequence[int]
    ) -> Iterator[tuple[Int64Array, Float64Array, Int64Array]]:
        """Of each query that has any: the true neighbours, their scores, and the place of each in what was proposed."""
        held = self.neighbours
        for query in queries:
            found = proposed[query]
            good = (held.positions[query] >= 0) & (held.scores[query] >= self.known[query])
            truth = held.positions[query][good]
            if len(truth):
                order = np.argsort(found, kind="stable")
                at = np.minimum(np.searchsorted(found, truth, sorter=order), max(len(found) - 1, 0))
                place = order[at] if len(found) else np.zeros(len(truth), np.int64)
                hit = found[place] == truth if len(found) else np.zeros(len(truth), bool)
                yield truth, held.scores[query][good], np.where(hit, place, np.iinfo(np.int64).max)

    @staticmethod
    def _shares(
        truth: Int64Array, scores: Float64Array, places: Int64Array, candidates: Sequence[int]
    ) -> Iterator[tuple[float, float]]:
        for count in candidates:
            shares = []
            for k in (_K, _K_DEEP):
                wanted = min(k, len(truth))
                as_good = scores >= scores[wanted - 1] - _TIE
                shares.append(min(int((places[as_good] < count).sum()) / wanted, 1.0))
            yield shares[0], shares[1]
