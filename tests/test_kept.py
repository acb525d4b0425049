"""Finished tiles in memory: kept under their validators and nothing else, made once, wrong ones never."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import morecantile
import numpy as np
import pytest
from fastapi import Depends, FastAPI, Query, Request
from fastapi.testclient import TestClient

from api.catalogue import Dataset
from api.kept import Kept, Tile
from api.later import later
from api.settings import Caches, Settings
from service.errors import Unavailable
from service.grid import Zone
from service.values import CacheUse, Vectors, Window
from tests.conftest import client_of
from tests.fakes import Datasets, MemoryStore
from tests.stores import YEAR, random_vectors

TMS = morecantile.tms.get("WebMercatorQuad")
ROW, COL, SIDE = 350_000, 25_000, 300


def tile(text: str = "a", size: int = 10) -> Tile:
    return Tile(text.encode() * size, {})


class TestKept:
    """Without a server."""

    def test_asked_for_at_the_same_time_it_is_made_once(self) -> None:
        kept, made = Kept(1_000_000), []

        def make() -> Tile:
            made.append(threading.get_ident())
            time.sleep(0.05)
            return tile()

        async def ask() -> list[Tile]:
            return await asyncio.gather(*(kept.made("tag", make, far=False) for _ in range(20)))

        found = asyncio.run(ask())
        assert len(made) == 1
        assert made[0] != threading.get_ident()
        assert all(one is found[0] for one in found)
        assert asyncio.run(kept.made("tag", make, far=False)) is found[0]
        assert kept.use() == CacheUse(20, 1, 1010)

    def test_that_who_asked_first_leaves_takes_it_from_nobody(self) -> None:
        kept, started, go = Kept(1_000_000), threading.Event(), threading.Event()

        def make() -> Tile:
            started.set()
            assert go.wait(5)
            return tile()

        async def ask() -> Tile:
            first = asyncio.create_task(kept.made("tag", make, far=False))
            await asyncio.to_thread(started.wait, 5)
            second = asyncio.create_task(kept.made("tag", make, far=False))
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            go.set()
            return await second

        assert asyncio.run(ask()) == tile()
        assert asyncio.run(kept.made("tag", lambda: tile("b"), far=False)) == tile()

    def test_an_error_is_told_to_all_and_not_kept(self) -> None:
        kept, tries = Kept(1_000_000), []

        def fail() -> Tile:
            tries.append(1)
            time.sleep(0.02)
            raise Unavailable("gone for a moment.")

        async def ask() -> list[Any]:
            return await asyncio.gather(*(kept.made("tag", fail, far=True) for _ in range(5)), return_exceptions=True)

        assert [type(one) for one in asyncio.run(ask())] == [Unavailable] * 5
        assert len(tries) == 1
        assert asyncio.run(kept.made("tag", tile, far=True)) == tile()

    @pytest.mark.parametrize(("limit", "size"), [(0, 1), (64_000, 3000)])
    def test_what_is_too_large_or_not_to_be_kept_is_made_anew(self, limit: int, size: int) -> None:
        kept = Kept(limit)
        found = [asyncio.run(kept.made("tag", lambda: tile(size=size), far=False)) for _ in range(2)]
        assert found[0] == found[1]
        assert found[0] is not found[1]
        assert kept.use().bytes == 0

    def test_pictures_take_turns_in_the_order_they_were_asked_for(self) -> None:
        kept, lock, busy, most, order = Kept(0), threading.Lock(), 0, 0, []

        def make(number: int) -> Tile:
            nonlocal busy, most
            with lock:
                busy, most = busy + 1, max(most, busy + 1)
                order.append(number)
            time.sleep(0.005)
            with lock:
                busy -= 1
            return tile()

        async def ask() -> None:
            await asyncio.gather(*(kept.made(str(i), lambda i=i: make(i), far=False) for i in range(24)))  # type: ignore[misc]

        asyncio.run(ask())
        assert 1 < most <= kept.pictures()["near"].total_tokens < 24
        assert all(abs(place - number) <= most for place, number in enumerate(order))


ran: list[str] = []


def inner(request: Request, size: Annotated[int, Query(ge=1, description="of it")] = 3) -> int:
    ran.append("inner")
    return size + len(request.url.path)


def outer(within: Annotated[int, Depends(inner)], name: str) -> str:
    ran.append("outer")
    return name * within


app = FastAPI()


@app.get("/now/{name}")
def now(found: Annotated[str, Depends(outer)]) -> str:
    return found


@app.get("/later/{name}")
async def put_off(found: Annotated[Callable[[], str], Depends(later(outer))]) -> str:
    assert not ran
    return found()


def test_what_runs_later_is_asked_for_as_before() -> None:
    client = TestClient(app)
    ran.clear()
    assert client.get("/later/ab?size=1").json() == "ab" * 10
    assert ran == ["inner", "outer"]
    assert client.get("/now/ab?size=1").json() == "ab" * 8
    assert client.get("/later/ab?size=0").status_code == 422
    paths = app.openapi()["paths"]
    assert paths["/later/{name}"]["get"]["parameters"] == paths["/now/{name}"]["get"]["parameters"]


class SlowStore(MemoryStore):
    """Calls `during` while it reads."""

    def during(self) -> None:
        """Nothing, as long as nothing else is said."""

    def read(self, *args: Any, **kwargs: Any) -> Vectors:
        found = super().read(*args, **kwargs)
        self.during()
        return found


def store_of(seed: int = 0, window: Window = YEAR) -> SlowStore:
    vectors = random_vectors((SIDE, SIDE), 8, seed=seed)
    return SlowStore(vectors.codes, vectors.scales, Zone(31), window, ROW, COL)


def server(home: Path, tile_bytes: int = 10_000_000, **stores: MemoryStore) -> TestClient:
    client = client_of(Settings(home=home, catalogue=Path("none.toml"), caches=Caches(tile_bytes=tile_bytes)))
    state = client.app.state.smalti  # type: ignore[attr-defined]
    state.datasets = Datasets({name: Dataset(name, store, name, "CC0") for name, store in stores.items()})
    for name in stores:
        assert client.post("/bases", json={"dataset": name}).status_code == 201
    return client


def address(suffix: str = "png", *, dataset: str = "one", window: str = "2024", z: int = 14) -> str:
    grid = store_of().parts[0].grid
    lon, lat = grid.to_lonlat(np.array([ROW + SIDE / 2]), np.array([COL + SIDE / 2]))
    at = TMS.tile(float(lon[0]), float(lat[0]), z)
    return f"/datasets/{dataset}/{window}/tiles/WebMercatorQuad/{z}/{at.x}/{at.y}.{suffix}"


def test_the_second_answer_reads_nothing_and_is_the_first(tmp_path: Path) -> None:
    store = store_of()
    client = server(tmp_path, one=store)
    first = client.get(address())
    assert first.status_code == 200
    assert store.reads
    store.reads.clear()
    again = client.get(address())
    assert not store.reads
    assert again.content == first.content
    own = {"x-request-id"}
    assert {k: v for k, v in again.headers.items() if k not in own} == {
        k: v for k, v in first.headers.items() if k not in own
    }


def test_nothing_is_served_for_anything_else(tmp_path: Path) -> None:
    one, two = store_of(1), store_of(2)
    more = random_vectors((SIDE, SIDE), 8, seed=3)
    one.add(more.codes, more.scales, Zone(31), Window.year(2025), ROW, COL)
    keeping = server(tmp_path / "a", one=one, two=two)
    anew = server(tmp_path / "b", 0, one=one, two=two)
    paths = [
        address(suffix, dataset=dataset, window=window)
        for (dataset, window), suffix in product(
            (("one", "2024"), ("one", "2025"), ("two", "2024")), ("png", "png?view=bands:0,1,2")
        )
    ]
    paths += [address("png", z=15), *(address(f"png?view=change:2025{more}") for more in ("", "&threshold=0.4"))]
    paths += [address(suffix) for suffix in ("webp", "npy?view=bands:3", "png?view=bands:3", "png?tilesize=512")]
    exact = {path: anew.get(path) for path in paths}
    assert all(answer.status_code == 200 for answer in exact.values())
    assert len({answer.content for answer in exact.values()}) == len(paths)
    for _ in range(2):
        for path in paths:
            answer = keeping.get(path)
            assert answer.content == exact[path].content, path
            assert answer.headers["content-type"] == exact[path].headers["content-type"]
    state = keeping.app.state.smalti  # type: ignore[attr-defined]
    assert state.tiles.use().hits == len(paths)


def test_an_error_is_not_kept_and_has_no_validator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of()
    client = server(tmp_path, one=store)

    def fail() -> None:
        raise Unavailable("the bucket is out of reach.")

    monkeypatch.setattr(store, "during", fail)
    refused = client.get(address())
    assert refused.status_code == 503
    assert "etag" not in refused.headers
    assert refused.headers["cache-control"] == "no-store"
    assert int(refused.headers["retry-after"]) > 0
    monkeypatch.undo()
    assert client.get(address()).status_code == 200


def test_twenty_requests_for_a_tile_read_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of()
    with server(tmp_path, one=store) as client:
        path, alone = address(), client.get(address("png?view=bands:1")).status_code
        assert alone == 200
        store.reads.clear()
        monkeypatch.setattr(store, "during", lambda: time.sleep(0.2))
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(client.get, [path] * 20))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert len(store.reads) == 1
        use = client.app.state.smalti.tiles.use()  # type: ignore[attr-defined]
    assert (use.hits, use.misses) == (19, 2)


def test_blocks_replaced_while_a_tile_is_made_are_not_kept_under_its_old_validator(tmp_path: Path) -> None:
    store, fresh = store_of(1), store_of(2)
    client = server(tmp_path, one=store)
    old = client.get(address("webp")).headers["etag"], client.get(address()).headers["etag"]
    client.app.state.smalti.tiles = Kept(10_000_000)  # type: ignore[attr-defined]  # forgets
    parts = [store.parts, fresh.parts]

    def replaced() -> None:
        store.parts, store.during = parts[1], lambda: None  # type: ignore[method-assign]

    store.during = replaced  # type: ignore[method-assign]
    answer = client.get(address())
    assert answer.status_code == 200
    assert answer.headers["etag"] != old[1]
    assert answer.headers["x-smalti-revision"] == fresh.revision()[0]
    client.app.state.smalti.tiles = Kept(0)  # type: ignore[attr-defined]
    assert client.get(address()).content == answer.content, "all of it is new"
    store.parts = parts[0]
    back = client.get(address())
    assert back.headers["etag"] == old[1]
    assert back.content != answer.content


def test_a_tile_whose_blocks_never_rest_is_sent_and_kept_by_nobody(tmp_path: Path) -> None:
    store = store_of(1)
    client = server(tmp_path, one=store)
    parts = [store.parts, store_of(2).parts]

    def replaced() -> None:
        parts.reverse()
        store.parts = parts[0]

    store.during = replaced  # type: ignore[method-assign]
    answer = client.get(address())
    assert answer.status_code == 200
    assert "etag" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    assert client.app.state.smalti.tiles.use().bytes == 0  # type: ignore[attr-defined]
