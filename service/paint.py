"""From the rectangles of a plan to a picture: stored pixels are read, seen through a view, and laid out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.ma as ma

from service import bilinear
from service.deadline import Deadline
from service.interpolation import Int32Array
from service.plan import Rectangle, Source, plan
from service.values import NOT_EMBEDDED, BoolArray, Int64Array
from service.warp import Target

LARGE_BYTES: Final = 32_000_000
"""Codes of a rectangle that counts as large."""
LARGE_AT_ONCE: Final = 3
"""A map at a low zoom asks for twenty tiles together, of up to 320 MB of codes each: a small server has no 6 GB."""

_large: Final = threading.BoundedSemaphore(LARGE_AT_ONCE)


def paint(source: Source, target: Target) -> ma.MaskedArray:
    """Make a picture: read each rectangle, turn it into bands in its own grid, and lay the bands out.

    Returns:
        (bands, height, width) uint8 colours or float32 numbers, masked exactly where status is not VALID, or the
        view hides a pixel.

    Raises:
        LimitExceeded: It needs too much; see `plan`.
        Corrupt: Stored bytes cannot be read.
        Unavailable: The transport failed.
    """
    size = target.width * target.height
    out = np.zeros((size, source.bands), np.uint8 if source.picture else np.float32)
    seen = np.zeros(size, bool)
    filled = 0
    for rectangle in plan(source, target):
        if rectangle.stale:
            source.notes.add("stale")
        with _turn(rectangle.count * source.dims * len(source.sides), source.deadline):
            pixels, bands, held = _painted(source, rectangle, target)
        if len(pixels) == size:
            out, seen = bands, held
        else:
            out[pixels], seen[pixels] = bands, held
        filled += len(pixels)
    if filled < size:
        source.statuses.add(NOT_EMBEDDED)
    shape = (target.height, target.width)
    data = np.moveaxis(out.reshape(*shape, source.bands), -1, 0)  # a pixel's bands stay together in memory
    return ma.MaskedArray(data, np.repeat(~seen.reshape(1, *shape), source.bands, axis=0))


@contextmanager
def _turn(size: int, deadline: Deadline | None) -> Iterator[None]:
    """Wait until so many bytes of codes may be in memory, at most as long as there is time."""
    if size <= LARGE_BYTES:
        yield
        return
    while not _large.acquire(timeout=deadline.left if deadline else None):
        if deadline:
            deadline.check()
    try:
        yield
    finally:
        _large.release()


def _painted(source: Source, rectangle: Rectangle, target: Target) -> tuple[Int32Array, np.ndarray, BoolArray]:
    """(n,) flat indices, (n, bands) values and (n,) validity of one zone's part of the picture."""
    if source.resampling == "bilinear":
        pixels, bands, valid = bilinear.painted(source, rectangle, target)
        return pixels, *_seen(bands, valid, source)
    vectors = source.read(rectangle.shown.grid.zone, rectangle.rows, rectangle.cols, rectangle.level)
    pixels, cells = _inside(rectangle)
    view, few = source.view, rectangle.count <= 2 * target.width * target.height and source.bands <= 4
    if few:  # not many more pixels are read than shown: gathering their vectors would take longer
        values = view.values(vectors).reshape(rectangle.count, -1).take(cells, axis=0)
        valid = vectors.valid.ravel().take(cells)
        source.note(valid, lambda: vectors.status.ravel().take(cells))
    else:
        vectors = vectors.taken(cells)
        values, valid = view.values(vectors), vectors.valid
        source.note(valid, lambda: vectors.status)
    return pixels, *_seen(view.colours(values) if source.picture else values, valid, source)


def _seen(bands: np.ndarray, valid: BoolArray, source: Source) -> tuple[np.ndarray, BoolArray]:
    """(n, bands) and (n,) which of them are seen: a view with a palette may hide valid pixels."""
    return (bands, bands[:, 0] > 0) if source.palette is not None else (bands, valid)


def _inside(rectangle: Rectangle) -> tuple[Int32Array, Int64Array]:
    """Which of the picture's pixels this rectangle fills, and with which of its cells, both as flat indices."""
    shown, level = rectangle.shown, rectangle.level
    rows, cols = (shown.rows, shown.cols) if level == 1 else (shown.rows // level, shown.cols // level)
    rows, cols = rows - rectangle.rows.start, cols - rectangle.cols.start
    width = rectangle.cols.stop - rectangle.cols.start
    cells = rows.astype(np.int64) * width + cols
    top, bottom, left, right = (edge // level for edge in shown.box)
    if (top, bottom + 1, left, right + 1) == (
        rectangle.rows.start, rectangle.rows.stop, rectangle.cols.start, rectangle.cols.stop,
    ):  # fmt: skip
        return shown.pixels, cells
    held = (rows >= 0) & (rows < rectangle.rows.stop - rectangle.rows.start) & (cols >= 0) & (cols < width)
    return shown.pixels[held], cells[held]
