"""Polygons on zone grids: the same pixels as asking for each centre whether it lies in the polygon, in degrees."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidInput, LimitExceeded
from service.grid import Zone, ZoneGrid, archive_grid
from service.polygons import GridPolygon, Polygon
from service.values import BLOCK, BoolArray, Float64Array

EVERYWHERE = (-180.0, -90.0, 180.0, 90.0)
SIDE = 150
PLACES = [
    ("31N", 3.0, 52.0),
    ("31N", 0.001, 70.0),
    ("01N", -179.99, 10.0),
    ("56S", 152.0, -33.0),
    ("60S", 179.9, -0.02),
]


def polygon(*rings: Any, field: str = "p") -> Polygon:
    """A polygon of rings that need not be closed."""
    closed = [[*map(list, ring), list(ring[0])] for ring in rings]
    return Polygon.of_geojson({"type": "Polygon", "coordinates": closed}, field)


def brute_force(shape: Polygon, lon: Float64Array, lat: Float64Array) -> BoolArray:
    """Even-odd, one edge after the other, in degrees and float64."""
    found = np.zeros(lon.shape, bool)
    for rings in shape.parts:
        inside = np.zeros(lon.shape, bool)
        for ring in rings:
            for (x0, y0), (x1, y1) in pairwise(ring):
                if y0 != y1:
                    inside ^= ((y0 <= lat) != (y1 <= lat)) & (lon > x0 + (lat - y0) * (x1 - x0) / (y1 - y0))
        found |= inside
    return found


def metres_to_an_edge(shape: Polygon, lon: Float64Array, lat: Float64Array) -> Float64Array:
    """How far each place lies from the nearest edge, in degrees made metres at each place."""
    east, north = 111_320 * np.cos(np.radians(lat)), 110_574.0
    nearest = np.full(lon.shape, np.inf)
    for ring in (ring for rings in shape.parts for ring in rings):
        for (x0, y0), (x1, y1) in pairwise(ring):
            u, v, a, b = (x1 - x0) * east, (y1 - y0) * north, (lon - x0) * east, (lat - y0) * north
            length = np.maximum(u * u + v * v, 1e-12)
            share = np.clip((a * u + b * v) / length, 0, 1)
            nearest = np.minimum(nearest, np.hypot(a - share * u, b - share * v))
    return nearest


def window(grid: ZoneGrid, lon: float, lat: float, side: int = SIDE) -> tuple[slice, slice]:
    row, col = grid.cell(lon, lat)
    return slice(max(0, row - side // 2), row + side // 2), slice(col - side // 2, col + side // 2)


def centres(grid: ZoneGrid, rows: slice, cols: slice) -> tuple[Float64Array, Float64Array]:
    row, col = np.mgrid[rows, cols] + 0.5
    return grid.to_lonlat(row, col)


def compare(shape: Polygon, zone: str, lon: float, lat: float) -> int:
    """Pixels in the polygon, after every pixel was compared but those with an edge within 2 mm of their centre."""
    grid = archive_grid(Zone.parse(zone))
    rows, cols = window(grid, lon, lat)
    on = shape.on(grid, EVERYWHERE, "p")
    x, y = centres(grid, rows, cols)
    west, south, east, north = grid.zone.bounds
    own = (x >= west) & (x < east) & (y >= south) & (y < north)
    truth = brute_force(shape, x, y) & own
    found = on.mask(rows, cols) if on else np.zeros_like(truth)
    wrong = found != truth
    borders = np.minimum(np.abs(x - west), np.abs(x - east)) * 111_320 * np.cos(np.radians(y))
    close = np.minimum(metres_to_an_edge(shape, x, y), np.minimum(borders, np.abs(y) * 110_574)) < 0.002
    assert not (wrong & ~close).any()
    return int(found.sum())


corner = st.tuples(st.floats(-1, 1), st.floats(-1, 1))
ring = st.lists(corner, min_size=3, max_size=9, unique=True)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PLACES), st.lists(ring, min_size=1, max_size=3), st.floats(-3.3, 0.3))
def test_pixels_are_those_whose_centre_lies_in_it_in_degrees(place: Any, rings: list[Any], size: float) -> None:
    """Outlines and holes that cross each other and themselves, from 100 m to hundreds of kilometres across."""
    zone, lon, lat = place
    reach = 10.0**size
    drawn = [[(max(-180, min(180, lon + x * reach)), lat + 0.6 * y * reach) for x, y in one] for one in rings]
    compare(polygon(*drawn), zone, lon, lat)


@settings(max_examples=20, deadline=None)
@given(st.lists(ring, min_size=2, max_size=3))
def test_what_lies_in_any_polygon_of_several_is_in(rings: list[Any]) -> None:
    parts = [[[[3 + x / 100, 52 + y / 150] for x, y in [*one, one[0]]]] for one in rings]
    compare(Polygon.of_geojson({"type": "MultiPolygon", "coordinates": parts}, "p"), "31N", 3, 52)


def test_edges_follow_the_parallel_not_the_grid() -> None:
    """60 km along 70 N, off the middle of a zone: the straight line on the grid would be 50 m away."""
    shape = polygon([(0.2, 70.0), (1.8, 70.0), (1.8, 70.3), (0.2, 70.3)])
    assert compare(shape, "31N", 1.0, 70.0) > 0
    grid = archive_grid(Zone(31))
    rows, cols = window(grid, 1.0, 70.0)
    ends = np.stack(grid.from_lonlat(np.array([0.2, 1.8, 1.8, 0.2, 0.2]), np.array([70, 70, 70.3, 70.3, 70])), axis=1)
    straight = GridPolygon((np.concatenate([ends[:-1], ends[1:]], axis=1),))
    on = shape.on(grid, EVERYWHERE, "p")
    assert on is not None
    assert (on.mask(rows, cols) != straight.mask(rows, cols)).sum() > 4 * SIDE


def test_a_hole_is_out_and_an_island_in_it_is_in() -> None:
    def square(side: float) -> list[tuple[float, float]]:
        return [(3 - side, 52 - side), (3 + side, 52 - side), (3 + side, 52 + side), (3 - side, 52 + side)]

    whole = compare(polygon(square(0.008)), "31N", 3, 52)
    hole = compare(polygon(square(0.004)), "31N", 3, 52)
    island = compare(polygon(square(0.002)), "31N", 3, 52)
    assert compare(polygon(square(0.008), square(0.004), square(0.002)), "31N", 3, 52) == whole - hole + island


@pytest.mark.parametrize(
    ("zones", "ring"),
    [
        (("31N", "32N"), [(5.99, 52.0), (6.01, 52.0), (6.01, 52.01), (5.99, 52.01)]),
        (("31N", "31S"), [(3.0, -0.005), (3.01, -0.005), (3.01, 0.005), (3.0, 0.005)]),
    ],
)
def test_over_two_zones_each_pixel_is_taken_from_its_own(zones: tuple[str, str], ring: Any) -> None:
    """Each zone's part is compared by `compare`; together they cover the ground once."""
    shape, lon, lat = polygon(ring), sum(x for x, _ in ring) / 4, sum(y for _, y in ring) / 4
    areas = []
    for zone in zones:
        west, south, east, north = Zone.parse(zone).bounds
        x, y = np.clip(lon, west + 0.005, east - 0.005), np.clip(lat, south + 0.002, north - 0.002)
        areas.append(100.0 * compare(shape, zone, float(x), float(y)))
    (x0, y0), (x1, y1) = ring[0], ring[2]
    ground = (x1 - x0) * 111_320 * np.cos(np.radians(lat)) * (y1 - y0) * 110_574
    assert min(areas) > 0.3 * ground
    assert sum(areas) == pytest.approx(ground, rel=0.02)


@settings(max_examples=40, deadline=None)
@given(st.lists(ring, min_size=1, max_size=2), st.floats(-2, 0))
def test_blocks_are_called_whole_or_untouched_only_if_they_are(rings: list[Any], size: float) -> None:
    drawn = [[(3 + x * 10**size, 52 + 0.6 * y * 10**size) for x, y in one] for one in rings]
    grid = archive_grid(Zone(31))
    on = polygon(*drawn).on(grid, EVERYWHERE, "p")
    if on is None:
        return
    row, col = grid.cell(3, 52)
    rows, cols = (
        axis.ravel() for axis in np.mgrid[row // BLOCK - 2 : row // BLOCK + 3, col // BLOCK - 2 : col // BLOCK + 3]
    )
    near, whole = on.touched(rows, cols)
    for r, c, is_near, is_whole in zip(rows, cols, near, whole, strict=True):
        mask = on.mask(slice(r * BLOCK, (r + 1) * BLOCK), slice(c * BLOCK, (c + 1) * BLOCK))
        assert is_near or not mask.any()
        assert mask.all() or not is_whole
        assert is_near or not is_whole


def test_cutting_it_to_where_pixels_are_asked_for_changes_none_of_them() -> None:
    turns = zip(np.linspace(0, 6, 40), [1, 0.001] * 20, strict=True)
    star = [(3 + 4 * np.cos(turn) * far, 52 + 3 * np.sin(turn) * far) for turn, far in turns]
    shape, grid = polygon(star), archive_grid(Zone(31))
    rows, cols = window(grid, 3.0, 52.0)
    x, y = centres(grid, rows, cols)
    box = (float(x.min()) - 0.01, float(y.min()) - 0.01, float(x.max()) + 0.01, float(y.max()) + 0.01)
    everywhere, cut = shape.on(grid, EVERYWHERE, "p"), shape.on(grid, box, "p")
    assert everywhere is not None
    assert cut is not None
    assert (everywhere.mask(rows, cols) == cut.mask(rows, cols)).all()
    assert sum(map(len, cut.parts)) < sum(map(len, everywhere.parts)) / 10


def test_what_lies_elsewhere_has_no_part_in_a_zone() -> None:
    grid = archive_grid(Zone(31))
    assert polygon([(20, 10), (21, 10), (21, 11)]).on(grid, EVERYWHERE, "p") is None
    assert polygon([(3, 10), (4, 10), (4, 11)]).on(grid, (3, 50, 4, 51), "p") is None


@pytest.mark.parametrize(
    ("coordinates", "error", "why"),
    [
        ([[[0, 0], [1, 0], [1, 1], [0, 1]]], InvalidInput, "not closed"),
        ([[[0, 0], [1, 0], [0, 0]]], InvalidInput, "not closed"),
        ([[[0, 0], [1, 0], [1, 91], [0, 0]]], InvalidInput, "no longitude"),
        ([[[0, 0], [181, 0], [1, 1], [0, 0]]], InvalidInput, "no longitude"),
        ([[[0, 0], [float("nan"), 0], [1, 1], [0, 0]]], InvalidInput, "no longitude"),
        ([[[179, 0], [-179, 0], [-179, 1], [179, 0]]], InvalidInput, "180 degrees"),
        ([[[n / 1000, n % 2] for n in range(1001)] + [[0, 0]]], LimitExceeded, "1,002 positions"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(coordinates: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why) as refused:
        Polygon.of_geojson({"type": "Polygon", "coordinates": coordinates}, "polygons[3]")
    assert refused.value.field == "polygons[3]"  # type: ignore[attr-defined]


def test_heights_are_ignored_and_bounds_are_those_of_all_parts() -> None:
    parts = [[[[0, 0, 9], [1, 0, 9], [1, 1, 9], [0, 0, 9]]], [[[5, 5], [6, 5], [6, 7], [5, 5]]]]
    assert Polygon.of_geojson({"type": "MultiPolygon", "coordinates": parts}, "p").bounds == (0, 0, 6, 7)


def test_edges_that_are_too_long_together_are_refused() -> None:
    zigzag = [(n % 2 * 5.9 + 0.05, 40 + n / 25) for n in range(990)]
    with pytest.raises(LimitExceeded, match="too long"):
        polygon(zigzag).on(archive_grid(Zone(31)), EVERYWHERE, "p")
