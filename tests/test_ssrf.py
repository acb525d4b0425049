"""No request can make the server open a path or address of the client's choosing: every route, every parameter."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from api.settings import Settings
from tests.conftest import client_of

SECRET = "the file that must stay closed"


@pytest.fixture
def trap() -> Iterator[tuple[str, list[str]]]:
    """(address, callers): a port of this machine that notes who calls."""
    callers: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    connection, caller = server.accept()
                except TimeoutError:
                    continue
                callers.append(str(caller))
                connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", callers
        stop.set()
        thread.join()


def hostile(address: str, file: Path) -> list[str]:
    """What a client might try to have opened."""
    return [
        f"http://{address}/x.tif", f"/vsicurl/http://{address}/x.tif", f"s3://{address}/x", f"WMTS:http://{address}/x",
        f"<VRTDataset><SRS>http://{address}/</SRS></VRTDataset>", f"https://{address}/crs", str(file), f"file://{file}",
        f"../../../../../..{file}", f"+proj=longlat +init={file}:1", f"+nadgrids=http://{address}/g", f"/vsizip/{file}",
    ]  # fmt: skip


def asked(client: TestClient) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """(method, path, path parameters, query parameters) of all that OpenAPI names, and of some that it does not."""
    more = ["url", "path", "src_path", "assets", "expression", "colormap", "algorithm", "crs", "dst_crs", "coord_crs"]
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            named = operation.get("parameters", [])
            inside = [p["name"] for p in named if p["in"] == "path"]
            yield method, path, inside, [*{*(p["name"] for p in named if p["in"] == "query"), *more}]


USUAL = {
    "dataset": "demo", "window": "2024", "tileMatrixSetId": "WebMercatorQuad", "z": "13", "x": "4148", "y": "2602",
    "lon": "2.3", "lat": "54.7", "format": "png", "minx": "2.30", "miny": "54.70", "maxx": "2.301", "maxy": "54.701",
    "width": "8", "height": "8", "collectionId": "demo:2024", "name": "smalti-mini", "id": "x", "query": "x",
}  # fmt: skip
LONG = ("/jobs/{id}/events",)


@pytest.mark.slow
def test_nothing_that_a_client_names_is_opened(
    world: Settings, trap: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, callers = trap
    (file := tmp_path / "secret.tif").write_text(SECRET)
    client = client_of(world)
    opened: list[str] = []
    monkeypatch.setattr("rasterio.open", lambda *a, **k: opened.append(str(a)))
    texts, count = hostile(address, file), 0
    for method, path, inside, queries in asked(client):
        if path in LONG:
            continue
        usual = path.format_map({**dict.fromkeys(inside, "x"), **USUAL})
        tries: list[tuple[str, dict[str, Any]]] = [
            (path.format_map({**dict.fromkeys(inside, "x"), **USUAL, name: quote(text, safe="")}), {})
            for name in inside
            for text in texts[::2]
        ]
        tries += [(usual, {name: text}) for name in queries for text in (texts[0], texts[6])]
        for target, query in tries:
            answer = client.request(method, target, params=query, json={} if method == "post" else None)
            count += 1
            assert answer.status_code != 500, (method, target, query)
            assert SECRET not in answer.text
    assert count > 1000
    assert callers == []
    assert opened == []


@pytest.mark.parametrize("name", ["crs", "dst_crs", "bbox-crs", "coord_crs"])
def test_a_crs_is_a_code_and_nothing_else(client: TestClient, trap: tuple[str, list[str]], name: str) -> None:
    address, callers = trap
    wkt = 'GEOGCS["x",DATUM["x",SPHEROID["x",6378137,298]],PRIMEM["x",0],UNIT["degree",0.017]]'
    for text in (*hostile(address, Path("/etc/passwd")), wkt, '{"type": "name"}', "EPSG:4326+5773", "IGNF:LAMB93"):
        for path in ("map", "preview.png", "point/2.3,54.7", "info.geojson", "bbox/2.30,54.70,2.31,54.71.png"):
            answer = client.get(f"/datasets/demo/2024/{path}", params={name: text})
            assert (answer.status_code, answer.json()["kind"]) == (422, "invalid-input"), (path, text)
    assert callers == []
