"""Journey 3 over HTTP: an upload becomes an embedding, and with a place it is on the map and in the search."""

from __future__ import annotations

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api import demo
from api.settings import Limits, Settings
from api.state import State
from service.grid import archive_grid
from tests.conftest import SIDE, client_of

NPZ = {"Content-Type": "application/x-npz"}


@pytest.fixture
def pixel(real_data: Path) -> dict[str, Any]:
    """The published pixel as a body of POST /embed, its bands in the order it declares."""
    raw = json.loads((real_data / "tessera-pixel" / "dpixel.json").read_text())
    two = {band: f"B{band[1:]:0>2}" for band in raw["bands"]}
    s1 = []
    for letter, orbit in (("a", "ascending"), ("d", "descending")):
        rows = [row for row in raw["s1"] if row["o"] == letter]
        dates, values = [row["d"] for row in rows], [[row["vv"], row["vh"]] for row in rows]
        s1.append({"orbit": orbit, "unit": "db", "dates": dates, "values": values})
    return {
        "s2": {
            "bands": [two[band] for band in raw["bands"]],
            "unit": "reflectance",
            "dates": [row["d"] for row in raw["s2"]],
            "values": [row["b"] for row in raw["s2"]],
            "scl": [row["scl"] for row in raw["s2"]],
        },
        "s1": s1,
    }


def post(client: TestClient, *pixels: dict[str, Any], **more: Any) -> Any:
    return client.post("/embed", json={"window": "2025", "pixels": list(pixels), **more})


def test_the_published_pixel_is_embedded_with_the_published_counts(client: TestClient, pixel: dict[str, Any]) -> None:
    body = post(client, pixel).json()
    (result,) = body["results"]
    assert result["counts"] == {"s2": 70, "s1_asc": 100, "s1_desc": 98}
    assert len(result["vector"]) == 128
    assert body["reordered"]
    assert not body["outside_training"]
    assert body["model"].startswith("smalti-mini@")


def test_bands_in_another_order_give_the_same_vector(client: TestClient, pixel: dict[str, Any]) -> None:
    order = np.random.default_rng(0).permutation(10)
    shuffled = dict(pixel["s2"])
    shuffled["bands"] = [pixel["s2"]["bands"][i] for i in order]
    shuffled["values"] = [[row[i] for i in order] for row in pixel["s2"]["values"]]
    one, other = post(client, pixel, {**pixel, "s2": shuffled}).json()["results"]
    assert one == other


def test_quantised_answers_are_the_rounded_vector(client: TestClient, pixel: dict[str, Any]) -> None:
    exact = np.array(post(client, pixel).json()["results"][0]["vector"])
    coded = post(client, pixel, quantize=True).json()["results"][0]
    assert np.abs(np.array(coded["codes"]) * coded["scale"] - exact).max() <= coded["scale"] * 0.5001


def test_a_window_that_is_no_year_is_marked(client: TestClient, pixel: dict[str, Any]) -> None:
    assert post(client, pixel, window="2025-01-01..2025-12-30").status_code == 422  # a date lies outside
    assert post(client, pixel, window="2025-01-01..2026-01-01").json()["outside_training"]


def test_one_sensor_is_enough_and_none_is_no_data(client: TestClient, pixel: dict[str, Any]) -> None:
    cloudy = {"s2": {**pixel["s2"], "scl": [9] * len(pixel["s2"]["dates"])}}
    body = post(client, {"s2": pixel["s2"]}, {"s1": pixel["s1"]}, cloudy, pixel, min_s2=0).json()
    assert [r["status"] for r in body["results"]] == ["valid", "valid", "not-embedded", "valid"]
    assert "vector" not in body["results"][2]
    assert post(client, {"s1": []}).json()["field"] == "pixels[0]"
    assert post(client, pixel, min_s2=71).json()["results"][0]["status"] == "rejected"


def broken(pixel: dict[str, Any], **s2: Any) -> dict[str, Any]:
    return {**pixel, "s2": {**pixel["s2"], **s2}}


def test_each_mistake_gets_its_own_answer(client: TestClient, pixel: dict[str, Any]) -> None:
    s2, names = pixel["s2"], pixel["s2"]["bands"]
    mistakes = {
        "missing band": broken(pixel, bands=names[:9], values=[row[:9] for row in s2["values"]]),
        "unknown band": broken(pixel, bands=[*names[:9], "B99"]),
        "repeated band": broken(pixel, bands=[*names[:9], names[0]]),
        "wrong unit": broken(pixel, unit="dn"),
        "unit unheard of": broken(pixel, unit="percent"),
        "percent as reflectance": broken(pixel, values=[[v * 10_000 for v in row] for row in s2["values"]]),
        "date twice": broken(pixel, dates=[s2["dates"][0], *s2["dates"][:-1]]),
        "date outside": broken(pixel, dates=["2024-12-31", *s2["dates"][1:]]),
        "lengths disagree": broken(pixel, dates=s2["dates"][:-1]),
        "ragged values": broken(pixel, values=[[0.1] * 3, *s2["values"][1:]]),
        "no mask": {**pixel, "s2": {k: v for k, v in s2.items() if k != "scl"}},
        "mask and scl": broken(pixel, mask=[True] * len(s2["dates"])),
        "scl unheard of": broken(pixel, scl=[99] * len(s2["dates"])),
        "orbit twice": {**pixel, "s1": [pixel["s1"][0], pixel["s1"][0]]},
        "typo": {**pixel, "S2": {}},
    }
    answers = {name: post(client, wrong) for name, wrong in mistakes.items()}
    assert {name: a.status_code for name, a in answers.items()} == dict.fromkeys(mistakes, 422)
    for name, answer in answers.items():
        assert "pixels[0]" in answer.json()["field"], name
    said = {answer.json()["detail"] for answer in answers.values()}
    assert len(said) >= len(mistakes) - 1, "each mistake tells what it is"


def patch(settings: Settings) -> tuple[bytes, dict[str, Any]]:
    """The demo's example upload, and where it belongs."""
    scene = demo.Scene.make(SIDE)
    left, top = scene.example_corner()
    place = {"dataset": "demo", "window": "2024", "epsg": scene.placement.zone.epsg, "left": left, "top": top}
    return (settings.home / "examples" / "quarter.npz").read_bytes(), place


def test_an_uploaded_patch_is_on_the_map_and_in_the_search(own_world: Settings) -> None:
    client = client_of(own_world)
    body, place = patch(own_world)
    scene = demo.Scene.make(SIDE)
    grid = archive_grid(scene.placement.zone)
    rows, cols = scene.example()
    at = np.array([scene.placement.row + rows.stop - 3.5]), np.array([scene.placement.col + cols.start + 3.5])
    lon, lat = (float(v[0]) for v in grid.to_lonlat(*at))
    point = f"/datasets/demo/2024/point/{lon},{lat}"
    before = client.get("/datasets/demo").json()["revision"]
    tile = tile_url(lon, lat)
    first = client.get(tile)
    assert vectors(client, lon, lat)["status"] == "not-embedded"
    search = f"/datasets/demo/2024/search?lon={lon}&lat={lat}&k=3"
    assert client.get(search).status_code in {404, 422}

    stored = client.post("/embed", params={**place, "answer": "json"}, content=body, headers=NPZ)
    assert stored.status_code == 200, stored.text
    assert stored.json()["stored"]["pixels"] == (rows.stop - rows.start) ** 2
    assert stored.json()["stored"]["revision"] != before

    assert vectors(client, lon, lat)["status"] == "valid"
    assert client.get(point).status_code == 200
    second = client.get(tile, headers={"If-None-Match": first.headers["etag"]})
    assert second.status_code == 200, "the tile changed"
    assert second.content != first.content
    hits = client.get(search).json()
    assert hits["features"][0]["properties"]["score"] == pytest.approx(1)
    assert np.allclose(hits["features"][0]["geometry"]["coordinates"], [lon, lat], atol=1e-4)
    assert hits["engine"] != "index", "changed blocks are scanned exactly, and it says so"


def vectors(client: TestClient, lon: float, lat: float) -> dict[str, Any]:
    return client.post("/datasets/demo/2024/vectors", json={"points": [[lon, lat]]}).json()["results"][0]


def tile_url(lon: float, lat: float, zoom: int = 15) -> str:
    x, y = demo._tile_of(lon, lat, zoom)
    return f"/datasets/demo/2024/tiles/WebMercatorQuad/{zoom}/{x}/{y}.png"


def test_an_npz_answer_holds_codes_scales_status_and_counts(client: TestClient, world: Settings) -> None:
    body, _ = patch(world)
    answer = client.post("/embed", content=body, headers=NPZ)
    arrays = np.load(io.BytesIO(answer.content))
    assert arrays["codes"].dtype == np.int8
    assert arrays["codes"].shape[:2] == arrays["status"].shape == arrays["s2"].shape
    assert (arrays["status"] == 1).all()


def test_a_single_pixel_with_a_place_is_stored_there(own_world: Settings, pixel: dict[str, Any]) -> None:
    client = client_of(own_world)
    lon, lat = client.get("/datasets/demo").json()["center"]
    old = vectors(client, lon, lat)["vector"]
    moved = json.loads(json.dumps(pixel).replace("2025-", "2024-").replace("2024-02-29", "2024-02-28"))
    answer = post(client, {**moved, "at": [lon, lat]}, window="2024", dataset="demo", quantize=True)
    assert answer.status_code == 200, answer.text
    coded = answer.json()["results"][0]
    assert vectors(client, lon, lat)["vector"] == pytest.approx(np.array(coded["codes"]) * coded["scale"], abs=1e-6)
    assert vectors(client, lon, lat)["vector"] != old
    twice = post(client, *([{**moved, "at": [lon, lat]}] * 2), window="2024", dataset="demo")
    assert twice.status_code == 422
    assert "same 10 m cell" in twice.json()["detail"]
    assert post(client, moved, window="2024", dataset="demo").json()["field"] == "pixels.at"


def test_a_window_that_is_no_year_is_stored_in_a_repository_of_its_own(own_world: Settings) -> None:
    client = client_of(own_world)
    body, place = patch(own_world)
    summer = "2024-01-01..2024-12-30"
    answer = client.post("/embed", params={**place, "window": summer, "answer": "json"}, content=body, headers=NPZ)
    assert answer.status_code == 200, answer.text
    assert summer in client.get("/datasets/demo").json()["windows"]
    assert (own_world.home / "datasets" / "demo@2024-01-01_2024-12-30.icechunk").exists()
    assert client.get(f"/datasets/demo/{summer}/coverage").json()["features"]


@pytest.mark.slow
def test_two_first_uploads_into_a_new_window_share_one_repository(own_world: Settings) -> None:
    client = client_of(own_world)
    body, place = patch(own_world)
    params = {**place, "window": "2024-01-01..2024-12-30", "answer": "json"}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post("/embed", params=params, content=body, headers=NPZ), range(4)))
    assert [a.status_code for a in answers] == [200] * 4, [a.text[:200] for a in answers]


@pytest.mark.slow
def test_after_an_upload_into_another_window_the_demo_and_its_colours_still_start(own_world: Settings) -> None:
    client = client_of(own_world)
    body, place = patch(own_world)
    client.post("/embed", params={**place, "window": "2024-01-01..2024-12-30"}, content=body, headers=NPZ)
    before = client.get("/datasets/demo").json()["revision"]
    demo.prepare(State(own_world), SIDE)
    client.app.state.smalti.datasets.look_now()  # type: ignore[attr-defined]
    assert client.get("/datasets/demo").json()["revision"] == before
    years = client.post("/bases", json={"dataset": "demo", "name": "years", "windows": ["2023", "2024"]})
    assert years.status_code == 201, years.text
    mixed = client.post("/bases", json={"dataset": "demo", "name": "m", "windows": ["2024", "2024-01-01..2024-12-30"]})
    assert mixed.json()["field"] == "windows"


def test_neither_a_gap_nor_a_rejection_takes_a_vector_away(own_world: Settings) -> None:
    client = client_of(own_world)
    body, place = patch(own_world)
    client.post("/embed", params=place, content=body, headers=NPZ)
    revision = client.get("/datasets/demo").json()["revision"]
    answer = client.post("/embed", params={**place, "min_s2": 300, "answer": "json"}, content=body, headers=NPZ).json()
    assert {r["status"] for r in answer["results"]} == {"rejected"}
    assert client.get("/datasets/demo").json()["revision"] == revision, "nothing was committed"


def test_a_refused_upload_makes_no_repository(own_world: Settings, pixel: dict[str, Any]) -> None:
    client = client_of(own_world)
    body, place = patch(own_world)
    summer = "2025-05-01..2025-09-30"
    assert client.post("/embed", params={**place, "window": summer, "epsg": 99999}, content=body, headers=NPZ).is_error
    assert post(client, {**pixel, "at": [2.3, 54.7]}, window=summer, dataset="demo").status_code == 422
    assert [p.name for p in (own_world.home / "datasets").glob("*.icechunk")] == ["demo.icechunk"]


def test_what_belongs_into_the_body_is_not_taken_from_the_query(client: TestClient, pixel: dict[str, Any]) -> None:
    answer = client.post("/embed?dataset=demo", json={"window": "2025", "pixels": [pixel]})
    assert answer.status_code == 422
    assert answer.json()["field"] == "query.dataset"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"left": 123.4}, "transform"),
        ({"epsg": 4326}, "epsg"),
        ({"dataset": "none"}, None),
        ({"model": "none"}, None),
        ({"left": None}, "dataset"),
        ({"window": "2024-13"}, "window"),
        ({"typo": 1}, "query.typo"),
    ],
)
def test_a_wrong_place_is_refused_before_anything_is_encoded(
    world: Settings, client: TestClient, changes: dict[str, Any], field: str | None
) -> None:
    body, place = patch(world)
    params = {k: v for k, v in {**place, **changes}.items() if v is not None}
    answer = client.post("/embed", params=params, content=body, headers=NPZ)
    assert answer.status_code in {404, 422}
    if field:
        assert answer.json()["field"] == field


def test_bodies_that_are_no_npz_are_refused(client: TestClient, world: Settings) -> None:
    body, _ = patch(world)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bands.npy", b"\0" * 300_000_000)
    pickled = io.BytesIO()
    np.savez(pickled, bands=np.array([{"a": 1}], dtype=object))
    for content in (b"", b"PK\3\4 not a zip", body[: len(body) // 2], bomb.getvalue(), pickled.getvalue()):
        answer = client.post("/embed", content=content, headers=NPZ)
        assert answer.status_code in {413, 422}, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert client.post("/embed", content=body, headers={"Content-Type": "text/plain"}).json()["field"] == "Content-Type"


def test_limits_are_kept(world: Settings) -> None:
    body, _ = patch(world)
    small = client_of(
        world.model_copy(update={"limits": Limits(upload_pixels=10, json_pixels=1, body_bytes=50_000_000)})
    )
    assert small.post("/embed", content=body, headers=NPZ).status_code == 413
    assert post(small, {}, {}).status_code == 413
    tiny = client_of(world.model_copy(update={"limits": Limits(body_bytes=1000)}))
    answer = tiny.post("/embed", content=body, headers=NPZ)
    assert answer.status_code == 413
    assert answer.json()["kind"] == "limit-exceeded"


def test_a_full_queue_says_try_again(world: Settings) -> None:
    client = client_of(world.model_copy(update={"limits": Limits(uploads_at_once=1)}))
    state = client.app.state.smalti  # type: ignore[attr-defined]
    with state.turns.taken_in():
        answer = client.post("/embed", content=patch(world)[0], headers=NPZ)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
