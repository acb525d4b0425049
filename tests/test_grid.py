"""Place arithmetic: pixels hold places by floor, zones and blocks are where they are said to be."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from indexing.ids import zones_of
from service.errors import Corrupt, InvalidInput, OutsideBounds
from service.grid import Block, Zone, archive_grid, blocks_of, zone_numbers
from service.origins import sources_of
from service.sources import SIMULATED, Placement
from service.store import create_store
from service.values import BLOCK, Counts, Window
from tests.stores import TINY, YEAR, blocks_from, random_vectors

PLACE = {"row": 0, "col": 0, "height": 256, "width": 256}
lons, lats = st.floats(-180, 179.999), st.floats(-79.9, 83.9)


@given(lons, lats)
def test_a_place_lies_in_the_nominal_zone_that_bounds_it(lon: float, lat: float) -> None:
    west, south, east, north = Zone.of(lon, lat).bounds
    assert west - 1e-9 <= lon < east + 1e-9
    assert south <= lat <= north


def test_norway_and_the_antimeridian_have_no_exceptions() -> None:
    assert Zone.of(5.0, 60.0).name == "31N"  # 32V by the exception
    assert zone_numbers(np.array([-180.0, 179.9, 180.0])).tolist() == [1, 60, 60]
    assert Zone.of(0, 0).name == "31N"
    assert Zone.of(0, -0.1).name == "31S"


@given(lons, lats)
def test_the_pixel_that_holds_a_place_is_found_by_floor(lon: float, lat: float) -> None:
    zone = Zone.of(lon, lat)
    grid = archive_grid(zone)
    row, col = grid.cell(lon, lat)
    x, y = Transformer.from_crs(4326, zone.epsg, always_xy=True).transform(lon, lat)
    rounding = 1e-6  # metres: y0 - y cannot tell less
    assert -rounding <= x - (grid.x0 + col * 10) <= 10 + rounding
    assert -rounding <= (grid.y0 - row * 10) - y <= 10 + rounding


@given(st.integers(1, 60), st.booleans(), st.integers(0, 3472 * 256), st.integers(20_000, 47_000))
def test_a_pixels_centre_comes_back_to_the_pixel(number: int, south: bool, row: int, col: int) -> None:
    grid = archive_grid(Zone(number, south))
    lon, lat = grid.to_lonlat(np.array([row + 0.5]), np.array([col + 0.5]))
    back_row, back_col = grid.from_lonlat(lon, lat)
    assert abs(back_row[0] - row - 0.5) < 1e-3
    assert abs(back_col[0] - col - 0.5) < 1e-3


def test_archive_grids_hold_whole_blocks_from_the_published_origin() -> None:
    north, south = archive_grid(Zone.parse("31N")), archive_grid(Zone.parse("31S"))
    assert (north.x0, north.y0) == (163_840.0, 9_338_880.0)
    for grid in (north, south):
        assert grid.width % BLOCK == 0
        assert grid.height % BLOCK == 0
    assert north.bounds[1] == -2560.0


def test_the_published_pixel_lies_where_it_was_published() -> None:
    row, col = archive_grid(Zone.of(0.109914, 52.183043)).cell(0.109914, 52.183043)
    assert (row, col) == (355_354, 13_858)


def test_blocks_tile_a_window_and_know_their_kin() -> None:
    blocks = list(blocks_of("31N", slice(250, 520), slice(0, 256)))
    assert [(b.row, b.col) for b in blocks] == [(0, 0), (1, 0), (2, 0)]
    block = Block("31N", 5, 7)
    assert block.parent() == Block("31N", 2, 3, 2)
    assert block in block.parent().children()
    assert block.parent().name == "o2/31N/2/3"


def test_places_beyond_the_grid_are_refused() -> None:
    with pytest.raises(OutsideBounds):
        archive_grid(Zone.parse("31N")).cell(60.0, 10.0)
    for bad in ("0N", "61N", "31", "31X", "N31"):
        with pytest.raises(InvalidInput):
            Zone.parse(bad)


def test_nothing_from_outside_becomes_the_grid_of_the_world() -> None:
    for make in (
        lambda: Zone(0),
        lambda: Zone.parse("00N"),
        lambda: Block.parse("world/0/0"),
        lambda: Block.parse("00N/0/0"),
        lambda: zones_of(np.array([5], np.int64)),
        lambda: archive_grid(Zone.parse("world")),
        lambda: Placement(Zone.WORLD, 0, 0, 256, 256),
        lambda: sources_of({"type": SIMULATED, "seed": 0, "zone": "world", **PLACE}, Window.year(2024)),
    ):
        with pytest.raises((InvalidInput, Corrupt)):
            make()
    for same in (deepcopy(Zone.WORLD), pickle.loads(pickle.dumps(Zone.WORLD)), Zone.parse(Zone.WORLD.name)):
        assert same == Zone.WORLD
        assert hash(same) == hash(Zone.WORLD)
    assert Zone(1) > Zone.WORLD


def test_no_block_of_the_world_is_written(tmp_path: Path) -> None:
    store = create_store(tmp_path / "w.icechunk", TINY, dims=4)
    (data, *_) = blocks_from("31N", 0, 0, random_vectors((2, 2), 4), YEAR, Counts.zeros((2, 2)))
    with pytest.raises(InvalidInput, match="world"):
        store.write([replace(data, block=Block("world", 0, 0))], "x")
    assert store.blocks(YEAR) == ()
