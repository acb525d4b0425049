"""Servers over one storage, each with a share of the shards: real processes on this machine, of which some die."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from indexing.fleet.share import Share
from indexing.index.build import build_index
from indexing.index.manifest import IndexManifest
from service.values import VALID, Vectors
from tests.services import free_port
from tests.stores import YEAR, Tiny, tiny_archive

pytestmark = pytest.mark.slow

KEY = "a-key-of-the-fleet-that-nobody-may-see"
SECONDS = 4.0
SHARES = {"one": "all", "a": "0/2", "b": "1/2", "front": "none"}
HOLDERS = "ab"


def field_of(side: int, dims: int) -> Vectors:
    """(side, side) pixels: fields of a few kinds, with noise."""
    rng = np.random.default_rng(5)
    kinds = rng.standard_normal((30, dims)).astype(np.float32)
    field = np.kron(rng.integers(0, 30, (side // 8 + 1, side // 8 + 1)), np.ones((8, 8), int))[:side, :side]
    values = kinds[field] + 0.3 * rng.standard_normal((side, side, dims)).astype(np.float32)
    scales = (np.abs(values).max(axis=-1) / 127).astype(np.float32)
    codes = np.rint(values / scales[..., None]).astype(np.int8)
    return Vectors(codes, scales, np.full((side, side), VALID, np.uint8))


@dataclass
class Servers:
    """The processes, by name."""

    root: Path
    tiny: Tiny
    manifest: IndexManifest
    ports: dict[str, int]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        peers = ",".join(f"http://127.0.0.1:{self.ports[peer]}" for peer in HOLDERS if peer != name)
        told = {
            "SMALTI_STORAGE": str(self.root / "world"),
            "SMALTI_HOME": str(self.root / name),
            "SMALTI_PORT": str(self.ports[name]),
            "SMALTI_API_KEYS": f"{hashlib.sha256(KEY.encode()).hexdigest()}:read",
            "SMALTI_FLEET__SHARDS": SHARES[name],
            "SMALTI_FLEET__PEERS": peers if SHARES[name] != "all" else "",
            "SMALTI_FLEET__KEY": KEY,
            "SMALTI_FLEET__SECONDS": str(SECONDS),
        }
        (self.root / name).mkdir(exist_ok=True)
        command = [Path(sys.executable).parent / "smalti", "serve"]
        with (self.root / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(command, env=os.environ | told, cwd=self.root / name, stderr=log)

    def wait(self, name: str) -> None:
        """Until it has opened what it holds: it is asked nothing it would have to open first."""
        until = time.monotonic() + 90
        while not self._is_ready(name):
            assert time.monotonic() < until, f"it was never ready: {self.log(name)}"
            time.sleep(0.2)

    def _is_ready(self, name: str) -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{self.ports[name]}/readyz?enough=some").status_code == 200
        except httpx2.TransportError:
            return False

    def search(self, name: str, question: dict[str, Any]) -> dict[str, Any]:
        address = f"http://127.0.0.1:{self.ports[name]}/datasets/tiny/2024/search"
        answer = httpx2.post(address, json=question, timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def share(self, name: str) -> list[str]:
        return sorted(self.manifest.held_by(Share.parse(SHARES[name])))

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    root = tmp_path_factory.mktemp("fleet")
    (root / "world" / "datasets").mkdir(parents=True)
    tiny = tiny_archive(root / "world" / "datasets", field_of(520, 64))
    manifest = build_index(tiny.store, "tiny", YEAR, root / "world" / "index" / "tiny", most_blocks=1)
    made = Servers(root, tiny, manifest, {name: free_port() for name in SHARES})
    try:
        for name in SHARES:
            made.start(name)
        for name in SHARES:
            made.wait(name)
        yield made
    finally:
        for process in made.running.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def questions(tiny: Tiny) -> list[dict[str, Any]]:
    west, south = tiny.lonlat(400, 100)
    east, north = tiny.lonlat(150, 450)
    points = [tiny.lonlat(100, 100), tiny.lonlat(300, 420)]
    ring = [[west, south], [east, south], [east, north], [west, south]]
    return [
        {"points": [points[0]], "k": 10},
        {"points": points, "against": [tiny.lonlat(450, 450)], "k": 200},
        {"points": [points[1]], "k": 30, "bbox": [west, south, east, north]},
        {"points": [points[1]], "k": 30, "within": {"type": "Polygon", "coordinates": [ring]}},
        {"points": [points[1]], "k": 30, "spacing": 200},
        {"points": [points[1]], "k": 30, "recall": 0.5},
        {"points": [points[0]], "k": 10, "exact": True},
    ]


def test_any_server_answers_as_one_with_everything_does(servers: Servers) -> None:
    assert all(servers.share(name) for name in HOLDERS), "each holds some"
    for question in questions(servers.tiny):
        whole = servers.search("one", question)
        assert (whole["partial"], whole["missing"]) == (False, [])
        assert whole["features"]
        for name in ("a", "b", "front"):
            assert servers.search(name, question) == whole, (name, question)


def test_what_is_asked_between_servers_is_nobody_elses(servers: Servers) -> None:
    address = f"http://127.0.0.1:{servers.ports['a']}/shards/candidates"
    assert httpx2.post(address, content=b"x").status_code == 401
    assert httpx2.post(address, content=b"x", headers={"X-API-Key": "wrong"}).status_code == 401
    assert httpx2.post(address, content=b"x", headers={"X-API-Key": KEY}).status_code == 422


def test_it_costs_milliseconds(servers: Servers) -> None:
    question = questions(servers.tiny)[0]
    took: dict[str, list[float]] = {"one": [], "a": [], "front": []}
    with httpx2.Client() as client:
        for _ in range(60):
            for name, times in took.items():
                began = time.perf_counter()
                client.post(f"http://127.0.0.1:{servers.ports[name]}/datasets/tiny/2024/search", json=question)
                times.append(1000 * (time.perf_counter() - began))
    median = {name: float(np.median(times[10:])) for name, times in took.items()}
    print(json.dumps(median))
    assert median["front"] < median["one"] + 100


def test_one_that_is_killed_is_missing_by_name_and_whole_again_once_it_is_back(servers: Servers) -> None:
    question = questions(servers.tiny)[1]
    whole = servers.search("one", question)
    assert servers.search("a", question) == whole
    servers.running["b"].kill()
    servers.running["b"].wait()
    for name in ("a", "front"):
        for _ in range(3):
            found = servers.search(name, question)
            assert (found["partial"], found["missing"]) == (True, servers.share("b"))
            assert found["recall"] is None, "it was measured with nothing missing"
            assert len(found["features"]) == question["k"]
    kept = servers.search("front", question)
    assert kept["features"] == servers.search("a", question)["features"]
    assert {tuple(f["geometry"]["coordinates"]) for f in kept["features"]} != {
        tuple(f["geometry"]["coordinates"]) for f in whole["features"]
    }
    assert "cannot be reached" in servers.log("a")
    assert servers.log("a").count("cannot be reached") <= 2, "told when it is news"
    servers.start("b")
    servers.wait("b")
    until = time.monotonic() + 90
    while servers.search("a", question) != whole:
        assert time.monotonic() < until, "still not whole"
        time.sleep(0.5)


def test_one_that_hangs_takes_no_longer_than_it_may(servers: Servers) -> None:
    question = questions(servers.tiny)[0]
    whole = servers.search("one", question)
    servers.running["b"].send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        found = servers.search("front", question)
        assert time.monotonic() - began < 3 * SECONDS + 10
        assert found["missing"] == servers.share("b")
        until, took = time.monotonic() + 60, SECONDS
        while took >= SECONDS:  # each time that it does not answer it is left alone for longer
            assert time.monotonic() < until, "left alone for a while, it costs no time"
            began = time.monotonic()
            assert servers.search("front", question)["missing"] == servers.share("b")
            took = time.monotonic() - began
    finally:
        servers.running["b"].send_signal(signal.SIGCONT)
    until = time.monotonic() + 90
    while servers.search("front", question) != whole:
        assert time.monotonic() < until, "still not whole"
        time.sleep(0.5)


def test_where_nobody_is_left_it_is_an_error_with_names_and_no_key_is_ever_told(servers: Servers) -> None:
    for name in HOLDERS:
        servers.running[name].kill()
        servers.running[name].wait()
    address = f"http://127.0.0.1:{servers.ports['front']}/datasets/tiny/2024/search"
    answer = httpx2.post(address, json=questions(servers.tiny)[0], timeout=30)
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    assert sorted(segment.name for segment in servers.manifest.segments)[0] in answer.json()["detail"]
    for name in SHARES:
        assert KEY not in servers.log(name)
        assert hashlib.sha256(KEY.encode()).hexdigest() not in servers.log(name)
