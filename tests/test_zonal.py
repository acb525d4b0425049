"""Polygons to numbers: the same as taking every pixel whose centre lies in the polygon, one after the other."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.deadline import Deadline
from service.errors import LimitExceeded, Unavailable
from service.grid import Zone, ZoneGrid, archive_grid
from service.polygons import Polygon
from service.values import NOT_EMBEDDED, OUTSIDE, VALID, WATER, Vectors
from service.zonal import STATUSES, Summaries, summarised
from tests.fakes import MemoryStore
from tests.stores import YEAR, random_vectors, tiny_archive
from tests.test_polygons import brute_force, centres, metres_to_an_edge

HIGH, WIDE, DIMS = 90, 120, 4
MOST = 2_000_000


def later() -> Deadline:
    return Deadline.after(60)


def speckled(seed: int) -> Vectors:
    """Valid pixels, water and holes."""
    vectors = random_vectors((HIGH, WIDE), DIMS, seed)
    vectors.status[:, :] = np.random.default_rng(seed).choice([VALID, VALID, WATER, NOT_EMBEDDED], (HIGH, WIDE))
    vectors.codes[vectors.status != VALID] = 0
    vectors.scales[vectors.status != VALID] = 0
    return vectors


def store_at(lon: float, lat: float) -> MemoryStore:
    """Data of every zone that meets at a place, around it: what reaches over a zone's edge belongs to the other."""
    grids = {
        zone: archive_grid(zone)
        for zone in {Zone.of(lon + x, lat + y) for x in (-0.001, 0.001) for y in (-0.001, 0.001)}
    }
    store = None
    for seed, (zone, grid) in enumerate(grids.items()):
        row, col = grid.from_lonlat(np.array([lon]), np.array([lat]))
        at = max(0, int(row[0]) - HIGH // 2), int(col[0]) - WIDE // 2
        vectors = speckled(seed)
        if store is None:
            store = MemoryStore(vectors.codes, vectors.scales, zone, YEAR, *at, status=vectors.status)
        else:
            store.add(vectors.codes, vectors.scales, zone, YEAR, *at, status=vectors.status)
    assert store is not None
    return store


def every_pixel(store: MemoryStore, reach: int = 300) -> tuple[Any, ...]:
    """(lon, lat, status, vectors) of all pixels around the data, each zone's own only."""
    found = []
    for part in store.parts:
        rows, cols = slice(part.row0 - reach, part.row0 + reach), slice(part.col0 - reach, part.col0 + reach)
        lon, lat = centres(part.grid, rows, cols)
        west, south, east, north = part.grid.zone.bounds
        own = (lon >= west) & (lon < east) & (lat >= south) & (lat < north)
        read = store.read(part.grid.zone, YEAR, rows, cols)
        found.append((lon[own], lat[own], read.status[own], read.dequantised()[own]))
    return tuple(np.concatenate(columns) for columns in zip(*found, strict=True))


corner = st.tuples(st.floats(-1, 1), st.floats(-1, 1))
ring = st.lists(corner, min_size=3, max_size=7, unique=True)
PLACES = [(6.0, 52.0), (3.0, 0.0), (12.0, -0.0005), (152.0, -33.0)]
STORES = {place: store_at(*place) for place in PLACES}
PIXELS = {place: every_pixel(store) for place, store in STORES.items()}


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(PLACES), st.lists(st.lists(ring, min_size=1, max_size=2), min_size=1, max_size=3), st.data())
def test_it_is_the_mean_and_spread_of_each_pixel_whose_centre_lies_in_it(
    place: tuple[float, float], drawn: list[Any], data: st.DataObject
) -> None:
    """Outlines and holes of any form, over zone borders and the equator; polygons of one request may overlap."""
    reach = 10.0 ** data.draw(st.floats(-4, -2.2))
    shapes = []
    for rings in drawn:
        closed = [[[place[0] + x * reach, place[1] + 0.7 * y * reach] for x, y in [*one, one[0]]] for one in rings]
        shapes.append(Polygon.of_geojson({"type": "Polygon", "coordinates": closed}, "p"))
    found = summarised(STORES[place], YEAR, shapes, most=MOST, deadline=later())
    lon, lat, status, vectors = PIXELS[place]
    for n, shape in enumerate(shapes):
        inside = brute_force(shape, lon, lat)
        near = np.abs(lon - place[0]) < 1.1 * reach
        if (metres_to_an_edge(shape, lon[near], lat[near]) < 0.002).any():
            continue
        assert found.tally[n].tolist() == [int((status[inside] == one).sum()) for one in STATUSES]
        mine = vectors[inside & (status == VALID)].astype(float)
        if len(mine):
            np.testing.assert_allclose(found.mean[n], mine.mean(axis=0), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(found.sd[n], mine.std(axis=0), rtol=1e-9, atol=1e-12)
        else:
            for numbers in (found.mean[n], found.sd[n], found.observed[n]):
                assert np.isnan(numbers).all()


def box(west: float, south: float, east: float, north: float) -> Polygon:
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return Polygon.of_geojson({"type": "Polygon", "coordinates": [ring]}, "p")


def tallied(found: Summaries, n: int, status: int) -> int:
    return int(found.tally[n, STATUSES.index(status)])


def test_blocks_are_read_once_and_only_where_polygons_touch_them() -> None:
    store = STORES[6.0, 52.0]
    store.reads.clear()
    one, other = box(5.9995, 51.999, 6.0, 52.0), box(5.9993, 51.9995, 5.9998, 52.0002)
    found = summarised(store, YEAR, [one, other], most=MOST, deadline=later())
    names = [(zone, rows.start // 256, cols.start // 256) for zone, _, rows, cols in store.reads]
    assert len(names) == len(set(names))
    assert sum((rows.stop - rows.start) * (cols.stop - cols.start) for _, _, rows, cols in store.reads) < 300
    assert found.tally.sum(axis=1).min() > 20


def test_means_over_many_blocks_hold_every_pixel_and_its_counts(tmp_path: Any) -> None:
    """Whole blocks, edges of blocks, and what lies around them without data."""
    tiny = tiny_archive(tmp_path, random_vectors((600, 560), 8))
    tiny.counts.s2[...] = 0
    (west, south), (east, north) = tiny.lonlat(599, 0), tiny.lonlat(0, 559)
    around = box(west - 0.001, south - 0.001, east + 0.001, north + 0.001)
    found = summarised(tiny.store, YEAR, [around], most=MOST, deadline=later(), dims=8)
    values = tiny.vectors.dequantised().reshape(-1, 8).astype(float)
    assert tallied(found, 0, VALID) == found.valid[0] == len(values)
    assert tallied(found, 0, NOT_EMBEDDED) > 10_000
    np.testing.assert_allclose(found.mean[0], values.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.sd[0], values.std(axis=0), rtol=1e-9)
    assert found.observed[0].tolist() == [[40] * 3, [30] * 3, [20] * 3]


def test_a_constant_has_no_spread_at_all(tmp_path: Any) -> None:
    same = random_vectors((200, 240), 8)
    same.codes[...], same.scales[...] = same.codes[0, 0], same.scales[0, 0]
    tiny = tiny_archive(tmp_path, same)
    (west, south), (east, north) = tiny.lonlat(150, 20), tiny.lonlat(20, 150)
    found = summarised(tiny.store, YEAR, [box(west, south, east, north)], most=MOST, deadline=later())
    np.testing.assert_allclose(found.mean[0], same.dequantised()[0, 0], rtol=1e-15)
    assert np.abs(found.sd).max() < 1e-15


def test_what_no_grid_holds_is_outside() -> None:
    """Beyond the store's zones, and beyond the edge of a small grid."""
    grid = ZoneGrid(Zone(31), 500_000.0, 5_800_000.0, 100, 100)
    vectors = random_vectors((100, 100), 4)
    store = MemoryStore(vectors.codes, vectors.scales, grid, YEAR, 0, 0)
    lon, lat = (float(one[0]) for one in grid.to_lonlat(np.array([50.0]), np.array([50.0])))
    here, elsewhere = box(lon - 0.02, lat - 0.01, lon + 0.02, lat + 0.01), box(-60.0, -10.0, -59.99, -9.99)
    found = summarised(store, YEAR, [here, elsewhere], most=MOST, deadline=later())
    assert tallied(found, 0, VALID) == 10_000
    assert tallied(found, 0, OUTSIDE) == found.tally[0].sum() - 10_000 > 10_000
    assert tallied(found, 1, OUTSIDE) == found.tally[1].sum() == pytest.approx(found.tally[1].sum(), abs=0)
    assert abs(int(found.tally[1].sum()) - elsewhere.square_metres / 100) < 0.01 * found.tally[1].sum()


def test_what_is_too_large_is_refused_before_anything_is_read() -> None:
    store = STORES[6.0, 52.0]
    store.reads.clear()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        with pytest.raises(LimitExceeded, match=r"polygon_pixels"):
            summarised(store, YEAR, [box(-85, -70, 85, 80)], most=MOST, deadline=later())
        times.append(time.perf_counter() - began)
    assert min(times) < 0.05
    bow = Polygon.of_geojson(
        {"type": "Polygon", "coordinates": [[[0, -30], [60, 30], [60, -30], [0, 30], [0, -30]]]}, "p"
    )
    for shapes, why in (([bow], "blocks"), ([box(5, 51, 5.2, 51.1)], "polygon_pixels")):
        with pytest.raises(LimitExceeded, match=why):
            summarised(store, YEAR, shapes, most=10_000, deadline=later())
    assert not store.reads


def test_work_ends_between_blocks_when_its_time_is_over() -> None:
    store = STORES[6.0, 52.0]
    store.reads.clear()
    with pytest.raises(Unavailable, match=r"0 seconds.*limit `seconds`"):
        summarised(store, YEAR, [box(5.9995, 51.999, 6.0, 52.0)], most=MOST, deadline=Deadline.after(0))
    assert not store.reads
