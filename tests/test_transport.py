"""How answers travel: HEAD, compression, what caches may keep apart, and which origins may read."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.params import SUPPORTED_TMS
from api.settings import Settings
from tests.conftest import client_of

BASE = "/datasets/demo/2024"
PLAIN = {"Accept-Encoding": "identity"}


@pytest.fixture(scope="module")
def tile(world: Settings) -> str:
    lon, lat = client_of(world).get("/datasets/demo").json()["center"]
    found = SUPPORTED_TMS.get("WebMercatorQuad").tile(lon, lat, 13)
    return f"{BASE}/tiles/WebMercatorQuad/13/{found.x}/{found.y}.png"


def varies(answer: Any) -> set[str]:
    return {name.strip() for name in answer.headers.get("vary", "").split(",") if name.strip()}


def test_head_is_get_without_its_body(client: TestClient, tile: str) -> None:
    documents = (f"{BASE}/WebMercatorQuad/tilejson.json", f"{BASE}/WMTSCapabilities.xml", "/collections", "/stac", "/")
    for path in (tile, *documents, "/datasets", "/livez", "/web/assets/main.mjs"):
        got, told = client.get(path, headers=PLAIN), client.head(path, headers=PLAIN)
        assert (told.status_code, told.content) == (200, b""), path
        for name in ("content-type", "content-length", "etag", "cache-control", "vary"):
            assert told.headers.get(name) == got.headers.get(name), (path, name)
    for path, status in ((f"{BASE}/tiles/WebMercatorQuad/13/0/0.png", 404), ("/nowhere", 404), ("/embed", 405)):
        told = client.head(path)
        assert (told.status_code, told.content) == (status, b""), path
    assert client.head(tile, headers={"If-None-Match": client.get(tile).headers["etag"]}).status_code == 304


def test_documents_are_packed_and_pictures_are_not(client: TestClient, tile: str) -> None:
    packed = {"Accept-Encoding": "gzip"}
    for path in ("/collections", f"{BASE}/WMTSCapabilities.xml", "/stac/demo/items", "/web/assets/style.css"):
        plain, small = client.get(path, headers=PLAIN), client.get(path, headers=packed)
        assert small.headers["content-encoding"] == "gzip", path
        assert int(small.headers["content-length"]) < 0.5 * len(plain.content) if "web" not in path else True
        assert small.content == plain.content
        assert "Accept-Encoding" in varies(small) & varies(plain)
        if path != "/web/assets/style.css":
            assert small.headers["etag"] == "W/" + plain.headers["etag"].removeprefix("W/"), "other bytes, other tag"
            again = client.get(path, headers={**packed, "If-None-Match": small.headers["etag"]})
            assert again.status_code == 304
    for path in (tile, tile.replace(".png", ".webp"), tile.replace(".png", ".npy")):
        answer = client.get(path, headers=packed)
        assert "content-encoding" not in answer.headers, path
        assert "Accept-Encoding" not in varies(answer)
        assert not answer.headers["etag"].startswith("W/")


def test_a_map_for_everybody_is_one_copy_for_every_origin(client: TestClient, world: Settings, tile: str) -> None:
    for headers in ({}, {"Origin": "http://one.example"}, {"Origin": "http://two.example"}):
        answer = client.get(tile, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Origin" not in varies(answer)
    ask = {"Origin": "http://one.example", "Access-Control-Request-Method": "HEAD"}
    assert "HEAD" in client.options(tile, headers=ask).headers["access-control-allow-methods"]

    chosen = client_of(world.model_copy(update={"cors_origins": ("http://one.example",)}))
    for origin, allowed in (("http://one.example", "http://one.example"), ("http://two.example", None), (None, None)):
        answer = chosen.get(tile, headers={"Origin": origin} if origin else {})
        assert answer.headers.get("access-control-allow-origin") == allowed
        assert "Origin" in varies(answer), "a copy without the header must not serve the page that may read"


def test_answers_vary_by_what_they_heed(client: TestClient, tile: str) -> None:
    assert varies(client.get(tile)) == set()
    assert "Accept" in varies(client.get(f"{BASE}/map?width=16"))
    assert "Accept" in varies(client.get("/"))
    tags = {
        client.get(f"{BASE}/map?width=16", headers={"Accept": m}).headers["etag"] for m in ("image/png", "image/webp")
    }
    assert len(tags) == 2


def test_an_error_carries_no_validator(client: TestClient) -> None:
    for path in (
        f"{BASE}/tiles/WebMercatorQuad/13/0/0.png",
        f"{BASE}/map?bbox=1,2",
        "/collections/none:1",
        "/stac/none",
    ):
        answer = client.get(path)
        assert answer.status_code >= 400
        assert "etag" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"
