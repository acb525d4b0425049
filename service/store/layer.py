"""One zone at one level of a store, whatever its layout: arrays, their grid, and how pixels are read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from service.errors import Corrupt, InvalidInput
from service.grid import ZoneGrid
from service.quant import is_data
from service.store.chunks import Kept, Plane, keeps, read_plane
from service.store.faults import Array
from service.values import (
    NOT_EMBEDDED,
    OUTSIDE,
    REJECTED,
    VALID,
    Counts,
    Float32Array,
    Int64Array,
    UInt8Array,
    Vectors,
)


@dataclass(frozen=True)
class Layer:
    """The arrays of one zone grid at one level."""

    location: str
    """Of the store, for messages."""
    grid: ZoneGrid
    """Where the pixels lie."""
    codes: Array
    """int8 (time, row, col, d), or (time, d, row, col) where `band_first`."""
    scales: Array
    """float32 (time, row, col)."""
    status: Array | None = None
    """uint8 (time, row, col); absent in published layouts, which tell by the scale."""
    counts: tuple[Array, ...] = ()
    """Three uint16 (time, row, col): S2, S1 ascending, S1 descending; empty where not recorded."""
    band_first: bool = False
    """Axis order of `codes`."""
    row0: int = 0
    """Array row of the grid's first row: a published zone spans both hemispheres."""
    nan_status: int = NOT_EMBEDDED
    """What a NaN scale means in this layout."""
    kept: Kept | None = None
    """Where decoded squares are kept; what is being written is not."""

    @property
    def dims(self) -> int:
        """Embedding dimensions d."""
        return int(self.codes.shape[1 if self.band_first else 3])

    @cached_property
    def planes(self) -> Mapping[str, Plane]:
        """Every array of the layer, by its path, as squares."""
        arrays = [self.scales, *([] if self.status is None else [self.status]), *self.counts]
        planes = {array.path: Plane(self.location, array, self.grid, self.row0) for array in arrays}
        planes[self.codes.path] = Plane(self.location, self.codes, self.grid, self.row0, self.band_first)
        return planes

    @cached_property
    def norms(self) -> Plane:
        """The length of each pixel's codes."""
        return replace(self.planes[self.codes.path], norms=True)

    def plane(self, array: Array, time: int, rows: slice, cols: slice) -> Any:
        """(rows, cols[, d]) of one of the arrays; rows and columns of the grid. Raises as `read_plane` does."""
        return self.read(self.planes[array.path], time, rows, cols)

    def read(self, plane: Plane, time: int, rows: slice, cols: slice) -> Any:
        """The same of one of its planes."""
        rows = slice(rows.start + self.row0, rows.stop + self.row0)
        return read_plane(plane, self.kept, time, rows, cols)

    @property
    def name(self) -> str:
        """Path of the group that holds the arrays."""
        return self.scales.path.rpartition("/")[0]


def _inside(span: slice, size: int, field: str) -> tuple[slice, slice]:
    """(the part of a span on the grid, where that part lies in the answer)."""
    start, stop = span.start, span.stop
    if span.step not in (None, 1) or start is None or stop is None or stop < start:
        raise InvalidInput(f"{span} is not a span of pixels.", field=field)
    low, high = min(max(start, 0), size), max(min(stop, size), 0)
    high = max(low, high)
    return slice(low, high), slice(low - start, high - start)


def read_window(layer: Layer, time: int, rows: slice, cols: slice) -> Vectors:
    """Read a rectangle: (rows, cols) pixels, OUTSIDE beyond the grid.

    Raises:
        InvalidInput: A span has no start or stop, or ends before it starts.
        Corrupt: Stored bytes cannot be read or contradict each other; names array and chunk.
        Unavailable: The transport failed.
    """
    in_rows, at_rows = _inside(rows, layer.grid.height, "rows")
    in_cols, at_cols = _inside(cols, layer.grid.width, "cols")
    shape = (rows.stop - rows.start, cols.stop - cols.start)
    if in_rows.start == in_rows.stop or in_cols.start == in_cols.stop:
        return Vectors.empty(shape, layer.dims, OUTSIDE)
    found = _read(layer, time, in_rows, in_cols)
    if found.status.shape == shape:
        return found
    out = Vectors.empty(shape, layer.dims, OUTSIDE)
    out.codes[at_rows, at_cols] = found.codes
    out.scales[at_rows, at_cols] = found.scales
    out.status[at_rows, at_cols] = found.status
    return out


def _read(layer: Layer, time: int, rows: slice, cols: slice) -> Vectors:
    """Read a rectangle that lies on the grid."""
    scales = np.asarray(layer.plane(layer.scales, time, rows, cols), np.float32)
    if layer.status is None or is_data(scales).all():  # `status` only says why there is no scale
        status = status_of(scales, layer.nan_status)
    else:
        status = np.asarray(layer.plane(layer.status, time, rows, cols), np.uint8)
        _require_consistent(layer, scales, status, rows, cols)
    valid = status == VALID
    if not valid.any():
        return Vectors(np.zeros((*status.shape, layer.dims), np.int8), np.zeros(status.shape, np.float32), status)
    codes = layer.plane(layer.codes, time, rows, cols)
    if not valid.all():
        codes[~valid] = 0
        scales = np.where(valid, scales, np.float32(0))
    if not keeps(layer.planes[layer.codes.path], layer.kept, status.shape):  # they would be read twice
        return Vectors(codes, scales, status)
    return Vectors(codes, scales, status, norms=lambda: np.where(valid, layer.read(layer.norms, time, rows, cols), 0))


def status_of(scales: Float32Array, nan_status: int) -> UInt8Array:
    """What a published scale says of each pixel (format notes 4.4).

    Data is finite, above 0 and below 1; NaN means `nan_status`; +inf is land not yet written; any other
    number cannot be multiplied with and counts as rejected.
    """
    status = np.full(scales.shape, REJECTED, np.uint8)
    status[is_data(scales)] = VALID
    status[np.isnan(scales)] = nan_status
    status[np.isinf(scales)] = NOT_EMBEDDED
    return status


def _require_consistent(layer: Layer, scales: Float32Array, status: UInt8Array, rows: slice, cols: slice) -> None:
    """A pixel called valid has a usable scale: one write stored both."""
    if not is_data(scales[status == VALID]).all():
        raise Corrupt(
            f"{layer.location}: {layer.name}, rows {rows.start}:{rows.stop}, columns {cols.start}:{cols.stop}: "
            "pixels are marked valid and have no scale."
        )


def read_points(layer: Layer, time: int, rows: Int64Array, cols: Int64Array) -> Vectors:
    """Read single pixels, each stored chunk once: (n,) pixels in the order asked. Raises as `read_window` does."""
    rows, cols = np.asarray(rows, np.int64), np.asarray(cols, np.int64)
    out = Vectors.empty(rows.shape, layer.dims, OUTSIDE)
    for points, box_rows, box_cols in _by_chunk(layer, layer.codes, rows, cols):
        found = _read(layer, time, box_rows, box_cols)
        at = rows[points] - box_rows.start, cols[points] - box_cols.start
        out.codes[points] = found.codes[at]
        out.scales[points] = found.scales[at]
        out.status[points] = found.status[at]
    return out


def read_counts(layer: Layer, time: int, rows: Int64Array, cols: Int64Array) -> Counts:
    """Read the observation counts of single pixels; zeros where none are recorded. Raises as `read_window` does."""
    rows, cols = np.asarray(rows, np.int64), np.asarray(cols, np.int64)
    out = Counts.zeros(rows.shape)
    if not layer.counts:
        return out
    for points, box_rows, box_cols in _by_chunk(layer, layer.counts[0], rows, cols):
        for array, target in zip(layer.counts, (out.s2, out.s1_asc, out.s1_desc), strict=True):
            found = layer.plane(array, time, box_rows, box_cols)
            target[points] = found[rows[points] - box_rows.start, cols[points] - box_cols.start]
    return out


def read_counts_window(layer: Layer, time: int, rows: slice, cols: slice) -> Counts:
    """Read the counts of a rectangle; zeros beyond the grid and where none are recorded. Raises as `read_window`."""
    in_rows, at_rows = _inside(rows, layer.grid.height, "rows")
    in_cols, at_cols = _inside(cols, layer.grid.width, "cols")
    out = Counts.zeros((rows.stop - rows.start, cols.stop - cols.start))
    if in_rows.start < in_rows.stop and in_cols.start < in_cols.stop:
        for array, target in zip(layer.counts, (out.s2, out.s1_asc, out.s1_desc), strict=False):  # () holds none
            target[at_rows, at_cols] = layer.plane(array, time, in_rows, in_cols)
    return out


def _by_chunk(layer: Layer, array: Array, rows: Int64Array, cols: Int64Array) -> list[tuple[Int64Array, slice, slice]]:
    """(indices of the points, bounding rows, bounding columns) for each chunk that holds any of the points."""
    height, width = array.chunks[-2:] if layer.band_first or array is not layer.codes else array.chunks[1:3]
    on_grid = (rows >= 0) & (rows < layer.grid.height) & (cols >= 0) & (cols < layer.grid.width)
    (inside,) = np.nonzero(on_grid)
    if not len(inside):
        return []
    across = -(-layer.grid.width // width) + 1
    chunk = (rows[inside] + layer.row0) // height * across + cols[inside] // width
    order = np.argsort(chunk, kind="stable")
    starts = np.flatnonzero(np.diff(chunk[order], prepend=-1))
    out = []
    for points in np.split(inside[order], starts[1:]):
        r, c = rows[points], cols[points]
        out.append((points, slice(int(r.min()), int(r.max()) + 1), slice(int(c.min()), int(c.max()) + 1)))
    return out
