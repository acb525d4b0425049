"""Embedding on view: who may set it off, at which zooms, and what it may cost."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.missing import blocks_per_hour
from api.onview import OnView
from api.progress import Order
from api.settings import ApiKey, Settings
from api.state import State
from service.errors import Conflict, Corrupt, NotFound
from service.tiles import tile_target
from service.values import VALID, Window
from tests.conftest import client_of
from tests.test_missing import EMPTY, FULL, SCENE, TMS, order, tile_at

YEAR = Window.year(2024)


def allow(settings: Settings, budget: int | None) -> None:
    shelf = State(settings).sources
    document = dict(shelf.get("demo")[1])
    document.pop("embed_on_view", None)
    shelf.put(document | ({"embed_on_view": {"blocks_per_hour": budget}} if budget is not None else {}), "demo")


class Asked:
    """Jobs that are only noted."""

    def __init__(self, spent: int = 0, state: str | None = None) -> None:
        self.orders: list[tuple[Order, str]] = []
        self.spent, self.state = spent, state

    def running(self) -> dict[str, Order]:
        return {}

    def asked_by(self, by: str, within: Any) -> list[tuple[str, Order]]:  # as Jobs
        return [("another", order(SCENE.empty, window="2023"))] * self.spent

    def read(self, key: str) -> Any:
        if self.state is None:
            raise NotFound(f"no job {key}.")
        return SimpleNamespace(blocks=[SimpleNamespace(block=SCENE.empty.name, state=self.state)])

    def ask(self, order: Order, *, missing: bool, by: str, alone: bool) -> None:
        assert missing
        assert alone
        self.orders.append((order, by))


def looked(client: TestClient, path: str, jobs: Asked, **headers: str) -> list[tuple[Order, str]]:
    """What was asked for because somebody looked."""
    state: State = client.app.state.smalti  # type: ignore[attr-defined]
    state.jobs = jobs  # type: ignore[misc,assignment]
    assert client.get(path, headers=headers).status_code in {200, 404}
    settled(client)
    return jobs.orders


def settled(client: TestClient) -> OnView:
    """Wait until nothing is looked into."""
    view: OnView = client.app.state.on_view  # type: ignore[attr-defined]
    until = time.monotonic() + 10
    while view._busy.locked():
        assert time.monotonic() < until
        time.sleep(0.01)
    return view


def test_a_look_at_an_empty_tile_becomes_a_job_that_the_tile_then_names(own_world: Settings) -> None:
    allow(own_world, 2)
    client = client_of(own_world)
    assert client.get(tile_at(FULL)).status_code == 200
    first = client.get(tile_at(EMPTY))
    assert first.headers["X-Smalti-Empty"] == "not-embedded"
    until = time.monotonic() + 20
    while (now := client.get(tile_at(EMPTY))).headers["X-Smalti-Empty"] != "embedding":
        assert time.monotonic() < until, "nobody embeds it"
        time.sleep(0.1)
    told = client.get(now.headers["Link"].split(">")[0].strip("<")).json()
    assert [block["block"] for block in told["blocks"]] == [SCENE.empty.name]
    assert told["window"] == "2024"
    other = client.get(tile_at(EMPTY, window="2023"))
    assert other.headers["X-Smalti-Empty"] == "not-embedded", "one job of a dataset at a time"
    state: State = client.app.state.smalti  # type: ignore[attr-defined]
    assert len(state.jobs.running()) == 1
    # As another server that has seen none of this.
    again: dict[str, Any] = {"missing": True, "by": "view:demo", "alone": True}
    with pytest.raises(Conflict, match="view:demo"):
        State(own_world).jobs.ask(order(SCENE.empty, window="2023"), **again)
    state.jobs.cancel(told["id"])
    state.jobs.cancel(State(own_world).jobs.ask(order(SCENE.empty, window="2023"), **again).id)
    until = time.monotonic() + 20
    while state.lookout.outlook("demo", "2024").busy:
        state.lookout.look_soon()
        assert time.monotonic() < until, "nobody looks"
        time.sleep(0.05)
    settled(client)._lately.clear()
    client.get(tile_at(EMPTY))
    assert settled(client)._lately, "it was looked into"
    assert state.jobs.running() == {}, "what was cancelled is left to people"


def test_budget_zoom_and_who_looks_decide(own_world: Settings) -> None:
    for budget, jobs, headers, count in (
        (None, Asked(), {}, 0),
        (0, Asked(), {}, 0),
        (1, Asked(), {}, 1),
        (1, Asked(spent=1), {}, 0),
        (2, Asked(spent=1), {}, 1),
        (1, Asked(state="failed"), {}, 0),
        (1, Asked(state="done"), {}, 1),
        (1, Asked(), {"sec-fetch-site": "same-origin"}, 1),
        (1, Asked(), {"sec-fetch-site": "cross-site"}, 0),
        (1, Asked(), {"origin": "https://elsewhere.example"}, 0),
        (1, Asked(), {"x-forwarded-for": "203.0.113.9"}, 0),
    ):
        allow(own_world, budget)
        asked = looked(client_of(own_world), tile_at(EMPTY), jobs, **headers)
        told = [(list(order.pixels), by) for order, by in asked]
        assert told == [([SCENE.empty.name], "view:demo")] * count, (budget, vars(jobs), headers)
    view = OnView(State(own_world))
    for zoom, begun in ((11, False), (15, True)):
        tile = TMS.tile(*EMPTY, zoom)
        view.seen("demo", YEAR, tile_target(TMS, tile.x, tile.y, zoom))
        assert bool(view._lately) is begun, "of a tile with many blocks nobody looks at any in particular"


def test_a_block_that_holds_anything_is_left_to_people(own_world: Settings) -> None:
    """Who made it may have asked for fewer dates: made anew with the usual ones, vectors of it would be rejected."""
    allow(own_world, 100)
    store = State(own_world).datasets.writable("demo", YEAR)
    old = store.read_block(SCENE.empty, YEAR)
    rows, cols = SCENE.placement.in_block(SCENE.empty)
    old.vectors.status[rows.start, cols.start] = VALID
    old.vectors.scales[rows.start, cols.start] = 0.01
    store.write([replace(old, fingerprint="ab" * 32)], "one pixel")
    client = client_of(own_world)
    assert looked(client, tile_at(EMPTY), Asked()) == []
    assert client.app.state.on_view._lately, "it was looked into"  # type: ignore[attr-defined]
    assert len(looked(client, tile_at(EMPTY, window="2023"), Asked())) == 1


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_what_was_left_undone_is_not_asked_for_again_beside_other_blocks(own_world: Settings, how: str) -> None:
    allow(own_world, 100)
    state, season = State(own_world), Window.parse("2023-07-01..2024-06-30")

    def look(place: tuple[float, float], zoom: int) -> dict[str, set[str]]:
        """Jobs that run once somebody looked at a place, and their blocks."""
        tile = TMS.tile(*place, zoom)
        OnView(state)._ask("demo", season, tile_target(TMS, tile.x, tile.y, zoom))
        return {key: set(asked.pixels) for key, asked in state.jobs.running().items()}

    def leave(key: str) -> None:
        if how == "cancelled":
            state.jobs.cancel(key)
            return
        with closing(sqlite3.connect(own_world.home / "jobs.sqlite")) as tables, tables:
            tables.execute("UPDATE workflow_status SET status = 'ERROR', deduplication_id = NULL")  # as a worker does

    ((first, alone),) = look(EMPTY, 19).items()
    assert alone == {SCENE.empty.name}
    leave(first)
    ((second, others),) = look(EMPTY, 14).items()
    assert others == {block.name for block in SCENE.placement.blocks()} - alone, "the others are embedded all the same"
    leave(second)
    assert [look(place, zoom) for place in (EMPTY, FULL) for zoom in (14, 15, 19)] == [{}] * 6


def test_with_keys_only_those_that_may_embed_set_it_off(own_world: Settings) -> None:
    allow(own_world, 9)
    held = (("r" * 20, "read"), ("e" * 20, "read+embed"))
    keys = tuple(ApiKey.parse(f"{sha256(key.encode()).hexdigest()}:{scopes}") for key, scopes in held)
    client = client_of(own_world.model_copy(update={"api_keys": keys}))
    assert looked(client, tile_at(EMPTY), Asked()) == []
    assert looked(client, tile_at(EMPTY), Asked(), **{"X-API-Key": "r" * 20}) == []
    assert len(looked(client, tile_at(EMPTY), Asked(), **{"X-API-Key": "e" * 20})) == 1


def test_a_tile_that_shows_something_sets_nothing_off(own_world: Settings) -> None:
    allow(own_world, 9)
    assert looked(client_of(own_world), tile_at(FULL), Asked()) == []


@pytest.mark.parametrize("said", [True, 4, {"blocks_per_hour": True}, {"blocks_per_hour": -1}, {"per_day": 3}, {}])
def test_a_budget_that_means_nothing_is_named(said: Any) -> None:
    with pytest.raises(Corrupt, match="embed_on_view"):
        blocks_per_hour({"type": "simulated", "embed_on_view": said})
