"""Which blocks of a source a box of degrees touches: at every place, over the antimeridian, judged pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.area import blocks_in, bounds_of
from service.errors import InvalidInput, LimitExceeded
from service.grid import Block, Zone, archive_grid
from service.sources import Placement
from service.values import BLOCK, Area

MOST = 10_000
EVERY = 32


def placement(zone: str, lon: float, lat: float, height: int = 900, width: int = 700) -> Placement:
    """A rectangle of pixels near a place, not aligned to blocks."""
    row, col = archive_grid(Zone.parse(zone)).cell(lon, lat)
    return Placement(Zone.parse(zone), row, col, height, width)


PLACES = {
    "Europe": placement("31N", 2.3, 54.7),
    "south": placement("56S", 151.2, -33.9),
    "equator": placement("37N", 37.0, 0.09),
    "north": placement("33N", 15.0, 83.0),
    "west of the antimeridian": placement("60N", 179.95, 60.0),
    "east of the antimeridian": placement("1S", -179.98, -17.0),
}


def judged(place: Placement, area: Area) -> set[Block]:
    """Blocks with a pixel, of a sample of them, whose centre lies in the box."""
    rows, cols = np.mgrid[place.rows.start : place.rows.stop : EVERY, place.cols.start : place.cols.stop : EVERY]
    lon, lat = archive_grid(place.zone).to_lonlat(rows.ravel() + 0.5, cols.ravel() + 0.5)
    if area.west <= area.east:
        across = (lon >= area.west) & (lon <= area.east)
    else:
        across = (lon >= area.west) | (lon <= area.east)
    inside = across & (lat >= area.south) & (lat <= area.north)
    cells = zip(rows.ravel()[inside] // BLOCK, cols.ravel()[inside] // BLOCK, strict=True)
    return {Block(place.zone.name, int(row), int(col)) for row, col in cells}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(PLACES)),
    corner=st.tuples(st.floats(-0.3, 1.1), st.floats(-0.3, 1.1)),
    size=st.tuples(st.floats(0.05, 1.5), st.floats(0.05, 1.5)),
)
def test_every_pixel_in_the_box_is_in_a_block_and_few_blocks_more(
    name: str, corner: tuple[float, float], size: tuple[float, float]
) -> None:
    place = PLACES[name]
    west, south, east, north = bounds_of(place)
    width, height = (east - west) % 360, north - south

    def lon(share: float) -> float:
        return float((west + share * width + 180) % 360 - 180)

    top = min(90.0, south + (corner[1] + size[1]) * height)
    area = Area(lon(corner[0]), south + corner[1] * height, lon(corner[0] + size[0]), top)
    wanted = judged(place, area)
    found = set(blocks_in(place, area, MOST))
    assert wanted <= found
    assert found <= set(place.blocks())
    rows, cols = ({getattr(block, side) for block in wanted} for side in ("row", "col"))
    if wanted:  # a box of degrees lies askew on the grid, by a block at most over such a distance
        for side, held in (("row", rows), ("col", cols)):
            assert {getattr(block, side) for block in found} <= set(range(min(held) - 1, max(held) + 2))


@pytest.mark.parametrize("name", sorted(PLACES))
def test_the_whole_world_and_its_own_bounds_are_all_of_it(name: str) -> None:
    place = PLACES[name]
    assert set(blocks_in(place, Area(-180, -90, 180, 90), MOST)) == set(place.blocks())
    assert set(blocks_in(place, Area(*bounds_of(place)), MOST)) == set(place.blocks())


def test_elsewhere_and_too_much_are_refused() -> None:
    place = PLACES["Europe"]
    assert blocks_in(place, Area(10, 54, 11, 55), MOST) == ()
    with pytest.raises(LimitExceeded, match="at most 3"):
        blocks_in(place, Area(2, 54, 3, 55), 3)


def test_bounds_over_the_antimeridian_run_from_west_to_east() -> None:
    west, south, east, north = bounds_of(PLACES["west of the antimeridian"])
    assert west > 179 > -179 > east
    assert south < 60 <= north


def test_a_block_has_a_name_and_back() -> None:
    block = Block("31N", 1279, 114)
    assert Block.parse(block.name) == block
    for text in ("31N/1279", "o2/31N/1/1", "99N/1/1", "31N/-1/2", "31N/1/2 "):
        with pytest.raises(InvalidInput):
            Block.parse(text)
