"""Polygons to numbers: the mean and spread of the vectors in each, as one stream over blocks.

A pixel counts where its centre lies in the polygon, in its own nominal zone. Each block is read once, and of it only
the rectangle that the polygons touch; sums are float64 and of bounded size, however large the polygons are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.deadline import Deadline
from service.errors import LimitExceeded
from service.footprint import Footprint, footprint
from service.grid import PIXEL, Block, Zone, ZoneGrid, archive_grid
from service.polygons import MAX_PIECES, GridPolygon, Polygon
from service.quant import dequantise
from service.store.contract import Store
from service.values import (
    BLOCK,
    NOT_EMBEDDED,
    OUTSIDE,
    STATUS_NAMES,
    VALID,
    BoolArray,
    Counts,
    Float64Array,
    Int64Array,
    Vectors,
    Window,
)

MAX_TOUCHES: Final = 20_000
"""Pairs of a polygon and a block that it touches: slivers hold few pixels, and cost a block each."""
STATUSES: Final = tuple(STATUS_NAMES)
"""The order in which pixels are tallied."""
_SLACK: Final = 0.98
"""How sure a polygon's area is: one that is larger than allowed by more is refused before it is drawn."""
_ROWS: Final = 4096
"""Pixels that are float64 at once."""
_GLOBE: Final = (-180.0, -90.0, 180.0, 90.0)
_ZONES: Final = tuple(Zone(number, south) for south in (False, True) for number in range(1, 61))


@dataclass(frozen=True, eq=False)
class Summaries:
    """What n polygons hold."""

    tally: Int64Array
    """(n, 5) int64: pixels of each status, in the order of `STATUSES`."""
    mean: Float64Array
    """(n, d) float64: mean of the dequantised vectors of the valid pixels; NaN where there are none."""
    sd: Float64Array
    """(n, d) float64: their standard deviation, as of a whole population (divided by the number of pixels)."""
    observed: Float64Array
    """(n, 3, 3) float64: mean, least and most valid observations of S2, S1 ascending and S1 descending of the valid
    pixels; NaN where there are none. [:, 0] is S2, [..., 0] the mean."""

    @property
    def valid(self) -> Int64Array:
        """(n,) pixels that the numbers are made of."""
        return self.tally[:, STATUSES.index(VALID)]


@dataclass(frozen=True, eq=False)
class _Part:
    """What one polygon holds of one block."""

    index: int
    shape: GridPolygon
    whole: bool

    def mask(self, rows: slice, cols: slice) -> BoolArray:
        """(rows, cols) bool: which pixels of a rectangle in the block lie in the polygon."""
        if self.whole:
            return np.ones((rows.stop - rows.start, cols.stop - cols.start), bool)
        return self.shape.mask(rows, cols)


class _Sums:
    """Running sums of one polygon; parts are merged as in Chan, Golub and LeVeque 1983, eq. 2.1."""

    def __init__(self, dims: int) -> None:
        self.tally = np.zeros(256, np.int64)
        self.pixels = 0
        self.mean = np.zeros(dims)
        self.squares = np.zeros(dims)
        self.observed = np.zeros(3)
        self.least = np.full(3, np.inf)
        self.most = np.full(3, -np.inf)

    def add(self, values: Float64Array) -> None:
        """Merge (m, d) vectors; the array is used up."""
        count = len(values)
        mean = values.mean(axis=0)
        values -= mean
        shift, total = mean - self.mean, self.pixels + count
        self.squares += np.einsum("ij,ij->j", values, values) + shift**2 * (self.pixels * count / total)
        self.mean += shift * (count / total)
        self.pixels = total

    def see(self, counts: Int64Array) -> None:
        """Merge (m, 3) observation counts."""
        self.observed += counts.sum(axis=0)
        self.least = np.minimum(self.least, counts.min(axis=0))
        self.most = np.maximum(self.most, counts.max(axis=0))


def summarised(
    store: Store,
    window: Window,
    polygons: Sequence[Polygon],
    *,
    most: int,
    deadline: Deadline,
    dims: int | None = None,
) -> Summaries:
    """The mean and spread of the stored vectors in each of some polygons.

    Args:
        store: Any.
        window: One of its windows.
        polygons: n of them; they may overlap.
        most: Pixels that they may hold together, those without a vector included.
        deadline: When to give up.
        dims: Prefix length to read; all dimensions where absent.

    Raises:
        LimitExceeded: They hold too many pixels, or their outlines are too long; nothing was read then.
        Unavailable: It took too long, or the transport failed.
        Corrupt: Stored bytes cannot be read.
    """
    _require_small(polygons, most)
    grids = {grid.zone: grid for grid in store.zones()}
    parts = _drawn(grids, polygons, deadline)
    _require_few(parts, most, deadline)
    sums = [_Sums(dims or store.dims) for _ in polygons]
    held = footprint(store, window)
    for block in sorted(parts):
        deadline.check()
        grid = grids.get(Zone.parse(block.zone))
        if grid and _has_data(held, block):
            _read(store, window, grid, block, parts[block], sums, dims)
        else:
            _count_empty(grid, block, parts[block], sums)
    return _finished(sums)


def _require_small(polygons: Sequence[Polygon], most: int) -> None:
    """Refuse at once what is far too large."""
    area = sum(polygon.square_metres for polygon in polygons)
    if area * _SLACK > most * PIXEL**2:
        raise _too_many(area / PIXEL**2, most)


def _too_many(pixels: float, most: int) -> LimitExceeded:
    return LimitExceeded(
        f"hold {pixels:,.0f} pixels together; one request takes at most {most:,} (limit `polygon_pixels`).",
        field="polygons",
        remedy="Draw smaller ones, or ask in several requests.",
    )


def _drawn(grids: Mapping[Zone, ZoneGrid], polygons: Sequence[Polygon], deadline: Deadline) -> dict[Block, list[_Part]]:
    """Which blocks the polygons touch, in every zone on Earth: what a store has no grid for is outside."""
    parts: dict[Block, list[_Part]] = defaultdict(list)
    pieces, touches = MAX_PIECES, 0
    everywhere = [(zone, grids.get(zone) or archive_grid(zone)) for zone in _ZONES]
    for index, polygon in enumerate(polygons):
        deadline.check()
        field = f"polygons[{index}]"
        for zone, grid in everywhere:
            shape = polygon.on(grid, _GLOBE, field, pieces)
            if shape is None:
                continue
            pieces -= shape.pieces
            rows, cols, whole = shape.blocks()
            touches += len(rows)
            if touches > MAX_TOUCHES:
                raise LimitExceeded(
                    f"touch more than {MAX_TOUCHES:,} blocks of 2.56 km, each polygon's counted.",
                    field="polygons",
                    remedy="Draw smaller ones, or ask in several requests.",
                )
            for row, col, is_whole in zip(rows.tolist(), cols.tolist(), whole.tolist(), strict=True):
                parts[Block(zone.name, row, col)].append(_Part(index, shape, is_whole))
    return parts


def _require_few(parts: Mapping[Block, Sequence[_Part]], most: int, deadline: Deadline) -> None:
    """Count every pixel before one is read."""
    count = sum(BLOCK * BLOCK for held in parts.values() for part in held if part.whole)
    for block, held in parts.items():
        deadline.check()
        if count > most:
            raise _too_many(count, most)
        count += sum(int(part.mask(block.rows, block.cols).sum()) for part in held if not part.whole)
    if count > most:
        raise _too_many(count, most)


def _has_data(held: Footprint, block: Block) -> bool:
    box = (block.rows.start, block.rows.stop - 1, block.cols.start, block.cols.stop - 1)
    return bool(held.parents(block.zone, box, 1))


def _read(
    store: Store, window: Window, grid: ZoneGrid, block: Block, parts: Sequence[_Part], sums: Sequence[_Sums],
    dims: int | None,
) -> None:  # fmt: skip
    """Add what the polygons hold of a block with data, of which only the rectangle that they touch is read."""
    masks = [part.mask(block.rows, block.cols) for part in parts]
    touched = np.logical_or.reduce(masks)
    if not touched.any():
        return
    down, across = _span(touched.any(axis=1)), _span(touched.any(axis=0))
    rows = slice(block.rows.start + down.start, block.rows.start + down.stop)
    cols = slice(block.cols.start + across.start, block.cols.start + across.stop)
    vectors = store.read(grid.zone, window, rows, cols, dims=dims)
    counts = store.counts_window(grid.zone, window, rows, cols) if vectors.valid.any() else None
    for part, mask in zip(parts, masks, strict=True):
        _add(sums[part.index], vectors, counts, mask[down, across])


def _span(held: BoolArray) -> slice:
    (at,) = np.nonzero(held)
    return slice(int(at[0]), int(at[-1]) + 1)


def _add(sums: _Sums, vectors: Vectors, counts: Counts | None, mask: BoolArray) -> None:
    sums.tally += np.bincount(vectors.status[mask], minlength=256)
    used = mask & vectors.valid
    if counts is None or not used.any():
        return
    codes, scales = vectors.codes[used], vectors.scales[used]
    for start in range(0, len(codes), _ROWS):
        part = slice(start, start + _ROWS)
        sums.add(dequantise(codes[part], scales[part]).astype(np.float64))
    sums.see(np.stack([counts.s2[used], counts.s1_asc[used], counts.s1_desc[used]], axis=1).astype(np.int64))


def _count_empty(grid: ZoneGrid | None, block: Block, parts: Sequence[_Part], sums: Sequence[_Sums]) -> None:
    """Add what the polygons hold of a block without data: nothing is embedded on the grid, and beyond it is outside."""
    rows, cols = np.arange(block.rows.start, block.rows.stop), np.arange(block.cols.start, block.cols.stop)
    on_grid = np.zeros((BLOCK, BLOCK), bool)
    if grid:
        on_grid = ((rows >= 0) & (rows < grid.height))[:, None] & ((cols >= 0) & (cols < grid.width))
    for part in parts:
        mask = part.mask(block.rows, block.cols)
        sums[part.index].tally[NOT_EMBEDDED] += int((mask & on_grid).sum())
        sums[part.index].tally[OUTSIDE] += int((mask & ~on_grid).sum())


def _finished(sums: Sequence[_Sums]) -> Summaries:
    pixels = np.array([one.pixels for one in sums])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(pixels[:, None] > 0, [one.mean for one in sums], np.nan)
        sd = np.sqrt(np.array([one.squares for one in sums]) / pixels[:, None])
        average = np.array([one.observed for one in sums]) / pixels[:, None]
    least, most = (np.where(pixels[:, None] > 0, [getattr(one, n) for one in sums], np.nan) for n in ("least", "most"))
    tally = np.array([one.tally[list(STATUSES)] for one in sums])
    return Summaries(tally, mean, sd, np.stack([average, least, most], axis=2))
