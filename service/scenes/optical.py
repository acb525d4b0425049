"""Sentinel-2, one date at a time: which scene gives each pixel, and what its values become.

As the published pipeline does it, with one change. Its pixels that no scene of the day shows clearly take the values
of any of them, by a generator without a seed, so that no two runs agree. Here it is one of those that have data there,
and a hash of the scene's id and the pixel's place on its zone's grid decides which: whoever makes that pixel, in
whatever block, today or in a year, takes the same one. Only TESSERA v1.0 ever looks at those values, where a pixel has
no clear ones at all.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.dpixels.stored import UNUSABLE_SCL
from service.sampling.draws import mixed
from service.scenes.value import Mode
from service.values import BoolArray, UInt8Array, UInt16Array

OFFSET: Final = 1000
"""What processing baseline 04.00 and later adds to every value."""
MIN_COVERAGE: Final = 1e-4
"""Share of a region below which a date, or a radar scene, is left out: 0.01 %, as the published driver sets it.

The published region is whatever raster somebody hands in. Ours is the block, 256 x 256 pixels: up to 6 of them do not
make a date."""
CLASSES: Final = 11
"""The last of the scene classes."""

Index = npt.NDArray[np.int16]
"""Places among the scenes of a date."""
_NONE: Final = -1


def clear(classes: npt.NDArray[Any]) -> BoolArray:
    """Which pixels can be used, by their scene class; 0 is no data. Any shape."""
    table = np.ones(256, bool)
    table[list(UNUSABLE_SCL)] = False
    return np.asarray(table[classes])


def selected(classes: Sequence[UInt8Array]) -> Index:
    """(h, w) the first of a date's scenes that shows each pixel clearly; -1 where none does.

    Args:
        classes: (h, w) scene classes of each scene, in the order of the catalogue.
    """
    out = np.full(classes[0].shape, _NONE, np.int16)
    for index, scene in enumerate(classes):
        out[(out == _NONE) & clear(scene)] = index
    return out


def coverage(selection: Index) -> float:
    """Share of the region's pixels that some scene of the date shows clearly."""
    return float((selection != _NONE).mean())


def filled(selection: Index, classes: Sequence[UInt8Array], ids: Sequence[str], rows: slice, cols: slice) -> Index:
    """(h, w) which scene gives each pixel its values: the selected one, else one by the rule told above.

    A single scene gives all pixels theirs. Of several that one is taken whose hash with the place is largest: one more
    scene changes only the pixels that it takes over.

    Args:
        selection: What `selected` gave.
        classes: (h, w) scene classes of the same scenes.
        ids: Theirs.
        rows: Of the zone's grid, those that the pixels lie in.
        cols: Its columns.

    Returns:
        Places among the scenes; -1 where none has data.
    """
    if len(ids) == 1:
        return np.zeros_like(selection)
    row, col = np.mgrid[rows, cols].astype(np.uint64)
    place = mixed((row << np.uint64(32)) | col)
    out, most = selection.copy(), np.zeros(selection.shape, np.uint64)
    for index, (held, name) in enumerate(zip(classes, ids, strict=True)):
        rank = mixed(place ^ _key(name)) | np.uint64(1)
        takes = (selection == _NONE) & (held != 0) & (rank > most)
        out[takes], most[takes] = index, rank[takes]
    return out


def _key(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def stored(values: UInt16Array, date: dt.date, mode: Mode) -> UInt16Array:
    """Values of a mosaic as they are stored: without the offset.

    In mode `mpc` 1000 is taken from values of 1000 and more, of dates after 2022-01-25; smaller ones stay as they
    are. The date decides, not the scene's own baseline.

    Args:
        values: Any shape; 0 is no data.
        date: UTC date of the scenes.
        mode: How they were published.
    """
    if mode.offset_after is None or date <= mode.offset_after:
        return values
    return np.where(values >= OFFSET, values - np.uint16(OFFSET), values)
