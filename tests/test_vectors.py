"""POST /vectors: places one by one and polygons, in every form, exact and bounded."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from api.settings import Limits, Settings
from service.values import VALID, WATER, Counts
from tests.conftest import client_of
from tests.stores import Tiny, random_vectors, tiny_archive

PATH = "/datasets/tiny/2024/vectors"
DIMS = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestClient, Tiny]:
    home = tmp_path_factory.mktemp("home")
    vectors = random_vectors((200, 240), DIMS)
    vectors.status[:20] = WATER
    vectors.codes[:20], vectors.scales[:20] = 0, 0
    rng = np.random.default_rng(1)
    counts = Counts(*(rng.integers(0, 90, (200, 240)).astype(np.uint16) for _ in range(3)))
    tiny = tiny_archive(home / "datasets", vectors, counts=counts)
    return client_of(Settings(home=home, catalogue=home / "none.toml", limits=Limits(polygon_pixels=100_000))), tiny


def around(tiny: Tiny, top: int, left: int, bottom: int, right: int) -> dict[str, Any]:
    """A polygon that holds the centres of these pixels, ends included, and no others."""
    corners = [(top, left), (top, right), (bottom, right), (bottom, left), (top, left)]
    middle = np.array(tiny.lonlat((top + bottom) // 2, (left + right) // 2))
    ring = [(middle + (np.array(tiny.lonlat(i, j)) - middle) * 1.001).tolist() for i, j in corners]
    return {"type": "Polygon", "coordinates": [ring]}


def test_points_are_the_same_in_every_form(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    pixels = [(30, 4), (3, 3), (199, 239), (30, 4), (100, 17)]
    points = [*(tiny.lonlat(i, j) for i, j in pixels), (40.0, 10.0)]
    i, j = np.array(pixels).T
    want = np.concatenate([tiny.vectors.dequantised()[i, j], np.full((1, DIMS), np.nan, np.float32)])
    statuses = ["valid", "water", "valid", "valid", "valid", "outside"]

    answer = client.post(PATH, json={"points": points})
    body = answer.json()
    assert [one["status"] for one in body["results"]] == statuses
    assert body["results"][1]["vector"] is None
    got = np.array([one["vector"] or [np.nan] * DIMS for one in body["results"]], np.float32)
    np.testing.assert_array_equal(got, want)
    assert [one["counts"]["s1_asc"] for one in body["results"][:5]] == tiny.counts.s1_asc[i, j].tolist()
    assert answer.headers["X-Smalti-Revision"] == body["revision"]
    assert answer.headers["X-Smalti-Status"] == "valid=4, water=1, outside=1"

    npy = client.post(PATH, json={"points": points}, headers={"Accept": "application/x-npy"})
    np.testing.assert_array_equal(np.load(io.BytesIO(npy.content)), want)
    arrays = np.load(io.BytesIO(client.post(PATH, json={"points": points, "answer": "npz", "quantize": True}).content))
    np.testing.assert_array_equal(arrays["codes"][:5], tiny.vectors.codes[i, j])
    np.testing.assert_array_equal(arrays["scales"][:5], tiny.vectors.scales[i, j])
    assert arrays["status"].tolist() == [1, 2, 1, 1, 1, 255]
    table = pa.ipc.open_stream(client.post(PATH, json={"points": points, "answer": "arrow"}).content).read_all()
    assert table.schema.metadata[b"model"] == b"tiny@1/test"
    assert table["status"].to_pylist() == statuses
    assert table["vector"].to_pylist()[1] is None
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist()[0], np.float32), want[0])


def test_polygons_are_the_same_in_every_form(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    several = {
        "type": "MultiPolygon",
        "coordinates": [around(tiny, *at)["coordinates"] for at in ((30, 3, 40, 50), (100, 60, 120, 61))],
    }
    shapes = [around(tiny, 10, 5, 60, 77), several, around(tiny, 0, 0, 9, 9)]
    answer = client.post(PATH, json={"polygons": shapes})
    first, second, water = answer.json()["results"]
    inside = np.zeros((200, 240), bool)
    inside[10:61, 5:78] = True
    used = inside & (tiny.vectors.status == VALID)
    values = tiny.vectors.dequantised()[used].astype(float)
    assert first["pixels"] == {
        "valid": len(values), "water": 10 * 73, "not-embedded": 0, "rejected": 0, "outside": 0,
    }  # fmt: skip
    assert first["count"] == len(values)
    assert first["hectares"] == pytest.approx(len(values) / 100)
    np.testing.assert_allclose(first["mean"], values.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(first["sd"], values.std(axis=0), rtol=1e-9)
    seen = tiny.counts.s2[used]
    assert first["counts"]["s2"] == {"mean": pytest.approx(seen.mean()), "least": seen.min(), "most": seen.max()}
    assert second["count"] == 11 * 48 + 21 * 2
    assert (water["count"], water["mean"], water["sd"], water["counts"]) == (0, None, None, None)
    assert water["pixels"]["water"] == 100

    both = np.load(io.BytesIO(client.post(PATH, json={"polygons": shapes, "answer": "npy"}).content))
    assert both.shape == (3, 2, DIMS)
    np.testing.assert_array_equal(both[0], [first["mean"], first["sd"]])
    assert np.isnan(both[2]).all()
    arrays = np.load(io.BytesIO(client.post(PATH, json={"polygons": shapes, "answer": "npz"}).content))
    assert arrays["valid"].tolist() == [one["count"] for one in (first, second, water)]
    assert arrays["s2"][0].tolist() == list(first["counts"]["s2"].values())
    table = pa.ipc.open_stream(client.post(PATH, json={"polygons": shapes, "answer": "arrow"}).content).read_all()
    assert table["mean"].to_pylist() == [first["mean"], second["mean"], None]
    assert table["s2_most"].to_pylist()[0] == first["counts"]["s2"]["most"]
    assert table["water"].to_pylist() == [730, 0, 100]


def test_what_is_too_large_or_unclear_is_refused_at_once(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    half = {"type": "Polygon", "coordinates": [[[-85, -70], [85, -70], [85, 80], [-85, 80], [-85, -70]]]}
    one = around(tiny, 10, 5, 60, 77)
    for body, status, field in (
        ({"polygons": [half]}, 413, "polygons"),
        ({"polygons": [one] * 200}, 413, "polygons"),
        ({"polygons": [one] * 1001}, 422, "body.polygons"),
        ({"polygons": [one], "points": [[0, 0]]}, 422, "points"),
        ({}, 422, "points"),
        ({"polygons": [one], "dims": 7}, 422, "dims"),
        ({"polygons": [one], "quantize": True}, 422, "quantize"),
        ({"points": [[0, 0]], "quantize": True, "answer": "npy"}, 422, "quantize"),
    ):
        began = time.perf_counter()
        answer = client.post(PATH, json=body)
        assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text
        assert time.perf_counter() - began < 1
    named = client.post(PATH, json={"polygons": [half]}).json()
    assert "100,000 (limit `polygon_pixels`)" in named["detail"]


def test_a_request_that_takes_too_long_ends_and_says_so(made: tuple[TestClient, Tiny], tmp_path: Path) -> None:
    _, tiny = made
    settings = Settings(home=Path(tiny.store.location).parents[1], catalogue=tmp_path / "none.toml")
    late = settings.model_copy(update={"limits": Limits().model_copy(update={"seconds": 0})})
    client = client_of(late)
    for body in ({"points": [tiny.lonlat(50, 50)]}, {"polygons": [around(tiny, 10, 5, 60, 77)]}):
        answer = client.post(PATH, json=body)
        assert answer.status_code == 503
        assert "limit `seconds`" in answer.json()["detail"]
        assert int(answer.headers["Retry-After"]) > 0


def test_a_search_ends_between_blocks_when_its_time_is_over(made: tuple[TestClient, Tiny], tmp_path: Path) -> None:
    _, tiny = made
    settings = Settings(home=Path(tiny.store.location).parents[1], catalogue=tmp_path / "none.toml")
    client = client_of(settings.model_copy(update={"limits": Limits().model_copy(update={"seconds": 0})}))
    shape = around(tiny, 30, 5, 60, 77)
    for path, body in (("/search", {"points": [tiny.lonlat(50, 50)]}), ("/search", {"polygons": [shape]})):
        answer = client.post(f"/datasets/tiny/2024{path}", json=body)
        assert answer.status_code == 503
        assert "limit `seconds`" in answer.json()["detail"]
    saved = client.post("/queries", json={"dataset": "tiny", "window": "2024", "polygons": [shape]})
    assert "limit `seconds`" in saved.json()["detail"]
