"""Where there is data is found once, however many ask for a map that nobody has opened before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import morecantile
import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.settings import Settings
from service.extent import extent_of
from service.footprint import Everywhere, Footprint, covering, footprint
from service.grid import Block, Zone, archive_grid
from service.store import create_store
from service.store.archive import ArchiveStore
from service.values import BLOCK, ModelIdentity, Window
from tests import layouts
from tests.conftest import client_of

YEAR = Window.year(2024)


def test_many_who_ask_at_once_wait_for_one_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, looks, others_ask = create_store(tmp_path / "own.icechunk", ModelIdentity("test", "1")), [], Event()

    def blocks(_: ArchiveStore, window: Window, *, level: int = 1) -> tuple[Block, ...]:
        looks.append((window, level))
        others_ask.wait(0.3)  # each that looks too would be here by then
        return (Block(Zone(31).name, 3, 4),)

    monkeypatch.setattr(type(store), "blocks", blocks)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: footprint(store, YEAR), range(8)))
    assert looks == [(YEAR, 1)]
    assert all(one is found[0] for one in found)
    assert found[0].rows["31N"].tolist() == [3]


@pytest.mark.parametrize("zone", [Zone(1), Zone(31), Zone(60), Zone(60, south=True)], ids=str)
def test_a_zone_is_held_whole_up_to_the_antimeridian(zone: Zone) -> None:
    west, south, east, north = zone.bounds
    found = Everywhere.of((archive_grid(zone),)).bounds
    assert (found[0], found[2]) == (west, east)
    assert south <= found[1] < found[3] <= north


@pytest.mark.parametrize("zone", [Zone(31), Zone(31, south=True)], ids=str)
def test_the_edge_towards_the_pole_is_that_at_the_central_meridian(zone: Zone) -> None:
    grid, lat = archive_grid(zone), -60.0 if zone.south else 60.0
    rows, cols = grid.from_lonlat(np.array([0.5, 3.0, 5.5]), np.array([lat, lat, lat]))
    row, held = int(rows[1]) // BLOCK, np.unique(cols.astype(int) // BLOCK)
    place = Footprint({zone.name: np.full(len(held), row)}, {zone.name: held}, (grid,))
    edge = row * BLOCK if lat > 0 else (row + 1) * BLOCK
    _, highest = grid.to_lonlat(np.array([float(edge)]), cols[1:2])
    assert place.bounds[3 if lat > 0 else 1] == pytest.approx(highest[0], abs=1e-9)


@pytest.mark.parametrize(
    ("spans", "covered"),
    [
        ([(3, 9)], (3, 9)),
        ([(3, 9), (6, 12), (-1, 0)], (-1, 12)),
        ([(174, 180), (-180, -179)], (174, -179)),
        ([(179, -179)], (179, -179)),
        ([(179, -179), (100, 101), (-178, -177)], (100, -177)),
        ([(179, -179.5), (-179.9, -179.7)], (179, -179.5)),
        ([(175, -165), (-178, -170)], (175, -165)),
        ([(174, 180)], (174, 180)),
        ([(-180, -174)], (-180, -174)),
        ([(n, n + 6) for n in range(-180, 180, 6)], (-180, 180)),
        ([(-180, 0), (-1, 180)], (-180, 180)),
    ],
)
def test_the_smallest_box_over_others(spans: list[tuple[float, float]], covered: tuple[float, float]) -> None:
    found = covering([(west, n, east, n + 1) for n, (west, east) in enumerate(spans)])
    assert found == (covered[0], 0, covered[1], len(spans))


@pytest.fixture(scope="module")
def fiji(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """A dataset that holds 1.2 km on each side of the antimeridian."""
    home = tmp_path_factory.mktemp("fiji")
    sides = ((179.999999, 60), (-179.999999, 1))
    store = layouts.ours(home, [layouts.patch_at(lon, -17, number, True, size=120) for lon, number in sides])
    catalogue = home / "smalti.toml"
    catalogue.write_text(f'[[datasets]]\nid = "fiji"\nlocation = "{store.location}"\n')
    return client_of(Settings(home=home / "home", catalogue=catalogue))


def test_data_on_both_sides_of_the_antimeridian_are_served(fiji: TestClient) -> None:
    told = fiji.get("/datasets/fiji").json()
    west, _, east, _ = told["bounds"]
    assert 179.98 < west < 180, "GeoJSON's way to tell a box over the antimeridian: west > east"
    assert -180 < east < -179.98
    assert abs(told["center"][0]) > 179.98
    spatial = fiji.get("/stac/fiji").json()["extent"]["spatial"]["bbox"]
    assert spatial == [told["bounds"]]
    item = fiji.get("/stac/fiji/items/2024").json()["bbox"]
    assert item[0] > item[2]
    plain = fiji.get("/datasets/fiji/2024/WebMercatorQuad/tilejson.json")
    assert (plain.status_code, plain.json()["field"]) == (404, "basis")
    assert 'POST /bases {"dataset": "fiji"}, or `smalti pca fit fiji`' in plain.json()["remedy"]
    assert fiji.post("/bases", json={"dataset": "fiji"}).status_code == 201
    tilejson = fiji.get("/datasets/fiji/2024/WebMercatorQuad/tilejson.json?view=pca").json()
    assert tilejson["bounds"][::2] == [-180, 180], "no other way is known to it"
    for lon in (179.9999, -179.9999):
        x, y, z = morecantile.tms.get("WebMercatorQuad").tile(lon, -17.001, 15)
        assert fiji.get(f"/datasets/fiji/2024/tiles/WebMercatorQuad/{z}/{x}/{y}.npy").status_code == 200, lon
    for feature in fiji.get("/datasets/fiji/2024/coverage").json()["features"]:
        (ring,) = feature["geometry"]["coordinates"]
        assert np.ptp([lon for lon, _ in ring]) < 1, feature["properties"]["block"]


def cut(*spans: tuple[float, float]) -> dict[str, Any]:
    rings = [[(w, -17.002), (e, -17.002), (e, -17), (w, -17), (w, -17.002)] for w, e in spans]
    geometry = {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
    return {"type": "Feature", "properties": {}, "geometry": geometry}


@pytest.mark.parametrize("query", ["", "?dst_crs=EPSG:4326"])
def test_a_feature_cut_at_the_antimeridian_is_counted_on_both_sides(fiji: TestClient, query: str) -> None:
    """RFC 7946, 3.1.9, wants it cut."""
    east, west = (179.998, 180.0), (-180.0, -179.996)

    def counted(*spans: tuple[float, float]) -> float:
        answer = fiji.post(f"/datasets/fiji/2024/statistics{query}", json=cut(*spans))
        assert answer.status_code == 200, answer.text
        return float(next(iter(answer.json()["properties"]["statistics"].values()))["count"])

    assert counted(east, west) == pytest.approx(counted(east) + counted(west), rel=0.02)


def test_a_crs_that_ends_at_the_antimeridian_cannot_show_both_sides_of_it(fiji: TestClient) -> None:
    query = "dst_crs=EPSG:3857&width=16"
    answer = fiji.post(f"/datasets/fiji/2024/feature.npy?{query}", json=cut((179.998, 180.0), (-180.0, -179.996)))
    assert (answer.status_code, answer.json()["field"]) == (422, "geometry")
    assert fiji.post(f"/datasets/fiji/2024/feature.npy?{query}", json=cut((179.998, 180.0))).status_code == 200
    box = fiji.get(f"/datasets/fiji/2024/bbox/179.998,-17.002,-179.998,-17.npy?{query}")
    assert (box.status_code, box.json()["field"]) == (422, "bbox")
    assert fiji.get("/datasets/fiji/2024/bbox/179.998,-17.002,-179.998,-17.npy").status_code == 200
    assert fiji.get(f"/datasets/fiji/2024/bbox/179.998,-17.002,180,-17.npy?{query}").status_code == 200


@pytest.mark.parametrize("lon", [179.99, -179.99])
def test_the_box_of_a_block_over_the_antimeridian_ends_there(tmp_path: Path, lon: float) -> None:
    number = 60 if lon > 0 else 1
    extent = extent_of([layouts.ours(tmp_path, [layouts.patch_at(lon, -17, number, True, size=400)])])
    assert extent is not None
    west, _, east, _ = extent.bounds
    assert -180 <= west < east <= 180
    assert east - west < 1
