"""Landscapes in memory that searches are tested on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np

from service.grid import Block, Zone
from service.values import Counts, Float64Array, Window
from tests.fakes import MemoryStore

YEAR = Window.year(2024)


def landscape(side: int = 300, dims: int = 128, seed: int = 0) -> MemoryStore:
    """Fields of a few kinds with noise, in 2 x 2 blocks of zone 31N, a corner of it without data."""
    rng = np.random.default_rng(seed)
    kinds = rng.standard_normal((40, dims)).astype(np.float32)
    cells = rng.integers(0, 40, (side // 10 + 1, side // 10 + 1))
    field = np.kron(cells, np.ones((10, 10), int))[:side, :side]
    values = kinds[field] + 0.3 * rng.standard_normal((side, side, dims)).astype(np.float32)
    scales = (np.abs(values).max(axis=-1) / 127).astype(np.float32)
    codes = np.rint(values / scales[..., None]).astype(np.int8)
    codes[:30, :40], scales[:30, :40] = 0, 0
    return MemoryStore(codes, scales, Zone(31), YEAR, 256 * 1400 + 100, 256 * 120 + 100)


class Counted(MemoryStore):
    """A store that records observation counts, made from where a pixel lies; it never changes, so nothing is hashed."""

    @classmethod
    def of(cls, store: MemoryStore, levels: tuple[int, ...] = (1,)) -> Counted:
        """The first rectangle of another store."""
        part, vectors = store.parts[0], store.parts[0].vectors
        return cls(vectors.codes, vectors.scales, part.grid, part.window, part.row0, part.col0, levels=levels)

    @cached_property
    def wide(self) -> Float64Array:
        """(H, W, d) float64 codes."""
        return self.parts[0].vectors.codes.astype(np.float64)

    @cached_property
    def lengths(self) -> Float64Array:
        """(H, W) their norms."""
        return np.sqrt((self.wide**2).sum(axis=-1))

    def revision(self) -> tuple[str, bool]:
        return "one", True

    def versions(self, window: Window, blocks: Iterable[Block]) -> Mapping[Block, str]:
        return dict.fromkeys(blocks, "1")

    def counted(self) -> tuple[int, ...]:
        return self.levels()

    def counts_window(self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1) -> Counts:
        row, col = np.mgrid[rows, cols]
        s2 = (row * 7919 + col * 104_729) % 10_007
        return Counts(s2.astype(np.uint16), (row % 5).astype(np.uint16), (col % 7).astype(np.uint16))
