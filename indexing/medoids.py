"""Single pixels of a polygon as examples: all of them, or a few that stand for the others."""

from __future__ import annotations

from typing import Final

import numpy as np

from indexing.areas import Drawn
from indexing.exact import Reader
from indexing.ids import first_id, ids_at
from service.values import Float64Array, Int64Array

MEDOIDS: Final = 8
"""The most that stand for the pixels of a polygon."""
SAMPLE: Final = 4096
"""Of how many pixels they are chosen."""
_ROUNDS: Final = 12
_SEED: Final = 6
_ALIKE: Final = 1e-9
"""Squared distances below this share of the vectors' own are rounding."""


def some_of(drawn: Drawn, read: Reader, count: int) -> Int64Array:
    """Ids of `count` pixels of a polygon that hold a vector with a direction, fewer where it has fewer.

    Where it has more they are drawn at random, and the same each time: from the same pixels the same query is made.

    Args:
        drawn: The polygon, on the grids of a snapshot.
        read: How to read a block.
        count: How many.

    Returns:
        (n,) int64 pixel ids, in order.

    Raises:
        Corrupt, Unavailable: As `read` does.
    """
    ids = [np.empty(0, np.int64)]
    for block in sorted(drawn.near):
        mask = drawn.mask(block)
        if mask.any():
            cells = np.flatnonzero(mask & (read(block).norms > 0))
            ids.append(ids_at(np.array([first_id(block)]), cells))
    every = np.concatenate(ids)
    if len(every) <= count:
        return np.sort(every)
    return np.sort(np.random.default_rng(_SEED).choice(every, count, replace=False))


def medoids(vectors: Float64Array, count: int = MEDOIDS) -> Int64Array:
    """Which of (n, d) vectors stand for all: positions of those nearest to the middles of `count` groups, in order.

    Groups are those of k-means, begun at vectors that lie far apart (Arthur and Vassilvitskii 2007, "k-means++: the
    advantages of careful seeding"), with a fixed seed; fewer where vectors are alike.
    """
    middles = _begun(vectors, count)
    for _ in range(_ROUNDS):
        nearest = _squares(vectors, middles).argmin(axis=1)
        groups = np.unique(nearest)
        moved = np.stack([vectors[nearest == group].mean(axis=0) for group in groups])
        if moved.shape == middles.shape and np.allclose(moved, middles):
            break
        middles = moved
    return np.unique(_squares(vectors, middles).argmin(axis=0))


def _begun(vectors: Float64Array, count: int) -> Float64Array:
    rng = np.random.default_rng(_SEED)
    chosen: Float64Array = vectors[_squares(vectors, vectors.mean(axis=0)[None])[:, 0].argmin()][None]
    while len(chosen) < count:
        far = _squares(vectors, chosen).min(axis=1)
        if far.max() <= _ALIKE * np.square(vectors).max():
            break
        chosen = np.concatenate([chosen, vectors[rng.choice(len(vectors), 1, p=far / far.sum())]])
    return chosen


def _squares(vectors: Float64Array, middles: Float64Array) -> Float64Array:
    """(n, m) squared distances."""
    lengths = np.einsum("nd,nd->n", vectors, vectors)[:, None] + np.einsum("md,md->m", middles, middles)
    return np.asarray(np.maximum(lengths - 2 * vectors @ middles.T, 0), np.float64)
