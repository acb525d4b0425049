"""A catalogue that lies, and a server that does: refused or told of by name, within what it may take."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rasterio.transform import from_origin

from service.errors import BadSource, InvalidInput, LimitExceeded, SmaltiError, Unavailable
from service.gdal import closed
from service.scenes.access import Access
from service.scenes.budget import Budget
from service.scenes.catalogue import find
from service.scenes.files import opener
from service.scenes.hosts import Hosts, Limits, Signing, is_public
from service.scenes.items import Endpoint
from service.scenes.value import MPC, Scene, is_utm
from service.values import Area, Window
from tests.liar import Answer, Asked, Liar, item, liar, tiff

WINDOW, AREA = Window.year(2024), Area(2.95, 54.05, 3.05, 54.15)
LIMITS = Limits(
    items=300, pages=5, page_bytes=1_000_000, catalogue_bytes=3_000_000, catalogue_seconds=60, request_seconds=30,
    file_bytes=2_000_000_000, tile_bytes=1_000_000, block_bytes=3_000_000, retries=1,
)  # fmt: skip
Change = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def _closed() -> None:
    closed()  # as every command does: GDAL itself reaches nothing


@pytest.fixture(scope="module")
def server() -> Iterator[Liar]:
    with liar() as made:
        yield made


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited before something was asked for again; no time passes."""
    waited: list[float] = []
    monkeypatch.setattr("service.scenes.fetch.sleep", waited.append)
    return waited


@pytest.fixture
def there(server: Liar) -> Liar:
    server.paths.clear()
    server.asked.clear()
    server.sent = 0
    return server


@pytest.fixture
def access(there: Liar) -> Access:
    return Access(Hosts((there.address, "example.org")), limits=LIMITS)


def found(url: str, access: Access) -> tuple[Scene, ...]:
    return find(Endpoint(url, "sentinel-2-l2a", MPC, "s2"), WINDOW, AREA, access)


def scene(href: str, **more: Any) -> Scene:
    assets = {"B04": href, "SCL": href}
    held = Scene("S2A", "sentinel-2-l2a", "s2", dt.date(2024, 6, 5), None, assets, None, None, 0, "", 0)
    return replace(held, **more)


def read(held: Scene, access: Access, name: str = "B04") -> Any:
    with opener(access)(held, name) as raster:
        return raster.read(1)


# What is told of honestly.


def test_an_api_and_files_give_the_same_scenes_newest_first(there: Liar, access: Access, tmp_path: Path) -> None:
    days = ["2023-12-31", "2024-03-01", "2024-09-01", "2024-09-01", "2025-01-01"]
    items = [item(f"tile-{n}", day) for n, day in enumerate(days)]
    items.append(item("cloudy", properties={"eo:cloud_cover": 100}))
    items.append(item("elsewhere", bbox=[5, 54, 6, 55], geometry=None))
    asked = found(there.stac(items, per_page=2), access)
    assert [(one.id, one.order) for one in asked] == [("tile-3", 0), ("tile-2", 1), ("tile-1", 2)]
    assert (asked[0].epsg, asked[0].date, set(asked[0].assets)) == (32631, dt.date(2024, 9, 1), set(MPC.assets["s2"]))
    sent = next(one.body for one in there.asked if one.body)
    assert (sent["collections"], sent["bbox"]) == (["sentinel-2-l2a"], list(AREA.bounds))
    assert sent["datetime"].startswith("2024-01-01T00:00:00Z/2024-12-31T23:59:59")

    links = [{"rel": "item", "href": f"./{one['id']}.json"} for one in items]
    extent = {"spatial": {"bbox": [[2, 53, 4, 55]]}, "temporal": {"interval": [["2017-01-01T00:00:00Z", None]]}}
    files: dict[str, Any] = {"catalog.json": {"type": "Catalog", "links": [{"rel": "child", "href": "s2/it.json"}]}}
    files["s2/it.json"] = {"type": "Collection", "id": "sentinel-2-l2a", "extent": extent, "links": links}
    files |= {f"s2/{one['id']}.json": one for one in items}
    for name, held in files.items():
        there.paths[f"/static/{name}"] = Answer.of(held)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(held))
    assert found(f"{there.address}/static/catalog.json", access) == asked
    local = replace(access, folders=(tmp_path,))
    assert found(str(tmp_path / "catalog.json"), local) == found(f"file://{tmp_path}/catalog.json", local) == asked
    with pytest.raises(InvalidInput, match="outside the folders"):
        found(str(tmp_path / "catalog.json"), access)


def test_a_file_is_read_as_it_is_and_its_parts_are_fetched_once(there: Liar, access: Access, tmp_path: Path) -> None:
    content = tiff(tmp_path, compress="deflate", width=1024, height=1024)
    held = scene(there.file("/a.tif", content) + "?token=1")
    first = read(held, access)
    assert (first == read(scene(str(tmp_path / "made.tif")), replace(access, folders=(tmp_path,)))).all()
    times = len(there.asked)
    assert (first == read(held, access)).all()
    assert len(there.asked) == times
    assert {one.headers["query"] for one in there.asked} == {"token=1"}


def test_files_that_their_query_alone_tells_apart_are_not_taken_for_each_other(
    there: Liar, access: Access, tmp_path: Path
) -> None:
    widths = {"B04": 128, "B02": 64}
    files = {f"item=x&asset={band}": ranged(tiff(tmp_path, width=width)) for band, width in widths.items()}
    there.paths["/download"] = lambda asked: files[asked.headers["query"]](asked)
    held = scene("", assets={band: f"{there.address}/download?item=x&asset={band}" for band in widths})
    for _ in range(2):
        assert {band: read(held, access, band).shape[1] for band in widths} == widths
    assert len(there.asked) == 2, "and what was fetched of each is kept"


@pytest.mark.parametrize(
    ("path", "first", "later", "same"),
    [
        ("/a.tif", "se=2024-06-05&sp=r&skoid=1&sig=a%3D", "se=2024-06-06&sp=r&skoid=1&sig=b%3D", True),
        ("/a.tif", "X-Amz-Date=1&X-Amz-Signature=a&versionId=1", "X-Amz-Date=2&X-Amz-Signature=b&versionId=1", True),
        ("/a.tif", "X-Goog-Date=1&X-Goog-Signature=a", "X-Goog-Date=2&X-Goog-Signature=b", True),
        ("/a.tif", "Expires=1&Signature=a&Key-Pair-Id=c", "Expires=2&Signature=b&Key-Pair-Id=c", True),
        ("/a.tif", "token=1", "token=2", True),
        ("/a.tif", "X-Amz-Signature=a&versionId=1", "X-Amz-Signature=a&versionId=2", False),
        ("/download", "sp=S2A&st=1", "sp=S2A&st=2", False),
        ("/download", "token=1", "token=2", False),
    ],
)
def test_another_signature_makes_no_other_file(
    there: Liar, access: Access, tmp_path: Path, path: str, first: str, later: str, same: bool
) -> None:
    address = there.file(path, tiff(tmp_path))
    for query in (first, later):
        read(scene(f"{address}?{query}"), access)
    assert ({one.headers["query"] for one in there.asked} == {first}) is same


# Items that lie.


def without(asset: str) -> Change:
    return {"assets": {key: {"href": "https://example.org/x.tif"} for key in MPC.assets["s2"] if key != asset}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"properties": {"datetime": None}}, "honest of .* has no datetime"),
        ({"properties": {"datetime": "soon"}}, "honest of .* has no datetime"),
        ({"properties": {"proj:code": "EPSG:4326"}}, "honest claims to be in 4326"),
        ({"properties": {"proj:code": None, "proj:epsg": 3857}}, "honest claims to be in 3857"),
        ({"assets": []}, "honest of .* has no properties, or no assets"),
        ({"assets": {key: {"href": None} for key in MPC.assets["s2"].values()}}, "asset B04 of .*honest has no addr"),
        ({"id": 7}, "without an id"),
        ({"id": "x" * 5000}, "without an id"),
        ({"type": "Collection"}, "is no item"),
        ({"href": "file:///etc/passwd"}, "asset B04 of .*honest names '/etc/passwd'"),
        ({"href": "vsizip://x"}, "asset B04 of .*honest names 'vsizip"),
        ({"href": "http://169.254.169.254/latest/meta-data"}, "asset B04 of .*honest leads to http://169.254.169.254"),
        ({"href": "http://example.org/x.tif"}, "leads to http://example.org"),
        ({"href": "https://example.org:8443/x.tif"}, "leads to https://example.org:8443"),
        ({"href": "https://example.org@evil.net/x.tif"}, "with a password"),
        ({"href": "https://evil.net/example.org"}, "leads to evil.net"),
        ({"href": "https://2852039166/x"}, "leads to"),
        ({"href": "https://[::ffff:127.0.0.1]/x"}, "leads to"),
        ({"href": "http://localhost:1/x"}, "leads to"),
        ({"href": "s3://bucket/x.tif"}, "names 's3://"),
    ],
)
def test_an_item_that_lies_is_refused_by_name(there: Liar, access: Access, change: Change, told: str) -> None:
    url = there.stac([item("fine"), item(**change) if "id" not in change else {**item(), **change}])
    with pytest.raises((BadSource, InvalidInput), match=told):
        found(url, access)
    assert {one.path for one in there.asked} == {"/stac", "/stac/search"}


@pytest.mark.parametrize(
    "href", ["/etc/passwd", "../../../../../../etc/passwd", "/vsizip//vsicurl/http://x/y.zip", "link"]
)
def test_a_catalogue_of_files_leads_nowhere_else(access: Access, tmp_path: Path, href: str) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item(href=href)]}))
    local = replace(access, folders=(tmp_path,))
    with pytest.raises(InvalidInput, match=r"asset B04 of .*honest names '.*(outside the folders|the web)"):
        found(str(tmp_path / "catalog.json"), local)


def test_an_item_without_a_band_is_left_out_and_named(
    there: Liar, access: Access, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "smalti.scenes"):
        scenes = found(there.stac([item("whole"), item("torn", **without("B11"))]), access)
    assert [one.id for one in scenes] == ["whole"]
    assert "sentinel-2-l2a/torn is left out: it has no B11" in caplog.text


def test_sizes_that_no_file_may_have_are_not_believed(there: Liar, access: Access) -> None:
    assets = {key: {"href": "https://example.org/x.tif", "file:size": 5} for key in MPC.assets["s2"]}
    assert found(there.stac([item(assets=assets)]), access)[0].size == 55
    assets["B04"]["file:size"] = 10**400
    assert found(there.stac([item(assets=assets)]), access)[0].size == 700_000_000


def test_two_items_of_one_name_are_one_where_they_agree_and_refused_where_not(there: Liar, access: Access) -> None:
    assert len(found(there.stac([item(), item()]), access)) == 1
    with pytest.raises(BadSource, match="two different items sentinel-2-l2a/honest"):
        found(there.stac([item(), item(day="2024-06-06")]), access)


# Catalogues that lie.


def endless(asked: Asked) -> Answer:
    start = int((asked.body or {}).get("token", 0))
    link = {"rel": "next", "href": "/stac/search", "method": "POST", "body": {"token": start + 2}}
    return Answer.of({"features": [item(f"n{start + n}") for n in range(2)], "links": [link]})


def circle(asked: Asked) -> Answer:
    link = {"rel": "next", "href": "/stac/search", "method": "POST", "merge": True, "body": {"token": 1}}
    return Answer.of({"features": [item("again")], "links": [link]})


def many(asked: Asked) -> Answer:
    return Answer.of({"features": [item(f"n{n}") for n in range(301)], "links": []})


def slow(asked: Asked) -> Answer:
    return Answer(body=(b" " for _ in range(100) if time.sleep(0.02) is None))


def leading(href: str) -> Callable[[Asked], Answer]:
    return lambda _: Answer.of({"features": [item()], "links": [{"rel": "next", "href": href}]})


BOMB = gzip.compress(b'{"features": [' + b" " * 50_000_000)
FORMS: dict[str, tuple[Any, type[SmaltiError], str]] = {
    "endless pages": (endless, LimitExceeded, "more than 5 pages"),
    "pages in circles": (circle, BadSource, "in circles"),
    "a million items": (many, LimitExceeded, "more than 300 scenes"),
    "a slow drip": (slow, Unavailable, "sends too slowly"),
    "a gzip bomb": (Answer(200, BOMB, {"Content-Encoding": "gzip"}), LimitExceeded, "larger than 1,000,000"),
    "half a gzip": (Answer(200, BOMB[:20], {"Content-Encoding": "gzip"}), Unavailable, "broke off"),
    "another packing": (Answer(200, b"x", {"Content-Encoding": "br"}), BadSource, "packs answers as 'br'"),
    "a huge page": (Answer(200, b" " * 1_100_000), LimitExceeded, "larger than 1,000,000"),
    "deep JSON": (Answer(200, b'{"features":' + b"[" * 200_000), BadSource, "no JSON that can be read"),
    "no JSON": (Answer(200, b"<html>"), BadSource, "no JSON that can be read"),
    "a list": (Answer(200, b"[]"), BadSource, "no JSON object"),
    "features of another kind": (Answer.of({"features": {"a": 1}}), BadSource, "no catalogue|circles"),
    "links of another kind": (Answer.of({"features": [item()], "links": [7]}), BadSource, "no catalogue"),
    "a next page in a file": (leading("file:///etc/passwd"), InvalidInput, "outside the folders"),
    "a next page elsewhere": (leading("http://169.254.169.254/"), InvalidInput, "169.254.169.254"),
    "a question sent elsewhere": (Answer(307, b"", {"Location": "http://127.0.0.1:1/"}), BadSource, "a question"),
    "always 500": (Answer(500), Unavailable, "answers 500"),
    "come back tomorrow": (Answer(503, b"", {"Retry-After": "86400"}), Unavailable, "answers 503"),
    "no": (Answer(403), Unavailable, "SMALTI_SCENES__HEADERS"),
    "nothing there": (Answer(404), BadSource, "answers 404"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_catalogue_that_lies_costs_no_more_than_allowed(there: Liar, access: Access, form: str) -> None:
    answer, error, told = FORMS[form]
    if answer is slow:
        access = replace(access, limits=replace(LIMITS, request_seconds=0.3))
    url = there.stac([])
    there.paths["/stac/search"] = answer
    start = time.monotonic()
    with pytest.raises(error, match=told):
        found(url, access)
    assert time.monotonic() - start < 20
    assert there.sent < 3_500_000
    assert len(there.asked) <= 10


def test_a_static_catalogue_without_end_is_left(there: Liar, access: Access) -> None:
    def more(asked: Asked) -> Answer:
        links = [{"rel": "child", "href": f"{asked.path}/{n}"} for n in range(20)]
        return Answer.of({"type": "Catalog", "links": links})

    there.paths["/endless/"] = more
    with pytest.raises(LimitExceeded, match="more than 300 files"):
        found(f"{there.address}/endless/x", access)
    assert len(there.asked) < 30


def test_a_header_without_end_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"

        def drip() -> None:
            asked, _ = server.accept()
            with asked, suppress(OSError):
                asked.recv(65536)
                for _ in range(500):
                    asked.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
                    time.sleep(0.01)

        thread = threading.Thread(target=drip)
        thread.start()
        access = Access(Hosts((address,)), limits=replace(LIMITS, request_seconds=0.2, retries=0))
        with pytest.raises(Unavailable, match="sends too slowly"):
            found(f"{address}/stac", access)
        thread.join()


def test_what_passes_is_asked_again_when_told(there: Liar, access: Access, waits: list[float]) -> None:
    url = there.stac([item()])
    honest, left = there.paths["/stac/search"], [Answer(429, b"", {"Retry-After": "7"}), Answer(502)]

    def shy(asked: Asked) -> Answer:
        assert callable(honest)
        return left.pop() if left else honest(asked)

    there.paths["/stac/search"] = shy
    patient = replace(access, limits=replace(LIMITS, retries=2, catalogue_seconds=60))
    assert len(found(url, patient)) == 1
    assert waits == [0.5, 7.0]
    left.append(Answer(503, b"", {"Retry-After": "3600"}))
    with pytest.raises(Unavailable, match="answers 503") as told:
        found(url, patient)
    assert (told.value.retry_after, len(waits)) == (3600, 2)


# Files that lie.

UTM30 = {"crs": "EPSG:32630"}
STRIPS = {"tiled": False, "blockxsize": None, "blockysize": None, "width": 40_000, "height": 25_000, "sparse_ok": True}
PROFILES: dict[str, tuple[Change, Change, type[SmaltiError], str]] = {
    "degrees": (
        {"crs": "EPSG:4326", "transform": from_origin(3, 54, 1e-4, 1e-4)}, {}, BadSource, "is in EPSG:4326, not in WGS",
    ),
    "no CRS": ({"crs": None}, {}, BadSource, "no CRS"),
    "another zone than told": (UTM30, {"epsg": 32631}, BadSource, "EPSG:32630, where the catalogue says EPSG:32631"),
    "another place than told": (
        {"transform": from_origin(500_000, 1_000_000, 10, 10)}, {"footprint": ...}, BadSource, "not where the",
    ),
    "three bands": ({"count": 3}, {}, BadSource, "has 3 bands"),
    "bytes": ({"dtype": "uint8"}, {}, BadSource, "bands of uint8"),
    "floats": ({"dtype": "float64"}, {}, BadSource, "bands of float64"),
    "pixels of a metre": ({"transform": from_origin(500_000, 6_000_000, 1, 1)}, {}, BadSource, "pixels of 1 x 1 m"),
    "upside down": ({"transform": from_origin(500_000, 6_000_000, 10, -10)}, {}, BadSource, "pixels of 10 x -10 m"),
    "beyond the Earth": ({"transform": from_origin(1e12, 6_000_000, 10, 10)}, {}, BadSource, "that is nowhere"),
    "2 GB in strips": (STRIPS, {}, LimitExceeded, "strips or tiles of .* 2,000,000,000 bytes large"),
    "one huge tile": (
        {"blockxsize": 1024, "blockysize": 1024, "width": 2048, "sparse_ok": True}, {}, LimitExceeded, "1024 x 1024",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", PROFILES)
def test_a_file_that_is_not_what_it_is_said_to_be_is_refused(
    there: Liar, access: Access, tmp_path: Path, form: str
) -> None:
    profile, claims, error, told = PROFILES[form]
    if "footprint" in claims:
        claims = {"footprint": found(there.stac([item()]), access)[0].footprint}
    held = scene(there.file("/a.tif", tiff(tmp_path, **profile)), **claims)
    with pytest.raises(error, match=f"asset B04 of sentinel-2-l2a/S2A.*{told}"):
        read(held, access)
    assert there.sent < 400_000


def test_codes_of_utm() -> None:
    codes = (None, 0, 4326, 32600, 32601, 32660, 32661, 32700, 32701, 32760, 32761)
    assert [code for code in codes if is_utm(code)] == [32601, 32660, 32701, 32760]


CHANGED = iter(range(1000))


def answers(content: bytes) -> dict[str, tuple[Any, type[SmaltiError], str]]:
    span = {"Content-Range": f"bytes 0-131071/{5 * 10**9}", "ETag": "2"}
    vrt = b"<VRTDataset rasterXSize='1' rasterYSize='1'><SRS>EPSG:32631</SRS></VRTDataset>"
    away = {"Location": "http://127.0.0.2:9/a.tif"}
    return {
        "not there": (Answer(404), BadSource, "answers 404"),
        "a redirect to a private address": (Answer(302, b"", away), InvalidInput, "by a redirect leads to http://127.0.0.2"),
        "a redirect to a file": (Answer(302, b"", {"Location": "file:///etc/passwd"}), InvalidInput, "redirect names"),
        "a redirect to nonsense": (
            Answer(302, b"", {"Location": "https://example.org:x/a.tif"}), InvalidInput, "redirect names .* no address",
        ),
        "redirects in circles": (Answer(302, b"", {"Location": "/a.tif"}), BadSource, "in circles"),
        "5 GB": (Answer(206, b"x" * 131_072, span), LimitExceeded, "has 5,000,000,000 bytes"),
        "whole files only": (Answer(200, content), BadSource, "whole files only"),
        "other bytes": (Answer(206, b"x", {"Content-Range": "bytes 7-8/9"}), BadSource, "other bytes"),
        "a size without end": (Answer(206, b"x", {"Content-Range": "bytes 0-0/" + "9" * 5000}), BadSource, "other"),
        "more bytes": (Answer(206, b"x" * 140_000, {"Content-Range": "bytes 0-9/10"}), BadSource, "sends more"),
        "no TIFF": (ranged(b"GIF89a" * 100), BadSource, "cannot be read"),
        "a VRT": (ranged(vrt), BadSource, "cannot be read"),
        "half a file": (ranged(content[:140_000]), BadSource, "ends before its header says"),
        "another file each time": (
            lambda asked: replaced(ranged(content)(asked)), Unavailable, "changed while it was read",
        ),
        "nothing after the header": (
            lambda asked: ranged(content)(asked) if "bytes=0-" in asked.headers["range"] else Answer(500),
            Unavailable, "answers 500",
        ),
    }  # fmt: skip


def replaced(answer: Answer) -> Answer:
    return replace(answer, headers={**answer.headers, "ETag": str(next(CHANGED))})


def ranged(content: bytes) -> Callable[[Asked], Answer]:
    held = Liar()
    held.file("/a.tif", content)
    return held.paths["/a.tif"]  # type: ignore[return-value]


FILES = list(answers(b""))


@pytest.mark.parametrize("form", FILES)
def test_a_server_of_files_that_lies_is_told_of_by_asset(
    there: Liar, access: Access, tmp_path: Path, form: str
) -> None:
    answer, error, told = answers(tiff(tmp_path, width=1024))[form]
    there.paths["/a.tif"] = answer
    with pytest.raises(error, match=f"asset B04 of sentinel-2-l2a/S2A.*{told}"):
        read(scene(f"{there.address}/a.tif"), access)
    assert there.sent < 800_000


def test_a_file_that_was_replaced_is_read_anew_after_a_while(
    there: Liar, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.scenes.fetch._KNOWN_S", 0.0)
    held = scene(there.file("/a.tif", tiff(tmp_path)))
    assert read(held, access).shape == (256, 256)
    there.file("/a.tif", tiff(tmp_path, width=128), ETag='"2"')
    assert read(held, access).shape == (256, 128)


def test_what_a_block_fetches_is_counted_over_all_its_files(there: Liar, access: Access, tmp_path: Path) -> None:
    content = tiff(tmp_path, width=512)
    held = [scene(there.file(f"/{n}.tif", content), id=f"n{n}") for n in range(4)]
    opened = opener(access, Budget(2 * len(content) + 1000, 60, "one block"))

    def read_all() -> None:
        for one in held:
            with opened(one, "B04") as raster:
                raster.read(1)

    with pytest.raises(LimitExceeded, match="one block takes more than"):
        read_all()
    assert there.sent < 3 * len(content)


# Hosts, addresses and tokens.


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1", "::",
     "fe80::1%1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"],
)  # fmt: skip
def test_addresses_that_are_not_of_the_open_internet(address: str) -> None:
    assert not is_public(address)
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


def test_a_name_is_resolved_once_and_every_address_it_has_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, asked = ["93.184.215.14", "127.0.0.1"], []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers]

    tried = []

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        tried.append(address)
        raise OSError("not from here")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    access = Access(Hosts(("example.org",)), limits=replace(LIMITS, retries=0))
    with pytest.raises(InvalidInput, match=r"example\.org is 127\.0\.0\.1, which is no address of the open internet"):
        found("https://example.org/stac", access)
    assert (asked, tried) == (["example.org"], [])
    answers.pop()
    with pytest.raises(Unavailable, match="cannot be reached"):
        found("https://example.org/stac", access)
    assert tried == [("93.184.215.14", 443)]


def test_a_token_goes_to_its_host_alone(there: Liar, access: Access, tmp_path: Path) -> None:
    with liar() as other:
        content = tiff(tmp_path)
        there.paths["/a.tif"] = Answer(307, b"", {"Location": f"{other.address}/signed.tif?x=1"})
        other.file("/signed.tif", content)
        told = {there.address: ("Authorization", "Bearer secret")}
        both = Access(Hosts((there.address, other.address)), headers=told, limits=LIMITS)
        assert read(scene(f"{there.address}/a.tif"), both).shape == (256, 256)
        assert {one.headers.get("authorization") for one in there.asked} == {"Bearer secret"}
        assert {one.headers.get("authorization") for one in other.asked} == {None}
        assert "secret" not in repr(both)


def test_storage_that_wants_a_token_gets_one_for_each_container_until_it_ends(
    there: Liar, access: Access, tmp_path: Path
) -> None:
    file, now, given = ranged(tiff(tmp_path)), dt.datetime.now(dt.UTC), []

    def token(asked: Asked) -> Answer:
        given.append(f"st=a&sig={len(given)}%3D")
        ends = now + dt.timedelta(seconds=60 if len(given) == 1 else 6000)
        return Answer.of({"token": given[-1], "msft:expiry": ends.isoformat()})

    def guarded(asked: Asked) -> Answer:
        return file(asked) if asked.headers["query"] == given[-1] and len(given) > 2 else Answer(403)

    there.paths |= {"/token/": token, "/box/a.tif": guarded, "/box/b.tif": guarded}
    signing = Signing(there.address, f"{there.address}/token")
    signed = Access(Hosts((there.address,)), signing=signing, limits=replace(LIMITS, retries=3))
    for name in ("a", "b"):
        read(scene(f"{there.address}/box/{name}.tif"), signed)
    # The first ends too soon, the second is refused, the third serves both files.
    assert len(given) == 3
    there.paths["/token/"] = Answer.of({"token": "x y\r\nz", "msft:expiry": now.isoformat()})
    with pytest.raises(BadSource, match="another form than agreed"):
        read(scene(f"{there.address}/other/a.tif"), signed)
