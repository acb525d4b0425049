"""What an area comes to before anything is embedded: which blocks of a source, and which of them are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.embed import missing_blocks
from service.encoder import Encoder
from service.errors import InvalidInput, LimitExceeded
from service.grid import Block, archive_grid, blocks_of
from service.sources import Cost, Placement, Source
from service.store.contract import WritableStore
from service.values import BLOCK, Area, Float64Array

MIN_S2: Final = 15
"""Valid Sentinel-2 dates below which a pixel is rejected unless asked otherwise: as in the published archive."""
_ALONG: Final = 33
"""Points along each side of a box when it is projected: sides are curves on the other side."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class AreaPlan:
    """The blocks of a dataset's sources that an area touches."""

    blocks: dict[Block, int]
    """All of them, zone by zone and row by row, and how many pixels the source has in each."""
    left: tuple[Block, ...]
    """Those that do not hold what would be embedded now."""
    cost: Cost
    """What has to be fetched for those that are left."""

    @property
    def pixels(self) -> int:
        """Pixels of the source in all blocks."""
        return sum(self.blocks.values())

    @property
    def pixels_left(self) -> int:
        """Pixels of the source in the blocks that are left."""
        return sum(self.blocks[block] for block in self.left)


def plan_area(
    sources: Sequence[Source], encoder: Encoder, store: WritableStore | None, area: Area, *, min_s2: int, most: int
) -> AreaPlan:
    """What embedding an area takes. Reads fingerprints, no series.

    Args:
        sources: Where the series would come from, one for each zone.
        encoder: The model that would run.
        store: Where the result would go; None where that is yet to be made.
        area: The box asked for. Whole blocks are embedded, as far as the sources reach.
        min_s2: Least number of valid Sentinel-2 dates of a pixel.
        most: Blocks that may be asked for at once.

    Raises:
        InvalidInput: The sources have nothing there.
        LimitExceeded: More than `most` blocks, or more scenes than may be asked for.
        Unavailable: Whoever holds the scenes cannot be asked now.
    """
    found = [(source, blocks_in(source.placement, area, most)) for source in sources]
    require_few(sum(len(blocks) for _, blocks in found), most)
    if not any(blocks for _, blocks in found):
        there = "; ".join(f"[{', '.join(f'{edge:.4f}' for edge in bounds_of(s.placement))}]" for s in sources[:3])
        raise InvalidInput("lies outside what the dataset's source covers.", field="bbox", remedy=f"It covers {there}.")
    blocks: dict[Block, int] = {}
    left: list[Block] = []
    cost = Cost()
    for source, touched in found:
        missing = touched if store is None else missing_blocks(source, encoder, store, touched, min_s2=min_s2)
        more = source.cost_of(missing)
        blocks |= {block: source.placement.pixels_in(block) for block in touched}
        left += missing
        cost = Cost(cost.scenes + more.scenes, cost.bytes + more.bytes)
    return AreaPlan(blocks, tuple(left), cost)


def blocks_in(placement: Placement, area: Area, most: int) -> tuple[Block, ...]:
    """The blocks of a placement that a box of degrees touches, row by row; none where they lie apart.

    Raises:
        LimitExceeded: More than `most`.
    """
    spans = [span for span in (_pixels(placement, box) for box in _overlaps(placement, area)) if span]
    if not spans:
        return ()
    rows = slice(min(s[0].start for s in spans), max(s[0].stop for s in spans))
    cols = slice(min(s[1].start for s in spans), max(s[1].stop for s in spans))
    count = (-(-rows.stop // BLOCK) - rows.start // BLOCK) * (-(-cols.stop // BLOCK) - cols.start // BLOCK)
    require_few(count, most)
    return tuple(blocks_of(placement.zone.name, rows, cols))


def require_few(count: int, most: int) -> None:
    """Refuse more blocks than one job takes.

    Raises:
        LimitExceeded: It is more.
    """
    if count > most:
        raise LimitExceeded(
            f"covers {count:,} blocks of 2.56 km; a job takes at most {most:,} (limit `job_blocks`).",
            field="bbox",
            remedy="Ask for a smaller area.",
        )


def bounds_of(placement: Placement) -> Box:
    """(west, south, east, north) degrees of a placement; west > east across the antimeridian."""
    west, south, east, north = _relative(placement)
    middle = _meridian(placement)
    return _wrapped(west + middle), south, _wrapped(east + middle), north


def _meridian(placement: Placement) -> float:
    west, _, east, _ = placement.zone.bounds
    return (west + east) / 2


def _wrapped(degrees: float) -> float:
    return (degrees + 180) % 360 - 180


def _relative(placement: Placement) -> Box:
    """(west, south, east, north) of a placement, longitudes counted from its zone's middle: no seam lies there."""
    rows, cols = _sides(placement.row, placement.rows.stop, placement.col, placement.cols.stop)
    lon, lat = archive_grid(placement.zone).to_lonlat(rows, cols)
    lon = (lon - _meridian(placement) + 180) % 360 - 180
    return float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())


def _sides(top: float, bottom: float, left: float, right: float) -> tuple[Float64Array, Float64Array]:
    """Points along the four sides of a box."""
    down, across = np.linspace(top, bottom, _ALONG), np.linspace(left, right, _ALONG)
    y = np.concatenate([down, down, np.full(_ALONG, top), np.full(_ALONG, bottom)])
    x = np.concatenate([np.full(_ALONG, left), np.full(_ALONG, right), across, across])
    return y, x


def _overlaps(placement: Placement, area: Area) -> list[Box]:
    """Where a box of degrees and a placement's own overlap, longitudes counted from the zone's middle."""
    west, south, east, north = _relative(placement)
    start = _wrapped(area.west - _meridian(placement))
    width = (area.east - area.west) % 360 or 360.0
    found = []
    for left in (start, start - 360):
        box = max(west, left), max(south, area.south), min(east, left + width), min(north, area.north)
        if box[0] < box[2] and box[1] < box[3]:
            found.append(box)
    return found


def _pixels(placement: Placement, box: Box) -> tuple[slice, slice] | None:
    """Rows and columns of a placement that a box touches."""
    west, south, east, north = box
    lat, lon = _sides(south, north, west, east)
    row, col = archive_grid(placement.zone).from_lonlat(lon + _meridian(placement), lat)
    top, bottom = max(int(np.floor(row.min())), placement.row), min(int(np.ceil(row.max())), placement.rows.stop)
    left, right = max(int(np.floor(col.min())), placement.col), min(int(np.ceil(col.max())), placement.cols.stop)
    return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None
