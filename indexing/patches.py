"""Patches of a block, and about which direction the pixels of each lie: where that is far from a query none is scored.

Neighbours on the ground are neighbours in direction too. The angle between two directions is a metric, so a pixel no
further than `reach` from the middle of its patch, whose middle is at an angle `a` from the query, is at `a - reach`
from the query at least. Source: the pruning rule of ball trees (Omohundro, Five Balltree Construction
Algorithms, 1989).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

import numpy as np

from service.linear import code_norms, paired_products
from service.values import BLOCK, BoolArray, Float32Array, Float64Array, Int8Array, Int64Array

SIDE: Final = 16
"""Pixels along a patch: half a byte of memory for each, and hardly a field is smaller."""
_STEP: Final = 4
"""The middle of a patch is that of every fourth pixel along each side: it need not be exact, its reach is."""
_SLACK: Final = 2e-3
"""Radians: more than cosines that are wrong by 1e-6 can turn an angle by, which is most where it is 0."""
_ACROSS: Final = BLOCK // SIDE


@dataclass(frozen=True, eq=False)
class Patches:
    """The patches of one block, row by row."""

    middles: Int8Array
    """(256, d) int8 direction about which the pixels of each lie."""
    reach: Float32Array
    """(256,) float32 radians from it to the pixel that is furthest away; below 0 where no pixel can be a hit."""

    @classmethod
    def of(cls, codes: Int8Array, norms: Float32Array) -> Self:
        """Of a whole block.

        Args:
            codes: (256, 256, d) int8.
            norms: (256, 256) float32; 0 where a pixel can be no hit.
        """
        dims = codes.shape[-1]
        some = codes[::_STEP, ::_STEP].astype(np.float32)
        some /= np.maximum(norms[::_STEP, ::_STEP, None], 1)
        sums = some.reshape(_ACROSS, SIDE // _STEP, _ACROSS, SIDE // _STEP, dims).sum(axis=(1, 3)).reshape(-1, dims)
        middles = np.rint(sums * (127 / np.maximum(np.abs(sums).max(axis=1, keepdims=True), 1e-9))).astype(np.int8)
        own = np.repeat(middles.reshape(_ACROSS, 1, _ACROSS, dims), SIDE, axis=1)
        own = np.repeat(own.reshape(BLOCK, _ACROSS, dims), SIDE, axis=1)
        products = paired_products(codes.reshape(-1, dims), own.reshape(-1, dims)).reshape(BLOCK, BLOCK)
        with np.errstate(invalid="ignore", divide="ignore"):
            along = np.where(norms > 0, products / norms, np.inf)
        nearest = along.reshape(_ACROSS, SIDE, _ACROSS, SIDE).min(axis=(1, 3)).ravel()
        reach = np.arccos(np.clip(nearest / np.maximum(code_norms(middles), 1), -1, 1)) + np.float32(_SLACK)
        reach[np.isinf(nearest)] = -1
        return cls(middles, reach)

    @property
    def nbytes(self) -> int:
        """Bytes they take."""
        return self.middles.nbytes + self.reach.nbytes

    def near(self, direction: Float64Array, least: float) -> BoolArray:
        """(256,) bool: which may hold a pixel whose cosine with a (d,) direction of length 1 is `least` or more."""
        middles = self.middles.astype(np.float64)
        cosines = middles @ direction / np.maximum(np.linalg.norm(middles, axis=1), 1)
        apart = np.arccos(np.clip(cosines, -1, 1)) - self.reach
        return np.asarray((apart <= np.arccos(np.clip(least, -1, 1))) & (self.reach >= 0))


def cells_of_patches(patches: BoolArray) -> Int64Array:
    """(n,) flat indices, in a block, of all pixels of some of its patches."""
    return _cells()[patches].ravel()


@lru_cache(maxsize=1)
def _cells() -> Int64Array:
    """(256, 256) flat indices of the pixels of each patch."""
    cells = np.arange(BLOCK * BLOCK).reshape(_ACROSS, SIDE, _ACROSS, SIDE)
    return np.ascontiguousarray(cells.transpose(0, 2, 1, 3).reshape(_ACROSS * _ACROSS, SIDE * SIDE))
