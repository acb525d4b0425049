"""Tiles of a store that is far away, through the real HTTP API: how deep, how often, and what happens when it fails."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.settings import Settings
from api.state import State
from service.colour import fit_basis
from service.grid import Zone
from service.store import open_store
from service.values import Window
from tests.conftest import client_of
from tests.slow_web import SlowWeb, slow_web
from tests.test_store_published import MODEL, published
from tests.test_tiles_http import pixels_of

pytestmark = pytest.mark.slow

LON, LAT = 15.023, -0.004
"""In the middle of what `published` makes, on both sides of the equator."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("far")
    published(place / "v2.zarr")
    return place


@pytest.fixture
def web(folder: Path) -> Iterator[SlowWeb]:
    with slow_web(folder) as server:
        yield server


def settings_of(folder: Path, web: SlowWeb, home: Path) -> Settings:
    """A server whose `far` is on the web, and whose `near` is the same store on the disk."""
    home.mkdir(exist_ok=True)
    catalogue = home / "smalti.toml"
    catalogue.write_text(
        "".join(
            f'[[datasets]]\nid = "{name}"\nlocation = "{where}"\nmodel = "{MODEL}"\n'
            for name, where in (("far", f"{web.url}/v2.zarr"), ("near", folder / "v2.zarr"))
        )
    )
    settings = Settings(home=home, catalogue=catalogue)
    if not (home / "shelf").exists():
        state = State(settings)
        basis = fit_basis(open_store(folder / "v2.zarr", identity=MODEL), [Window.year(2024)], seed=1, sample=2000)
        for name in ("far", "near"):
            state.bases(name).put(basis.to_document(), "default")
    return settings


def tiles(zoom: int) -> list[tuple[int, int, int]]:
    """Every tile of a zoom over the middle of the store."""
    n, half = 2**zoom, 0.022
    rows = [(1 - np.arcsinh(np.tan(np.radians(LAT + d))) / np.pi) / 2 * n for d in (half, -half)]
    cols = [(LON + d + 180) / 360 * n for d in (-half, half)]
    return [(zoom, x, y) for x in range(int(cols[0]), int(cols[1]) + 1) for y in range(int(rows[0]), int(rows[1]) + 1)]


def url(dataset: str, tile: tuple[int, int, int], view: str = "bands:0,1,2", window: str = "2024") -> str:
    return f"/datasets/{dataset}/{window}/tiles/WebMercatorQuad/{'/'.join(map(str, tile))}.png?view={view}&tilesize=256"


def middle(zoom: int) -> tuple[int, int, int]:
    found = tiles(zoom)
    return found[len(found) // 2]


def same_picture(one: bytes, other: bytes) -> bool:
    """Whether every pixel is the same: how a picture is packed may differ, and once in a thousand runs does."""
    return one == other or np.array_equal(pixels_of(one), pixels_of(other))


def settle(client: TestClient) -> None:
    client.app.state.smalti.datasets.near.settle()  # type: ignore[attr-defined]


def test_the_first_tile_is_few_round_trips_deep_and_the_second_none(folder: Path, web: SlowWeb, tmp_path: Path) -> None:
    settings = settings_of(folder, web, tmp_path)
    with client_of(settings) as client:
        right = client.get(url("near", middle(13)))
        assert right.status_code == 200, right.text
        began = time.monotonic()
        first = client.get(url("far", middle(13)))
        took = time.monotonic() - began
        assert first.status_code == 200, first.text
        assert first.content == right.content
        assert web.depth() <= 12, "opening the store included"
        assert len(web.asked) <= 40
        assert took < 12 * web.latency + 5
        web.forget()
        assert client.get(url("far", middle(13), "bands:3,4,5")).status_code == 200
        assert not web.chunks(), "another view of what was read"
        settle(client)
    web.forget()
    with client_of(settings) as client:  # the server was started anew
        assert client.get(url("far", middle(13))).content == right.content
    assert not web.chunks()
    assert web.depth() <= 2


def test_a_server_that_comes_and_goes_makes_no_wrong_tile(folder: Path, web: SlowWeb, tmp_path: Path) -> None:
    web.latency = 0.01
    wanted = [(tile, window) for zoom in (14, 16) for tile in tiles(zoom) for window in ("2023", "2024")]
    with client_of(settings_of(folder, web, tmp_path)) as client:
        assert client.get(url("far", wanted[0][0])).status_code == 200
        answers = {key: client.get(url("near", key[0], window=key[1])) for key in wanted}
        right = {key: answer.content for key, answer in answers.items() if answer.status_code == 200}
        wanted = list(right)
        assert len(wanted) > 80
        over, seen = threading.Event(), {"right": 0, "refused": 0}

        def trouble() -> None:
            while not over.is_set():
                for failing in ("error", "cut", "dead"):
                    web.failing = "" if failing == "dead" else failing
                    if failing == "dead":
                        web.kill()
                    time.sleep(1.2)
                    if failing == "dead":
                        web.start()
                    web.failing = ""
                    time.sleep(0.2)

        def ask(key: tuple[tuple[int, int, int], str]) -> None:
            answer = client.get(url("far", key[0], window=key[1]))
            if answer.status_code == 200:
                assert same_picture(answer.content, right[key]), key
                seen["right"] += 1
                return
            assert answer.status_code in {502, 503}, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) > 0
            assert "etag" not in answer.headers
            assert "no-store" in answer.headers.get("cache-control", "no-store")
            seen["refused"] += 1

        troubled = threading.Thread(target=trouble)
        troubled.start()
        try:
            shuffled = wanted * 2
            random.Random(0).shuffle(shuffled)
            with ThreadPoolExecutor(6) as users:
                list(users.map(ask, shuffled))
        finally:
            over.set()
            troubled.join()
        assert seen["refused"], "the trouble was felt"
        for key in wanted:
            ask(key)
        assert seen["right"] >= len(wanted)
        settle(client)
    # Nothing wrong was kept on disk: another reader finds every pixel right.
    with client_of(settings_of(folder, web, tmp_path)) as client:
        for key in wanted:
            assert same_picture(client.get(url("far", key[0], window=key[1])).content, right[key])


def test_what_is_kept_is_bounded(folder: Path, web: SlowWeb, tmp_path: Path) -> None:
    web.latency = 0.0
    bound = 3_000_000
    settings = settings_of(folder, web, tmp_path).model_copy()
    settings = settings.model_copy(update={"caches": settings.caches.model_copy(update={"disk_bytes": bound})})
    with client_of(settings) as client:
        for tile in tiles(15):
            assert client.get(url("far", tile)).status_code == 200
            settle(client)
            held = sum(path.stat().st_size for path in (tmp_path / "near").rglob("*") if path.is_file())
            assert held <= bound
    assert open_store(folder / "v2.zarr", identity=MODEL).zones()[0].zone == Zone(33)
