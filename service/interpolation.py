"""Which cell each pixel of a picture lies in, from a few exact places: projections are smooth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.polynomial.chebyshev import chebvander

from service.linear import product
from service.values import BoolArray, Float64Array

Int32Array = npt.NDArray[np.int32]
Cells = Callable[[Float64Array, Float64Array], tuple[Float64Array, Float64Array]]
"""From places in the picture's CRS to two fractional cells, not finite where there are none."""

_NODES: Final = (6, 10, 20)
_GOOD: Final = 2e-4
"""Cells. A larger error is worth more nodes."""
_TOLERANCE: Final = 0.01
"""Cells. Where interpolation cannot be shown to be at least this good, every pixel is transformed."""


@dataclass(frozen=True, eq=False)
class Surface:
    """Both cells of a picture's pixels as polynomials."""

    known: tuple[Float64Array, Float64Array]
    """(n, n) exact cells at the Chebyshev nodes of the box of pixel centres, y before x."""
    margin: float
    """Cells by which the polynomials may err: four times the largest error seen."""

    @property
    def spans(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """(least, most) that both cells can be: no Chebyshev polynomial leaves -1 to 1."""
        basis = _basis(self.known[0].shape[0])
        series = [basis.T @ known @ basis for known in self.known]
        reach = [np.abs(s).sum() - abs(s[0, 0]) + self.margin for s in series]
        first, second = ((float(s[0, 0] - r), float(s[0, 0] + r)) for s, r in zip(series, reach, strict=True))
        return first, second

    def values(self, height: int, width: int) -> tuple[Float64Array, Float64Array]:
        """Two (height, width): both cells of every pixel."""
        n = self.known[0].shape[0]
        down, across = _weights(height, n), _weights(width, n).T
        u, v = (product(product(down, known), across) for known in self.known)
        return u, v


def fitted(xs: Float64Array, ys: Float64Array, cells: Cells) -> Surface | None:
    """`cells` over a grid of pixel centres as polynomials, as good as they need to be; None where they are poor.

    They are compared with `cells` between their nodes, where their error is largest.
    """
    best: Surface | None = None
    for n in (n for n in _NODES if len(xs) * len(ys) > 10 * n**2):
        at, between = _places(n)
        nodes, checks = _grid(xs, ys, at), _grid(xs, ys, between)
        found = cells(np.concatenate([nodes[0], checks[0]]), np.concatenate([nodes[1], checks[1]]))
        if not all(np.isfinite(values).all() for values in found):
            return None
        known = tuple(values[: n * n].reshape(n, n) for values in found)
        wanted = [values[n * n :].reshape(n + 1, n + 1) for values in found]
        check = _weights_at(n)
        error = max(float(np.abs(check @ k @ check.T - w).max()) for k, w in zip(known, wanted, strict=True))
        margin = 4 * error + 1e-7
        if margin < _TOLERANCE and (best is None or margin < best.margin):
            best = Surface((known[0], known[1]), margin)
        if margin < _GOOD:
            break
    return best


def floors(xs: Float64Array, ys: Float64Array, cells: Cells) -> tuple[Int32Array, Int32Array]:
    """The cell of each pixel centre of a grid: floor of `cells`, without calling it for every pixel.

    Pixels that the interpolation puts nearer to a cell's edge than it may err are transformed on their own, so the
    answer is that of transforming all of them. Where it is poor (a projection that blows up, a jump at the
    antimeridian) all of them are.

    Args:
        xs: (w,) x of pixel centres, ascending.
        ys: (h,) y of pixel centres, descending.
        cells: From x and y to two fractional cells, not finite where there is none.

    Returns:
        Two (h, w) int32; -1 where there is no answer.
    """
    surface = fitted(xs, ys, cells)
    if surface is None:
        x, y = np.meshgrid(xs, ys)
        u, v = cells(x.ravel(), y.ravel())
        return whole(u).reshape(x.shape), whole(v).reshape(x.shape)
    (rows, near), (cols, close) = (_split(axis, surface.margin) for axis in surface.values(len(ys), len(xs)))
    at = np.flatnonzero(np.logical_or(near, close, out=near))
    if len(at):
        i, j = np.divmod(at, len(xs))
        u, v = cells(xs[j], ys[i])
        rows.ravel()[at], cols.ravel()[at] = whole(u), whole(v)
    return rows, cols


def whole(cells: Float64Array) -> Int32Array:
    """Floor of fractional cells as int32, -1 where there is none."""
    down = np.floor(cells)
    return np.where(np.abs(down) < 2**31, down, -1).astype(np.int32)


def _split(cells: Float64Array, margin: float) -> tuple[Int32Array, BoolArray]:
    """Floor of finite cells, and which of them lie within `margin` of an edge. Overwrites `cells`."""
    down = np.floor(cells)
    off = np.abs(np.subtract(np.subtract(cells, down, out=cells), 0.5, out=cells), out=cells)
    return down.astype(np.int32), off > 0.5 - margin


def _grid(xs: Float64Array, ys: Float64Array, t: Float64Array) -> tuple[Float64Array, Float64Array]:
    """X and y, flat, of a grid of places from -1 to 1 along both axes."""
    x, y = (axis[0] + (t + 1) / 2 * (axis[-1] - axis[0]) for axis in (xs, ys))
    return np.tile(x, len(t)), np.repeat(y, len(t))


@lru_cache(maxsize=len(_NODES))
def _places(n: int) -> tuple[Float64Array, Float64Array]:
    """(n,) Chebyshev nodes, and the (n + 1,) places between and beyond them."""
    return np.cos(np.pi * (np.arange(n) + 0.5) / n), np.cos(np.pi * np.arange(n + 1) / n)


@lru_cache(maxsize=len(_NODES))
def _basis(n: int) -> Float64Array:
    """(n, n): values at the nodes, times this, are the coefficients of the polynomial through them."""
    basis = chebvander(_places(n)[0], n - 1) * (2 / n)
    basis[:, 0] /= 2
    return np.asarray(basis)


@lru_cache(maxsize=len(_NODES))
def _weights_at(n: int) -> Float64Array:
    """(n + 1, n): the polynomial's value between the nodes from its values at them."""
    return np.asarray(chebvander(_places(n)[1], n - 1) @ _basis(n).T)


@lru_cache(maxsize=256)
def _weights(size: int, n: int) -> Float64Array:
    """(size, n): its values at `size` even steps from end to end, from its values at the nodes."""
    steps = np.linspace(-1, 1, size) if size > 1 else np.zeros(1)
    return np.asarray(chebvander(steps, n - 1) @ _basis(n).T)
