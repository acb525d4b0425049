"""Which blocks of a source a box of degrees touches: at every place, over the antimeridian, judged pixel by pixel."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.area import blocks_in, bounds_of
from service.errors import InvalidInput, LimitExceeded
from service.grid import Block, Zone, archive_grid
from service.polygons import Polygon
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


def within(place: Placement, area: Area) -> set[Block]:
    """Blocks of a placement in a box of degrees; none where it is refused as lying elsewhere."""
    try:
        return set(blocks_in([place], Polygon.of_area(area), MOST).get(place, ()))
    except InvalidInput:
        return set()


def judged(place: Placement, area: Area) -> set[Block]:
    """Blocks with a pixel, of a sample of them, whose centre lies in the box."""
    rows, cols = np.mgrid[place.rows.start : place.rows.stop : EVERY, place.cols.start : place.cols.stop : EVERY]
    lon, lat = archive_grid(place.zone).to_lonlat(rows.ravel() + 0.5, cols.ravel() + 0.5)
    if area.west <= area.east:
        across = (lon >= area.west) & (lon <= area.east)
    else:
        across = (lon >= area.west) | (lon <= area.east)
    left, bottom, right, top = place.zone.bounds
    own = (lon >= left) & (lon < right) & (lat >= bottom) & (lat < top)
    inside = own & across & (lat >= area.south) & (lat <= area.north)
    cells = zip(rows.ravel()[inside] // BLOCK, cols.ravel()[inside] // BLOCK, strict=True)
    return {Block(place.zone.name, int(row), int(col)) for row, col in cells}


@settings(max_examples=60, deadline=None)
@example(name="west of the antimeridian", corner=(0.421875, 0.25), size=(1.0, 1.0))
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
    found = within(place, area)
    assert judged(place, area) <= found
    assert found <= set(place.blocks())
    step = EVERY * 10 / 111_000  # what lies between the pixels of the sample may be all that is in the box
    share = step / np.cos(np.radians(north)) / width
    wider = Area(
        lon(corner[0] - share), max(-90.0, area.south - step), lon(corner[0] + size[0] + share), min(90.0, top + step)
    )
    wanted = judged(place, wider)
    rows, cols = ({getattr(block, side) for block in wanted} for side in ("row", "col"))
    if wanted:  # a box of degrees lies askew on the grid, by a block at most over such a distance
        for side, held in (("row", rows), ("col", cols)):
            assert {getattr(block, side) for block in found} <= set(range(min(held) - 1, max(held) + 2))


@pytest.mark.parametrize("name", sorted(PLACES))
def test_the_whole_world_and_its_own_bounds_are_all_of_it(name: str) -> None:
    place = PLACES[name]
    for area in (Area(-180, -90, 180, 90), Area(*bounds_of(place))):
        found = within(place, area)
        assert judged(place, Area(-180, -90, 180, 90)) <= found <= set(place.blocks())
        if "antimeridian" not in name:  # beyond its zone's edge, pixels are the next zone's
            assert found == set(place.blocks())


def test_a_polygon_over_two_zones_takes_the_blocks_that_it_touches_not_those_of_its_box() -> None:
    places = [placement("31N", 5.7, 52.5, 20_000, 12_000), placement("32N", 5.2, 52.5, 20_000, 12_000)]
    ring = np.array([[5.9, 51.8], [6.3, 52.3], [5.95, 51.9], [5.9, 51.8]])
    found = blocks_in(places, Polygon(((ring,),)), MOST)
    share = np.linspace(0, 1, 4000)[:, None]
    edges = np.concatenate([a + share * (b - a) for a, b in itertools.pairwise(ring)])
    held = np.concatenate([edges, *(ring[:3].mean(axis=0) + s * (edges - ring[:3].mean(axis=0)) for s in (0.3, 0.6))])
    wanted = set()
    for lon, lat in held.tolist():
        zone = Zone.of(lon, lat)
        row, col = archive_grid(zone).cell(lon, lat)
        wanted.add(Block(zone.name, row // BLOCK, col // BLOCK))
    blocks = {block for touched in found.values() for block in touched}
    assert {block.zone for block in blocks} == {"31N", "32N"}
    assert wanted <= blocks
    assert len(blocks - wanted) <= 3, "corners that are cut by less than a few metres"
    west, south, east, north = ring[:, 0].min(), ring[:, 1].min(), ring[:, 0].max(), ring[:, 1].max()
    box = blocks_in(places, Polygon.of_area(Area(west, south, east, north)), MOST)
    assert len(blocks) < 0.5 * sum(map(len, box.values()))


def test_continents_and_slivers_are_refused_at_once() -> None:
    places = [Placement(z, 0, 0, 3473 * BLOCK, 264 * BLOCK) for n in range(1, 61) for z in (Zone(n), Zone(n, True))]
    began = time.perf_counter()
    for area, says in (
        (Area(-20, -35, 50, 37), "[0-9],[0-9]{3},[0-9]{3} blocks"),
        (Area(-180, 50, 180, 50.001), "at most"),
    ):
        with pytest.raises(LimitExceeded, match=says):
            blocks_in(places, Polygon.of_area(area), 1024)
    assert time.perf_counter() - began < 2


def test_elsewhere_and_too_much_are_refused() -> None:
    place = PLACES["Europe"]
    with pytest.raises(InvalidInput, match="It covers"):
        blocks_in([place], Polygon.of_area(Area(10, 54, 11, 55)), MOST)
    with pytest.raises(LimitExceeded, match="at most 3"):
        blocks_in([place], Polygon.of_area(Area(2, 54, 3, 55)), 3)
    assert place.pixels_in(Block(place.zone.name, 0, 0)) == 0
    assert sum(map(place.pixels_in, place.blocks())) == 900 * 700


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
