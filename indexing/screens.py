"""A first look at many pixels: scores that are nearly right, and how far from right they can be.

A pixel is dropped on such a score only where the true one cannot be good enough; what is left is scored in float64.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from indexing.patches import cells_of_patches
from indexing.pixels import Pixels
from service.linear import CoarseDirection
from service.queries import Query
from service.values import BoolArray, Float32Array, Float64Array, Int64Array

MARGIN: Final = 1e-4
"""A float32 cosine of up to 1024 dimensions is nearer than this to the true one (bound: (d + 3) * 2**-24 = 6e-5)."""
DECIMALS: Final = 12
"""Scores are compared to this many decimals: below it they depend on the order of additions, not on the pixels."""
ROUNDING: Final = 1e-11
"""More than rounding to `DECIMALS` changes a score."""
_HALF_DIGIT: Final = 2.0**-23
"""More than a float32 norm is wrong by, of its size: that counts where pixels are much longer than the query."""
_WORTH: Final = 2
"""Gathering the pixels of half of all patches takes as long as looking at all."""
_WIDE: Final = 1 << 18
"""float64 products at once: see `service.linear.PRODUCTS`."""

Scores = Float32Array | Float64Array
Error = float | Float64Array


class Screen(Protocol):
    """How pixels are looked at before they are scored. Safe to use from many threads."""

    error: float
    """How far a score of the second look may be from the true one."""

    def look(self, held: Pixels) -> tuple[Scores, float, Error]:
        """(scores, above, below) of (...,) pixels, flat: a true score is at most `above` more, at most `below` less.

        What can be no hit has any score, or none (NaN).
        """

    def above(self, held: Pixels, least: float) -> Int64Array:
        """Flat indices of all of (...,) pixels that may score so much, and of some that do not."""

    def look_again(self, rows: Pixels) -> Scores:
        """(n,) scores of pixels that came through the first look."""


class CosineScreen:
    """One limb of the direction first, of which each product is a cosine to two digits; then three."""

    error = MARGIN

    def __init__(self, query: Query) -> None:
        self._coarse = CoarseDirection(query.direction)
        self._query = query

    def look(self, held: Pixels) -> tuple[Scores, float, Error]:
        """See `Screen`."""
        values = self._coarse.cosines(held.codes.reshape(-1, held.codes.shape[-1]), held.norms.ravel())
        return values, self._coarse.error, self._coarse.error

    def above(self, held: Pixels, least: float) -> Int64Array:
        """See `Screen`. Patches that lie elsewhere are passed over."""
        codes, norms = held.codes.reshape(-1, held.codes.shape[-1]), held.norms.ravel()
        near = None if held.patches is None else held.patches.near(self._query.direction, least)
        if near is None or np.count_nonzero(near) > len(near) // _WORTH:
            return self._coarse.above(codes, norms, least)
        cells = cells_of_patches(near)
        return cells[self._coarse.above(codes.take(cells, axis=0), norms.take(cells), least)]

    def look_again(self, rows: Pixels) -> Scores:
        """See `Screen`."""
        return self._query.scores(rows.codes, rows.norms)


class EuclideanScreen:
    """Distances by the law of cosines: what the cosine is wrong by counts for more the nearer a pixel is."""

    error = ROUNDING

    def __init__(self, query: Query) -> None:
        self._query = query

    def look(self, held: Pixels) -> tuple[Scores, float, Error]:
        """See `Screen`."""
        codes, norms = held.codes.reshape(-1, held.codes.shape[-1]), held.norms.ravel()
        assert held.scales is not None  # noqa: S101  # whoever reads for this metric asks for them
        scales = held.scales.ravel()
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = self._query.weights.products(codes)[:, 0] / norms
            squares = self._query.squares(cosines, norms, scales)
            share = np.float64(norms) * scales / self._query.length
            error = 2 * share * (MARGIN + abs(share - cosines) * _HALF_DIGIT) + ROUNDING * (1 + share * share)
            nearest = np.sqrt(np.maximum(squares - error, 0))
            return 1 - nearest, ROUNDING, np.sqrt(squares + error) - nearest + ROUNDING

    def above(self, held: Pixels, least: float) -> Int64Array:
        """See `Screen`."""
        values, above, _ = self.look(held)
        return np.flatnonzero(values >= least - above)

    def look_again(self, rows: Pixels) -> Scores:
        """See `Screen`."""
        return exact_scores(self._query, rows)


def screen_of(query: Query) -> Screen:
    """The one for a query's metric."""
    return CosineScreen(query) if query.metric == "cosine" else EuclideanScreen(query)


def exact_scores(query: Query, rows: Pixels) -> Float64Array:
    """(n,) float64 scores of (n,) pixels, to `DECIMALS` decimals: what hits are ranked and counted by."""
    out, step = np.empty(len(rows.codes)), max(1, _WIDE // rows.codes.shape[-1])
    for start in range(0, len(out), step):
        part = slice(start, start + step)
        out[part] = query.exact_scores(rows.codes[part], None if rows.scales is None else rows.scales[part])
    least = -1.0 if query.metric == "cosine" else -np.inf
    return np.asarray(np.clip(np.round(out, DECIMALS), least, 1.0))


def alike(query: Query, screen: Screen, held: Pixels, least: float, usable: BoolArray | None = None) -> BoolArray:
    """(n,) bool: which of (...,) pixels, flat, score at least so much. Exact.

    Args:
        query: What is looked for.
        screen: The query's.
        held: The pixels.
        least: The score.
        usable: (n,) bool: no other pixel is asked about.
    """
    values, above, below = screen.look(held)
    norms = held.norms.ravel()
    found = values - below >= least
    cells = np.flatnonzero((values >= least - above) & ~found)
    found &= norms > 0
    cells = cells[norms[cells] > 0]
    if usable is not None:
        found &= usable
        cells = cells[usable[cells]]
    found[cells] = _surely(query, screen, held, cells, least)
    return found


def _surely(query: Query, screen: Screen, held: Pixels, cells: Int64Array, least: float) -> BoolArray:
    """(n,) bool: which of some cells score at least so much."""
    rows = held.taken(cells)
    values = screen.look_again(rows)
    found = np.asarray(values >= least + screen.error)
    doubtful = np.flatnonzero(np.abs(values - least) <= screen.error)
    found[doubtful] = exact_scores(query, rows.taken(doubtful)) >= round(least, DECIMALS)
    return found
