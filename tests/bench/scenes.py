"""The pixels that search is measured on: blocks of a landscape of 2000 kinds of parcels, each made when it is read.

Nothing of it is stored, so an index of 50 million pixels is measured on a disk that holds the index and little more.
Which blocks there are and what they hold follows from a seed alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np

from indexing.ids import cols_of, first_id, ids_at, rows_of
from service.grid import Block, Zone, ZoneGrid, archive_grid
from service.quant import dequantise
from service.queries import Query
from service.values import BLOCK, Counts, Float32Array, Int64Array, ModelIdentity, Vectors, Window
from tests.bench.landscape import DIMS, FIRST_YEAR, Landscape

MODEL: Final = ModelIdentity("bench", "1")
YEAR: Final = Window.year(FIRST_YEAR)
ZONE: Final = Zone(31)
KINDS: Final = 2000
ROW0, COL0, WIDE = 1400, 120, 32
"""The first block, and how many lie side by side."""
PIXELS: Final = BLOCK * BLOCK
NOISE: Final = 0.2
"""Half of the queries are moved by this share of their length: a query is seldom a stored pixel."""


class Scene:
    """A store, for reading only, of so many whole blocks of one zone: the first ones of a larger scene are the same.

    Args:
        blocks: How many, in rows of 32.
        seed: What their content follows from.
    """

    location = "/scene"
    identity = MODEL
    dims = DIMS
    depths = (DIMS,)
    writable = False

    def __init__(self, blocks: int, seed: int = 0) -> None:
        self.every = [Block(ZONE.name, ROW0 + n // WIDE, COL0 + n % WIDE) for n in range(blocks)]
        self.making_s = 0.0
        """Seconds of processor time that went into making pixels."""
        self._held = frozenset(self.every)
        self._landscape = Landscape(seed, KINDS)
        self._lately = lru_cache(2)(self._made)

    def vectors(self, block: Block) -> Vectors:
        """(256, 256) pixels of a block; not to be written to."""
        return self._lately(block) if block in self._held else Vectors.empty((BLOCK, BLOCK), DIMS)

    def _made(self, block: Block) -> Vectors:
        start = time.thread_time()
        made = self._landscape.block(block, FIRST_YEAR)
        self.making_s += time.thread_time() - start
        return made

    def windows(self) -> tuple[Window, ...]:
        return (YEAR,)

    def revision(self) -> tuple[str, bool]:
        return f"scene-{len(self.every)}", True

    def zones(self) -> tuple[ZoneGrid, ...]:
        return (self._grid,)

    @cached_property
    def _grid(self) -> ZoneGrid:
        return archive_grid(ZONE)

    def levels(self) -> tuple[int, ...]:
        return (1,)

    def read(
        self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1, dims: int | None = None
    ) -> Vectors:
        """Only blocks and parts of one are asked for."""
        block = Block(zone.name, rows.start // BLOCK, cols.start // BLOCK)
        assert rows.stop <= block.rows.stop
        assert cols.stop <= block.cols.stop
        held = self.vectors(block)
        at = (
            slice(rows.start - block.rows.start, rows.stop - block.rows.start),
            slice(cols.start - block.cols.start, cols.stop - block.cols.start),
        )
        return Vectors(held.codes[at], held.scales[at], held.status[at])

    def sample(
        self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array, *, dims: int | None = None
    ) -> Vectors:
        out = Vectors.empty((len(rows),), DIMS)
        places = np.stack([rows // BLOCK, cols // BLOCK], axis=1)
        for row, col in np.unique(places, axis=0).tolist():
            mine = (places == (row, col)).all(axis=1)
            taken = self.vectors(Block(zone.name, row, col)).taken(rows[mine] % BLOCK * BLOCK + cols[mine] % BLOCK)
            out.codes[mine], out.scales[mine], out.status[mine] = taken.codes, taken.scales, taken.status
        return out

    def counts(self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array) -> Counts:
        return Counts.zeros((len(rows),))

    def counts_window(self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1) -> Counts:
        return Counts.zeros((rows.stop - rows.start, cols.stop - cols.start))

    def counted(self) -> tuple[int, ...]:
        return ()

    def blocks(self, window: Window, *, level: int = 1) -> tuple[Block, ...]:
        return tuple(sorted(self.every, key=lambda block: block.name))

    def versions(self, window: Window, blocks: Iterable[Block]) -> Mapping[Block, str]:
        return {block: "1" if block in self._held else "" for block in blocks}

    def stale(self, window: Window, blocks: Iterable[Block]) -> frozenset[Block]:
        return frozenset()

    def refresh(self) -> bool:
        return False


def unit_vectors(vectors: Vectors) -> Float32Array:
    """(n, d) dequantised vectors of length 1: what one would give to another program."""
    flat = dequantise(vectors.codes, vectors.scales).reshape(-1, DIMS)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    return flat


def directions_of(scene: Scene, count: int, seed: int = 9) -> Float32Array:
    """(count, d) unit vectors: pixels of the scene, half of them with noise added."""
    rng = np.random.default_rng(seed)
    numbers, offsets = np.sort(rng.integers(0, len(scene.every), count)), rng.integers(0, PIXELS, count)
    found = np.concatenate(
        [unit_vectors(scene.vectors(scene.every[n]).taken(o[None])) for n, o in zip(numbers, offsets, strict=True)]
    )
    noise = rng.standard_normal(found.shape, np.float32)
    noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    found[1::2] += noise[1::2]
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found[rng.permutation(count)]


def queries_of(directions: Float32Array) -> list[Query]:
    """One query for each direction."""
    return [Query.of(MODEL, direction) for direction in directions]


@dataclass
class Truth:
    """The k pixels nearest to each direction, of all seen so far, found by plain float32 products."""

    directions: Float32Array
    """(q, d) unit vectors."""
    k: int
    ids: Int64Array
    """(q, k) pixel ids, nearest first."""
    scores: Float32Array
    """(q, k) cosines."""

    @classmethod
    def of(cls, directions: Float32Array, k: int = 10) -> Truth:
        shape = len(directions), k
        return cls(directions, k, np.full(shape, -1, np.int64), np.full(shape, -2, np.float32))

    def see(self, block: Block, unit: Float32Array) -> None:
        """Take the (65536, d) pixels of a block into account."""
        ids = ids_at(np.full(PIXELS, first_id(block), np.int64), np.arange(PIXELS))
        for n, scores in enumerate(self.directions @ unit.T):
            better = np.flatnonzero(scores > self.scores[n, -1])
            if len(better) > self.k:
                better = better[np.argpartition(-scores[better], self.k)[: self.k]]
            held = np.concatenate([self.scores[n], scores[better]])
            best = np.argsort(-held, kind="stable")[: self.k]
            self.scores[n], self.ids[n] = held[best], np.concatenate([self.ids[n], ids[better]])[best]

    def recall(self, found: Iterable[Int64Array]) -> float:
        """Share of these pixels among those that another search found, per direction its k best ids."""
        shares = [np.isin(mine, theirs[: self.k]).mean() for mine, theirs in zip(self.ids, found, strict=True)]
        return float(np.mean(shares))


def positions_of(ids: Int64Array) -> Int64Array:
    """Where pixels lie in a scene, given by their ids: block after block, each row by row."""
    rows, cols = rows_of(ids), cols_of(ids)
    block = (rows // BLOCK - ROW0) * WIDE + cols // BLOCK - COL0
    return np.asarray(block * PIXELS + rows % BLOCK * BLOCK + cols % BLOCK, np.int64)


def each_block(scene: Scene) -> Iterator[tuple[Block, Float32Array]]:
    """Every block with its (65536, d) vectors of length 1."""
    for block in scene.every:
        yield block, unit_vectors(scene.vectors(block))
