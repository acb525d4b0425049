"""Pictures between stored pixels: each shows the mean of the four nearest, weighed by how near their centres are.

For a place at the fractional cell (u, v) of its zone's grid at the level that is read, let i = floor(u - 1/2),
j = floor(v - 1/2), and w the weights of the four cells from (i, j) to (i + 1, j + 1):

    a = u - 1/2 - i        b = v - 1/2 - j
    w = (1 - a)(1 - b), (1 - a) b, a (1 - b), a b

Of the four those count that hold a vector (of both windows, where two are compared), all from the pixel's own zone.
With x the dequantised vectors, `scale * code`, the picture shows

    x(u, v) = sum(w x) / sum(w)

Views that are linear show the mean of their numbers, which is the same. Likeness is the cosine of x(u, v) with the
query, and change 1 - cos(x(u, v), y(u, v)) with y of the other window. A pixel shows something exactly where the
stored pixel that holds its centre holds a vector, so no data keeps its edges. That pixel is always one of the four and
weighs a quarter or more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

import numpy as np

from service.interpolation import Int32Array
from service.plan import Rectangle, Source
from service.values import NOT_EMBEDDED, BoolArray, Float32Array, Float64Array, Int64Array, UInt8Array, Vectors
from service.warp import Target, fractions

_PIXELS: Final = 8192
"""Of the picture, made at once: four float32 vectors of each take 16 MB."""
_BANDS: Final = 4
"""A view of more is not computed for what is read and not shown."""
Blend = Callable[[Int64Array, Float32Array], Float32Array]
"""From (n, 4) cells and their weights, which add up to 1, to (n, bands) numbers."""


@runtime_checkable
class AngleView(Protocol):
    """A view of an angle between vectors: that of a mean is not the mean of the angles."""

    def of(self, *vectors: Float32Array) -> Float32Array:
        """(n, bands) numbers of (n, d) vectors, of one window after the other."""


def painted(source: Source, rectangle: Rectangle, target: Target) -> tuple[Int32Array, np.ndarray, BoolArray]:
    """One zone's part of a picture.

    Args:
        source: What is shown.
        rectangle: What is read: beside the cells that hold the pixels' centres those around them, if they hold data.
        target: The picture.

    Returns:
        (n,) flat indices of the picture's pixels, their (n, bands) uint8 colours or indices, or float32 numbers, and
        (n,) whether the stored pixel that holds each is valid.
    """
    shown = rectangle.shown
    sides = source.read_sides(shown.grid.zone, rectangle.rows, rectangle.cols, rectangle.level)
    valid = np.logical_and.reduce([side.valid for side in sides])
    down, across = fractions(target, shown)
    blend = _blend(source, sides, rectangle.count <= 2 * len(shown.pixels))
    held = np.zeros(len(shown.pixels), bool)
    values = np.full((len(held), len(source.view.band_names)), np.nan, np.float32)
    for start in range(0, len(held), _PIXELS):
        some = slice(start, start + _PIXELS)
        u = (shown.rows[some] + down[some].astype(np.float64)) / rectangle.level - rectangle.rows.start
        v = (shown.cols[some] + across[some].astype(np.float64)) / rectangle.level - rectangle.cols.start
        held[some] = _at(valid, np.floor(u).astype(np.int64), np.floor(v).astype(np.int64))
        cells, weights = _four(valid, u[held[some]], v[held[some]])
        values[some][held[some]] = blend(cells, weights)
    source.note(held, lambda: _statuses(sides, rectangle))
    return shown.pixels, source.view.colours(values) if source.picture else values, held


def _statuses(sides: list[Vectors], rectangle: Rectangle) -> UInt8Array:
    """(n,) of the stored pixels that hold the centres; of the first window that holds no vector there."""
    rows = rectangle.shown.rows // rectangle.level - rectangle.rows.start
    cols = rectangle.shown.cols // rectangle.level - rectangle.cols.start
    status = np.where(sides[0].valid, sides[-1].status, sides[0].status)
    inside = (rows >= 0) & (rows < status.shape[0]) & (cols >= 0) & (cols < status.shape[1])
    return np.where(inside, status[rows * inside, cols * inside], NOT_EMBEDDED).astype(np.uint8)


def _four(valid: BoolArray, u: Float64Array, v: Float64Array) -> tuple[Int64Array, Float32Array]:
    """(n, 4) flat cells around places in cells of a rectangle, and their weights: 0 where they hold nothing."""
    i, j = np.floor(u - 0.5), np.floor(v - 0.5)
    a, b = u - 0.5 - i, v - 0.5 - j
    weights = np.stack([(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b], axis=1)
    rows = i.astype(np.int64)[:, None] + np.array([0, 0, 1, 1])
    cols = j.astype(np.int64)[:, None] + np.array([0, 1, 0, 1])
    weights *= _at(valid, rows, cols)
    height, width = valid.shape
    cells = np.clip(rows, 0, height - 1) * width + np.clip(cols, 0, width - 1)
    return cells, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _at(valid: BoolArray, rows: Int64Array, cols: Int64Array) -> BoolArray:
    """Whether cells lie in a rectangle and hold vectors."""
    height, width = valid.shape
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    inside[inside] = valid[rows[inside], cols[inside]]
    return np.asarray(inside)


def _blend(source: Source, sides: list[Vectors], few: bool) -> Blend:
    """How numbers between cells are made; `few` where not many more cells are read than pixels shown."""
    view = source.view
    if isinstance(view, AngleView):
        return lambda cells, weights: view.of(*(_mean(side, cells, weights) for side in sides))
    if few and len(view.band_names) <= _BANDS:
        table = np.nan_to_num(view.values(sides[0])).reshape(sides[0].status.size, -1)
        return lambda cells, weights: _weighed(table[cells], weights)
    flat = _flat(sides[0])
    return lambda cells, weights: _weighed(np.nan_to_num(view.values(_taken(flat, cells))), weights)


def _weighed(values: Float32Array, weights: Float32Array) -> Float32Array:
    """(n, bands) means of (n, 4, bands)."""
    return np.asarray(np.einsum("nkb,nk->nb", values, weights), np.float32)


def _mean(side: Vectors, cells: Int64Array, weights: Float32Array) -> Float32Array:
    """(n, d) mean of dequantised vectors."""
    flat = _flat(side)
    weights = weights * flat.scales[cells]
    out = np.zeros((len(cells), flat.dims), np.float32)
    for k in range(cells.shape[1]):
        out += flat.codes[cells[:, k]] * weights[:, k, None]
    return out


def _flat(vectors: Vectors) -> Vectors:
    return Vectors(vectors.codes.reshape(-1, vectors.dims), vectors.scales.ravel(), vectors.status.ravel())


def _taken(flat: Vectors, cells: Int64Array) -> Vectors:
    return Vectors(flat.codes[cells], flat.scales[cells], flat.status[cells])
