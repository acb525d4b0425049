"""What an area comes to before anything is embedded: which blocks of a source, and which of them are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.embed import missing_blocks
from service.encoder import Encoder
from service.errors import InvalidInput, LimitExceeded
from service.footprint import covering
from service.grid import PIXEL, Block, archive_grid
from service.polygons import MAX_PIECES, Box, Polygon
from service.sources import Cost, Placement, Source
from service.store.contract import WritableStore
from service.values import BLOCK, Float64Array

MIN_S2: Final = 15
"""Valid Sentinel-2 dates below which a pixel is rejected unless asked otherwise: as in the published archive."""
_SURE: Final = 0.98
"""How much of a polygon's area is sure: it is reckoned on a sphere."""
_MORE: Final = 1e-3
"""Degrees by which a placement's sides may bulge between two points along them."""
_GLOBE: Final = (-180.0, -90.0, 180.0, 90.0)
_ALONG: Final = 33
"""Points along each side of a box when it is projected: sides are curves on the other side."""


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
    sources: Sequence[Source],
    encoder: Encoder,
    store: WritableStore | None,
    polygon: Polygon,
    *,
    min_s2: int,
    most: int,
    field: str = "bbox",
) -> AreaPlan:
    """What embedding an area takes. Reads fingerprints, no series; what is too large is refused before that.

    Args:
        sources: Where the series would come from, one for each zone.
        encoder: The model that would run.
        store: Where the result would go; None where that is yet to be made.
        polygon: The area. Whole blocks are embedded, as far as the sources reach.
        min_s2: Least number of valid Sentinel-2 dates of a pixel.
        most: Blocks that may be asked for at once.
        field: What the caller calls the polygon, for errors.

    Raises:
        InvalidInput: The sources have nothing there.
        LimitExceeded: More than `most` blocks, or more scenes than may be asked for.
        Unavailable: Whoever holds the scenes cannot be asked now.
    """
    found = blocks_in([source.placement for source in sources], polygon, most, field)
    blocks: dict[Block, int] = {}
    left: list[Block] = []
    cost = Cost()
    for source in sources:
        touched = found.get(source.placement, ())
        missing = touched if store is None else missing_blocks(source, encoder, store, touched, min_s2=min_s2)
        more = source.cost_of(missing) if missing else Cost()
        blocks |= {block: source.placement.pixels_in(block) for block in touched}
        left += missing
        cost = Cost(cost.scenes + more.scenes, cost.bytes + more.bytes)
    return AreaPlan(blocks, tuple(left), cost)


def blocks_in(
    placements: Sequence[Placement], polygon: Polygon, most: int, field: str = "bbox"
) -> dict[Placement, tuple[Block, ...]]:
    """The blocks that a polygon touches, of each placement in its own zone's six degrees, row by row.

    Raises:
        InvalidInput: It touches none; tells where the placements lie.
        LimitExceeded: More than `most`, or its edges are too long to be followed.
    """
    reached = [(place, polygon.within(box)) for place in placements if (box := _box(place))]
    # Scale varies by a few thousandths over a zone: far less than what `_SURE` leaves.
    _require_few(int(_SURE * sum(part.square_metres for _, part in reached) / (BLOCK * PIXEL) ** 2), most, field)
    found: dict[Placement, tuple[Block, ...]] = {}
    pieces, count = MAX_PIECES, 0
    for place, part in reached:
        shape = part.on(archive_grid(place.zone), _GLOBE, field, pieces)
        if shape is None:
            continue
        rows, cols, _ = shape.blocks()
        named = (Block(place.zone.name, row, col) for row, col in zip(rows.tolist(), cols.tolist(), strict=True))
        held = tuple(sorted(block for block in named if place.touches(block)))
        count += len(held)
        pieces -= shape.pieces
        _require_few(count, most, field)
        if held:
            found[place] = held
    if not found:
        there = "; ".join(f"[{', '.join(f'{edge:.4f}' for edge in bounds_of(place))}]" for place in placements[:3])
        raise InvalidInput("lies outside what the dataset's source covers.", field=field, remedy=f"It covers {there}.")
    return found


def _require_few(count: int, most: int, field: str) -> None:
    if count > most:
        raise LimitExceeded(
            f"covers {count:,} blocks of 2.56 km; a job takes at most {most:,} (limit `job_blocks`).",
            field=field,
            remedy="Ask for a smaller area.",
        )


def bounds_of(placement: Placement) -> Box:
    """(west, south, east, north) degrees of a placement; west > east across the antimeridian."""
    west, south, east, north = _relative(placement)
    middle = _meridian(placement)
    return _wrapped(west + middle), south, _wrapped(east + middle), north


def reach_of(placements: Sequence[Placement]) -> Box:
    """(west, south, east, north) degrees of several placements; west > east across the antimeridian."""
    return covering(map(bounds_of, placements))


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


def _box(placement: Placement) -> Box | None:
    """The degrees that a placement holds of its own zone, a little more at its edges; None where it holds none."""
    west, south, east, north = _relative(placement)
    middle, (left, bottom, right, top) = _meridian(placement), placement.zone.bounds
    west, east = max(west + middle - _MORE, left), min(east + middle + _MORE, right)
    south, north = max(south - _MORE, bottom), min(north + _MORE, top)
    return (west, south, east, north) if west < east and south < north else None
