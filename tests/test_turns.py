"""Uploads take turns: honest refusals under load, clients that leave, threads left for everything else."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi import Request, Response
from fastapi.testclient import TestClient
from test_metrics import numbers, series

from api.settings import Limits, Settings
from api.state import State
from api.turns import LARGE, Turns
from service.encoder import Encoder
from service.encoder.engines import Engine
from service.errors import Unavailable
from service.registry import SHIPPED
from tests.conftest import client_of


class Refused:
    count = 0

    def inc(self, amount: float = 1) -> None:
        self.count += 1


def request_of(*messages: dict, after: float = 0.0) -> Request:
    """A request that was read to its end, whose client then says some things and stays."""
    told = list(messages)

    async def receive() -> dict:
        if told:
            await asyncio.sleep(after)
            return told.pop(0)
        await asyncio.sleep(60)
        raise AssertionError

    return Request({"type": "http", "method": "POST", "path": "/embed", "headers": []}, receive)


def test_more_than_may_be_here_are_refused() -> None:
    refused = Refused()
    turns = Turns(Limits(uploads_at_once=2), refused)
    with turns.taken_in(), turns.taken_in():
        with pytest.raises(Unavailable, match="2 uploads"), turns.taken_in():
            pass
        assert turns.counts() == (0, 2)
    assert turns.counts() == (0, 0)
    assert refused.count == 1


def test_large_uploads_wait_for_each_other_and_small_ones_do_not() -> None:
    turns = Turns(Limits(large_uploads_at_once=1), Refused())
    gate, began = threading.Event(), []

    def slow(turn) -> Response:
        began.append(turn)
        assert gate.wait(10)
        return Response()

    def quick(turn) -> Response:
        began.append(turn)
        return Response(status_code=204)

    async def scene() -> None:
        with turns.taken_in(), turns.taken_in(), turns.taken_in():
            first = asyncio.create_task(turns.run(request_of(), LARGE + 1, slow))
            while not began:
                await asyncio.sleep(0.01)
            second = asyncio.create_task(turns.run(request_of(), LARGE + 1, quick))
            assert (await turns.run(request_of(), 100, quick)).status_code == 204
            assert len(began) == 2
            assert turns.counts() == (1, 2)
            await asyncio.sleep(0.2)
            gate.set()
            await asyncio.gather(first, second)

    asyncio.run(scene())
    assert began[1].waited < 0.15 < began[2].waited


def test_a_large_upload_waits_for_others_only_so_long() -> None:
    refused = Refused()
    turns = Turns(Limits(large_uploads_at_once=1, encoder_wait=1), refused)
    gate, began = threading.Event(), []

    def slow(turn) -> Response:
        began.append(turn)
        assert gate.wait(10)
        return Response()

    async def scene() -> None:
        first = asyncio.create_task(turns.run(request_of(), LARGE + 1, slow))
        while not began:
            await asyncio.sleep(0.01)
        with pytest.raises(Unavailable, match="kept this one waiting for 1 s") as error:
            await turns.run(request_of(), LARGE + 1, slow)
        assert error.value.retry_after == 1
        gate.set()
        assert (await first).status_code == 200
        assert (await turns.run(request_of(), LARGE + 1, slow)).status_code == 200  # the place is free again

    asyncio.run(scene())
    assert (len(began), refused.count) == (2, 1)


def test_a_client_that_left_before_its_turn_costs_nothing() -> None:
    turns = Turns(Limits(large_uploads_at_once=1), Refused())
    gate, began = threading.Event(), []

    def slow(turn) -> Response:
        began.append(turn)
        assert gate.wait(10)
        return Response()

    async def scene() -> None:
        first = asyncio.create_task(turns.run(request_of(), LARGE + 1, slow))
        while not began:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(turns.run(request_of({"type": "http.disconnect"}), LARGE + 1, slow))
        await asyncio.sleep(0.1)
        gate.set()
        assert [(await first).status_code, (await second).status_code] == [200, 499]

    asyncio.run(scene())
    assert len(began) == 1


def test_work_is_told_that_its_client_left() -> None:
    turns = Turns(Limits(), Refused())
    seen = []

    def work(turn) -> Response:
        for _ in range(500):
            if turn.gone():
                seen.append("gone")
                raise Unavailable("nobody waits for this any more.")
            threading.Event().wait(0.01)
        return Response()

    answer = asyncio.run(turns.run(request_of({"type": "http.disconnect"}, after=0.2), 1, work))
    assert seen == ["gone"]
    assert answer.status_code == 499


def test_errors_of_those_who_stay_are_theirs() -> None:
    def work(_) -> Response:
        raise Unavailable("full.")

    with pytest.raises(Unavailable, match="full"):
        asyncio.run(Turns(Limits(), Refused()).run(request_of(), 1, work))


@pytest.fixture
def slowed(world: Settings) -> tuple[TestClient, threading.Event]:
    """A server whose encoder stands still while the gate is shut."""
    client = client_of(world.model_copy(update={"limits": Limits(encoder_wait=1)}))
    state = client.app.state.smalti  # type: ignore[attr-defined]
    encoder, gate = state.encoder("smalti-mini"), threading.Event()
    gate.set()

    def lane():
        real = encoder.engine.lane
        run = real()
        return lambda feeds: run(feeds) if gate.wait(20) else None

    engine = Engine(**{**vars(encoder.engine), "lane": lane})
    state._encoders[str(encoder.identity)] = type(encoder)(encoder.model, engine)
    return client, gate


def test_under_load_the_door_is_honest_and_the_rest_goes_on(slowed) -> None:
    client, gate = slowed
    body = series() | {"pixels": series()["pixels"] * 20}
    lone = client.post("/embed", json=series())
    assert lone.status_code == 200
    encoder = client.app.state.smalti.encoder("smalti-mini")
    encoder._lanes._seconds = 2.0 * encoder.engine.batch * encoder.engine.lanes / 20  # ten pixels a second
    gate.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.post, "/embed", json=body)
        while encoder.use().pixels < 20:
            threading.Event().wait(0.01)
        refused = client.post("/embed", json=body)
        small = pool.submit(client.post, "/embed", json=series())
        while encoder.use().callers < 2:
            threading.Event().wait(0.01)
        assert client.get("/datasets").status_code == 200
        assert client.get("/livez").status_code == 200
        now = numbers(client)
        gate.set()
        answers = first.result(), small.result()
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "2"
    assert refused.json()["kind"] == "unavailable"
    assert "would wait 2 s" in refused.json()["detail"]
    assert [answer.status_code for answer in answers] == [200, 200]
    vectors = [np.array(one["vector"]) for answer in answers for one in answer.json()["results"]]
    assert len(vectors) == 21
    assert all(np.array_equal(one, lone.json()["results"][0]["vector"]) for one in vectors)
    assert now("smalti_encoder_refused_total") == 1
    assert now("smalti_encoder_queue_pixels") == 21
    assert now("smalti_encoder_uploads", state="encoding") == 2


def test_ready_tells_what_auto_took(world: Settings) -> None:
    client = client_of(world)
    parts = client.get("/readyz").json()["parts"]
    told = next(text for name, text in parts.items() if name.startswith("model smalti-mini"))
    assert "in fp32 (chosen by auto." in told
    assert client.get("/models").json()["models"][0]["device"] in told
    asked = client_of(world.model_copy(update={"device": "cpu"})).get("/readyz").json()["parts"]
    assert next(text for name, text in asked.items() if name.startswith("model smalti-mini")) == "ok, on cpu in fp32"


def test_models_nobody_asked_for_are_not_opened(own_world: Settings) -> None:
    """Some take gigabytes: to be ready, and to be listed, it is enough that their files are there."""
    folder = own_world.home / "models" / "other"
    shutil.copytree(SHIPPED / "smalti-mini", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"identity": "other@1"}))
    client = client_of(own_world)

    def told() -> tuple[str, str]:
        parts = client.get("/readyz").json()["parts"]
        (part,) = (text for name, text in parts.items() if name.startswith("model other@1"))
        return part, client.get("/models/other").json()["device"]

    assert [one["device"] for one in client.get("/models").json()["models"]] == ["not opened", "not opened"]
    assert told() == ("ok, not opened yet", "not opened")
    opened = client.app.state.smalti.encoders()  # type: ignore[attr-defined]
    assert [name.partition("@")[0] for name in opened] == ["smalti-mini"]
    file = folder / manifest["file"]
    body = file.read_bytes()
    file.write_bytes(b"")
    assert all("is empty" in text for text in told())
    file.unlink()
    assert all("is missing" in text for text in told())
    assert client.get("/readyz").status_code == 503
    file.write_bytes(body)
    assert client.post("/embed", json=series() | {"model": "other"}).status_code == 200
    assert told()[0].startswith("ok, on ")
    assert told()[1] in told()[0]


def test_opening_one_model_keeps_no_other_waiting(own_world: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SHIPPED / "smalti-mini", own_world.home / "models" / "other")
    path = own_world.home / "models" / "other" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"identity": "other@1"}))
    state, gate, began = State(own_world), threading.Event(), threading.Event()
    real = Encoder.open

    def slow(model, *args, **more):
        if model.manifest.identity.name == "other":
            began.set()
            assert gate.wait(10)
        return real(model, *args, **more)

    monkeypatch.setattr(Encoder, "open", slow)
    with ThreadPoolExecutor(2) as pool:
        large = [pool.submit(state.encoder, "other") for _ in range(2)]
        assert began.wait(10)
        assert state.encoder("smalti-mini").identity.name == "smalti-mini"
        assert not any(one.done() for one in large)
        gate.set()
        assert large[0].result() is large[1].result()
