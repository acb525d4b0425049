"""The server compose's parts as plain processes: Postgres, an object store, the API and two workers, nothing shared.

Each of ours gets exactly the variables that docker/compose.server.yaml gives it, and a home of its own: what the three
journeys make must travel through the store and the database.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from pydantic import SecretStr

from api import demo
from api.settings import Settings
from api.state import State
from tests.conftest import ROOT, SIDE
from tests.services import S3, Postgres, free_port
from tests.test_embed_api import NPZ, patch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SMALTI = str(Path(sys.executable).with_name("smalti"))
KEY = "a key for this test"
MOST = 120.0
"""Seconds for anything to happen; all of it takes far less on a quiet machine."""


def compose(part: str) -> tuple[list[str], dict[str, str]]:
    """The command of one part of the server compose, and the variables it is given."""
    services = yaml.safe_load((ROOT / "docker" / "compose.server.yaml").read_text())["services"]
    return services[part]["command"], services[part]["environment"]


@dataclass
class Server:
    """The running parts."""

    http: httpx2.Client
    world: Settings
    """What made the world: one more home on the same store."""
    homes: dict[str, Path]


@contextmanager
def part(name: str, told: dict[str, str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    command, given = compose(name)
    unknown = given.keys() - told.keys()
    assert not unknown, f"this test does not know what to put for {sorted(unknown)}"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SMALTI_", "AWS_"))}
    environment = (
        inherited | {key: told[key] for key in given} | {"SMALTI_HOME": str(home), "SMALTI_PORT": told["PORT"]}
    )
    home.mkdir()
    process = subprocess.Popen([SMALTI, *command], env=environment, cwd=home)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def server(postgres: Postgres, s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("server")
    port, database = free_port(), postgres.create("server")
    place = s3.place("server/world")
    told = s3.variables() | {
        "SMALTI_STORAGE": place,
        "SMALTI_JOBS_DATABASE": database,
        "SMALTI_ENCODER_THREADS": "2",
        "SMALTI_API_KEYS": f"{hashlib.sha256(KEY.encode()).hexdigest()}:read+write+embed",
        "SMALTI_ALLOWED_HOSTS": "",
        "SMALTI_SHUTDOWN_SECONDS": "30",
        "SMALTI_SCENES__EARTHDATA_TOKEN": "",
        "SMALTI_SCENES__PLANETARY_COMPUTER_KEY": "",
        "SMALTI_LIMITS__SCRATCH_BYTES": "1500000000",
        "PORT": str(port),
    }
    world = Settings(
        home=root / "maker", storage=place, jobs_database=SecretStr(database), catalogue=root / "none.toml"
    )
    demo.prepare(State(world), SIDE)
    homes = {name: root / name for name in ("api", "worker-1", "worker-2")}
    with (
        ExitStack() as parts,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": KEY}, timeout=60) as http,
    ):
        processes = [parts.enter_context(part(name, told, home)) for name, home in homes.items()]
        until = time.monotonic() + MOST
        while not _ready(http):
            assert all(process.poll() is None for process in processes)
            assert time.monotonic() < until, "not ready"
            time.sleep(0.2)
        yield Server(http, world, homes)


def _ready(http: httpx2.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def told(http: httpx2.Client, path: str, **query: Any) -> dict[str, Any]:
    answer = http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def test_all_parts_are_told_to_be_ready(server: Server) -> None:
    parts = told(server.http, "/readyz")["parts"]
    assert parts["storage"] == f"ok, {server.world.storage}"
    assert {name.split()[0] for name in parts} == {"storage", "dataset", "basis", "index", "model", "jobs"}
    assert all(text.startswith("ok") for text in parts.values())
    assert httpx2.get(f"{server.http.base_url}/jobs").status_code in {200, 401}
    stranger = httpx2.post(f"{server.http.base_url}/queries", json={}, headers={"X-API-Key": "another"})
    assert stranger.status_code == 401


def test_a_tile(server: Server) -> None:
    links = told(server.http, "/datasets/demo/2024/WebMercatorQuad/tilejson.json")
    lon, lat = told(server.http, "/datasets/demo")["center"]
    tile = server.http.get(f"/datasets/demo/2024/bbox/{lon - 0.001},{lat - 0.001},{lon + 0.001},{lat + 0.001}.png")
    assert tile.status_code == 200, tile.text
    assert tile.headers["content-type"] == "image/png"
    assert tile.headers["x-smalti-dataset"] == "demo"
    assert len(links["tiles"]) == 1


def test_a_search_with_a_query_that_is_kept(server: Server) -> None:
    lon, lat = told(server.http, "/datasets/demo")["center"]
    body = {"dataset": "demo", "window": "2024", "points": [[lon, lat]]}
    saved = server.http.post("/queries", json=body)
    assert saved.status_code in {200, 201}, saved.text
    query = saved.json()["id"]
    found = told(server.http, "/datasets/demo/2024/search", query=query, k=5)
    assert found["engine"] == "index", "built elsewhere, copied from the store"
    assert found["features"][0]["properties"]["score"] == pytest.approx(1, abs=0.01)
    assert list((server.homes["api"] / "copies").rglob("*.faiss"))
    assert State(server.world).queries.get(query)[0] == query, "kept in the store, not in the API's home"


def test_an_upload_that_is_stored(server: Server) -> None:
    body, where = patch(server.world)
    before = told(server.http, "/datasets/demo")["revision"]
    stored = server.http.post("/embed", params={**where, "answer": "json"}, content=body, headers=NPZ)
    assert stored.status_code == 200, stored.text
    after = told(server.http, "/datasets/demo")["revision"]
    assert after == stored.json()["stored"]["revision"] != before
    assert State(server.world).datasets["demo"].store.revision()[0] == after


def test_an_area_that_the_workers_embed(server: Server) -> None:
    http = server.http
    bounds = told(http, "/datasets/demo")["source_bounds"]
    asked = http.post("/areas", json={"dataset": "demo", "window": "2022", "bbox": bounds})
    assert asked.status_code == 202, asked.text
    job = asked.json()["id"]
    until = time.monotonic() + MOST
    while (seen := told(http, f"/jobs/{job}"))["state"] in {"queued", "running"}:
        assert time.monotonic() < until, seen
        time.sleep(0.2)
    assert seen["state"] == "done", seen
    assert seen["done"] == seen["total"] > 0
    until = time.monotonic() + MOST
    while "2022" not in told(http, "/datasets/demo")["windows"]:
        assert time.monotonic() < until, "the API does not see what the workers stored"
        time.sleep(0.1)
    lon, lat = told(http, "/datasets/demo")["center"]
    vector = http.post("/datasets/demo/2022/vectors", json={"points": [[lon, lat]]})
    assert vector.status_code == 200, vector.text
    assert vector.json()["results"][0]["status"] == "valid"
