"""Datasets, vectors, models and health over HTTP, and the one shape of every error."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr
from fastapi.testclient import TestClient

from api.problems import STATUS, from_error
from api.settings import Settings
from service import errors
from service.store import open_store
from service.values import VALID, Window
from tests import layouts
from tests.conftest import ROOT, client_of
from tests.slow_web import SlowWeb


def test_the_catalogue_tells_what_there_is(client: TestClient) -> None:
    (dataset,) = client.get("/datasets").json()["datasets"]
    assert dataset["id"] == "demo"
    assert dataset["model"].startswith("smalti-mini@")
    assert dataset["windows"] == ["2023", "2024"]
    assert dataset["writable"]
    west, south, east, north = dataset["bounds"]
    lon, lat = dataset["center"]
    assert west < lon < east
    assert south < lat < north
    assert client.get("/datasets/demo").json() == dataset
    assert len(dataset["revision"]) >= 16
    tilejson = client.get("/datasets/demo/2024/WebMercatorQuad/tilejson.json").json()
    assert (dataset["minzoom"], dataset["maxzoom"]) == (tilejson["minzoom"], tilejson["maxzoom"])


def test_the_center_is_a_valid_pixel_and_its_vector_is_the_stored_one(client: TestClient, world: Settings) -> None:
    center = client.get("/datasets/demo").json()["center"]
    answer = client.post("/datasets/demo/2024/vectors", json={"points": [center, [0, 0], [10, 54]]}).json()
    first, equator, east = answer["results"]
    assert first["status"] == "valid"
    assert first["counts"]["s2"] > 0
    assert equator["status"] == east["status"] == "outside" or equator["vector"] is None
    assert answer["window"] == "2024"
    store = open_store(str(world.home / "datasets" / "demo.icechunk"))
    grid = store.zones()[0]
    row, col = grid.cell(*center)
    stored = store.sample(grid.zone, Window.year(2024), np.array([row]), np.array([col]))
    assert stored.status[0] == VALID
    assert np.allclose(first["vector"], stored.dequantised()[0], atol=1e-6)


def test_coverage_shows_three_blocks_and_not_the_empty_quarter(client: TestClient) -> None:
    answer = client.get("/datasets/demo/2024/coverage")
    assert answer.headers["content-type"] == "application/geo+json"
    assert len(answer.json()["features"]) == 3


def test_the_encoder_says_what_it_is(client: TestClient) -> None:
    assert client.get("/readyz").status_code == 200
    (model,) = client.get("/models").json()["models"]
    assert model["name"] == "smalti-mini"
    assert model["device"] == "cpu"
    assert client.get("/models/smalti-mini").json()["sha256"] == model["sha256"]
    assert client.get("/models/none").status_code == 404


def test_it_is_alive_and_ready_and_says_which_parts(client: TestClient) -> None:
    assert client.get("/livez").json() == {"alive": True}
    answer = client.get("/readyz")
    assert answer.status_code == 200, answer.text
    assert {name.split()[0] for name in answer.json()["parts"]} == {
        "storage",
        "dataset",
        "basis",
        "index",
        "model",
        "jobs",
    }


def test_without_an_index_a_small_dataset_is_searched_exactly_and_says_so(own_world: Settings) -> None:
    shutil.rmtree(own_world.home / "index")
    client = client_of(own_world)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert "scanned exactly" in answer.json()["parts"]["index demo 2024"]
    lon, lat = client.get("/datasets/demo").json()["center"]
    assert client.get(f"/datasets/demo/2024/search?lon={lon}&lat={lat}").json()["engine"] == "exact"


def test_a_damaged_index_is_named_and_it_is_not_ready(own_world: Settings) -> None:
    damaged = max((own_world.home / "index").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    answer = client_of(own_world).get("/readyz")
    assert answer.status_code == 503
    assert any(damaged.name in said for said in answer.json()["parts"].values()), answer.text


def test_a_broken_store_is_named_and_takes_no_other_down(own_world: Settings) -> None:
    broken = own_world.home / "datasets" / "torn.icechunk"
    (broken / "refs").mkdir(parents=True)
    client = client_of(own_world)
    assert client.get("/readyz").status_code == 503, "the first answer too"
    assert client.get("/readyz?enough=some").status_code == 200, "a load balancer goes on sending what can be served"
    listed = client.get("/datasets").json()
    assert [d["id"] for d in listed["datasets"]] == ["demo"]
    assert "torn" in listed["broken"]["torn"]
    assert client.get("/datasets/torn").status_code in {404, 500, 503}
    assert client.get("/readyz").status_code == 503


def test_a_dataset_that_cannot_be_looked_at_is_named_and_takes_no_other_down(own_world: Settings) -> None:
    place = own_world.home / "published"
    place.mkdir()
    store = layouts.geoemb(place, layouts.around(2.0, 50.0, size=100)[:1], nested=False)
    shard = next(path for path in (Path(store.location) / "utm31" / "scales" / "c").rglob("*") if path.is_file())
    data = bytearray(shard.read_bytes())
    data[20:60] = b"\xff" * 40
    shard.write_bytes(data)
    catalogue = place / "smalti.toml"
    catalogue.write_text(f'[[datasets]]\nid = "torn"\nlocation = "{store.location}"\nmodel = "{layouts.MODEL}"\n')
    client = client_of(own_world.model_copy(update={"catalogue": catalogue}))
    listed = client.get("/datasets")
    assert listed.status_code == 200, listed.text
    assert [dataset["id"] for dataset in listed.json()["datasets"]] == ["demo"]
    assert "torn" in listed.json()["broken"]
    assert str(place) not in listed.text
    children = [link["title"] for link in client.get("/stac").json()["links"] if link["rel"] == "child"]
    assert children == ["demo"]


def test_a_newest_year_without_data_hides_nothing(tmp_path: Path) -> None:
    layouts.geoemb(tmp_path, layouts.around(2.0, 50.0, size=100)[:1], nested=False)
    root = zarr.open_group(tmp_path / "geoemb.zarr", mode="r+", zarr_format=3, use_consolidated=False)
    for _, zone in root.groups():
        for name in ("embeddings", "scales"):
            zone[name].resize((2, *zone[name].shape[1:]))
        del zone["time"]
        zone.create_array("time", data=np.array([2024, 2025], np.int32))
    zarr.consolidate_metadata(root.store)
    web = SlowWeb(tmp_path, latency=0)
    web.start()
    catalogue = tmp_path / "smalti.toml"
    location = f"{web.url}/geoemb.zarr"
    catalogue.write_text(f'[[datasets]]\nid = "far"\nlocation = "{location}"\nmodel = "{layouts.MODEL}"\n')
    client = client_of(Settings(home=tmp_path / "home", catalogue=catalogue))
    try:
        told = client.get("/datasets/far").json()
        assert told["windows"] == ["2024", "2025"]
        assert 0 <= told["minzoom"] < told["maxzoom"]
        assert [item["id"] for item in client.get("/stac/far/items").json()["features"]] == ["far:2024"]
        empty = client.post("/datasets/far/2025/vectors", json={"points": [told["center"]]}).json()
        assert empty["results"][0]["reason"] in {"outside", "not-embedded"}
    finally:
        web.kill()


def test_an_empty_home_answers_and_says_nothing_is_there(tmp_path: Path) -> None:
    client = client_of(Settings(home=tmp_path, catalogue=tmp_path / "none.toml"))
    assert client.get("/datasets").json()["datasets"] == []
    assert client.get("/").status_code == 200


def test_the_catalogue_file_adds_datasets_and_its_faults_are_named(own_world: Settings, tmp_path: Path) -> None:
    catalogue = tmp_path / "smalti.toml"
    location = own_world.home / "datasets" / "demo.icechunk"
    catalogue.write_text(f'[[datasets]]\nid = "other"\nlocation = "{location}"\ntitle = "Another name"\n')
    settings = own_world.model_copy(update={"catalogue": catalogue})
    assert [d["title"] for d in client_of(settings).get("/datasets").json()["datasets"]] == ["demo", "Another name"]
    for fault in ("[[datasets]]\nid = 3\n", "not toml", '[[datasets]]\nid = "x"\nlocation = "y"\ntitle = 2024\n'):
        catalogue.write_text(fault)
        client = client_of(settings)
        assert client.get("/readyz").status_code == 503
        listed = client.get("/datasets").json()
        assert [d["id"] for d in listed["datasets"]] == ["demo"], "the others go on being served"
        assert "smalti.toml" in listed["broken"]


def test_a_broken_window_repository_takes_only_itself_down(own_world: Settings) -> None:
    (own_world.home / "datasets" / "demo@2024-05-01_2024-09-30.icechunk" / "refs").mkdir(parents=True)
    client = client_of(own_world)
    assert client.get("/readyz").status_code == 503
    assert client.get("/datasets/demo/2024/coverage").status_code == 200
    assert list(client.get("/datasets").json()["broken"]) == ["demo@2024-05-01_2024-09-30"]


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/datasets/none", 404, "not-found"),
        ("/datasets/demo/1999/coverage", 404, "not-found"),
        ("/datasets/demo/soon/coverage", 422, "invalid-input"),
        ("/nothing", 404, "not-found"),
    ],
)
def test_errors_have_one_shape(client: TestClient, path: str, status: int, kind: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["kind"], body["type"]) == (status, kind, "about:blank")
    assert body["detail"]


@pytest.mark.parametrize(
    "cls", [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.SmaltiError)]
)
def test_each_error_becomes_its_status(cls: type[errors.SmaltiError]) -> None:
    answer = from_error(cls("what.", field="where", remedy="how."))
    assert answer.status_code == STATUS[cls.kind]
    assert (answer.status_code == 503) == ("retry-after" in answer.headers)


@pytest.mark.parametrize(("expected", "told"), [(None, "5"), (0.01, "1"), (7.2, "8"), (4000.0, "60")])
def test_who_is_refused_is_told_when_to_come_again(expected: float | None, told: str) -> None:
    assert from_error(errors.Unavailable("full.", retry_after=expected)).headers["retry-after"] == told


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (errors.Unavailable("full.", retry_after=3.0), logging.WARNING),
        (errors.Unavailable("the bucket is gone."), logging.WARNING),
        (errors.Corrupt("a chunk is torn."), logging.ERROR),
        (errors.BadSource("a catalogue lies."), logging.WARNING),
        (errors.NotFound("no such thing."), None),
    ],
)
def test_to_be_busy_is_no_error_in_the_log(
    error: errors.SmaltiError, level: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "smalti")
    from_error(error)
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])


def test_a_bug_is_a_problem_too_and_shows_no_traceback(world: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.health._parts", lambda _: 1 / 0)
    answer = client_of(world).get("/readyz")
    assert answer.status_code == 500
    assert answer.json()["kind"] == "internal"
    assert "ZeroDivision" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        {"points": []},
        {"points": [[181, 0]]},
        {"points": [[0]]},
        {"points": "all"},
        {"points": [[0, 0]], "dims": 7},
        {"points": [[0, 0]], "typo": 1},
        {"points": [[0, 0]] * 10_001},
    ],
)
def test_wrong_questions_for_vectors_are_refused(client: TestClient, body: dict) -> None:
    answer = client.post("/datasets/demo/2024/vectors", json=body)
    assert answer.status_code in {413, 422}
    assert answer.json()["field"]


@pytest.mark.parametrize("number", [True, "1"])
def test_booleans_and_texts_are_no_numbers_in_json(client: TestClient, number: object) -> None:
    """A whole number in the same place is one, whatever else is wrong with the question."""
    s2 = {"bands": ["B02"], "dates": ["2024-05-01"], "unit": "dn"}
    search, vectors = "/datasets/demo/2024/search", "/datasets/demo/2024/vectors"
    for path, member, body in (
        (vectors, "points", lambda n: {"points": [[n, 1]]}),
        (vectors, "points", lambda n: {"points": [[1, n]]}),
        (search, "vectors", lambda n: {"vectors": [[n] * 8], "model": "a@1"}),
        (search, "bbox", lambda n: {"points": [[1, 1]], "bbox": [0, 0, n, 1]}),
        (search, "within", lambda n: {"within": {"type": "Polygon", "coordinates": [[[n, 0]] * 4]}}),
        ("/areas", "bbox", lambda n: {"dataset": "demo", "window": "2024", "bbox": [0, 0, n, 1]}),
        ("/embed", "pixels", lambda n: {"window": "2024", "pixels": [{"s2": {**s2, "values": [[n]]}}]}),
    ):
        answer = client.post(path, json=body(number))
        assert answer.status_code == 422
        assert answer.json()["field"].removeprefix("body.").startswith(member), answer.text
        assert answer.json()["detail"].startswith("Input should be a valid number")
        assert "valid number" not in client.post(path, json=body(1)).text, path


def test_numbers_in_a_query_are_text(client: TestClient) -> None:
    lon, lat = client.get("/datasets/demo").json()["center"]
    answer = client.get("/datasets/demo/2024/search", params={"lon": str(lon), "lat": str(lat)})
    assert answer.status_code == 200


def test_nan_in_json_is_refused(client: TestClient) -> None:
    answer = client.post(
        "/datasets/demo/2024/vectors", content=b'{"points": [[NaN, 0]]}', headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422


def test_openapi_yaml_is_what_the_server_says(client: TestClient) -> None:
    written = yaml.safe_load((ROOT / "openapi.yaml").read_text())
    assert written == client.get("/openapi.json").json(), "out of date: run `make openapi.yaml`"
    assert written["openapi"].startswith("3.1")
