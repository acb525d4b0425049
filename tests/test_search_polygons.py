"""Polygons to search in, to leave out and to average: judged by brute force over every pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.catalogue import Dataset
from api.likeness import examples
from api.settings import Settings
from indexing import areas
from indexing.ids import pixel_ids
from indexing.search import Searcher
from service.errors import LimitExceeded
from service.grid import Zone, archive_grid
from service.polygons import GridPolygon, Polygon
from service.queries import Query
from service.values import VALID, WATER, Area, BoolArray
from tests.conftest import client_of
from tests.fakes import Datasets, MemoryStore
from tests.stores import random_vectors
from tests.test_indexing import YEAR
from tests.test_polygons import brute_force, polygon
from tests.test_search import ask, by_brute_force, query_at

NOWHERE = Path("/nonexistent")
SEARCH = "/datasets/tiny/2024/search"


def star(store: MemoryStore, reach: float = 120, middle: float = 150) -> tuple[Polygon, BoolArray]:
    """A star with a hole around the middle of a scene, and which pixels have their centre in it."""
    part = store.parts[0]
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    far = np.where(np.arange(24) % 2, 0.4, 1) * reach
    rings = [(middle + r * np.sin(turns), middle + r * np.cos(turns)) for r in (far, np.full(24, reach / 6))]
    corners = [part.grid.to_lonlat(part.row0 + rows, part.col0 + cols) for rows, cols in rings]
    shape = polygon(*[list(zip(lon.tolist(), lat.tolist(), strict=True)) for lon, lat in corners])
    height, width = part.vectors.status.shape
    rows, cols = np.mgrid[0:height, 0:width] + 0.5
    return shape, brute_force(shape, *part.grid.to_lonlat(rows + part.row0, cols + part.col0))


@pytest.mark.parametrize("exact_blocks", [64, 0])
def test_hits_in_a_polygon_are_those_brute_force_finds_there(
    shared: MemoryStore, built: Path, exact_blocks: int
) -> None:
    """With few blocks by scanning, else from the index: never a pixel outside, none inside lost."""
    searcher = Searcher(shared, "demo", built, exact_blocks=exact_blocks)
    for reach in (120, 30, 400):
        shape, inside = star(shared, reach)
        assert 200 < inside.sum() < inside.size
        query = query_at(shared, 250, 60)
        result = searcher.search(ask(query, 60, inside=shape))
        truth = by_brute_force(shared, query, 60, inside)
        found = [(hit.row, hit.col) for hit in result.hits]
        part = shared.parts[0]
        assert all(inside[row - part.row0, col - part.col0] for row, col in found)
        assert len(found) == len(truth)
        assert len(set(found) & set(truth)) >= (len(truth) if exact_blocks else 0.95 * len(truth))
        assert (result.engine, result.recall) == (("exact", 1.0) if exact_blocks else ("index", None))


@pytest.mark.parametrize("exact_blocks", [64, 0])
def test_box_polygon_and_what_is_left_out_hold_together(shared: MemoryStore, built: Path, exact_blocks: int) -> None:
    searcher = Searcher(shared, "demo", built, exact_blocks=exact_blocks)
    (shape, inside), (other, out) = star(shared), star(shared, 60, 170)
    part = shared.parts[0]
    lon, lat = part.grid.to_lonlat(part.row0 + np.array([200.0, 80]), part.col0 + np.array([90.0, 260]))
    area = Area(float(lon[0]), float(lat[0]), float(lon[1]), float(lat[1]))
    rows, cols = np.mgrid[0:300, 0:300] + 0.5
    x, y = part.grid.to_lonlat(rows + part.row0, cols + part.col0)
    boxed = (x >= area.west) & (x <= area.east) & (y >= area.south) & (y <= area.north)
    origin = np.array([part.row0, part.col0])
    own = np.argwhere(inside & boxed & part.vectors.valid)[:1] + origin
    away = np.argwhere(out)[:1] + origin
    ids = np.concatenate([pixel_ids(Zone(31), *place.T) for place in (own, away)])
    query = query_at(shared, *(own[0] - origin))
    for keep, options in (
        (inside & boxed & ~out, {"area": area, "inside": shape, "outside": (other,)}),
        (~out, {"outside": (other,)}),
        (~out & ~inside, {"outside": (other, shape)}),
    ):
        result = searcher.search(ask(query, 40, own=ids, **options))
        truth = by_brute_force(shared, query, 40, keep)
        found = [(hit.row, hit.col) for hit in result.hits]
        assert all(keep[row - part.row0, col - part.col0] for row, col in found)
        assert found[0] == truth[0]
        assert len(set(found) & set(truth)) >= 0.95 * len(truth)


def test_a_polygon_with_nothing_in_it_has_no_hits(shared: MemoryStore, built: Path) -> None:
    part = shared.parts[0]
    lon, lat = part.grid.to_lonlat(part.row0 + np.array([0.0, 20]), part.col0 + np.array([0.0, 30]))
    bare = polygon([(lon[0], lat[0]), (lon[1], lat[0]), (lon[1], lat[1]), (lon[0], lat[1])])
    for exact_blocks in (64, 0):
        searcher = Searcher(shared, "demo", built, exact_blocks=exact_blocks)
        for shape in (bare, polygon([(100, 10), (101, 10), (101, 11)]), polygon([(3, 52), (4, 52), (3.5, 52)])):
            assert searcher.search(ask(query_at(shared, 90, 90), 5, inside=shape)).hits == ()


def test_over_two_zones_hits_and_means_come_from_each_pixels_own() -> None:
    """Both zones hold the ground on either side of 6 E; what each holds beyond its own zone does not count."""
    store: MemoryStore | None = None
    for number, zone in enumerate(("31N", "32N")):
        grid = archive_grid(Zone.parse(zone))
        row, col = grid.cell(6.0, 52.0)
        vectors = random_vectors((60, 60), 16, seed=number)
        if store is None:
            store = MemoryStore(vectors.codes, vectors.scales, grid, YEAR, row - 30, col - 30)
        else:
            store.add(vectors.codes, vectors.scales, grid, YEAR, row - 30, col - 30)
    assert store is not None
    shape = polygon([(5.998, 51.999), (6.002, 51.999), (6.002, 52.001), (5.998, 52.001)])
    units, places = [], set()
    for part in store.parts:
        rows, cols = np.mgrid[0:60, 0:60] + 0.5
        lon, lat = part.grid.to_lonlat(rows + part.row0, cols + part.col0)
        west, _, east, _ = part.grid.zone.bounds
        held = brute_force(shape, lon, lat) & (lon >= west) & (lon < east)
        wide = part.vectors.codes[held].astype(np.float64)
        units.append(wide / np.linalg.norm(wide, axis=1, keepdims=True))
        places |= {(part.grid.zone.name, *at) for at in (np.argwhere(held) + np.array([part.row0, part.col0])).tolist()}
    every = np.concatenate(units)
    assert min(map(len, units)) > 150
    searcher = Searcher(store, "demo", NOWHERE)
    average = searcher.average(YEAR, shape, 10_000, "polygons[0]")
    assert (average.pixels, average.inside) == (len(every), len(every))
    np.testing.assert_allclose(average.vector, every.mean(axis=0), atol=1e-7)
    hits = searcher.search(ask(Query.of(store.identity, average.vector), 5000, inside=shape)).hits
    assert {(hit.zone.name, hit.row, hit.col) for hit in hits} == places
    assert len(hits) == len(places)


def test_a_mean_is_that_of_the_unit_vectors_of_the_valid_pixels(shared: MemoryStore) -> None:
    shape, inside = star(shared, 240, 90)
    part = shared.parts[0]
    wide = part.vectors.codes[inside & part.vectors.valid].astype(np.float64)
    average = Searcher(shared, "demo", NOWHERE).average(YEAR, shape, 100_000, "p")
    assert (average.pixels, average.inside) == (len(wide), average.inside)
    assert inside.sum() > average.pixels, "part of it holds no data"
    np.testing.assert_allclose(
        average.vector, (wide / np.linalg.norm(wide, axis=1, keepdims=True)).mean(axis=0), atol=1e-7
    )
    with pytest.raises(LimitExceeded, match="over 1,000 pixels") as refused:
        Searcher(shared, "demo", NOWHERE).average(YEAR, shape, 1000, "polygons[2]")
    assert refused.value.field == "polygons[2]"
    big = polygon([(0.1, 40), (5.9, 40), (5.9, 60), (0.1, 60)])
    assert Searcher(shared, "demo", NOWHERE).average(YEAR, big, 600_000, "p").pixels == 300 * 300 - 30 * 40


# Over HTTP


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    vectors = random_vectors((200, 200), 16)
    vectors.status[:20] = WATER
    vectors.codes[:20], vectors.scales[:20] = 0, 0
    row, col = archive_grid(Zone(31)).cell(3, 52)
    store = MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, row, col, status=vectors.status)
    client = client_of(Settings(home=tmp_path_factory.mktemp("home"), catalogue=Path("none.toml")))
    client.app.state.smalti.datasets = Datasets({"tiny": Dataset("tiny", store, "Tiny", "CC0")})  # type: ignore[attr-defined]
    client.store = store  # type: ignore[attr-defined]
    return client


def square(client: TestClient, top: float, left: float, side: float) -> dict[str, Any]:
    """A GeoJSON square of pixels."""
    part = client.store.parts[0]  # type: ignore[attr-defined]
    rows = part.row0 + top + np.array([0, 0, side, side, 0.0])
    lon, lat = part.grid.to_lonlat(rows, part.col0 + left + np.array([0, side, side, 0, 0.0]))
    return {"type": "Polygon", "coordinates": [[[x, y] for x, y in zip(lon.tolist(), lat.tolist(), strict=True)]]}


def test_a_polygon_is_one_example_and_can_be_left_out(client: TestClient) -> None:
    part = client.store.parts[0]  # type: ignore[attr-defined]
    shape = square(client, 99.9, 49.9, 10.2)
    wide = part.vectors.codes[100:110, 50:60].reshape(-1, 16).astype(np.float64)
    mean = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).mean(axis=0)
    saved = client.post("/queries", json={"dataset": "tiny", "window": "2024", "polygons": [shape]}).json()
    assert (saved["wanted"], saved["unwanted"]) == (1, 0)
    np.testing.assert_allclose(client.get(f"/queries/{saved['id']}").json()["wanted"], [mean], atol=1e-6)
    found = client.post(SEARCH, json={"polygons": [shape], "k": 900}).json()
    assert found["query"] == saved["id"]
    truth = by_brute_force(client.store, Query.of(client.store.identity, mean.astype(np.float32)), 900)  # type: ignore[attr-defined]
    inside = {(part.row0 + i, part.col0 + j) for i in range(100, 110) for j in range(50, 60)}
    assert inside & set(truth), "some of its own pixels are among the best"

    def places(answer: Any) -> list[tuple[int, int]]:
        return [part.grid.cell(*feature["geometry"]["coordinates"]) for feature in answer["features"]]

    assert places(found) == truth
    left_out = client.post(SEARCH, json={"polygons": [shape], "k": 100, "exclude_examples": True}).json()
    assert places(left_out) == [place for place in truth if place not in inside][:100]
    lon, lat = part.grid.to_lonlat(part.row0 + np.array([50.5]), part.col0 + np.array([50.5]))
    three = {"polygons": [shape, shape], "points": [[float(lon[0]), float(lat[0])]]}
    both = client.post("/queries", json=three | {"dataset": "tiny", "window": "2024"})
    assert both.json()["wanted"] == 3


def test_within_holds_every_hit_and_may_hold_none(client: TestClient) -> None:
    part = client.store.parts[0]  # type: ignore[attr-defined]
    vector = {"vectors": [[1.0] * 16], "model": str(client.store.identity), "k": 900}  # type: ignore[attr-defined]
    several = {"type": "MultiPolygon", "coordinates": [square(client, 99.9, 49.9, 10.2)["coordinates"],
                                                       square(client, 29.9, 9.9, 5.2)["coordinates"]]}  # fmt: skip
    answer = client.post(SEARCH, json=vector | {"within": several}).json()
    assert (len(answer["features"]), answer["engine"]) == (125, "exact")
    saved = client.post("/queries", json={name: vector[name] for name in ("vectors", "model")}).json()["id"]
    again = client.post(SEARCH, json={"query": saved, "k": 900, "within": several}).json()
    assert again["features"] == answer["features"]
    lon, lat = part.grid.to_lonlat(part.row0 + np.array([105.0, 99]), part.col0 + np.array([49.0, 61]))
    box = [float(lon[0]), float(lat[0]), float(lon[1]), float(lat[1])]
    boxed = client.post(SEARCH, json=vector | {"within": several, "bbox": box})
    assert 40 <= len(boxed.json()["features"]) <= 60
    for nothing in (square(client, 2, 2, 10), square(client, 900, 900, 10)):
        assert client.post(SEARCH, json=vector | {"within": nothing}).json()["features"] == []


def test_polygons_without_a_vector_say_why(client: TestClient) -> None:
    good = square(client, 99.9, 49.9, 10.2)
    for bad, why in (
        (square(client, 2.2, 2.2, 9.6), "none of its 100 pixels holds a vector in 2024: water"),
        (square(client, 900, 900, 10), "holds the centre of no pixel"),
        (square(client, 100.1, 50.1, 0.2), "holds the centre of no pixel"),
    ):
        answer = client.post(SEARCH, json={"polygons": [good, bad]})
        assert (answer.status_code, answer.json()["field"]) == (404, "polygons[1]"), answer.text
        assert why in answer.json()["detail"]


def test_what_cannot_be_or_is_too_much_is_refused_by_name(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    good = square(client, 99.9, 49.9, 10.2)
    ring = good["coordinates"][0]
    long = {"type": "Polygon", "coordinates": [[[3 + n / 1e6, 52 + n % 2 / 1000] for n in range(1500)] + [[3, 52]]]}
    across = {"type": "Polygon", "coordinates": [[[179, 0], [-179, 0], [-179, 1], [179, 0]]]}
    vector = {"vectors": [[1.0] * 16], "model": str(client.store.identity)}  # type: ignore[attr-defined]
    for body, status, field in (
        ({"polygons": [good, long]}, 413, "polygons[1]"),
        (vector | {"within": long}, 413, "within"),
        (vector | {"within": across}, 422, "within"),
        (vector | {"within": {"type": "Polygon", "coordinates": [ring[:-1]]}}, 422, "within"),
        (vector | {"within": {"type": "Polygon", "coordinates": [[*ring[:-1], [500, 0], ring[0]]]}}, 422, "within"),
        ({"polygons": [good], "query": "0" * 20}, 422, "query"),
    ):
        answer = client.post(SEARCH, json=body)
        assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text
    empty = {"type": "Polygon", "coordinates": []}
    for geometry in ({"type": "Point", "coordinates": [3, 52]}, empty, {}, good | {"crs": 1}):
        assert client.post(SEARCH, json=vector | {"within": geometry}).status_code == 422
    assert client.post("/queries", json={"polygons": [good]}).json()["field"] == "dataset"
    monkeypatch.setattr(examples, "MAX_AVERAGED", 150)
    assert client.post(SEARCH, json={"polygons": [good]}).status_code == 200
    answer = client.post(SEARCH, json={"polygons": [good, good]})
    assert (answer.status_code, answer.json()["field"]) == (413, "polygons[1]"), "polygons share one limit"
    monkeypatch.undo()
    small = square(client, 99.9, 49.9, 1.2)
    assert client.post(SEARCH, json={"polygons": [small, small]}).status_code == 200
    monkeypatch.setattr(examples, "MAX_BLOCKS", 1)
    answer = client.post(SEARCH, json={"polygons": [small, small]})
    assert (answer.status_code, answer.json()["field"]) == (413, "polygons[1]"), "of blocks too"


def test_polygons_of_one_question_share_one_limit_of_pieces_and_each_is_followed_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = []
    real = Polygon.on

    def counted(self: Polygon, *args: Any) -> GridPolygon | None:
        shape = real(self, *args)
        followed.append(shape.pieces if shape else 0)
        return shape

    monkeypatch.setattr(Polygon, "on", counted)
    shapes = [square(client, 99.9 + n, 49.9, 10.2) for n in range(2)]
    assert client.post(SEARCH, json={"polygons": shapes, "exclude_examples": True}).status_code == 200
    each, last = followed  # not once to look for them and once to leave them out
    assert each >= 4
    for room, status in ((each + last, 200), (each + last - 1, 413)):
        monkeypatch.setattr(examples, "MAX_PIECES", room)
        answer = client.post(SEARCH, json={"polygons": shapes})
        assert answer.status_code == status, answer.text
    assert answer.json()["field"] == "polygons[1]"
    assert "too long" in answer.json()["detail"]
    monkeypatch.undo()
    monkeypatch.setattr(areas, "MAX_PIECES", each)
    answer = client.post(SEARCH, json={"polygons": shapes, "exclude_examples": True})
    assert (answer.status_code, answer.json()["field"]) == (413, "polygons[1]"), "left out or looked for"


def test_all_pixels_valid_is_not_assumed() -> None:
    """A valid pixel of zeros has no direction: it is like nothing, alone or in a polygon."""
    vectors = random_vectors((40, 40), 8)
    vectors.codes[10:20, 10:20] = 0
    assert (vectors.status == VALID).all()
    row, col = archive_grid(Zone(31)).cell(3, 52)
    store = MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, row, col, status=vectors.status)
    lon, lat = store.parts[0].grid.to_lonlat(row + np.array([9.9, 20.1]), col + np.array([9.9, 20.1]))
    shape = polygon([(lon[0], lat[0]), (lon[1], lat[0]), (lon[1], lat[1]), (lon[0], lat[1])])
    average = Searcher(store, "demo", NOWHERE).average(YEAR, shape, 1000, "p")
    assert average.pixels < average.inside
    assert np.isfinite(average.vector).all()
