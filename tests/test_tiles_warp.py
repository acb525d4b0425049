"""Which stored pixel a picture shows: the same as if every pixel centre were transformed on its own."""

from __future__ import annotations

from dataclasses import replace

import morecantile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from api.params import SUPPORTED_TMS
from service import warp
from service.errors import InvalidInput, LimitExceeded
from service.frame import geometry_bounds, lonlat_box, unbroken
from service.grid import Zone, archive_grid, transformer
from service.interpolation import floors
from service.projection import from_lonlat, to_lonlat
from service.tiles import TileReader, tile_target
from service.warp import Target, ZoneMap, zone_at, zone_maps

GRIDS = tuple(archive_grid(Zone(number, south)) for number in range(1, 61) for south in (False, True))
MERCATOR = morecantile.tms.get("WebMercatorQuad")


def checked(target: Target, maps: tuple[ZoneMap, ...]) -> int:
    """Compare with one transform per pixel, where float64 can tell; returns how many pixels the maps fill."""
    x, y = np.meshgrid(target.xs, target.ys)
    lon, lat = Transformer.from_crs(target.crs, "EPSG:4326", always_xy=True).transform(x, y)
    number = np.clip(np.floor(((lon + 180) % 360) / 6) + 1, 1, 60)
    filled = np.zeros(x.size, bool)
    for part in maps:
        grid = part.grid
        mine = (number == grid.zone.number) & ((lat < 0) == grid.zone.south)
        east, north = Transformer.from_crs(target.crs, grid.crs, always_xy=True).transform(x[mine], y[mine])
        u, v = (grid.y0 - north) / 10, (east - grid.x0) / 10
        rows, cols = np.floor(u), np.floor(v)
        held = (rows >= 0) & (rows < grid.height) & (cols >= 0) & (cols < grid.width)
        assert (np.flatnonzero(mine)[held] == part.pixels).all()
        sure = (np.abs(u - np.rint(u)) > 1e-6)[held], (np.abs(v - np.rint(v)) > 1e-6)[held]
        assert (rows[held] == part.rows)[sure[0]].all()
        assert (cols[held] == part.cols)[sure[1]].all()
        assert sum(map(np.sum, sure)) >= 2 * len(part.pixels) - target.width - target.height
        assert not filled[part.pixels].any()
        filled[part.pixels] = True
    return int(filled.sum())


PLACES = {
    "field": (-88.7688, 44.2946), "zone border": (6.0, 52.0), "equator": (12.3, 0.0), "both": (12.0, 0.0),
    "antimeridian east": (179.999, -17.0), "antimeridian west": (-179.999, 68.0), "far north": (15.0, 83.5),
}  # fmt: skip


@pytest.mark.parametrize("z", [2, 6, 10, 13, 16, 20])
@pytest.mark.parametrize("place", PLACES)
def test_tiles_show_what_a_transform_of_each_pixel_says(place: str, z: int) -> None:
    tile = MERCATOR.tile(*PLACES[place], z)
    target = tile_target(MERCATOR, tile.x, tile.y, z)
    filled = checked(target, zone_maps(target, GRIDS))
    if abs(PLACES[place][1]) < 70 and z >= 6:
        assert filled == 256 * 256


HOMES = {
    "EuropeanETRS89_LAEAQuad": (-8, 25, 38, 65), "CanadianNAD83_LCC": (-140, -53, 42, 82),
    "NZTM2000Quad": (165, 185, -48, -34), "UPSArcticWGS84Quad": (-180, 180, 60, 83.9),
}  # fmt: skip


def a_tile(data: st.DataObject) -> tuple[morecantile.TileMatrixSet, tuple[int, int, int], float, float]:
    """Any tile of any scheme, by a place in it."""
    name = data.draw(st.sampled_from(SUPPORTED_TMS.list()))
    west, east, south, north = HOMES.get(name, (-179.9, 179.9, -79, 83))
    lon, lat = data.draw(st.floats(west, east)), data.draw(st.floats(south, north))
    tms = SUPPORTED_TMS.get(name)
    tile = tms.tile(lon if lon <= 180 else lon - 360, lat, data.draw(st.integers(3, min(tms.maxzoom, 22))))
    return tms, tile, lon, lat


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_so_it_is_anywhere_and_in_every_scheme(data: st.DataObject) -> None:
    tms, tile, lon, lat = a_tile(data)
    target = tile_target(tms, *tile)
    small = replace(target, width=80, height=70)
    checked(small, zone_maps(small, GRIDS))
    x, y = transformer("EPSG:4326", target.crs).transform(lon if lon <= 180 else lon - 360, lat)
    left, bottom, right, top = target.bounds
    assert left - 1e-6 <= x <= right + 1e-6
    assert bottom - 1e-6 <= y <= top + 1e-6


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_box_of_a_tile_in_degrees_holds_all_of_it(data: st.DataObject) -> None:
    tms, tile, _, _ = a_tile(data)
    target = tile_target(tms, *tile)
    west, south, east, north = lonlat_box(target)
    lon, lat = to_lonlat(target.crs, *(axis.ravel() for axis in np.meshgrid(target.xs[::15], target.ys[::15])))
    known = np.isfinite(lon) & np.isfinite(lat)
    off = (lon[known] - west + 1e-9) % 360
    assert (off <= east - west + 2e-9).all()
    assert (np.abs(lat[known] - (south + north) / 2) <= (north - south) / 2 + 1e-9).all()


def test_a_box_around_the_pole_has_all_meridians() -> None:
    west, south, east, north = lonlat_box(Target("EPSG:5041", (1.9e6, 1.8e6, 2.1e6, 2.1e6), 10, 10))
    assert (west, east, north) == (-180, 180, 90)
    assert 87 < south < 88


def test_whether_a_tile_touches_a_dataset_at_the_antimeridian_and_the_pole() -> None:
    polar = SUPPORTED_TMS.get("UPSArcticWGS84Quad")
    zealand = SUPPORTED_TMS.get("NZTM2000Quad")
    for tms, (west, south, east, north), z, there in (
        (polar, (-180.0, 80.0, -174.0, 82.0), 8, [(-177.0, 81.0), (-179.99, 80.5), (-174.1, 81.9)]),
        (polar, (-180.0, 80.0, 180.0, 84.0), 4, [(0.0, 90.0), (100.0, 83.0)]),
        (zealand, (-180.0, -45.0, -174.0, -43.0), 6, [(-177.0, -44.0), (-179.9, -44.0)]),
    ):
        reader = TileReader.__new__(TileReader)
        reader.tms, reader.bounds = tms, (west, south, east, north)
        for lon, lat in there:
            assert reader.tile_exists(*tms.tile(lon, lat, z))
        assert not reader.tile_exists(*tms.tile(west + 12, south, z)) or east == 180


@pytest.mark.parametrize("crs", ["EPSG:3035", "EPSG:32632", "EPSG:3995"])
def test_and_in_other_projections(crs: str) -> None:
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(11.9, 60.0)
    target = Target(crs, (x - 40_000, y - 30_000, x + 40_000, y + 30_000), 200, 150)
    assert checked(target, zone_maps(target, GRIDS)) == 200 * 150


def test_a_box_over_the_antimeridian_is_whole() -> None:
    target = Target("EPSG:4326", (179.5, -17.5, 180.5, -16.5), 120, 120)
    maps = zone_maps(target, GRIDS)
    assert {part.grid.zone.name for part in maps} == {"60S", "01S"}
    assert sum(len(part.pixels) for part in maps) == 120 * 120


@pytest.mark.parametrize("jump", [0, 1000])
def test_a_projection_that_blows_up_costs_time_but_not_truth(jump: int) -> None:
    """Cells that jump in the middle: interpolation cannot follow, so each pixel is computed."""
    xs, ys = np.linspace(0, 100, 64), np.linspace(100, 0, 64)

    def cells(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(x > 37.2, x + jump, x), np.where(y > 99, np.inf, y)

    u, v = floors(xs, ys, cells)
    x, y = np.meshgrid(xs, ys)
    assert (u == np.floor(np.where(x > 37.2, x + jump, x))).all()
    assert (v == np.where(y > 99, -1, np.floor(y))).all()


def test_a_center_exactly_on_an_edge_belongs_to_the_pixel_below_and_to_the_right() -> None:
    grid = archive_grid(Zone(31))
    left, top = grid.x0 + 25_000 * 10, grid.y0 - 350_000 * 10
    target = Target(grid.crs, (left - 5, top - 635, left + 635, top + 5), 64, 64)
    (part,) = zone_maps(target, (grid,))
    assert part.rows.reshape(64, 64)[:, 0].tolist() == list(range(350_000, 350_064))
    assert part.cols.reshape(64, 64)[0].tolist() == list(range(25_000, 25_064))


def test_few_transforms_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary tile takes some hundred transforms, not 65,536."""
    count = 0

    def cells(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal count
        count += np.size(x)
        east, north = Transformer.from_crs("EPSG:3857", "EPSG:32616", always_xy=True).transform(x, y)
        return north / 10, east / 10

    tile = MERCATOR.tile(*PLACES["field"], 13)
    target = tile_target(MERCATOR, tile.x, tile.y, 13)
    floors(target.xs, target.ys, cells)
    assert count < 500


def test_step_tells_how_large_a_picture_pixel_is() -> None:
    tile = MERCATOR.tile(*PLACES["field"], 13)
    target = tile_target(MERCATOR, tile.x, tile.y, 13)
    (part,) = zone_maps(target, GRIDS)
    metres = 2 * np.pi * 6_378_137 * np.cos(np.radians(44.2946)) / 2**13 / 256
    assert part.step == pytest.approx(metres / 10, rel=0.01)


def test_a_map_is_made_once_and_its_memory_is_counted() -> None:
    tile = MERCATOR.tile(*PLACES["field"], 13)
    target = tile_target(MERCATOR, tile.x, tile.y, 13)
    maps = zone_maps(target, GRIDS[:4] + GRIDS[30:32])
    before = warp.cache_use()
    assert zone_maps(tile_target(MERCATOR, tile.x, tile.y, 13), GRIDS[:4] + GRIDS[30:32]) is maps
    after = warp.cache_use()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
    assert after.bytes >= sum(part.nbytes for part in maps) == 256 * 256 * 12


@given(st.integers(1, 60), st.booleans(), st.floats(-6, 6), st.floats(-84, 84))
@settings(max_examples=40, deadline=None)
def test_utm_is_that_of_proj(number: int, south: bool, off: float, lat: float) -> None:
    crs, lon = Zone(number, south).epsg, np.array([number * 6 - 183 + off])
    expected = transformer("EPSG:4326", f"EPSG:{crs}").transform(lon, np.array([lat]))
    assert np.abs(np.array(from_lonlat(f"EPSG:{crs}", lon, np.array([lat]))) - expected).max() < 1e-7


def test_where_a_projection_has_no_answer_it_says_so() -> None:
    lon, lat = np.array([100.0, np.inf, np.nan, 3.0, 3.0]), np.array([0.0, 0.0, 0.0, np.nan, 90.0])
    east, north = from_lonlat("EPSG:32631", lon, lat)
    assert np.isfinite(east).tolist() == np.isfinite(north).tolist() == [False] * 4 + [True]


def test_places_beyond_180_degrees_wrap() -> None:
    assert zone_at(181, 10) == Zone(1)
    assert zone_at(-181, -10) == Zone(60, True)
    assert zone_at(180, 10) == Zone(60)


@pytest.mark.parametrize("bounds", [(0, 0, 0, 1), (1, 0, 0, 1), (0, np.nan, 1, 1), (0, 0, np.inf, 1)])
def test_what_is_no_box_is_refused(bounds: tuple[float, float, float, float]) -> None:
    with pytest.raises(InvalidInput):
        Target("EPSG:3857", bounds, 10, 10)
    with pytest.raises(InvalidInput):
        Target("EPSG:3857", (0, 0, 1, 1), 0, 10)


@pytest.mark.parametrize(
    "coordinates",
    [
        "abc",
        {"a": 1},
        7,
        None,
        [],
        [[]],
        ["abc"],
        [[1]],
        [[1, "b"]],
        [[True, False]],
        [[1, float("nan")]],
        [[1, 10**400]],
        [[1, 2], "x"],
    ],
)
def test_coordinates_that_are_none_are_refused(coordinates: object) -> None:
    with pytest.raises(InvalidInput, match="geometry"):
        geometry_bounds({"type": "Polygon", "coordinates": coordinates})


def test_a_geometry_is_bounded_in_depth_and_count() -> None:
    deep: list[object] = [1.0, 2.0]
    for _ in range(50):
        deep = [deep]
    with pytest.raises(InvalidInput, match="deep"):
        geometry_bounds({"coordinates": deep})
    for many in ([[]] * 100_000, [[1.0, 2.0]] * 100_000):
        with pytest.raises(LimitExceeded, match="vertices"):
            geometry_bounds({"coordinates": many})
    polygon = {"type": "MultiPolygon", "coordinates": [[[[1, 2], [3, 4], [5, 0]]]]}
    collection = {"geometries": [polygon, {"coordinates": [9, 9]}]}
    assert geometry_bounds({"type": "GeometryCollection", **collection}) == (1, 0, 9, 9)


def ring(west: float, east: float, south: float = 66, north: float = 67) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


@pytest.mark.parametrize(
    ("parts", "box"),
    [
        ([[ring(179, 180)], [ring(-180, -178)]], (179, 182)),
        ([[ring(-180, -178)], [ring(170, 180), ring(175, 176)]], (170, 182)),
        ([[ring(178.5, 179.5)], [ring(-179.5, -179)]], (178.5, 181)),
        ([[ring(-170, 170)]], (-170, 170)),
        ([[ring(0, 1)], [ring(90, 91)]], (0, 91)),
        ([[ring(-180, 0)], [ring(0, 180)]], (-180, 180)),
    ],
)
def test_a_geometry_cut_at_the_antimeridian_is_one_piece(parts: list[object], box: tuple[float, float]) -> None:
    """RFC 7946, 3.1.9: one half ends at 180 degrees, the other begins at -180."""
    geometry = {"type": "MultiPolygon", "coordinates": parts}
    collection = {
        "type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": part} for part in parts],
    }  # fmt: skip
    for whole in (geometry, collection):
        assert geometry_bounds(unbroken(whole)) == (box[0], 66, box[1], 67)
        assert geometry_bounds(unbroken(unbroken(whole))) == (box[0], 66, box[1], 67)
