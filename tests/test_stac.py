"""STAC 1.1: pystac walks the whole catalogue and finds every document valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pystac
import pytest
from fastapi.testclient import TestClient
from pystac.stac_io import StacIO

from api.settings import Settings
from service.footprint import footprint
from service.store import open_store
from service.values import Window
from tests.conftest import client_of
from tests.stores import random_vectors, tiny_archive

YEARS = (2017, 2018, 2019, 2020, 2021)


class Through(StacIO):
    """Reads through the test's client."""

    def __init__(self, client: TestClient) -> None:
        super().__init__()
        self.client, self.asked = client, list[str]()

    def read_text(self, source: Any, *_: Any, **__: Any) -> str:
        answer = self.client.get(str(source))
        assert answer.status_code == 200, source
        self.asked.append(str(source))
        return answer.text

    def write_text(self, *_: Any, **__: Any) -> None:
        raise AssertionError


def test_a_stac_client_walks_it_all_and_every_document_is_valid(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    io = Through(client)
    monkeypatch.setattr(StacIO, "default", lambda: io)
    root = pystac.Catalog.from_file("http://127.0.0.1:8000/stac", stac_io=io)
    assert root.to_dict()["stac_version"] == "1.1.0"
    root.validate()
    (collection,) = root.get_children()
    assert isinstance(collection, pystac.Collection)
    collection.validate()
    assert collection.extent.temporal.intervals[0][0].year == 2023  # type: ignore[union-attr]
    items = sorted(collection.get_items(), key=lambda item: item.id)
    assert [item.id for item in items] == ["demo:2023", "demo:2024"]
    store = open_store(str(client.app.state.smalti.settings.home / "datasets" / "demo.icechunk"))  # type: ignore[attr-defined]
    for item, year in zip(items, (2023, 2024), strict=True):
        raw = json.loads(client.get(item.get_self_href() or "").text)
        raw["stac_extensions"] = []  # whose schemas lie elsewhere
        pystac.Item.from_dict(raw, preserve_dict=False).validate()
        held = footprint(store, Window.year(year))
        assert item.bbox == pytest.approx(held.bounds)
        assert item.properties["proj:code"] == f"EPSG:{held.grids[0].zone.epsg}"
        assert item.common_metadata.start_datetime.isoformat() == f"{year}-01-01T00:00:00+00:00"  # type: ignore[union-attr]
        assert "smalti-mini@" in item.properties["smalti:model"]
        assert item.properties["smalti:revision"] == store.revision()[0]
        assert {"tilejson", "wmts", "preview", "legend", "coverage"} == set(item.assets)
        for asset in item.assets.values():
            answer = client.get(asset.href)
            assert (answer.status_code, answer.headers["content-type"]) == (200, asset.media_type)
        for link in item.links:
            assert link.rel == "xyz" or client.get(link.get_href() or "").status_code == 200
    for text in map(str, (collection.to_dict(), *(item.to_dict() for item in items))):
        assert str(store.location) not in text
        assert ".icechunk" not in text


def test_items_come_page_by_page(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    for number, year in enumerate(YEARS):
        window = Window.year(year) if number == 0 else Window.parse(f"{year}-02-01..{year}-08-31")
        name = "tiny" if number == 0 else f"tiny@{year}-02-01_{year}-08-31"
        tiny_archive(tmp_path / "datasets", random_vectors((20, 20), 8), window=window, name=name)
    client = client_of(Settings(home=tmp_path, catalogue=Path("none.toml")))
    href, pages = "/stac/tiny/items?limit=2", []
    while href:
        page = client.get(href).json()
        pages.append([item["properties"]["start_datetime"][:4] for item in page["features"]])
        assert page["numberReturned"] == len(page["features"])
        href = next((link["href"] for link in page["links"] if link["rel"] == "next"), "")
    assert pages == [["2017", "2018"], ["2019", "2020"], ["2021"]]
    assert len(client.get("/stac/tiny/items").json()["features"]) == 5
    for query in ("limit=0", "limit=100000", "limit=x", "after=soon"):
        assert client.get(f"/stac/tiny/items?{query}").status_code == 422, query
    for path in ("/stac/none", "/stac/none/items", "/stac/tiny/items/1999"):
        assert client.get(path).status_code == 404, path


def test_an_unchanged_document_is_not_sent_again(client: TestClient) -> None:
    for path in (
        "/stac",
        "/stac/demo",
        "/stac/demo/items",
        "/stac/demo/items/2024",
        "/collections",
        "/?f=json",
        "/api",
    ):
        first = client.get(path)
        again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b""), path
        assert again.headers["etag"].removeprefix("W/") == first.headers["etag"].removeprefix("W/")
