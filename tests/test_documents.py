"""WMTS, TileJSON: documents that other programs read before their first tile."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft7Validator

from api.catalogue import open_or_make
from api.params import SUPPORTED_TMS
from api.settings import Settings
from api.standards.wmts import urn
from service.bucket import open_bucket
from service.grid import Zone
from service.store import open_store
from service.store.contract import BlockData
from service.values import Window
from tests.conftest import client_of

SUMMER = "2024-05-01..2024-09-30"
BASE = "/datasets/demo/2024"
NOWHERE = "NZTM2000Quad"
"""New Zealand's, of which the demo shows nothing."""
HERE = [name for name in SUPPORTED_TMS.list() if name != NOWHERE]
NAMES = {"w": "http://www.opengis.net/wmts/1.0", "ows": "http://www.opengis.net/ows/1.1"}
SMALL = 9_000
"""Bytes of a capabilities document for each tile matrix set it describes."""


def capabilities(client: TestClient, query: str = "") -> ET.Element:
    answer = client.get(f"{BASE}/WMTSCapabilities.xml{query}")
    assert answer.headers["content-type"].startswith("application/xml")
    assert len(answer.content) < SMALL * len(HERE)
    return ET.fromstring(answer.text)  # our own document


def texts(root: ET.Element, path: str) -> list[str]:
    return [element.text or "" for element in root.findall(path, NAMES)]


def test_wmts_names_one_layer_its_views_and_the_zooms_that_hold_something(client: TestClient) -> None:
    root = capabilities(client)
    assert texts(root, ".//w:Layer/ows:Identifier") == ["demo_2024"]
    assert texts(root, ".//w:Layer/w:Style[@isDefault='true']/ows:Identifier") == ["pca"]
    assert "change:2023" in texts(root, ".//w:Layer/w:Style/ows:Identifier")
    assert texts(root, ".//w:Layer/w:Format") == ["image/png", "image/webp", "image/jpeg"]
    assert texts(root, ".//w:TileMatrixSetLink/w:TileMatrixSet") == HERE
    lower, upper = (
        [float(part) for part in texts(root, f".//w:Layer/ows:WGS84BoundingBox/ows:{corner}")[0].split()]
        for corner in ("LowerCorner", "UpperCorner")
    )
    for name in HERE:
        tilejson = client.get(f"{BASE}/{name}/tilejson.json").json()
        assert tilejson["bounds"] == pytest.approx(lower + upper)
        zooms = [str(zoom) for zoom in range(tilejson["minzoom"], tilejson["maxzoom"] + 1)]
        (described,) = (s for s in root.findall(".//w:TileMatrixSet[ows:Identifier]", NAMES)
                        if texts(s, "ows:Identifier") == [name])  # fmt: skip
        assert texts(described, "ows:SupportedCRS") == [urn(SUPPORTED_TMS.get(name))]
        assert texts(described, "w:TileMatrix/ows:Identifier") == zooms
        (link,) = (x for x in root.findall(".//w:TileMatrixSetLink", NAMES) if texts(x, "w:TileMatrixSet") == [name])
        assert texts(link, ".//w:TileMatrix") == zooms
        for matrix in described.findall("w:TileMatrix", NAMES):
            exact = SUPPORTED_TMS.get(name).matrix(int(texts(matrix, "ows:Identifier")[0]))
            assert float(texts(matrix, "w:ScaleDenominator")[0]) == exact.scaleDenominator
            assert tuple(map(float, texts(matrix, "w:TopLeftCorner")[0].split())) == exact.pointOfOrigin


@pytest.mark.slow
def test_a_wmts_tile_is_where_the_template_says_in_every_style_and_format(client: TestClient) -> None:
    lon, lat = client.get("/datasets/demo").json()["center"]
    root = capabilities(client, "?SERVICE=WMTS&REQUEST=GetCapabilities&gamma=1")
    resources = root.findall(".//w:ResourceURL", NAMES)
    assert len(resources) == 3
    for resource in resources:
        assert "REQUEST" not in resource.get("template", "")
        for name in HERE:
            tile = SUPPORTED_TMS.get(name).tile(lon, lat, 12)
            for style in texts(root, ".//w:Style/ows:Identifier"):
                filled = resource.get("template", "")
                values = {"Style": style, "TileMatrixSet": name, "TileMatrix": 12, "TileCol": tile.x, "TileRow": tile.y}
                for key, value in values.items():
                    filled = filled.replace(f"{{{key}}}", str(value))
                answer = client.get(filled)
                assert (answer.status_code, answer.headers["content-type"]) == (200, resource.get("format")), filled


def test_wmts_of_a_view_that_is_asked_for_has_that_style_alone(client: TestClient) -> None:
    lon, lat = client.get("/datasets/demo").json()["center"]
    view = f"similarity:{lon},{lat}"
    root = capabilities(client, f"?view={quote(view)}&threshold=0.5&tile_format=webp")
    assert texts(root, ".//w:Style/ows:Identifier") == [view]
    (resource,) = root.findall(".//w:ResourceURL", NAMES)
    assert "view={Style}&threshold=0.5" in resource.get("template", "")


def test_wmts_leaves_out_the_styles_that_have_no_use_for_what_is_said_of_looks(client: TestClient) -> None:
    styles = texts(capabilities(client, "?stretch=-2,2"), ".//w:Style/ows:Identifier")
    assert styles[0] == "pca"
    assert not [style for style in styles if style.startswith("change")]
    assert "change:2023" in texts(capabilities(client, "?gamma=2"), ".//w:Style/ows:Identifier")


TILEJSON = {
    "type": "object",
    "required": ["tilejson", "tiles", "bounds", "center", "minzoom", "maxzoom", "attribution", "legend", "version"],
    "properties": {
        "tilejson": {"const": "3.0.0"},
        "version": {"pattern": r"^\d+\.\d+\.\d+$"},
        "scheme": {"enum": ["xyz"]},
        "tiles": {"type": "array", "minItems": 1, "items": {"pattern": r"^http://.*\{z\}.*\{x\}.*\{y\}"}},
        "minzoom": {"type": "integer", "minimum": 0, "maximum": 30},
        "maxzoom": {"type": "integer", "minimum": 0, "maximum": 30},
        "bounds": {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number", "minimum": -180}},
        "center": {"type": "array", "minItems": 3, "maxItems": 3},
    },
}
"""The rules of the TileJSON 3.0.0 specification for tiles that are pictures."""


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("query", ["", "?view=bands:0,1,2&tilesize=256", "?view=change:2023&tile_format=webp"])
def test_tilejson_is_whole(client: TestClient, name: str, query: str) -> None:
    found: dict[str, Any] = client.get(f"{BASE}/{name}/tilejson.json{query}").json()
    assert not list(Draft7Validator(TILEJSON).iter_errors(found))
    west, south, east, north = found["bounds"]
    lon, lat, zoom = found["center"]
    assert west <= lon <= east
    assert south <= lat <= north
    assert found["minzoom"] <= zoom <= found["maxzoom"]
    legend = client.get(found["legend"])
    assert legend.json()["view"] == (re.search(r"view=(\w+)", query) or ["", "pca"])[1]
    tile = SUPPORTED_TMS.get(name).tile(lon, lat, zoom)
    answer = client.get(found["tiles"][0].format(z=zoom, x=tile.x, y=tile.y))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == ("image/webp" if "webp" in query else "image/png")
    assert "Copernicus" in found["attribution"]
    assert "smalti-mini@" in found["description"]


def test_what_a_matrix_set_cannot_show_is_not_offered_in_it(client: TestClient) -> None:
    for path in (f"{BASE}/{NOWHERE}/tilejson.json", f"{BASE}/tiles/{NOWHERE}"):
        assert (client.get(path).status_code, client.get(path).json()["kind"]) == (404, "outside")
    for path in (f"{BASE}/Nowhere/tilejson.json", f"{BASE}/tiles/Nowhere"):
        assert (client.get(path).status_code, client.get(path).json()["field"]) == (422, "tileMatrixSetId")


def test_tilejson_must_not_end_before_it_begins(client: TestClient) -> None:
    for query in ("minzoom=9&maxzoom=8", "tilesize=100"):
        assert client.get(f"{BASE}/WebMercatorQuad/tilejson.json?{query}").status_code == 422


def test_a_new_basis_is_a_new_style_to_those_who_hold_the_document(own_world: Settings) -> None:
    client = client_of(own_world)
    tag = client.get(f"{BASE}/WMTSCapabilities.xml").headers["etag"]
    assert client.get(f"{BASE}/WMTSCapabilities.xml", headers={"If-None-Match": tag}).status_code == 304
    assert client.post("/bases", json={"dataset": "demo", "name": "autumn", "seed": 5}).status_code == 201
    answer = client.get(f"{BASE}/WMTSCapabilities.xml", headers={"If-None-Match": tag})
    assert (answer.status_code, "pca:autumn" in answer.text) == (200, True)


def summer_of(settings: Settings, nth: int) -> None:
    """Copy one block of the demo's 2024 into a repository of its summer."""
    summer, year = Window.parse(SUMMER), Window.year(2024)
    demo = open_store(str(settings.home / "datasets" / "demo.icechunk"))
    block = demo.blocks(year)[nth]
    ask = (Zone.parse(block.zone), year, block.rows, block.cols)
    store = open_or_make(open_bucket(settings.home), "demo", demo.identity, demo.dims, summer)
    store.write([BlockData(block, summer, demo.read(*ask), demo.counts_window(*ask), "ab" * 32)], "summer")


def test_a_new_window_is_a_new_style_to_those_who_hold_the_document(own_world: Settings) -> None:
    client = client_of(own_world)
    tag = client.get(f"{BASE}/WMTSCapabilities.xml").headers["etag"]
    summer_of(own_world, 0)
    client.app.state.smalti.datasets.look_now()  # type: ignore[attr-defined]
    answer = client.get(f"{BASE}/WMTSCapabilities.xml", headers={"If-None-Match": tag})
    assert (answer.status_code, f"change:{SUMMER}" in answer.text) == (200, True)


def test_what_is_stored_in_a_window_of_its_own_shows_in_the_dataset(own_world: Settings) -> None:
    client, told = client_of(own_world), []
    for nth in (0, 1):
        summer_of(own_world, nth)
        client.app.state.smalti.datasets.look_now()  # type: ignore[attr-defined]
        told.append(client.get("/datasets/demo").json())
    assert told[0]["revision"] == told[1]["revision"], "nothing was stored in a calendar year"
    assert [list(one["revisions"]) for one in told] == [[SUMMER], [SUMMER]]
    assert told[0]["revisions"] != told[1]["revisions"]
