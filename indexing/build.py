"""Build an index: two passes over the blocks of a window, one block in memory at a time.

The first pass learns the lists from a seeded sample; the second adds every pixel and, as it goes by, finds the true
neighbours of some held-out pixels, by which the finished index is measured and tuned.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from filelock import FileLock, Timeout

from indexing.ann import AnnIndex, Builder, Parameters
from indexing.manifest import FileRecord, IndexManifest, Tuning, current, grids_of, write_durably
from service.errors import Conflict, NotFound
from service.grid import Block, Zone
from service.store.contract import Store
from service.values import BLOCK, Float32Array, Int8Array, Int64Array, Window

TARGET: Final = 0.98
"""Least recall of the 10 best that a build tunes for."""

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

_HELD_OUT: Final = 256
_NOISE: Final = 0.2
"""Half of the held-out queries are moved by this share of their length: a query is seldom a stored pixel."""
_BLOCKS_SAMPLED: Final = 256
_ROWS: Final = 8192
_K: Final = 10
_NEIGHBOURS: Final = 64
"""True neighbours remembered for each query: enough to know those that tie with the 10th."""
_TIE: Final = 1e-6
_TRIES: Final = ((16, 200), (32, 200), (32, 500), (64, 500), (64, 1000), (128, 2000), (256, 4000))
"""(lists, candidates) tried in turn until the target is met."""


def build_index(
    store: Store,
    dataset_id: str,
    window: Window,
    folder: Path,
    *,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> IndexManifest:
    """Index one window of a dataset and let it serve, replacing the index before it in one step.

    A build that is killed leaves the index before it serving; the next build clears away what it left.

    Args:
        store: Where the vectors are. It should stay at one revision; blocks that change meanwhile are left out.
        dataset_id: The dataset's id, recorded.
        window: Which of its windows.
        folder: The folder of the dataset's indexes; made if it is not there.
        seed: What sampling and clustering start from.
        on_progress: Told how far it is.

    Raises:
        NotFound: The window holds no pixel.
        Conflict: Another process is building this index.
        Corrupt: A block cannot be read.
    """
    home = folder / str(window)
    home.mkdir(parents=True, exist_ok=True)
    with alone(home):
        for leftover in home.glob(".building-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        before = current(folder, window)
        scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=home))
        try:
            manifest = _Build(store, window, scratch, np.random.default_rng(seed), seed, on_progress).run(dataset_id)
            write_durably(scratch / "manifest.json", manifest.to_json())
            generation = scratch.rename(home / f"g-{uuid.uuid4().hex[:12]}")
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        write_durably(home / "current", generation.name)
        drop_generations(home, keep={generation, before})
    return manifest


@contextmanager
def alone(home: Path, wait: float = 0) -> Iterator[None]:
    """Be the only process that changes the generations in a folder.

    Raises:
        Conflict: Another one has been, for longer than `wait` seconds.
    """
    lock = FileLock(home / "build.lock", timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        raise Conflict(f"the index in {home} is being built already.", remedy="Wait for it to end.") from None
    try:
        yield
    finally:
        lock.release()


def drop_generations(home: Path, keep: set[Path | None]) -> None:
    """Remove generations but a few; the one before stays until the next comes: a reader may be about to open it."""
    for generation in home.glob("g-*"):
        if generation not in keep:
            shutil.rmtree(generation, ignore_errors=True)


@dataclass
class _Truth:
    """The exact neighbours of the held-out queries among all pixels seen so far."""

    queries: Float32Array
    """(n, d) unit vectors."""
    positions: Int64Array
    """(n, _NEIGHBOURS) positions in the index; -1 where there are fewer."""
    scores: Float32Array
    """(n, _NEIGHBOURS) cosines; -2 there."""

    @classmethod
    def of(cls, queries: Float32Array) -> _Truth:
        shape = (len(queries), _NEIGHBOURS)
        return cls(queries, np.full(shape, -1, np.int64), np.full(shape, -2, np.float32))

    def see(self, positions: Int64Array, vectors: Float32Array) -> None:
        """Take (n,) positions with their (n, d) unit vectors into account."""
        for start in range(0, len(vectors), _ROWS):
            rows = slice(start, start + _ROWS)
            scores = np.concatenate([self.scores, self.queries @ vectors[rows].T], axis=1)
            best = np.argpartition(-scores, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
            held = np.broadcast_to(positions[rows], (len(scores), len(positions[rows])))
            self.scores = np.take_along_axis(scores, best, axis=1)
            self.positions = np.take_along_axis(np.concatenate([self.positions, held], axis=1), best, axis=1)

    def recall(self, index: AnnIndex, probes: int, candidates: int) -> float:
        """Share of the 10 best that an index proposes; pixels that tie with the 10th are as good as it."""
        found = [
            min(int(np.isin(best, index.candidates(query, candidates, probes)).sum()) / wanted, 1.0)
            for query, best, wanted in self._best()
        ]
        return float(np.mean(found))

    def _best(self) -> Iterator[tuple[Float32Array, Int64Array, int]]:
        for query, positions, scores in zip(self.queries, self.positions, self.scores, strict=True):
            wanted = min(_K, int((positions >= 0).sum()))
            least = np.sort(scores)[::-1][wanted - 1] - _TIE
            yield query, positions[(scores >= least) & (positions >= 0)], wanted


@dataclass
class _Build:
    store: Store
    window: Window
    scratch: Path
    random: np.random.Generator
    seed: int
    on_progress: Progress | None

    def run(self, dataset_id: str) -> IndexManifest:
        blocks = self.store.blocks(self.window)
        versions = self.store.versions(self.window, blocks)
        revision = self.store.revision()[0]
        queries, parameters, sample = self._learn(blocks)
        builder, truth = Builder(parameters, sample, self.scratch), _Truth.of(queries)
        for ordinal, block in enumerate(blocks):
            offsets, vectors = self._unit_vectors(block)
            positions = ordinal * BLOCK * BLOCK + offsets
            builder.add(positions, vectors)
            truth.see(positions, vectors)
            self._tick(min(len(blocks), _BLOCKS_SAMPLED) + ordinal + 1, blocks)
        files = builder.finish()
        after = self.store.versions(self.window, blocks)
        return IndexManifest(
            dataset=dataset_id,
            identity=self.store.identity,
            window=self.window,
            grids=grids_of(self.store),
            blocks=tuple((b, versions[b] if versions[b] == after[b] else "") for b in blocks),
            parameters=builder.parameters,
            count=builder.count,
            tuning=_tune(AnnIndex(files, self.store.dims), truth),
            revision=revision,
            files=tuple(FileRecord.of(path) for path in files),
            built=time.time(),
        )

    def _learn(self, blocks: Sequence[Block]) -> tuple[Float32Array, Parameters, Float32Array]:
        """Held-out queries, the layout, and the sample to learn it from, out of some blocks chosen at random."""
        chosen = self.random.permutation(len(blocks))[:_BLOCKS_SAMPLED]
        most = Parameters.of(len(blocks) * BLOCK * BLOCK, self.store.dims, self.seed).sample + _HELD_OUT
        quota = -(-most // max(len(chosen), 1))
        parts, seen = [], 0
        for step, number in enumerate(chosen):
            _, vectors = self._unit_vectors(blocks[number])
            seen += len(vectors)
            parts.append(vectors[self.random.permutation(len(vectors))[:quota]])
            self._tick(step + 1, blocks)
        if not seen:
            raise NotFound(f"there is no pixel to index in window {self.window}.", field="window")
        sample = self.random.permutation(np.concatenate(parts))
        parameters = Parameters.of(seen * len(blocks) // len(chosen), self.store.dims, self.seed)
        held = min(_HELD_OUT, max(1, len(sample) // 4))
        rest = sample[held:] if len(sample) > held else sample
        return self._queries(sample[:held]), parameters, rest[: parameters.sample]

    def _queries(self, pixels: Float32Array) -> Float32Array:
        noise = self.random.standard_normal(pixels.shape).astype(np.float32)
        noise *= _NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
        noise[::2] = 0
        moved = pixels + noise
        return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)

    def _unit_vectors(self, block: Block) -> tuple[Int64Array, Float32Array]:
        """(n,) offsets within the block and (n, d) vectors of length 1 of its pixels that have a direction."""
        vectors = self.store.read(Zone.parse(block.zone), self.window, block.rows, block.cols)
        offsets = np.flatnonzero(vectors.valid & vectors.codes.any(axis=-1))
        return offsets.astype(np.int64), unit(vectors.codes.reshape(-1, vectors.dims)[offsets])

    def _tick(self, done: int, blocks: Sequence[Block]) -> None:
        if self.on_progress:
            self.on_progress(done, len(blocks) + min(len(blocks), _BLOCKS_SAMPLED))


def unit(codes: Int8Array) -> Float32Array:
    """(n, d) float32 vectors of length 1 along (n, d) int8 codes: the scale of a pixel does not turn it."""
    vectors = codes.astype(np.float32)
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return vectors


def _tune(index: AnnIndex, truth: _Truth) -> Tuning:
    """The cheapest setting that meets the target; the best one tried where none does."""
    best: Tuning | None = None
    for probes, candidates in _TRIES:
        recall = truth.recall(index, probes, candidates)
        if best is None or recall > best.recall:
            best = Tuning(min(probes, index.lists), candidates, recall, len(truth.queries))
        if recall >= TARGET:
            break
    assert best is not None  # noqa: S101  # _TRIES is not empty
    return best
