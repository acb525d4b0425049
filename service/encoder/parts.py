"""Prepared pixels that wait for a batch, grouped by the lengths they are padded to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from service.sampling import LENGTHS, Prepared, Sequences
from service.values import BoolArray, Float32Array, Int64Array

Shape = int
"""The lengths of a pixel's sequences as one number: pixels of one shape can share a batch."""

_SIDE: Final = 1000


class Part:
    """Some prepared pixels of one call, and the rows their vectors go to.

    Args:
        prepared: n pixels.
        wanted: (n,) which of them to embed.
        out: (n, d) rows to fill; d may be less than the graph gives.
    """

    def __init__(self, prepared: Prepared, wanted: BoolArray, out: Float32Array) -> None:
        self._s2, self._s1 = prepared.s2, prepared.s1
        self._out = out
        self._waiting = _by_shape(prepared, np.flatnonzero(wanted))
        self.wanted = int(wanted.sum())
        """Pixels to embed."""

    @property
    def left(self) -> int:
        """How many pixels wait."""
        return sum(map(len, self._waiting.values()))

    def waiting(self, shape: Shape) -> int:
        """How many pixels of one shape wait."""
        return len(self._waiting.get(shape, ()))

    @property
    def fullest(self) -> Shape | None:
        """The shape that most of the waiting pixels have; None where none waits."""
        return max(self._waiting, key=lambda shape: len(self._waiting[shape]), default=None)

    def take(self, shape: Shape, most: int) -> Int64Array:
        """Up to `most` waiting pixels of one shape, which wait no longer."""
        pixels = self._waiting.get(shape)
        if pixels is None:
            return np.empty(0, np.int64)
        if len(pixels) > most:
            self._waiting[shape] = pixels[most:]
        else:
            del self._waiting[shape]
        return pixels[:most]

    def feeds(self, pixels: Int64Array) -> dict[str, Any]:
        """The graph's inputs for some pixels of one shape."""
        return _feeds("s2", self._s2, pixels) | _feeds("s1", self._s1, pixels)

    def fill(self, pixels: Int64Array, vectors: Float32Array) -> None:
        """Put vectors where they belong."""
        self._out[pixels] = vectors[:, : self._out.shape[1]]


def packed(pieces: Sequence[tuple[Part, Int64Array]], batch: int) -> dict[str, Any]:
    """The inputs of one run: some pixels of each part in turn, filled up to `batch` by repeating the first."""
    feeds = [part.feeds(pixels) for part, pixels in pieces]
    missing = batch - sum(len(pixels) for _, pixels in pieces)
    return {
        name: np.concatenate([one[name] for one in feeds] + [np.repeat(first[:1], missing, axis=0)])
        for name, first in feeds[0].items()
    }


def bytes_of(frames: int, radar_frames: int, *, recurrent: bool) -> int:
    """Most bytes that one prepared pixel takes, for so many observations of either sensor."""
    extra = 12 if recurrent else 0
    return _padded(frames) * (4 * 10 + 12 + extra) + _padded(radar_frames) * (4 * 2 + 12 + extra)


def _padded(frames: int) -> int:
    return next((length for length in LENGTHS if length >= frames), LENGTHS[-1])


def _by_shape(prepared: Prepared, pixels: Int64Array) -> dict[Shape, Int64Array]:
    if not len(pixels):
        return {}
    shape = np.zeros(len(pixels), np.int64)
    for held in (prepared.s2, prepared.s1):
        for lengths in (held.bucket, held.step_bucket):
            if lengths is not None:
                shape = shape * _SIDE + lengths[pixels]
    order = np.argsort(shape, kind="stable")
    edges = np.flatnonzero(np.diff(shape[order])) + 1
    return {int(shape[group[0]]): pixels[group] for group in np.split(order, edges)}


def _feeds(sensor: str, held: Sequences, pixels: Int64Array) -> dict[str, Any]:
    length = int(held.bucket[pixels[0]])
    feeds: dict[str, Any] = {
        sensor: held.values[pixels, :length],
        f"{sensor}_doy": held.doy[pixels, :length],
        f"{sensor}_logm": held.logm[pixels, :length],
    }
    if held.order is not None and held.steps is not None and held.step_bucket is not None:
        steps = int(held.step_bucket[pixels[0]])
        feeds |= {f"{sensor}_order": held.order[pixels, :steps], f"{sensor}_steps": held.steps[pixels, :steps]}
    return feeds
