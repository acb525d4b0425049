"""Tiles over HTTP: documents, formats, headers, validators, and what must be refused."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import morecantile
import numpy as np
import pytest
from fastapi.testclient import TestClient
from rasterio.io import MemoryFile

from api.catalogue import Dataset
from api.params import REFUSED
from api.settings import Settings
from api.stamp import holds
from service.colour import BandsView, Basis, PcaView
from service.grid import Zone
from service.queries import Query
from service.store import open_store
from service.values import BLOCK, VALID, Counts, ModelIdentity, Vectors
from tests.conftest import client_of
from tests.fakes import Datasets, MemoryStore, alphaearth
from tests.stores import YEAR, Tiny, blocks_from, random_vectors, tiny_archive

TMS = morecantile.tms.get("WebMercatorQuad")
BASE = "/datasets/aef/2024"
TILE = TMS.tile(-88.7688, 44.2946, 13)
PATH = f"{BASE}/tiles/WebMercatorQuad/{TILE.z}/{TILE.x}/{TILE.y}"
RING = [[-88.771, 44.292], [-88.766, 44.292], [-88.768, 44.296], [-88.771, 44.292]]
FEATURE = {
    "type": "Feature",
    "properties": {},
    "geometry": {"type": "Polygon", "coordinates": [RING]},
}


@pytest.fixture(scope="module")
def aef(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TestClient, Tiny]:
    """A server of the real raster in a real repository, with its default basis."""
    home = tmp_path_factory.mktemp("home")
    codes, scales, zone, window, row, col = alphaearth(real_data)
    vectors = Vectors(codes, scales, np.full(scales.shape, VALID, np.uint8))
    (home / "datasets").mkdir()
    tiny = tiny_archive(home / "datasets", vectors, zone=zone.name, window=window, at=(row, col), name="aef")
    client = client_of(Settings(home=home, catalogue=Path("none.toml")))
    assert client.post("/bases", json={"dataset": "aef"}).status_code == 201
    return client, tiny


def memory_client(tmp_path: Path, store: MemoryStore) -> TestClient:
    client = client_of(Settings(home=tmp_path, catalogue=Path("none.toml")))
    client.app.state.smalti.datasets = Datasets({"tiny": Dataset("tiny", store, "Tiny", "CC0")})  # type: ignore[attr-defined]
    assert client.post("/bases", json={"dataset": "tiny"}).status_code == 201
    return client


def pixels_of(content: bytes) -> np.ndarray:
    with MemoryFile(content) as memory, memory.open() as file:
        opaque = file.driver == "PNG" and file.count == 3
        return np.concatenate([file.read(), file.dataset_mask()[None]]) if opaque else np.asarray(file.read())


@pytest.mark.parametrize(
    ("suffix", "media", "bands"),
    [
        ("", "image/png", 4),
        (".png", "image/png", 4),
        (".webp", "image/webp", 4),
        (".jpg", "image/jpeg", 3),
        (".jpeg", "image/jpeg", 3),
        (".tif", "image/tiff; application=geotiff", 64),
        (".tif?view=pca", "image/tiff; application=geotiff", 3),
        (".png?view=bands:1,2,3", "image/png", 4),
        (".png?view=bands:4", "image/png", 1),
        (".webp?view=bands:4", "image/webp", 4),
        (".jpg?view=bands:4", "image/jpeg", 3),
        (".png?tilesize=512", "image/png", 4),
    ],
)
def test_a_tile_comes_in_each_format(aef: tuple[TestClient, Tiny], suffix: str, media: str, bands: int) -> None:
    answer = aef[0].get(PATH + suffix)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media
    pixels = pixels_of(answer.content)
    side = 512 if "512" in suffix else 256
    assert pixels.shape == (bands, side, side)
    assert answer.headers["content-crs"] == "<http://www.opengis.net/def/crs/EPSG/0/3857>"


def test_every_answer_names_dataset_model_window_and_revision(aef: tuple[TestClient, Tiny]) -> None:
    client, tiny = aef
    lon, lat = tiny.lonlat(50, 50)
    for path in (
        PATH,
        f"{BASE}/point/{lon},{lat}",
        f"{BASE}/WebMercatorQuad/tilejson.json",
        f"{BASE}/statistics?view=pca",
    ):
        headers = client.get(path).headers
        assert headers["x-smalti-dataset"] == "aef"
        assert headers["x-smalti-model"] == "tiny@1/test"
        assert headers["x-smalti-window"] == "2024"
        assert headers["x-smalti-revision"] == tiny.store.revision()[0]
    assert client.post(f"{BASE}/feature.png", json=FEATURE).headers["x-smalti-dataset"] == "aef"


def test_numbers_are_the_dequantised_vectors_and_colours_their_projection(aef: tuple[TestClient, Tiny]) -> None:
    client, _ = aef
    vectors = np.load(io.BytesIO(client.get(f"{PATH}.npy").content))
    assert (vectors.dtype, vectors.shape) == (np.float32, (64, 256, 256))
    held = ~np.isnan(vectors[0])
    assert 2000 < held.sum() < 6000
    document = client.app.state.smalti.bases("aef").get("default")[1]  # type: ignore[attr-defined]
    basis = Basis.from_document(document)
    along = np.load(io.BytesIO(client.get(f"{PATH}.npy?view=pca").content))
    exact = (vectors[:, held].T.astype(float) - basis.mean) @ basis.components.T
    assert np.abs(along[:, held].T - exact).max() < 1e-5
    png = pixels_of(client.get(f"{PATH}.png").content)
    expected = np.rint(np.clip((exact - basis.low) / (basis.high - basis.low) * 255, 0, 255))
    assert (png[3] == np.where(held, 255, 0)).all()
    assert (expected == png[:3, held].T).mean() > 0.999


def test_tiles_show_what_lies_between_and_around_where_asked(aef: tuple[TestClient, Tiny]) -> None:
    client, _ = aef
    tile = TMS.tile(-88.7688, 44.2946, 16)
    path = f"{BASE}/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png"
    near, between, wide = (client.get(f"{path}?{query}") for query in ("", "resampling=bilinear", "buffer=3"))
    assert len({answer.headers["etag"] for answer in (near, between, wide)}) == 3
    plain, smooth, more = (pixels_of(answer.content) for answer in (near, between, wide))
    assert (plain[3] == smooth[3]).all()
    assert (plain[:3] != smooth[:3]).any()
    assert more.shape == (4, 262, 262)
    assert (more[:, 3:-3, 3:-3] == plain).all()
    box = f"{BASE}/bbox/-88.770,44.294,-88.767,44.296"
    stored, blended = (np.load(io.BytesIO(client.get(f"{box}.npy?{q}").content)) for q in ("", "resampling=bilinear"))
    assert blended == pytest.approx(stored, abs=1e-6), "at the middle of a stored pixel nothing is mixed"


def test_a_point_tells_status_and_numbers(aef: tuple[TestClient, Tiny]) -> None:
    client, tiny = aef
    lon, lat = tiny.lonlat(10, 20)
    here = client.get(f"{BASE}/point/{lon},{lat}").json()
    assert here["status"] == "valid"
    assert here["values"] == pytest.approx(tiny.vectors.dequantised()[10, 20].tolist())
    assert here["band_names"][0] == "d0"
    view = client.get(f"{BASE}/point/{lon},{lat}?view=bands:3,4").json()
    assert view["values"] == pytest.approx(here["values"][3:5])
    assert client.get(f"{BASE}/point/{lon},{lat - 0.05}").json() == {
        "coordinates": [lon, lat - 0.05], "status": "not-embedded", "reason": "outside", "job": None,
        "values": [None] * 64,
        "band_names": here["band_names"],
    }  # fmt: skip
    assert client.get(f"{BASE}/point/20,-30").json()["status"] == "outside"


def test_statistics_and_pictures_of_areas(aef: tuple[TestClient, Tiny]) -> None:
    client, tiny = aef
    stats = client.get(f"{BASE}/statistics?view=pca&max_size=1024&p=50").json()
    assert set(stats) == {"pc1", "pc2", "pc3"}
    assert stats["pc1"]["valid_pixels"] == 97 * 97
    assert stats["pc1"]["mean"] == pytest.approx(0, abs=1e-5), "the basis is centred on all of them"
    inside = client.post(f"{BASE}/statistics?view=pca", json=FEATURE).json()["properties"]["statistics"]
    assert 0 < inside["pc1"]["valid_pixels"] < 97 * 97
    (west, south), (east, north) = tiny.lonlat(90, 5), tiny.lonlat(5, 90)
    for path in (f"{BASE}/bbox/{west},{south},{east},{north}.png", f"{BASE}/preview.png", f"{BASE}/map?width=100"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        pixels = pixels_of(answer.content)
        assert len(pixels) == 3 or pixels[3].max() == 255, "no alpha where every pixel is valid"
    part = client.post(f"{BASE}/feature/60x50.png", json=FEATURE)
    assert pixels_of(part.content).shape == (4, 50, 60)
    crs = client.get(f"{BASE}/preview.png?dst_crs=EPSG:3035")
    assert crs.headers["content-crs"] == "<http://www.opengis.net/def/crs/EPSG/0/3035>"
    tif = client.get(f"{BASE}/map?f=tif&bbox={west},{south},{east},{north}&crs=EPSG:32616&width=30")
    assert pixels_of(tif.content).shape[0] == 64
    accepted = client.get(f"{BASE}/map", headers={"accept": "image/webp"})
    assert accepted.headers["content-type"] == "image/webp"
    assert "accept" in accepted.headers["vary"].lower()


def test_documents_lead_to_tiles(aef: tuple[TestClient, Tiny]) -> None:
    client, _ = aef

    def tile_at(template: str) -> int:
        text = unquote(template)
        for name, value in (("{z}", TILE.z), ("{x}", TILE.x), ("{y}", TILE.y), ("{TileMatrix}", TILE.z),
                            ("{TileCol}", TILE.x), ("{TileRow}", TILE.y)):  # fmt: skip
            text = text.replace(name, str(value))
        assert "{" not in text
        return client.get(text).status_code

    tilejson = client.get(f"{BASE}/WebMercatorQuad/tilejson.json?view=bands:0,1,2").json()
    assert tilejson["tilejson"] == "3.0.0"
    assert tilejson["minzoom"] == 0
    assert tilejson["maxzoom"] == 14
    assert "Copernicus" in tilejson["attribution"]
    west, south, east, north = tilejson["bounds"]
    assert west < -88.7688 < east
    assert south < 44.2946 < north
    assert "view=bands" in tilejson["tiles"][0]
    assert tile_at(tilejson["tiles"][0]) == 200

    assert client.get(f"{BASE}/info").json()["legend"]["view"] == "pca"


def test_a_tile_changes_its_tag_only_with_the_blocks_it_shows(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    tiny = tiny_archive(tmp_path / "datasets", random_vectors((3 * BLOCK, 3 * BLOCK), 8), name="tiny")
    corners = [TMS.tile(*tiny.lonlat(i, j), 14) for i in (0, 767) for j in (0, 767)]
    tiles = [
        f"/datasets/tiny/2024/tiles/WebMercatorQuad/14/{x}/{y}.png?view=pca"
        for x in range(min(t.x for t in corners), max(t.x for t in corners) + 1)
        for y in range(min(t.y for t in corners), max(t.y for t in corners) + 1)
    ]
    with client_of(Settings(home=tmp_path, catalogue=Path("none.toml"))) as client:
        assert client.post("/bases", json={"dataset": "tiny"}).status_code == 201
        before = {path: client.get(path) for path in tiles}
        assert all(answer.status_code == 200 for answer in before.values())

        block = tiny.store.blocks(YEAR)[4]
        fresh = random_vectors((BLOCK, BLOCK), 8, seed=9)
        (data,) = blocks_from("31N", block.rows.start, block.cols.start, fresh, YEAR, Counts.zeros((BLOCK, BLOCK)))
        store = open_store(str(tmp_path / "datasets" / "tiny.icechunk"))
        store.write([data], "one block anew")  # type: ignore[attr-defined]
        client.app.state.smalti.datasets.look_now()  # type: ignore[attr-defined]

        after = {path: client.get(path, headers={"If-None-Match": before[path].headers["etag"]}) for path in tiles}
        assert {answer.status_code for answer in after.values()} == {200, 304}
        for path, answer in after.items():
            changed = client.get(path).content != before[path].content
            assert answer.status_code == (200 if changed else 304), path
            assert answer.headers["x-smalti-revision"] == store.revision()[0]
            if answer.status_code == 304:
                assert answer.content == b""
                assert answer.headers["etag"] == before[path].headers["etag"]


def test_304_is_answered_without_reading_a_pixel(tmp_path: Path) -> None:
    vectors = random_vectors((300, 300), 8)
    store = MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, 350_000, 25_000)
    client = memory_client(tmp_path, store)
    lon, lat = store.parts[0].grid.to_lonlat(np.array([350_150.0]), np.array([25_150.0]))
    tile = TMS.tile(float(lon[0]), float(lat[0]), 14)
    path = f"/datasets/tiny/2024/tiles/WebMercatorQuad/14/{tile.x}/{tile.y}.png"
    tag = client.get(path).headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    store.reads.clear()
    for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = client.get(path, headers={"If-None-Match": header})
        assert answer.status_code == 304
        assert answer.headers["cache-control"] == "public, no-cache"
    assert not store.reads
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    tags = {
        client.get(p).headers["etag"]
        for p in (path, f"{path}?view=bands:0,1,2", f"{path}?tilesize=512", path.replace("png", "webp"))
    }
    assert len(tags) == 4
    client.post("/bases", json={"dataset": "tiny", "seed": 5, "sample": 100})
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 200, "the default basis moved"


def test_any_copy_of_a_tile_is_none_outside(aef: tuple[TestClient, Tiny]) -> None:
    path = f"{BASE}/tiles/WebMercatorQuad/13/0/0.png"
    for header in ("*", '"other", *', '"other"'):
        assert aef[0].get(path, headers={"If-None-Match": header}).status_code == 404, header


def test_a_weak_revision_gives_a_weak_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_vectors((20, 20), 8)
    store = MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, 350_000, 25_000)
    client = memory_client(tmp_path, store)
    monkeypatch.setattr(store, "revision", lambda: ("abc", False))
    tag = client.get("/datasets/tiny/2024/info").headers["etag"]
    assert tag.startswith('W/"')
    assert client.get("/datasets/tiny/2024/info", headers={"If-None-Match": tag}).status_code == 304


def test_if_none_match_is_read_as_the_standard_says() -> None:
    assert holds('"a", W/"b"', 'W/"b"')
    assert holds('W/"b"', '"b"')
    assert holds("*", '"b"')
    assert not holds('"a"', '"b"')
    assert not holds(None, '"b"')


def test_a_query_of_another_model_is_a_conflict_that_names_both(aef: tuple[TestClient, Tiny]) -> None:
    client, tiny = aef
    shelf = client.app.state.smalti.queries  # type: ignore[attr-defined]
    own = shelf.put(Query.of(tiny.store.identity, tiny.vectors.dequantised()[3, 3]).to_document())
    other = shelf.put(Query.of(ModelIdentity("other", "7"), tiny.vectors.dequantised()[3, 3]).to_document())
    good = client.get(f"{PATH}.png?view=similarity:{own}&threshold=0.3")
    assert good.status_code == 200
    assert pixels_of(good.content).max() > 200
    bad = client.get(f"{PATH}.png?view=similarity:{other}")
    assert bad.status_code == 409
    assert bad.json()["kind"] == "identity-mismatch"
    assert "other@7" in bad.json()["detail"]
    assert "tiny@1" in bad.json()["detail"]


def test_likeness_with_a_place_is_likeness_with_the_query_of_that_place(aef: tuple[TestClient, Tiny]) -> None:
    client, tiny = aef
    lon, lat = tiny.lonlat(40, 50)
    view = f"view=similarity:{lon},{lat}"
    shelf = client.app.state.smalti.queries  # type: ignore[attr-defined]
    query = Query.of(tiny.store.identity, tiny.vectors.dequantised()[40, 50])
    legend = client.get(f"{BASE}/legend?{view}&threshold=0.2").json()
    assert (legend["query"], legend["range"]) == (query.id, [0.2, 1.0])
    assert client.get(f"/queries/{query.id}").status_code == 404, "nothing is saved"
    key = shelf.put(query.to_document())
    for suffix in (".npy", ".png?clip=true&threshold=0.7"):
        mark = "&" if "?" in suffix else "?"
        by_place, by_key = (client.get(f"{PATH}{suffix}{mark}{v}") for v in (view, f"view=similarity:{key}"))
        assert by_place.status_code == 200, by_place.text
        assert by_place.content == by_key.content
    assert client.get(f"{BASE}/point/{lon},{lat}?{view}").json()["values"] == [pytest.approx(1)]
    missing = client.get(f"{PATH}.png?view=similarity:{lon},{lat - 0.05}")
    assert (missing.status_code, missing.json()["field"]) == (404, "view")
    assert "not-embedded" in missing.json()["detail"]


def test_a_place_is_read_once_for_many_tiles_and_anew_when_it_changes(tmp_path: Path) -> None:
    """The tag of every tile follows the vector of the place, wherever the tile lies; other blocks do not matter."""
    vectors = random_vectors((3 * BLOCK, 3 * BLOCK), 8)
    store = MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, 350_000 // BLOCK * BLOCK, 25_088)
    client, part, reads = memory_client(tmp_path, store), store.parts[0], []
    sample = store.sample

    def counted(*arguments: Any, **options: Any) -> Vectors:
        reads.append(arguments)
        return sample(*arguments, **options)

    store.sample = counted  # type: ignore[method-assign]
    rows, cols = part.row0 + np.array([20.5, 600.5]), part.col0 + np.array([20.5, 600.5])
    lon, lat = part.grid.to_lonlat(rows, cols)
    tile = TMS.tile(float(lon[1]), float(lat[1]), 15)
    paths = [
        f"/datasets/tiny/2024/tiles/WebMercatorQuad/15/{x}/{y}.png?view=similarity:{lon[0]},{lat[0]}"
        for x in range(tile.x - 1, tile.x + 2)
        for y in range(tile.y - 1, tile.y + 2)
    ]
    tags = [client.get(path).headers["etag"] for path in paths]
    assert len(reads) == 1
    part.vectors.codes[20, 300] += 1
    assert [client.get(path).headers["etag"] for path in paths] == tags
    part.vectors.codes[20, 20] = -part.vectors.codes[20, 20]
    after = [client.get(path).headers["etag"] for path in paths]
    assert not set(after) & set(tags)
    assert len(reads) == 3


@pytest.mark.parametrize(
    ("query", "status"),
    [
        *((f"{name}=1", 422) for name in sorted(REFUSED)),
        ("view=expression", 422),
        ("view=bands:0,1,64", 422),
        ("view=pca:nothing", 404),
        ("view=similarity:nothing", 404),
        ("view=similarity:3,52", 404),
        ("view=similarity:3,52,1", 422),
        ("view=similarity:-88.7688,44.2946&threshold=0.5&top=0.5", 422),
        ("view=similarity:-88.7688,44.2946&top=nan", 422),
        ("view=similarity:-88.7688,44.2946&clip=maybe", 422),
        ("view=change:2023", 404),
        ("view=change:soon", 422),
        ("view=pca:..%2F..%2Fetc", 422),
        ("view=vector", 422),
        ("view=" + "a" * 500, 422),
        ("dims=3", 422),
        ("dims=0", 422),
        ("tilesize=0", 422),
        ("tilesize=100000", 422),
        ("threshold=2", 422),
        ("resampling=cubic", 422),
        ("buffer=-1", 422),
        ("buffer=0.3", 422),
        ("buffer=nan", 422),
        ("buffer=1000", 413),
        ("threshold=nan", 422),
        ("f=html", 422),
    ],
)
def test_what_a_tile_must_not_be_asked_is_refused(aef: tuple[TestClient, Tiny], query: str, status: int) -> None:
    answer = aef[0].get(f"{PATH}.png?{query}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{BASE}/tiles/WebMercatorQuad/13/0/0.png", 404),
        (f"{BASE}/bbox/-88.77,44.29,-88.76,44.30.png?buffer=1", 422),
        (f"{BASE}/WebMercatorQuad/tilejson.json?buffer=1", 422),
        (f"{BASE}/point/-88.77,44.29?resampling=bilinear", 422),
        (f"{BASE}/tiles/WebMercatorQuad/13/99999/0.png", 404),
        (f"{BASE}/tiles/WebMercatorQuad/99/0/0.png", 404),
        (f"{BASE}/tiles/WebMercatorQuad/-1/0/0.png", 404),
        (f"{BASE}/tiles/WebMercatorQuad/x/0/0.png", 422),
        (f"{BASE}/tiles/Nowhere/1/0/0.png", 422),
        (f"{PATH}.jp2", 422),
        (f"{PATH}.exe", 422),
        ("/datasets/aef/1999/info", 404),
        ("/datasets/aef/yesterday/info", 422),
        ("/datasets/none/2024/info", 404),
        (f"{BASE}/point/nan,0", 422),
        (f"{BASE}/point/0,100", 422),
        (f"{BASE}/point/0,0?coord_crs=/etc/passwd", 422),
        (f"{BASE}/point/0,0?coord_crs=EPSG:999999", 422),
        (f"{BASE}/preview.png?dst_crs=http://127.0.0.1/crs", 422),
        (f"{BASE}/preview.png?dst_crs=%2Bproj%3Dlonglat", 422),
        *((f"{BASE}/preview.tif?view=pca&dst_crs=EPSG:{code}", 422) for code in (4978, 4979, 5703, 7415)),
        (f"{BASE}/statistics?histogram_range=0,1", 422),
        (f"{BASE}/statistics?categorical=true", 422),
        (f"{BASE}/statistics?c=1", 422),
        (f"{BASE}/preview.png?max_size=100000", 422),
        (f"{BASE}/preview/9999x9999.png", 422),
        (f"{BASE}/preview.npy?width=2000&height=2000", 413),
        (f"{BASE}/map?width=100000", 413),
        (f"{BASE}/map?bbox=1,2,3", 422),
        (f"{BASE}/map?f=exe", 422),
        (f"{BASE}/bbox/1,1,0,0.png", 422),
        (f"{BASE}/bbox/nan,0,1,1.png", 422),
        (f"{BASE}/bbox/0,0,1e300,1.png", 422),
        (f"{BASE}/statistics?p=101", 422),
        (f"{BASE}/statistics?histogram_bins=1000000000", 422),
        (f"{BASE}/statistics?" + "&".join(["p=5"] * 50), 422),
        (f"{BASE}/tiles/WebMercatorQuad?maxzoom=100000000", 413),
        (f"{BASE}/WMTSCapabilities.xml?zooms=*::0,100000000", 422),
        (f"{BASE}/WebMercatorQuad/tilejson.json?maxzoom=99", 413),
        (f"{BASE}/WebMercatorQuad/tilejson.json?tile_format=jp2", 422),
    ],
)
def test_hostile_requests_are_refused_as_problems(aef: tuple[TestClient, Tiny], path: str, status: int) -> None:
    answer = aef[0].get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "query", "status"),
    [
        ({**FEATURE, "geometry": None}, "", 422),
        ({**FEATURE, "geometry": {"type": "Polygon", "coordinates": []}}, "", 422),
        ({**FEATURE, "geometry": {"type": "Point", "coordinates": [0.0, 0.0]}}, "", 422),
        (FEATURE, "cover_scale=1000", 413),
        ({"type": "FeatureCollection", "features": [FEATURE] * 101}, "view=bands:0&max_size=4", 413),
    ],
)
def test_hostile_features_are_refused_as_problems(
    aef: tuple[TestClient, Tiny], body: dict[str, object], query: str, status: int
) -> None:
    answer = aef[0].post(f"{BASE}/statistics?{query}", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_bases_are_listed_and_named_by_their_content(aef: tuple[TestClient, Tiny]) -> None:
    client, tiny = aef
    made = client.post("/bases", json={"dataset": "aef", "name": "other", "seed": 3, "sample": 500}).json()
    assert made["model"] == "tiny@1/test"
    assert (made["sample"], made["dims"]) == (500, 64)
    listed = {basis["name"]: basis for basis in client.get("/bases?dataset=aef").json()["bases"]}
    assert listed["other"] == made
    assert listed["default"]["id"] != made["id"]
    by_name, by_id = (client.get(f"{PATH}.png?view=pca:{key}").content for key in ("other", made["id"]))
    assert by_name == by_id != client.get(f"{PATH}.png").content
    document = client.app.state.smalti.bases("aef").get("other")[1]  # type: ignore[attr-defined]
    basis = Basis.from_document(document)
    assert PcaView(basis).key == f"pca:{made['id']}"
    assert BandsView((0,), basis).key.endswith(made["id"])
    for body, status in (
        ({"dataset": "none"}, 404),
        ({"dataset": "aef", "name": "../x"}, 422),
        ({"dataset": "aef", "sample": 10**9}, 422),
        ({"dataset": "aef", "windows": ["1999"]}, 404),
        ({"dataset": "aef", "colour": "red"}, 422),
    ):
        assert client.post("/bases", json=body).status_code == status
    away = client_of(client.app.state.smalti.settings, client=("192.0.2.7", 1))  # type: ignore[attr-defined]
    assert away.post("/bases", json={"dataset": "aef"}).status_code == 403
    assert away.get("/bases?dataset=aef").status_code == 200
    assert tiny.store.identity == ModelIdentity("tiny", "1", "test")
