"""Search and saved queries over HTTP, on a repository on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api import problems
from api.likeness.hits import SearchAnswer
from api.routes import queries, search
from api.settings import Limits, Settings
from api.state import State
from indexing.index.build import build_index
from service.values import VALID, WATER, ModelIdentity, Vectors
from tests.stores import YEAR, Tiny, blocks_from, random_vectors, tiny_archive

SEARCH = "/datasets/tiny/2024/search"


@dataclass
class World:
    """A server with two datasets of two models."""

    client: TestClient
    state: State
    tiny: Tiny
    home: Path

    def lonlat(self, i: int, j: int) -> dict[str, float]:
        lon, lat = self.tiny.lonlat(i, j)
        return {"lon": lon, "lat": lat}

    def get(self, **params: Any) -> Any:
        return self.client.get(SEARCH, params=params)


def vectors_with_gaps() -> Vectors:
    vectors = random_vectors((200, 240))
    vectors.status[0, :20], vectors.codes[0, :20], vectors.scales[0, :20] = WATER, 0, 0
    return vectors


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("home")
    tiny = tiny_archive(home / "datasets", vectors_with_gaps())
    tiny_archive(home / "datasets", random_vectors((20, 20)), identity=ModelIdentity("alien", "3", "x"), name="alien")
    settings = Settings(home=home, catalogue=home / "smalti.toml", limits=Limits(hits=200))
    app = FastAPI()
    app.state.smalti = State(settings)
    problems.install(app)
    app.include_router(search.router)
    app.include_router(queries.router)
    with TestClient(app, client=("127.0.0.1", 50000), raise_server_exceptions=False) as client:
        yield World(client, app.state.smalti, tiny, home)


def best(world: World, vector: np.ndarray, k: int) -> list[tuple[float, float]]:
    """(lon, lat) of the k best pixels, by float64 brute force."""
    vectors = world.tiny.vectors
    rows, cols = np.nonzero(vectors.status == VALID)
    wide = vectors.codes[rows, cols].astype(np.float64)
    scores = (wide @ vector.astype(np.float64)) / np.linalg.norm(wide, axis=1)
    return [world.tiny.lonlat(int(rows[n]), int(cols[n])) for n in np.argsort(-scores, kind="stable")[:k]]


def coordinates(answer: Any) -> list[list[float]]:
    return [feature["geometry"]["coordinates"] for feature in answer.json()["features"]]


def test_a_place_finds_itself_first_and_what_brute_force_finds(world: World) -> None:
    answer = world.get(**world.lonlat(50, 60), k=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/geo+json"
    body = answer.json()
    assert body["type"] == "FeatureCollection"
    assert (body["dataset"], body["model"], body["window"]) == ("tiny", "tiny@1/test", "2024")
    assert (body["engine"], body["recall"], body["saved"]) == ("exact", 1.0, False)
    assert body["revision"] == world.tiny.store.revision()[0]
    assert [f["properties"]["rank"] for f in body["features"]] == list(range(1, 21))
    assert body["features"][0]["properties"] == {
        "score": 1.0, "rank": 1, "status": "valid", "window": "2024", "zone": "31N",
    }  # fmt: skip
    assert (body["metric"], body["level"], body["pixel"], body["partial"], body["missing"]) == (
        "cosine", 1, 10, False, [],
    )  # fmt: skip
    (searched,) = body["searched"]
    assert (searched["scanned"], searched["candidates"]) == (int((world.tiny.vectors.status == VALID).sum()), 0)
    truth = best(world, world.tiny.vectors.dequantised()[50, 60], 20)
    assert np.allclose(coordinates(answer), truth, atol=1e-7)
    assert SearchAnswer.model_validate(body)


def test_ten_hits_unless_told_otherwise(world: World) -> None:
    assert len(world.get(**world.lonlat(50, 60)).json()["features"]) == 10


def test_several_points_for_and_against(world: World) -> None:
    wanted, against = [(10, 10), (20, 30)], [(100, 100)]
    body = {
        "points": [world.tiny.lonlat(*place) for place in wanted],
        "against": [world.tiny.lonlat(*place) for place in against],
        "k": 5,
    }
    vectors = world.tiny.vectors.dequantised().astype(np.float64)

    def unit(place: tuple[int, int]) -> np.ndarray:
        return vectors[place] / np.linalg.norm(vectors[place])

    direction = (unit(wanted[0]) + unit(wanted[1])) / 2 - 0.5 * unit(against[0])
    answer = world.client.post(SEARCH, json=body)
    assert np.allclose(coordinates(answer), best(world, direction, 5), atol=1e-7)
    left_out = world.client.post(SEARCH, json=body | {"exclude_examples": True, "k": 3})
    assert np.allclose(coordinates(left_out), coordinates(answer)[2:5])


def test_a_vector_finds_the_pixel_that_holds_it(world: World) -> None:
    vector = world.tiny.vectors.dequantised()[120, 200].tolist()
    answer = world.client.post(SEARCH, json={"vectors": [vector], "model": "tiny@1/test", "k": 1})
    assert np.allclose(coordinates(answer), [world.tiny.lonlat(120, 200)])


def test_a_saved_query_gives_the_answer_of_its_examples_and_is_found_again(world: World) -> None:
    lon, lat = world.tiny.lonlat(70, 80)
    by_place = world.get(lon=lon, lat=lat).json()
    saved = world.client.post("/queries", json={"dataset": "tiny", "window": "2024", "points": [[lon, lat]]})
    assert saved.status_code == 200, saved.text
    key = saved.json()["id"]
    assert key == by_place["query"], "the id follows from the content"
    assert saved.json() == {
        "id": key, "model": "tiny@1/test", "metric": "cosine", "wanted": 1, "unwanted": 0,
        "view": f"similarity:{key}",
    }  # fmt: skip
    for again in (world.get(query=key), world.client.post(SEARCH, json={"query": key})):
        assert again.json() == by_place | {"saved": True}
    document = world.client.get(f"/queries/{key}").json()
    assert document["id"] == key
    assert np.allclose(document["wanted"][0], world.tiny.vectors.dequantised()[70, 80])
    vectors = {"vectors": document["wanted"], "model": document["model"]}
    assert world.client.post("/queries", json=vectors).json()["id"] == key


def test_searching_writes_nothing(world: World) -> None:
    before = sorted(world.home.rglob("*"))
    world.get(**world.lonlat(9, 9))
    world.client.post(SEARCH, json={"points": [world.tiny.lonlat(9, 9)]})
    assert sorted(world.home.rglob("*")) == before


def test_vectors_of_another_model_are_refused_with_both_names(world: World) -> None:
    alien = {"vectors": [[1.0] * 128], "model": "alien@3/x"}
    key = world.client.post("/queries", json=alien).json()["id"]
    for answer in (
        world.client.post(SEARCH, json=alien),
        world.client.post(SEARCH, json={"query": key}),
        world.get(query=key),
        world.client.post("/queries", json=alien | {"dataset": "tiny", "window": "2024"}),
    ):
        assert answer.status_code == 409
        assert answer.json()["kind"] == "identity-mismatch"
        assert "alien@3/x" in answer.json()["detail"]
        assert "tiny@1/test" in answer.json()["detail"]
    assert world.client.get("/datasets/alien/2024/search", params={"query": key}).status_code == 200


def test_a_box_holds_every_hit(world: World) -> None:
    (west, north), (east, south) = world.tiny.lonlat(40, 40), world.tiny.lonlat(60, 70)
    inside = world.get(**world.lonlat(0, 100), k=200, bbox=f"{west},{south},{east},{north}")
    posted = world.client.post(
        SEARCH, json={"points": [world.tiny.lonlat(0, 100)], "k": 200, "bbox": [west, south, east, north]}
    )
    assert inside.json() == posted.json()
    found = np.array(coordinates(inside))
    assert len(found) == 200
    assert (found >= (west - 1e-7, south - 1e-7)).all()
    assert (found <= (east + 1e-7, north + 1e-7)).all()


@pytest.mark.parametrize(
    ("params", "status", "kind", "word"),
    [
        ({}, 422, "invalid-input", "lon"),
        ({"lon": 3.0}, 422, "invalid-input", "lat"),
        ({"lon": "nan", "lat": 52}, 422, "invalid-input", "lon"),
        ({"lon": "inf", "lat": 52}, 422, "invalid-input", "lon"),
        ({"lon": 200, "lat": 52}, 422, "invalid-input", "lon"),
        ({"lon": 3, "lat": 52, "query": "0" * 20}, 422, "invalid-input", "lon"),
        ({"query": "0" * 20}, 404, "not-found", "query"),
        ({"query": "../../etc/passwd"}, 422, "invalid-input", "name"),
        ({"query": "x" * 100}, 422, "invalid-input", "64"),
        ({"lon": 100, "lat": 52}, 404, "outside", "outside"),
        ({"lon": 3, "lat": 52, "k": 0}, 422, "invalid-input", "k"),
        ({"lon": 3, "lat": 52, "K": 5}, 422, "invalid-input", "K"),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    world: World, params: dict[str, Any], status: int, kind: str, word: str
) -> None:
    answer = world.get(**params)
    assert (answer.status_code, answer.json()["kind"]) == (status, kind), answer.text
    assert word in answer.text


def test_a_place_without_a_vector_is_told_with_its_status(world: World) -> None:
    for answer, field in (
        (world.get(**world.lonlat(0, 5)), "points[0]"),
        (world.client.post(SEARCH, json={"points": [world.tiny.lonlat(9, 9), world.tiny.lonlat(0, 5)]}), "points[1]"),
        (
            world.client.post(SEARCH, json={"points": [world.tiny.lonlat(9, 9)], "against": [world.tiny.lonlat(0, 5)]}),
            "against[0]",
        ),
    ):
        assert answer.status_code == 404
        assert "water" in answer.json()["detail"]
        assert answer.json()["field"] == field


@pytest.mark.parametrize("k", [201, 10**9, 10**30])
def test_too_many_hits_are_refused(world: World, k: int) -> None:
    for answer in (
        world.get(**world.lonlat(9, 9), k=k),
        world.client.post(SEARCH, json={"points": [world.tiny.lonlat(9, 9)], "k": k}),
    ):
        assert answer.status_code in {413, 422}
        assert "k" in answer.json()["field"]


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({}, 422, "at least one"),
        ({"points": []}, 422, "at least one"),
        ({"against": [[3, 52]]}, 422, "at least one"),
        ({"points": [[3, 52]] * 10_000}, 422, "1000"),
        ({"points": [[3, 52]] * 600, "against": [[3, 52]] * 600}, 413, "1,200"),
        ({"points": [[3]]}, 422, "points[0]"),
        ({"points": [[3, 95]]}, 422, "points[0]"),
        ({"vectors": [[1.0] * 128]}, 422, "model"),
        ({"vectors": [[1.0] * 64], "model": "tiny@1/test"}, 422, "64"),
        ({"vectors": [[1.0] * 128, [1.0]], "model": "tiny@1/test"}, 422, "different"),
        ({"vectors": [[0.0] * 128], "model": "tiny@1/test"}, 422, "zeros"),
        ({"vectors": [[1e300] * 128], "model": "tiny@1/test"}, 422, "finite"),
        ({"vectors": [[1.0] * 128], "model": "nonsense"}, 422, "model"),
        ({"vectors": [[]], "model": "tiny@1/test"}, 422, "vectors[0]"),
        ({"vectors": [[1.0] * 5000], "model": "tiny@1/test"}, 422, "4096"),
        ({"points": [[3, 52]], "typo": 1}, 422, "typo"),
        ({"points": [[3, 52]], "bbox": [1, 2, 3]}, 422, "bbox"),
        ({"points": [[3, 52]], "bbox": [3, 9, 4, 2]}, 422, "box"),
        ({"points": [[3, 52]], "query": "0" * 20}, 422, "not both"),
        ([1, 2], 422, "body"),
    ],
)
def test_a_body_that_cannot_be_is_refused(world: World, body: Any, status: int, word: str) -> None:
    answer = world.client.post(SEARCH, json=body)
    assert answer.status_code == status, answer.text
    assert word in answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(world: World, number: str) -> None:
    for path in (SEARCH, "/queries"):
        body = f'{{"vectors": [[{number}, 1]], "model": "tiny@1/test"}}'
        answer = world.client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"points": [[3, 52]]}, 422),
        ({"points": [[3, 52]], "dataset": "tiny"}, 422),
        ({"points": [[3, 52]], "dataset": "nowhere", "window": "2024"}, 404),
        ({"points": [[3, 52]], "dataset": "tiny", "window": "1999"}, 404),
        ({"points": [[3, 52]], "dataset": "tiny", "window": "soon"}, 422),
    ],
)
def test_a_query_that_cannot_be_saved_is_refused(world: World, body: Any, status: int) -> None:
    assert world.client.post("/queries", json=body).status_code == status


def test_what_is_stored_after_the_index_was_built_is_found_by_the_next_search(tmp_path: Path, world: World) -> None:
    tiny = tiny_archive(tmp_path / "datasets", vectors_with_gaps())
    settings = Settings(home=tmp_path, catalogue=tmp_path / "smalti.toml")
    app = FastAPI()
    app.state.smalti = state = State(settings)
    problems.install(app)
    app.include_router(search.router)
    client = TestClient(app, client=("127.0.0.1", 50000))
    build_index(tiny.store, "tiny", YEAR, state.indexes("tiny"))
    lon, lat = tiny.lonlat(50, 60)
    first = client.get(SEARCH, params={"lon": lon, "lat": lat, "k": 3}).json()
    assert first["engine"] == "index"
    assert first["recall"] >= 0.95

    changed = Vectors(tiny.vectors.codes.copy(), tiny.vectors.scales.copy(), tiny.vectors.status.copy())
    changed.codes[51, 61] = changed.codes[50, 60]
    tiny.store.write(blocks_from("31N", tiny.row, tiny.col, changed, YEAR, tiny.counts)[:1], "one block")
    state.datasets.look_now()
    second = client.get(SEARCH, params={"lon": lon, "lat": lat, "k": 3}).json()
    assert second["engine"] == "index+exact"
    assert second["revision"] != first["revision"]
    assert [f["properties"]["score"] for f in second["features"]][:2] == [1.0, 1.0]
    assert np.allclose(second["features"][1]["geometry"]["coordinates"], tiny.lonlat(51, 61))

    for file in state.indexes("tiny").glob("2024/q-*/*.faiss"):
        file.write_bytes(b"damaged")
    fresh = FastAPI()
    fresh.state.smalti = State(settings)
    problems.install(fresh)
    fresh.include_router(search.router)
    answer = TestClient(fresh).get(SEARCH, params={"lon": lon, "lat": lat})
    assert (answer.status_code, answer.json()["kind"]) == (500, "corrupt")
    assert "centres.faiss" in answer.json()["detail"]


def test_openapi_describes_both_ways(world: World) -> None:
    document = world.client.get("/openapi.json").json()
    path = document["paths"]["/datasets/{dataset}/{window}/search"]
    assert {p["name"] for p in path["get"]["parameters"]} >= {"lon", "lat", "k", "query", "bbox"}
    for method in ("get", "post"):
        assert {"200", "404", "409", "413", "422", "503"} <= set(path[method]["responses"])
        schema = path[method]["responses"]["200"]["content"]["application/geo+json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/SearchAnswer"}
    assert "Cosine" in json.dumps(document) or "cosine" in json.dumps(document)
