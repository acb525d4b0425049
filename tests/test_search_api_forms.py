"""What the doors of search take and give: metrics, windows, filters, counts and forms, judged by brute force."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from api.likeness.hits import SearchAnswer
from api.likeness.ranges import RangesAnswer
from api.settings import Limits, Settings
from service.values import VALID, WATER, Counts, Vectors, Window
from tests.conftest import client_of
from tests.stores import Tiny, blocks_from, random_vectors, tiny_archive

HEIGHT, WIDTH, DIMS = 90, 110, 16
BEFORE = Window.year(2023)
ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True)
class World:
    """A server, and what its one dataset holds."""

    client: TestClient
    tiny: Tiny
    before: Vectors

    def place(self, i: int, j: int) -> list[float]:
        return list(self.tiny.lonlat(i, j))

    def box(self, top: int, left: int, bottom: int, right: int) -> dict[str, Any]:
        """The polygon around pixels [top, bottom) x [left, right), and `inside` tells which those are."""
        rows, cols = np.array([top, bottom, bottom, top, top]), np.array([left, left, right, right, left])
        lon, lat = self.tiny.grid.to_lonlat(self.tiny.row + rows, self.tiny.col + cols)
        return {"type": "Polygon", "coordinates": [np.stack([lon, lat], axis=1).tolist()]}

    def post(self, path: str = "search", **body: Any) -> Any:
        """The answer of a search, or of `search/areas`."""
        return self.client.post(f"/datasets/tiny/2024/{path}", json=body)

    def scores(self, query: np.ndarray, metric: str = "cosine", vectors: Vectors | None = None) -> np.ndarray:
        """(h, w) float64 of every pixel, by the formula; -inf where there is no vector."""
        vectors = vectors or self.tiny.vectors
        wide = vectors.codes.astype(float) * vectors.scales[..., None].astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            if metric == "cosine":
                found = wide @ query / np.linalg.norm(wide, axis=-1) / np.linalg.norm(query)
            else:
                found = 1 - np.linalg.norm(wide - query, axis=-1) / np.linalg.norm(query)
        return np.where(vectors.status == VALID, found, -np.inf)


def some(seed: int) -> Vectors:
    vectors = random_vectors((HEIGHT, WIDTH), DIMS, seed)
    vectors.status[:3, :30], vectors.codes[:3, :30], vectors.scales[:3, :30] = WATER, 0, 0
    return vectors


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(5)
    counts = Counts(*(rng.integers(0, 60, (HEIGHT, WIDTH)).astype(np.uint16) for _ in range(3)))
    tiny, before = tiny_archive(home / "datasets", some(0), counts=counts), some(1)
    tiny.store.write(blocks_from("31N", tiny.row, tiny.col, before, BEFORE, counts), "the year before")
    settings = Settings(home=home, catalogue=home / "none.toml", limits=Limits(hits=500))
    with client_of(settings) as client:
        yield World(client, tiny, before)


def cells(world: World, answer: Any) -> list[tuple[int, int]]:
    """(i, j) of the hits of an answer."""
    assert answer.status_code == 200, answer.text
    return [cell(world, *f["geometry"]["coordinates"]) for f in answer.json()["features"]]


def cell(world: World, lon: float, lat: float) -> tuple[int, int]:
    row, col = world.tiny.grid.cell(lon, lat)
    return int(row) - world.tiny.row, int(col) - world.tiny.col


def ranked(scores: np.ndarray, k: int) -> list[tuple[int, int]]:
    """(i, j) of the k best pixels; equal ones row by row."""
    order = np.argsort(-scores, axis=None, kind="stable")[:k]
    return [(int(n) // WIDTH, int(n) % WIDTH) for n in order if np.isfinite(scores.ravel()[n])]


def test_every_form_says_the_same_to_the_last_bit(world: World) -> None:
    asked = {"points": [world.place(40, 50)], "metric": "euclidean", "k": 30, "windows": ["2024", "2023"]}
    geojson = world.post(**asked)
    body = geojson.json()
    assert SearchAnswer.model_validate(body)
    text = world.client.post("/datasets/tiny/2024/search?f=csv", json=asked)
    stream = world.client.post("/datasets/tiny/2024/search", json=asked, headers={"Accept": ARROW})
    assert (geojson.headers["content-type"], text.headers["content-type"].partition(";")[0]) == (
        "application/geo+json", "text/csv",
    )  # fmt: skip
    assert stream.headers["content-type"] == ARROW
    read = pa.ipc.open_stream(stream.content).read_all()
    rows = list(csv.DictReader(io.StringIO(text.text)))
    assert list(rows[0]) == read.column_names
    told = [{**f["properties"], "lon": f["geometry"]["coordinates"][0], "lat": f["geometry"]["coordinates"][1]}
            for f in body["features"]]  # fmt: skip
    assert len(told) == 30
    assert {one["window"] for one in told} == {"2023", "2024"}
    for one, row, record in zip(told, rows, read.to_pylist(), strict=True):
        for name, value in one.items():
            assert record[name] == value
            assert type(value)(row[name]) == value
        assert (record["dataset"], record["model"], record["engine"], record["recall"]) == (
            "tiny", "tiny@1/test", "exact", 1.0,
        )  # fmt: skip
        assert record["partial"] is False
        assert row["partial"] == "false"
    for name in ("dataset", "model", "revision", "engine", "query", "metric"):
        assert read.schema.metadata[name.encode()].decode() == body[name] == text.headers[f"X-Smalti-{name}"]


def test_who_accepts_nothing_there_is_is_told_what_there_is(world: World) -> None:
    refused = world.client.get(
        "/datasets/tiny/2024/search", params={"lon": 3, "lat": 52}, headers={"Accept": "image/png"}
    )
    assert (refused.status_code, refused.json()["field"]) == (422, "Accept")
    assert "text/csv" in refused.json()["remedy"]
    assert world.client.get("/datasets/tiny/2024/search?lon=3&lat=52&f=shp").status_code == 422


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_pixel_has_the_same_score_in_a_tile_and_among_the_hits(world: World, metric: str) -> None:
    """For and against, of each metric; the score of hits is that of the formula in float64."""
    examples = {"points": [world.place(40, 50), world.place(41, 52)], "against": [world.place(70, 20)]}
    hits = world.post(**examples, metric=metric, k=40).json()
    wide = world.tiny.vectors.dequantised().astype(float)
    wanted, against = wide[[40, 41], [50, 52]], wide[70, 20][None]
    if metric == "cosine":
        wanted, against = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (wanted, against))
        query = wanted.mean(axis=0) - 0.5 * against.mean(axis=0)
    else:
        query = wanted.mean(axis=0) + 0.5 * (wanted.mean(axis=0) - against.mean(axis=0))
    truth = world.scores(query, metric)
    found = np.array([f["properties"]["score"] for f in hits["features"]])
    np.testing.assert_allclose(found, np.sort(truth, axis=None)[::-1][:40], atol=1e-12)

    saved = world.client.post("/queries", json={**examples, "metric": metric, "dataset": "tiny", "window": "2024"})
    assert (saved.json()["id"], saved.json()["metric"]) == (hits["query"], metric)
    base, checked = "/datasets/tiny/2024", 0
    for one in hits["features"][:6]:
        lon, lat = one["geometry"]["coordinates"]
        tile = morecantile.tms.get("WebMercatorQuad").tile(lon, lat, 17)
        path = f"{base}/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy?view={saved.json()['view']}"
        picture = np.load(io.BytesIO(world.client.get(path).content))[0]
        west, south, east, north = morecantile.tms.get("WebMercatorQuad").xy_bounds(tile)
        x, y = morecantile.tms.get("WebMercatorQuad").xy(lon, lat)
        shown = picture[int((north - y) / (north - south) * 256), int((x - west) / (east - west) * 256)]
        assert shown == pytest.approx(one["properties"]["score"], abs=2e-6)
        point = world.client.get(f"{base}/point/{lon},{lat}?view={saved.json()['view']}").json()
        assert point["values"][0] == pytest.approx(one["properties"]["score"], abs=2e-6)
        checked += 1
    assert checked == 6
    legend = world.client.get(f"{base}/legend?view={saved.json()['view']}").json()
    assert (legend["unit"] == "cosine") == (metric == "cosine")


def test_a_saved_query_keeps_its_metric_unless_another_is_asked_for(world: World) -> None:
    point = {"points": [world.place(20, 20)]}
    saved = world.client.post(
        "/queries", json={**point, "metric": "euclidean", "dataset": "tiny", "window": "2024"}
    ).json()
    assert world.client.get(f"/queries/{saved['id']}").json()["metric"] == "euclidean"
    by_id, by_example = world.post(query=saved["id"]).json(), world.post(**point, metric="euclidean").json()
    assert by_id["features"] == by_example["features"]
    assert by_id["saved"]
    assert by_id["features"][0]["properties"]["distance"] == pytest.approx(0, abs=1e-4)
    other = world.post(query=saved["id"], metric="cosine").json()
    assert other["features"] == world.post(**point).json()["features"]
    got = world.client.get("/datasets/tiny/2024/search", params={"query": saved["id"], "metric": "cosine"}).json()
    assert got["features"] == other["features"]


def test_several_windows_are_one_list(world: World) -> None:
    query = world.tiny.vectors.dequantised()[40, 50].astype(float)
    answer = world.post(points=[world.place(40, 50)], windows=["2023", "2024", "2023"], k=25).json()
    assert [one["window"] for one in answer["searched"]] == ["2023", "2024"]
    both = np.stack([world.scores(query, vectors=one) for one in (world.before, world.tiny.vectors)])
    order = np.argsort(-both, axis=None, kind="stable")[:25]
    windows = [("2023", "2024")[n // (HEIGHT * WIDTH)] for n in order.tolist()]
    assert [f["properties"]["window"] for f in answer["features"]] == windows
    assert len(set(windows)) == 2
    assert [f["properties"]["rank"] for f in answer["features"]] == list(range(1, 26))
    got = world.client.get(
        "/datasets/tiny/2024/search", params=dict(zip(("lon", "lat"), world.place(40, 50), strict=True)) | {
            "windows": "2023,2024", "k": 25},
    ).json()  # fmt: skip
    assert got == answer
    assert world.post(points=[world.place(40, 50)], windows=["1999"]).status_code == 404
    lon, lat = world.place(40, 50)
    every = {"lon": lon, "lat": lat, "windows": ",".join(str(year) for year in range(1950, 1983))}
    assert world.client.get("/datasets/tiny/2024/search", params=every).status_code == 413


def test_filters_leave_exactly_what_they_say(world: World) -> None:
    query = world.tiny.vectors.dequantised()[40, 50].astype(float)
    truth = world.scores(query)
    truth[30:60, 40:70] = -np.inf
    truth[world.tiny.counts.s2 < 20] = -np.inf
    truth[world.tiny.counts.s1_desc < 7] = -np.inf
    inside = np.zeros(truth.shape, bool)
    inside[10:80, 20:100] = True
    truth[~inside] = -np.inf
    answer = world.post(
        points=[world.place(40, 50)], k=300, mask=world.box(30, 40, 60, 70), within=world.box(10, 20, 80, 100),
        min_s2=20, min_s1_desc=7,
    )  # fmt: skip
    assert cells(world, answer) == ranked(truth, 300)


def test_hits_lie_apart_and_are_the_best_that_do(world: World) -> None:
    query = world.tiny.vectors.dequantised()[40, 50].astype(float)
    left, kept = ranked(world.scores(query), HEIGHT * WIDTH), []
    while left and len(kept) < 20:
        i, j = left.pop(0)
        if all(np.hypot(i - a, j - b) * 10 >= 150 for a, b in kept):
            kept.append((i, j))
    asked = {"points": [world.place(40, 50)], "k": 20, "spacing": 150}
    assert cells(world, world.post(**asked)) == kept
    elsewhere = cells(world, world.post(**asked, exclude_examples=True))
    assert kept[0] == (40, 50)
    assert elsewhere[:19] == kept[1:], "they keep the same distance from an example that is left out"


def test_vectors_and_areas_count_against(world: World) -> None:
    wide = world.tiny.vectors.dequantised().astype(float)
    unit = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
    area = unit[60:70, 10:25].reshape(-1, DIMS).mean(axis=0)
    against = np.stack([unit[5, 90], area / np.linalg.norm(area)])
    query = unit[40, 50] - 0.5 * against.mean(axis=0)
    answer = world.post(
        points=[world.place(40, 50)], against_vectors=[wide[5, 90].tolist()], model="tiny@1/test",
        against_polygons=[world.box(60, 10, 70, 25)], k=50,
    )  # fmt: skip
    assert cells(world, answer) == ranked(world.scores(query), 50)


def test_each_pixel_of_an_area_may_be_an_example(world: World) -> None:
    wide = world.tiny.vectors.dequantised().astype(float)
    unit = (wide / np.linalg.norm(wide, axis=-1, keepdims=True))[60:70, 10:25].reshape(-1, DIMS)
    every = world.post(polygons=[world.box(60, 10, 70, 25)], polygons_as="all", k=20)
    assert cells(world, every) == ranked(world.scores(unit.mean(axis=0)), 20)
    saved = world.client.post("/queries", json={
        "polygons": [world.box(60, 10, 70, 25)], "polygons_as": "medoids", "dataset": "tiny", "window": "2024",
    }).json()  # fmt: skip
    assert 1 <= saved["wanted"] <= 8
    held = world.client.get(f"/queries/{saved['id']}").json()["wanted"]
    stored = world.tiny.vectors.dequantised()[60:70, 10:25].reshape(-1, DIMS)
    for example in np.array(held, np.float32):
        cosines = unit @ (example / np.linalg.norm(example))
        assert cosines.max() == pytest.approx(1, abs=1e-6), "a medoid is one of the pixels"
    assert len(stored) == 150


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_counts_and_hectares_are_those_of_brute_force(world: World, metric: str) -> None:
    query = world.tiny.vectors.dequantised()[40, 50].astype(float)
    least = float(np.quantile(world.scores(query, metric)[5:], 0.9))
    distance = 1 - least if metric == "cosine" else (1 - least) * float(np.linalg.norm(query))
    boxes = [(0, 0, 20, 40), (10, 20, 80, 100), (50, 50, 51, 51)]
    asked = {"points": [world.place(40, 50)], "metric": metric, "areas": [world.box(*box) for box in boxes],
             "windows": ["2024", "2023"], "mask": world.box(60, 60, 70, 70)}  # fmt: skip
    answer = world.post("search/areas", **asked, min_score=least, k=7)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert RangesAnswer.model_validate(body)
    expected = []
    for window, vectors in (("2024", world.tiny.vectors), ("2023", world.before)):
        scores, allowed = world.scores(query, metric, vectors), np.ones((HEIGHT, WIDTH), bool)
        allowed[60:70, 60:70] = False
        for n, (top, left, bottom, right) in enumerate(boxes):
            here = np.s_[top:bottom, left:right]
            valid = (vectors.status[here] == VALID) & allowed[here]
            alike = (scores[here] >= least) & allowed[here]
            expected.append({
                "window": window, "area": n, "inside": int(allowed[here].sum()), "valid": int(valid.sum()),
                "alike": int(alike.sum()), "hectares": pytest.approx(alike.sum() / 100),
                "valid_hectares": pytest.approx(valid.sum() / 100), "stale": 0,
            })  # fmt: skip
    assert body["results"] == expected
    assert sum(one["alike"] for one in expected) > 100
    assert len(body["hits"]) == 7
    assert min(hit["properties"]["score"] for hit in body["hits"]) >= least
    near = world.post("search/areas", **asked, max_distance=distance * (1 + 1e-12)).json()
    assert [one["alike"] for one in near["results"]] == [one["alike"] for one in expected]

    rows = list(csv.DictReader(io.StringIO(
        world.client.post("/datasets/tiny/2024/search/areas?f=csv", json=asked | {"min_score": least}).text
    )))  # fmt: skip
    read = pa.ipc.open_stream(world.client.post(
        "/datasets/tiny/2024/search/areas?f=arrow", json=asked | {"min_score": least}
    ).content).read_all().to_pylist()  # fmt: skip
    for one, row, record in zip(body["results"], rows, read, strict=True):
        assert {name: record[name] for name in one} == one
        assert {name: type(value)(row[name]) for name, value in one.items()} == one


def test_without_an_area_everything_is_counted(world: World) -> None:
    body = world.post("search/areas", points=[world.place(40, 50)], min_score=-1.0).json()
    (one,) = body["results"]
    assert one["area"] is None
    assert one["alike"] == one["valid"] == int((world.tiny.vectors.status == VALID).sum())


def ring(vertices: int) -> list[list[float]]:
    turns = np.linspace(0, 2 * np.pi, vertices)
    turns[-1] = 0
    return np.stack([3 + 0.01 * np.cos(turns), 52 + 0.01 * np.sin(turns)], axis=1).round(6).tolist()


POINT = {"points": [[3.0, 52.0]]}
TOO_MUCH: dict[str, tuple[dict[str, Any], set[int], str]] = {
    "a million vertices": (POINT | {"within": {"type": "Polygon", "coordinates": [ring(1_000_000)]}}, {413}, ""),
    "a hundred thousand vertices": (
        POINT | {"within": {"type": "Polygon", "coordinates": [ring(100_000)]}}, {413, 422}, "within",
    ),
    "two thousand vertices": (POINT | {"mask": {"type": "Polygon", "coordinates": [ring(2_000)]}}, {413}, "mask"),
    "k of a billion": (POINT | {"k": 10**9}, {413}, "k"),
    "ten thousand examples": ({"points": [[3.0, 52.0]] * 10_000}, {422}, "points"),
    "ten thousand vectors": ({"vectors": [[1.0] * 16] * 10_000, "model": "tiny@1/test"}, {422}, "vectors"),
    "a thousand windows": (POINT | {"windows": [f"{1000 + n}" for n in range(1000)]}, {422}, "windows"),
    "a thousand areas": (POINT | {"polygons": [{"type": "Polygon", "coordinates": [ring(5)]}] * 1000}, {422}, "polyg"),
    "spacing below zero": (POINT | {"spacing": -1.0}, {422}, "spacing"),
    "spacing of the whole world": (POINT | {"spacing": 1e300}, {422}, "spacing"),
    "a recall of two": (POINT | {"recall": 2}, {422}, "recall"),
    "a level there is none of": (POINT | {"level": 3}, {422}, "level"),
    "nothing to refine": (POINT | {"refine": True}, {422}, "refine"),
    "another metric": (POINT | {"metric": "manhattan"}, {422}, "metric"),
    "a count below zero": (POINT | {"min_s2": -1}, {422}, "min_s2"),
}  # fmt: skip


@pytest.mark.parametrize("what", TOO_MUCH)
def test_what_is_too_much_is_refused_at_once(world: World, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In milliseconds of the processor, which is what is printed; what writing the request takes is not counted."""
    body, statuses, field = TOO_MUCH[what]
    request = world.client.build_request("POST", "/datasets/tiny/2024/search", json=body)
    began = time.process_time()
    answer = world.client.send(request)
    took = time.process_time() - began
    with capsys.disabled():
        print(f"  {what}: {answer.status_code} in {took * 1000:.1f} ms")
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["kind"] in {"invalid-input", "limit-exceeded"}
    assert field in (answer.json().get("field") or "")
    assert took < 2.0


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"points": [[3, 52]], "spacing": NaN}', "spacing"),
        ('{"points": [[3, 52]], "spacing": 1e999}', "spacing"),
        ('{"points": [[3, 52]], "recall": NaN}', "recall"),
        ('{"vectors": [[NaN, 1]], "model": "tiny@1/test"}', "vectors"),
        ('{"points": [[3, 52]], "against_vectors": [[NaN, 1]], "model": "tiny@1/test"}', "against_vectors"),
        ('{"points": [[3, 52]], "bbox": [NaN, 1, 2, 3]}', "bbox"),
        ('{"points": [[3, 52]], "mask": {"type": "Polygon", "coordinates": [[[NaN, 1], [2, 3], [3, 1]]]}}', "mask"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(world: World, text: str, field: str) -> None:
    answer = world.client.post("/datasets/tiny/2024/search", content=text, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["kind"]) == (422, "invalid-input"), answer.text
    assert field in answer.json()["field"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "min_score"),
        ({"min_score": 0.5, "max_distance": 0.5}, "min_score"),
        ({"max_distance": -1.0}, "max_distance"),
        ({"min_score": 0.5, "k": 501}, "k"),
        ({"min_score": 0.5, "areas": [{"type": "Point", "coordinates": [3, 52]}]}, "areas"),
    ],
)
def test_a_count_that_cannot_be_is_refused(world: World, body: dict[str, Any], field: str) -> None:
    answer = world.post("search/areas", points=[world.place(40, 50)], **body)
    assert answer.status_code in {413, 422}, answer.text
    assert field in answer.json()["field"]


def test_openapi_describes_all_of_it(world: World) -> None:
    document = world.client.get("/openapi.json").json()
    paths, schemas = document["paths"], document["components"]["schemas"]
    base = "/datasets/{dataset}/{window}/search"
    for path, method, answer, media in (
        (base, "get", "SearchAnswer", "application/geo+json"),
        (base, "post", "SearchAnswer", "application/geo+json"),
        (f"{base}/areas", "post", "RangesAnswer", "application/json"),
    ):
        route = paths[path][method]
        assert {"200", "401", "403", "404", "409", "413", "422", "503"} <= set(route["responses"])
        content = route["responses"]["200"]["content"]
        assert set(content) == {media, "text/csv", ARROW}
        assert content[media]["schema"] == {"$ref": f"#/components/schemas/{answer}"}
        assert all(parameter.get("description") for parameter in route["parameters"]), path
    named = {"SearchBody", "RangeBody", "SearchAnswer", "RangesAnswer", "Searched", "HitProperties", "AreaCount"}
    plain = {"type", "dataset", "model", "window", "features", "revision", "metric", "level"}
    for name in named:
        for field, schema in schemas[name]["properties"].items():
            assert "description" in schema or field in plain, f"{name}.{field}"


def test_the_folder_of_a_search_stays_as_it_is(world: World, tmp_path: Path) -> None:
    store = Path(world.tiny.store.location)
    before = sorted(store.rglob("*"))
    world.post("search/areas", points=[world.place(40, 50)], min_score=0.5)
    assert sorted(store.rglob("*")) == before
