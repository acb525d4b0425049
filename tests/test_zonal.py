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


@settings(max_examples=40, deadline=None)
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
            np.testing.assert_allclose(found.mean[n], mine.mean(axis=0), rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(found.sd[n], mine.std(axis=0), rtol=1e-6, atol=1e-6)
        else:
            assert np.isnan(found.mean[n]).all() and np.isnan(found.sd[n]).all() and np.isnan(found.observed[n]).all()


def box(west: float, south: float, east: float, north: float) -> Polygon:
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return Polygon.of_geojson({"type": "Polygon", "coordinates": [ring]}, "p")


def tallied(found: Summaries, n: int, status: int) -> int:
    return int(found.tally[n, STATUSES.index(status)])
