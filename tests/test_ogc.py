"""OGC API - Tiles and - Maps: each requirements class that /conformance claims has its test here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft7Validator
from rasterio.io import MemoryFile
from titiler.core.models.OGC import TileSet

from api.app import create_app
from api.params import SUPPORTED_TMS
from api.routes.ogc import CLAIMED, MAPS, TILES
from api.settings import Settings
from service.matrices import limits

BASE = "/datasets/demo/2024"
HERE = [name for name in SUPPORTED_TMS.list() if name != "NZTM2000Quad"]
REL = "http://www.opengis.net/def/rel/ogc/1.0/"
JSON = {"Accept": "application/json"}
Get = Callable[..., Any]


def links(document: dict[str, Any], rel: str) -> list[dict[str, Any]]:
    return [link for link in document["links"] if link["rel"] == rel]


def pixels_of(content: bytes) -> np.ndarray:
    with MemoryFile(content) as memory, memory.open() as file:
        return np.asarray(file.read())


# Requirements classes


def tiles_core(client: TestClient) -> None:
    """A tile by matrix, row and column has the matrix's size; what lies outside the limits is 404."""
    for name in HERE:
        tms, found = SUPPORTED_TMS.get(name), client.get(f"{BASE}/tiles/{name}").json()
        deep = [limit for limit in found["tileMatrixSetLimits"] if limit["tileMatrix"] == "12"]
        for limit in deep:
            rows, cols = ((limit[f"min{axis}"], limit[f"max{axis}"]) for axis in ("TileRow", "TileCol"))
            for row, col in ((rows[0], cols[0]), (rows[1], cols[1])):
                answer = client.get(f"{BASE}/tiles/{name}/12/{col}/{row}.png")
                assert answer.status_code == 200, (name, limit)
                matrix = tms.matrix(12)
                assert pixels_of(answer.content).shape[1:] == (matrix.tileHeight, matrix.tileWidth)
            for row, col in ((rows[0] - 1, cols[0]), (rows[0], cols[1] + 1)):
                assert client.get(f"{BASE}/tiles/{name}/12/{col}/{row}.png").status_code == 404, (name, limit)
        assert deep
    assert client.get(f"{BASE}/tiles/WebMercatorQuad/77/0/0.png").status_code == 404


def tiles_tileset(client: TestClient) -> None:
    """The description: its matrix set by link and registered name, and a template a format, filled in by its names."""
    found = client.get(f"{BASE}/tiles/WebMercatorQuad?view=bands:0,1,2").json()
    TileSet.model_validate(found)
    assert (found["dataType"], found["crs"]) == ("map", "http://www.opengis.net/def/crs/EPSG/0/3857")
    assert found["tileMatrixSetURI"] == "http://www.opengis.net/def/tilematrixset/OGC/1.0/WebMercatorQuad"
    (scheme,) = links(found, f"{REL}tiling-scheme")
    assert client.get(scheme["href"]).json()["id"] == "WebMercatorQuad"
    limit = found["tileMatrixSetLimits"][13]
    for template in links(found, "item"):
        assert template["templated"] is True
        assert set(re.findall(r"\{(\w+)\}", template["href"])) == {"tileMatrix", "tileRow", "tileCol"}
        assert "view=bands" in template["href"]
        answer = client.get(
            template["href"].format(tileMatrix="13", tileRow=limit["minTileRow"], tileCol=limit["minTileCol"])
        )
        assert (answer.status_code, answer.headers["content-type"]) == (200, template["type"])
    assert {template["type"] for template in links(found, "item")} == set(found["mediaTypes"])
    for layer in found["layers"]:
        low, high = int(layer["minTileMatrix"]), int(layer["maxTileMatrix"])
        assert 0 <= low < high <= 16


def tiles_list(client: TestClient) -> None:
    found = client.get(f"{BASE}/tiles", headers=JSON).json()
    assert len(found["tilesets"]) == len(HERE)
    for one in found["tilesets"]:
        assert one["dataType"] == "map"
        (own,), (scheme,) = links(one, "self"), links(one, f"{REL}tiling-scheme")
        full = client.get(own["href"]).json()
        assert (full["crs"], full["title"], full.get("tileMatrixSetURI")) == (
            one["crs"], one["title"], one.get("tileMatrixSetURI"),
        )  # fmt: skip
        assert client.get(scheme["href"]).json()["crs"] == one["crs"]


def tiles_of_collections(client: TestClient) -> None:
    for one in client.get("/collections").json()["collections"]:
        (canonical,), (tiles,) = links(one, "canonical"), links(one, f"{REL}tilesets-map")
        assert tiles["href"] == canonical["href"] + "/tiles"
        assert client.get(tiles["href"]).json()["tilesets"]


def tiles_as(suffix: str, media: str) -> Callable[[TestClient], None]:
    def check(client: TestClient) -> None:
        lon, lat = client.get("/datasets/demo").json()["center"]
        tile = SUPPORTED_TMS.get("WebMercatorQuad").tile(lon, lat, 14)
        answer = client.get(f"{BASE}/tiles/WebMercatorQuad/14/{tile.x}/{tile.y}.{suffix}")
        assert answer.headers["content-type"] == media
        with MemoryFile(answer.content) as memory, memory.open() as file:
            assert file.driver.upper() == media.partition("/")[2].upper()
            assert file.read().std() > 0

    return check


def maps_core(client: TestClient) -> None:
    """In CRS84 where nothing is asked; box, CRS and time are in the headers."""
    answer = client.get(f"{BASE}/map?width=64")
    assert answer.status_code == 200
    assert answer.headers["content-crs"] == "<http://www.opengis.net/def/crs/OGC/1.3/CRS84>"
    box = list(map(float, answer.headers["content-bbox"].split(",")))
    whole = client.get(f"{BASE}/tiles/WorldCRS84Quad").json()["boundingBox"]
    assert box == pytest.approx(whole["lowerLeft"] + whole["upperRight"])
    assert answer.headers["content-datetime"] == "2024-01-01/2024-12-31"
    assert pixels_of(answer.content).shape[2] == 64


def maps_crs(client: TestClient) -> None:
    """Each CRS that the collection names can be asked for by its URI; north comes first where the CRS has it so."""
    (one,) = (c for c in client.get("/collections").json()["collections"] if c["id"] == "demo:2024")
    west, south, east, north = one["extent"]["spatial"]["bbox"][0]
    for uri in one["crs"]:
        answer = client.get(f"{BASE}/map", params={"crs": uri, "width": "32"})
        assert answer.status_code == 200, uri
        assert answer.headers["content-crs"] == f"<{uri}>"
    latitude_first = client.get(f"{BASE}/map?crs=[EPSG:4326]&width=32").headers["content-bbox"]
    assert list(map(float, latitude_first.split(","))) == pytest.approx([south, west, north, east])
    inner = [west + 0.004, south + 0.004, east - 0.004, north - 0.004]
    texts = [",".join(map(str, box)) for box in (inner, [inner[1], inner[0], inner[3], inner[2]])]
    same = [
        client.get(f"{BASE}/map?width=32&height=32&bbox={texts[0]}"),
        client.get(f"{BASE}/map?width=32&height=32&bbox={texts[1]}&bbox-crs=EPSG:4326"),
    ]
    assert same[0].content == same[1].content
    assert client.get(f"{BASE}/map?crs=http://127.0.0.1/crs").status_code == 422


def maps_of_collections(client: TestClient) -> None:
    for one in client.get("/collections").json()["collections"]:
        (canonical,) = links(one, "canonical")
        maps = links(one, f"{REL}map")
        assert {link["type"] for link in maps} == {"image/png", "image/webp", "image/jpeg"}
        for link in maps:
            assert link["href"].startswith(canonical["href"] + "/map")
            assert client.get(link["href"] + "&width=16").headers["content-type"] == link["type"]
        assert all(uri.startswith("http://www.opengis.net/def/crs/") for uri in one["crs"])


def maps_as(media: str) -> Callable[[TestClient], None]:
    def check(client: TestClient) -> None:
        by_accept = client.get(f"{BASE}/map?width=48", headers={"Accept": media})
        by_name = client.get(f"{BASE}/map?width=48&f={media.partition('/')[2]}")
        assert by_accept.headers["content-type"] == by_name.headers["content-type"] == media
        assert by_accept.content == by_name.content
        assert pixels_of(by_name.content).shape[2] == 48

    return check


TESTS: dict[str, Callable[[TestClient], None]] = {
    f"{TILES}core": tiles_core,
    f"{TILES}tileset": tiles_tileset,
    f"{TILES}tilesets-list": tiles_list,
    f"{TILES}geodata-tilesets": tiles_of_collections,
    f"{TILES}png": tiles_as("png", "image/png"),
    f"{TILES}jpeg": tiles_as("jpg", "image/jpeg"),
    f"{MAPS}core": maps_core,
    f"{MAPS}crs": maps_crs,
    f"{MAPS}tilesets": tiles_of_collections,
    f"{MAPS}collection-map": maps_of_collections,
    f"{MAPS}png": maps_as("image/png"),
    f"{MAPS}jpeg": maps_as("image/jpeg"),
}


@pytest.mark.parametrize("name", CLAIMED)
def test_what_is_claimed_holds(client: TestClient, name: str) -> None:
    assert name in client.get("/conformance").json()["conformsTo"]
    TESTS[name](client)


def test_the_landing_page_is_for_whoever_asks_for_json(client: TestClient) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}
    for headers in (browser, {}, {"Accept": "*/*"}):
        answer = client.get("/", headers=headers)
        assert answer.headers["content-type"].startswith("text/html")
        assert "Accept" in answer.headers["vary"].split(", ")
    for answer in (client.get("/", headers=JSON), client.get("/?f=json", headers=browser)):
        assert answer.headers["content-type"] == "application/json"
        assert "Accept" in answer.headers["vary"].split(", ")
        page = answer.json()
        assert {"self", "service-desc", "conformance", f"{REL}conformance", "data"} <= {x["rel"] for x in page["links"]}
    assert client.get("/?f=exe").status_code == 422


COLLECTION = {
    "type": "object",
    "required": ["id", "links", "extent", "crs"],
    "properties": {
        "id": {"type": "string"},
        "links": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["href", "rel", "type"]}},
        "extent": {
            "required": ["spatial", "temporal"],
            "properties": {
                "spatial": {"properties": {"bbox": {"minItems": 1, "items": {"minItems": 4, "maxItems": 4}}}},
                "temporal": {"properties": {"interval": {"items": {"minItems": 2, "maxItems": 2}}}},
            },
        },
    },
}


def test_collections_are_the_windows_of_the_datasets(client: TestClient) -> None:
    found = client.get("/collections").json()
    assert [one["id"] for one in found["collections"]] == ["demo:2023", "demo:2024"]
    for one in found["collections"]:
        assert not list(Draft7Validator(COLLECTION).iter_errors(one))
        (own,), (canonical,) = links(one, "self"), links(one, "canonical")
        assert client.get(own["href"]).json() == one
        same = client.get(canonical["href"]).json()
        assert {**same, "links": []} == {**one, "links": []}
        assert links(same, "self")[0]["href"] == canonical["href"]
    for missing in ("demo:1999", "none:2024", "demo", "..%2F..:2024"):
        assert client.get(f"/collections/{missing}").status_code == 404


def crawl(client: TestClient, start: str) -> dict[str, int]:
    """Every address of this server that links lead to, and its status; held against the media type it is linked as."""
    todo, seen = [(start, "application/json")], dict[str, int]()
    while todo:
        href, media = todo.pop()
        if href in seen or not href.startswith(str(client.base_url)):
            continue
        small = "&width=16" if "/map?" in href else ""
        answer = client.get(href + small, headers={"Accept": media})
        seen[href] = answer.status_code
        if answer.status_code != 200:
            continue
        assert answer.headers["content-type"].partition(";")[0] == media.partition(";")[0], href
        if "json" in media:
            todo += [(link["href"], link.get("type") or "application/json") for link in found(answer.json())]
    return seen


def found(value: object) -> list[dict[str, Any]]:
    """Every link of a document, however deep; templates are left out, also those of STAC, which does not mark them."""
    if isinstance(value, dict):
        plain = {"href", "rel"} <= value.keys() and not value.get("templated") and "{z}" not in value["href"]
        own = [value] if plain else []
        return own + [link for part in value.values() for link in found(part)]
    return [link for part in value for link in found(part)] if isinstance(value, list) else []


@pytest.mark.slow
def test_every_link_leads_somewhere(client: TestClient) -> None:
    seen = crawl(client, f"{client.base_url}/?f=json".replace("//?", "/?"))
    assert {href: status for href, status in seen.items() if status != 200} == {}
    paths = {urlsplit(href).path for href in seen}
    assert {"/api", "/conformance", "/collections", BASE, f"{BASE}/map", f"{BASE}/WMTSCapabilities.xml"} <= paths


@pytest.mark.slow
def test_links_stay_right_behind_a_proxy_that_adds_a_prefix(world: Settings) -> None:
    """Addresses begin with the prefix; without it, as the proxy passes them on, they lead to the same documents."""
    app = create_app(world)
    outside = TestClient(app, base_url="http://127.0.0.1:8000", client=("127.0.0.1", 5), root_path="/maps")
    hrefs = {
        link["href"]
        for path in ("/?f=json", "/collections/demo:2024", f"{BASE}/tiles", f"{BASE}/tiles/WebMercatorQuad")
        for link in found(outside.get(path).json())
    }
    assert len(hrefs) > 20
    for href in hrefs:
        assert href.startswith("http://127.0.0.1:8000/maps/")
        inside = href.replace(":8000/maps/", ":8000/") + ("&width=16" if "/map?" in href else "")
        assert outside.get(inside).status_code == 200, href
    for text in (outside.get(f"{BASE}/WebMercatorQuad/tilejson.json").json()["tiles"][0],
                 outside.get(f"{BASE}/WMTSCapabilities.xml").text):  # fmt: skip
        assert f"http://127.0.0.1:8000/maps{BASE}/tiles/" in text


def test_limits_are_the_tiles_that_a_box_touches() -> None:
    tms = SUPPORTED_TMS.get("WebMercatorQuad")
    whole = limits(tms, (-180, -90, 180, 90), (0, 2))
    assert [(one["maxTileRow"], one["maxTileCol"]) for one in whole] == [(0, 0), (1, 1), (3, 3)]
    exact = tms.bounds(137, 85, 8)
    (one,) = limits(tms, (exact.left, exact.bottom, exact.right, exact.top), (8, 8))
    assert one == {"tileMatrix": "8", "minTileRow": 85, "maxTileRow": 85, "minTileCol": 137, "maxTileCol": 137}
    assert limits(tms, (0, 86, 10, 89), (0, 3)) == []
