"""Tiny stores for tests: a few hundred pixels across several blocks, made in well under a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.grid import Zone, ZoneGrid, archive_grid, blocks_of
from service.store.contract import BlockData
from service.store.writable import WritableArchive, create_store
from service.values import BLOCK, NOT_EMBEDDED, VALID, Counts, ModelIdentity, Vectors, Window

TINY = ModelIdentity("tiny", "1", "test")
YEAR = Window.year(2024)
PLACE = {"N": (3.0, 52.0), "S": (3.0, -30.0)}


@dataclass(frozen=True)
class Tiny:
    """A store, and what was put into it."""

    store: WritableArchive
    grid: ZoneGrid
    window: Window
    row: int
    """Row of the first pixel on the grid."""
    col: int
    """Column of the first pixel on the grid."""
    vectors: Vectors
    """(h, w) pixels."""
    counts: Counts

    @property
    def rows(self) -> slice:
        return slice(self.row, self.row + self.vectors.status.shape[0])

    @property
    def cols(self) -> slice:
        return slice(self.col, self.col + self.vectors.status.shape[1])

    def lonlat(self, i: int, j: int) -> tuple[float, float]:
        """(lon, lat) of the centre of pixel (i, j) of `vectors`."""
        lon, lat = self.grid.to_lonlat(np.array([self.row + i + 0.5]), np.array([self.col + j + 0.5]))
        return float(lon[0]), float(lat[0])


def random_vectors(shape: tuple[int, int], dims: int = 128, seed: int = 0) -> Vectors:
    """(h, w) valid pixels of noise with plausible scales."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (*shape, dims)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, shape).astype(np.float32)
    return Vectors(codes, scales, np.full(shape, VALID, np.uint8))


def corner(zone: str) -> tuple[int, int]:
    """(row, col) where tiny stores begin: near 52 N or 30 S, 3 E of the zone's western edge, inside a block."""
    grid = archive_grid(Zone.parse(zone))
    west = grid.zone.bounds[0]
    row, col = grid.cell(west + PLACE[zone[-1]][0], PLACE[zone[-1]][1])
    return row // BLOCK * BLOCK + 100, col // BLOCK * BLOCK + 60


def blocks_from(zone: str, row: int, col: int, vectors: Vectors, window: Window, counts: Counts) -> list[BlockData]:
    """Cut a rectangle of pixels into the blocks it touches; the rest of each block is not embedded."""
    height, width = vectors.status.shape
    out = []
    for block in blocks_of(zone, slice(row, row + height), slice(col, col + width)):
        mine = Vectors.empty((BLOCK, BLOCK), vectors.dims, NOT_EMBEDDED)
        numbers = Counts.zeros((BLOCK, BLOCK))
        top, left = max(row, block.rows.start), max(col, block.cols.start)
        bottom, right = min(row + height, block.rows.stop), min(col + width, block.cols.stop)
        there = np.s_[
            top - block.rows.start : bottom - block.rows.start, left - block.cols.start : right - block.cols.start
        ]
        here = np.s_[top - row : bottom - row, left - col : right - col]
        for target, source in (
            (mine.codes, vectors.codes),
            (mine.scales, vectors.scales),
            (mine.status, vectors.status),
            (numbers.s2, counts.s2),
            (numbers.s1_asc, counts.s1_asc),
            (numbers.s1_desc, counts.s1_desc),
        ):
            target[there] = source[here]
        out.append(BlockData(block, window, mine, numbers, "ab" * 32))
    return out


def tiny_archive(
    folder: Path,
    vectors: Vectors | None = None,
    *,
    identity: ModelIdentity = TINY,
    zone: str = "31N",
    window: Window = YEAR,
    name: str = "tiny",
    counts: Counts | None = None,
    at: tuple[int, int] | None = None,
) -> Tiny:
    """A writable repository `<folder>/<name>.icechunk` holding one rectangle of pixels.

    Args:
        folder: Where.
        vectors: (h, w) pixels; 200 x 240 of noise in 128 dimensions where absent.
        identity: The model.
        zone: `31N`, `56S`, ...
        window: A year, or a window that the repository then holds alone.
        name: Of the repository.
        counts: (h, w) observation counts; 40, 30 and 20 everywhere where absent.
        at: (row, col) of the first pixel; `corner(zone)` where absent.
    """
    vectors = random_vectors((200, 240)) if vectors is None else vectors
    if counts is None:
        counts = Counts(*(np.full(vectors.status.shape, n, np.uint16) for n in (40, 30, 20)))
    row, col = at or corner(zone)
    store = create_store(folder / f"{name}.icechunk", identity, dims=vectors.dims, window=window)
    store.write(blocks_from(zone, row, col, vectors, window, counts), "tiny")
    return Tiny(store, archive_grid(Zone.parse(zone)), window, row, col, vectors, counts)
