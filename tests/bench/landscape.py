"""A large landscape of vectors, any block of which can be made by itself: the same one every time, in bounded memory.

Parcels of 400 kinds, each with its own gradient, in a subspace of 24 dimensions, and noise in all of them. Search is
measured on more kinds of the same. From one year to the next a tenth of the parcels changes its kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from service.grid import Block
from service.quant import quantise
from service.values import BLOCK, VALID, Float32Array, Int64Array, Vectors

DIMS: Final = 128
KINDS, RANK, PARCEL = 400, 24, 16
FIRST_YEAR: Final = 2023
CHANGED: Final = 0.1
_STRIP: Final = 32
"""Rows made at once, so that little memory is needed: a benchmark of memory makes blocks while it measures."""


@dataclass(frozen=True)
class Landscape:
    """What is where; all of it follows from the seed."""

    seed: int = 0
    kinds: int = KINDS
    """Of parcels."""

    @cached_property
    def _world(self) -> tuple[Float32Array, Float32Array, Float32Array]:
        """(24, 128) directions, (kinds, 24) kinds, (2, 24) slopes southwards and eastwards."""
        rng = np.random.default_rng(self.seed)
        fading = np.geomspace(1, 0.1, RANK, dtype=np.float32)[:, None]
        directions = rng.standard_normal((RANK, DIMS), np.float32) * fading
        return (
            directions,
            rng.standard_normal((self.kinds, RANK), np.float32),
            rng.standard_normal((2, RANK), np.float32),
        )

    def parcels(self, block: Block, year: int) -> Int64Array:
        """(256, 256) the kind at each pixel."""
        rng = np.random.default_rng([self.seed, int(block.zone[:2]), block.row, block.col])
        side = BLOCK // PARCEL
        kinds = rng.integers(0, self.kinds, (side, side))
        for _ in range(FIRST_YEAR, year):
            kinds = np.where(rng.random((side, side)) < CHANGED, rng.integers(0, self.kinds, (side, side)), kinds)
        return np.kron(kinds, np.ones((PARCEL, PARCEL), np.int64))

    @cached_property
    def _normal(self) -> Float32Array:
        return np.random.default_rng(self.seed).standard_normal(2**24, np.float32)

    def _noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Float32Array:
        """Normal noise from one long row of it, begun anywhere: drawing it for every block would take longest."""
        start, count = int(rng.integers(2**22)), int(np.prod(shape))
        return self._normal[start : start + count].reshape(shape)

    def block(self, block: Block, year: int) -> Vectors:
        """(256, 256) valid pixels."""
        directions, kinds, slopes = self._world
        rng = np.random.default_rng([self.seed, int(block.zone[:2]), block.row, block.col, year])
        latent = kinds[self.parcels(block, year)]
        latent += self._noise(rng, latent.shape) * np.float32(0.25)
        # A wave of some ten kilometres: slopes that never end would lead out of what the colours span.
        south, east = (
            np.sin(np.arange(n * BLOCK, (n + 1) * BLOCK, dtype=np.float32) / 600) for n in (block.row, block.col)
        )
        latent += 0.5 * (south[:, None, None] * slopes[0] + east[None, :, None] * slopes[1])
        noise = self._noise(rng, (BLOCK, BLOCK, DIMS))
        out = Vectors(
            np.empty((BLOCK, BLOCK, DIMS), np.int8),
            np.empty((BLOCK, BLOCK), np.float32),
            np.full((BLOCK, BLOCK), VALID, np.uint8),
        )
        for top in range(0, BLOCK, _STRIP):
            rows = slice(top, top + _STRIP)
            values = (latent[rows].reshape(-1, RANK) @ directions).reshape(_STRIP, BLOCK, DIMS)
            values += noise[rows] * np.float32(0.15)
            values -= values.mean(axis=-1, keepdims=True)
            values /= values.std(axis=-1, keepdims=True)
            out.codes[rows], out.scales[rows] = quantise(values)
        return out
