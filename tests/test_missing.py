"""Why a tile or a place is empty: the reason, the job that fills it, and validators that follow both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import morecantile
import numpy as np
import pytest
from fastapi.testclient import TestClient

from api import demo
from api.lookout import AGAIN_S, LOOK_S, Lookout
from api.missing import NO_CHANCE, Chance, Hope
from api.progress import Order
from api.settings import Settings
from api.state import State
from service.colour import VectorView
from service.errors import Unavailable
from service.grid import Block, archive_grid
from service.paint import paint
from service.plan import Source
from service.tiles import tile_target
from service.values import NOT_EMBEDDED, REJECTED, VALID, WATER
from tests.conftest import SIDE, client_of

TMS = morecantile.tms.get("WebMercatorQuad")
SCENE = demo.Scene.make(SIDE)
JOB = "0123456789abcdef0123"


def middle_of(block: Block) -> tuple[float, float]:
    """(lon, lat) in the middle of the demo's part of a block."""
    rows, cols = SCENE.placement.within(block)
    place = SCENE.placement
    row, col = place.row + (rows.start + rows.stop) / 2, place.col + (cols.start + cols.stop) / 2
    lon, lat = archive_grid(place.zone).to_lonlat(np.array([row]), np.array([col]))
    return float(lon[0]), float(lat[0])


EMPTY, FULL = middle_of(SCENE.empty), middle_of(Block(SCENE.empty.zone, SCENE.empty.row + 1, SCENE.empty.col))


def tile_at(place: tuple[float, float], zoom: int = 19, window: str = "2024", more: str = ".png?view=pca") -> str:
    tile = TMS.tile(*place, zoom)
    return f"/datasets/demo/{window}/tiles/WebMercatorQuad/{zoom}/{tile.x}/{tile.y}{more}"


def order(*blocks: Block, window: str = "2024") -> Order:
    return Order("demo", window, "smalti-mini", "", 0, {block.name: 1024 for block in blocks})


@pytest.fixture
def watched(world: Settings) -> tuple[TestClient, Callable[[dict[str, Order]], None]]:
    """A server of the small world, and how to say what runs."""
    client = client_of(world)
    lookout: Lookout = client.app.state.smalti.lookout  # type: ignore[attr-defined]
    orders: dict[str, Order] = {}
    lookout._ask = lambda: dict(orders)

    def run(now: dict[str, Order]) -> None:
        orders.clear()
        orders.update(now)
        lookout.look_soon()
        until = time.monotonic() + 5
        while {job.id for job in lookout._running} != set(now):
            lookout.outlook("demo", "2024")
            assert time.monotonic() < until, "nobody looks"
            time.sleep(0.01)

    return client, run


def test_an_empty_tile_says_why_and_who_fills_it(watched: Any) -> None:
    client, run = watched
    empty = client.get(tile_at(EMPTY))
    assert (empty.status_code, empty.headers["X-Smalti-Empty"]) == (200, "not-embedded")
    assert "Link" not in empty.headers
    full = client.get(tile_at(FULL))
    assert (full.status_code, "X-Smalti-Empty" in full.headers) == (200, False)
    away = client.get(tile_at((20.0, 40.0)))
    assert (away.status_code, away.headers["X-Smalti-Empty"]) == (404, "outside")

    run({JOB: order(SCENE.empty)})
    again = client.get(tile_at(EMPTY), headers={"If-None-Match": empty.headers["ETag"]})
    assert again.status_code == 200, "a copy that says `not-embedded` is no longer right"
    assert again.headers["X-Smalti-Empty"] == "embedding"
    assert again.headers["Link"] == f'</jobs/{JOB}>; rel="status"'
    assert again.content == empty.content
    assert client.get(tile_at(EMPTY), headers={"If-None-Match": again.headers["ETag"]}).status_code == 304
    beside = client.get(tile_at(FULL), headers={"If-None-Match": full.headers["ETag"]})
    assert beside.status_code == 304, "a tile that shows none of the job's blocks keeps its copies"
    assert client.get(tile_at(EMPTY, window="2023")).headers["X-Smalti-Empty"] == "not-embedded"

    run({})
    over = client.get(tile_at(EMPTY), headers={"If-None-Match": again.headers["ETag"]})
    assert (over.status_code, over.headers["X-Smalti-Empty"]) == (200, "not-embedded")
    assert over.headers["ETag"] == empty.headers["ETag"]


@pytest.mark.parametrize("more", [".npy?view=pca", ".webp?view=pca", ".png?view=pca&resampling=bilinear", "?view=pca"])
def test_every_form_of_a_tile_says_it(client: TestClient, more: str) -> None:
    answer = client.get(tile_at(EMPTY, more=more), headers={"Origin": "https://map.example"})
    assert answer.headers["X-Smalti-Empty"] == "not-embedded"
    assert {"X-Smalti-Empty", "Link"} <= set(answer.headers["Access-Control-Expose-Headers"].split(", "))
    assert "X-Smalti-Empty" not in client.get(tile_at(FULL, more=more)).headers


def test_a_window_that_holds_nothing_yet_is_told_apart_from_one_that_never_will(watched: Any) -> None:
    client, run = watched
    window = "2024-05-01..2024-09-30"
    answer = client.get(tile_at(EMPTY, window=window))
    assert (answer.status_code, answer.headers["X-Smalti-Empty"]) == (404, "not-embedded")
    run({JOB: order(SCENE.empty, window=window)})
    answer = client.get(tile_at(EMPTY, window=window))
    assert (answer.status_code, answer.headers["X-Smalti-Empty"]) == (404, "embedding")
    assert answer.headers["Link"].startswith(f"</jobs/{JOB}>")
    assert "X-Smalti-Empty" not in client.get(tile_at((20.0, 40.0), window=window)).headers


def test_places_say_it_too(watched: Any) -> None:
    client, run = watched
    points = [list(FULL), list(EMPTY), [20.0, 40.0]]

    def told() -> list[tuple[str, str | None, str | None]]:
        results = client.post("/datasets/demo/2024/vectors", json={"points": points}).json()["results"]
        return [(one["status"], one["reason"], one["job"]) for one in results]

    def point(place: tuple[float, float], **headers: str) -> Any:
        return client.get(f"/datasets/demo/2024/point/{place[0]},{place[1]}", headers=headers)

    assert told() == [("valid", None, None), ("not-embedded", "not-embedded", None), ("outside", "outside", None)]
    before = point(EMPTY)
    assert (before.json()["status"], before.json()["reason"]) == ("not-embedded", "not-embedded")
    assert point(FULL).json()["reason"] is None
    run({JOB: order(SCENE.empty)})
    assert told()[1] == ("not-embedded", "embedding", f"/jobs/{JOB}")
    after = point(EMPTY, **{"If-None-Match": before.headers["ETag"]})
    assert (after.status_code, after.json()["job"]) == (200, f"/jobs/{JOB}")


def test_a_jobs_database_that_is_down_keeps_no_tile_waiting(world: Settings) -> None:
    client = client_of(world)
    lookout: Lookout = client.app.state.smalti.lookout  # type: ignore[attr-defined]
    asked = []

    def down() -> dict[str, Order]:
        asked.append(time.monotonic())
        time.sleep(0.5)
        raise Unavailable("the jobs database cannot be used.")

    lookout._ask = down
    client.get(tile_at(FULL))  # opens the store
    lookout.look_soon()
    begun = time.monotonic()
    answers = [client.get(tile_at(EMPTY, more=f".png?view=pca&gamma={n / 10}")) for n in range(5, 10)]
    assert time.monotonic() - begun < 2.0
    assert {answer.headers["X-Smalti-Empty"] for answer in answers} == {"not-embedded"}
    time.sleep(0.6)
    for _ in range(5):
        client.get(tile_at(EMPTY))
    assert len(asked) <= 3, f"it is asked again after {AGAIN_S} s, not for every tile"


def test_a_job_that_ended_while_nobody_asked_is_not_told_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.lookout.PATIENCE_S", 20.0)
    orders = {JOB: order(SCENE.empty)}

    def slowly() -> dict[str, Order]:
        time.sleep(0.05)
        return dict(orders)

    lookout = Lookout(slowly, lambda *_: Hope())
    assert lookout.outlook("demo", "2024").busy, "it began here, or before this server did"
    orders.clear()
    lookout._next -= 10 * LOOK_S  # so long nobody asked
    assert not lookout.outlook("demo", "2024").busy


@pytest.mark.parametrize(
    ("statuses", "chance", "reason"),
    [
        ({VALID, WATER}, Chance(JOB), None),
        ({WATER}, NO_CHANCE, "water"),
        ({WATER, REJECTED}, NO_CHANCE, "rejected"),
        ({WATER, NOT_EMBEDDED}, NO_CHANCE, "water"),
        ({WATER, NOT_EMBEDDED}, Chance(reached=True), "not-embedded"),
        ({REJECTED}, Chance(reached=True), "rejected"),
        ({NOT_EMBEDDED}, NO_CHANCE, "not-embedded"),
        ({REJECTED}, Chance(JOB, reached=True), "embedding"),
    ],
)
def test_what_can_be_done_comes_before_what_is_so(statuses: set[int], chance: Chance, reason: str | None) -> None:
    assert chance.reason(statuses) == reason


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_a_picture_knows_the_statuses_of_its_own_pixels_alone(world: Settings, resampling: Any) -> None:
    dataset = client_of(world).app.state.smalti.datasets["demo"]  # type: ignore[attr-defined]
    for place, found in ((EMPTY, {NOT_EMBEDDED}), (FULL, {VALID})):
        tile = TMS.tile(*place, 19)
        source = Source(
            dataset.store, dataset.windows()[-1], VectorView(128), 128, picture=False, resampling=resampling
        )
        paint(source, tile_target(TMS, tile.x, tile.y, tile.z))
        assert source.statuses == found


def test_the_blocks_that_hold_nothing_are_told_with_who_fills_them(watched: Any) -> None:
    client, run = watched
    west, south, east, north = client.get("/datasets/demo").json()["source_bounds"]

    def missing(window: str = "2024", box: str = f"{west},{south},{east},{north}") -> Any:
        return client.get(f"/datasets/demo/{window}/missing?bbox={box}")

    def reasons(window: str = "2024") -> dict[str, Any]:
        told = [one["properties"] for one in missing(window).json()["features"]]
        return {one["block"]: (one["reason"], one.get("job")) for one in told}

    assert reasons() == {SCENE.empty.name: ("not-embedded", None)}
    assert len(reasons("2024-05-01..2024-09-30")) == 4, "a window that holds nothing yet"
    run({JOB: order(SCENE.empty)})
    assert reasons() == {SCENE.empty.name: ("embedding", f"/jobs/{JOB}")}
    (ring,) = missing().json()["features"][0]["geometry"]["coordinates"]
    side = SIDE // 2 * 10 / 111_320
    assert max(lat for _, lat in ring) - min(lat for _, lat in ring) == pytest.approx(side, rel=0.03)
    assert missing(box="10,20,11,21").json()["features"] == []
    assert missing(box="west").status_code == missing(box="1,2,1,3").status_code == 422


def test_a_box_with_too_many_blocks_is_refused_not_told_to_be_whole(own_world: Settings) -> None:
    wide = {"row": 0, "height": 900_000, "col": 0, "width": 60_000}
    State(own_world).sources.put({**SCENE.source(2024).to_document(), **wide}, "demo")
    answer = client_of(own_world).get("/datasets/demo/2024/missing?bbox=0.5,40,5.5,50")
    assert (answer.status_code, answer.json()["field"]) == (413, "bbox")
    assert "2,048 blocks" in answer.json()["detail"]
    assert "job" not in answer.json()["detail"], "no job was asked for"


def test_a_source_that_fails_in_any_way_keeps_nobody_from_looking_again() -> None:
    def failing(error: Exception) -> Callable[[str, str], Hope]:
        def hope(*_: str) -> Hope:
            raise error

        return hope

    gone = Lookout(dict, failing(OSError("stale file handle")))
    assert gone.outlook("demo", "2024").reach == ()
    broken = Lookout(dict, failing(AttributeError("nobody thought of that")))
    broken._asked.add(("demo", "2024"))
    broken._next_reach = float("-inf")
    assert broken._glance._lock.acquire(timeout=5)
    with pytest.raises(AttributeError):
        broken._glance._run()
    assert not broken._glance._lock.locked()


def test_a_source_is_not_looked_at_whenever_jobs_are() -> None:
    asked: list[tuple[str, str]] = []

    def hope(*key: str) -> Hope:
        asked.append((key[0], key[1]))
        return Hope()

    lookout = Lookout(dict, hope)
    lookout._next = float("inf")  # looks only when told to
    lookout.outlook("demo", "2024")
    for due in (False, False, True, False):
        lookout._asked.add(("demo", "2024"))
        lookout._next_reach = float("-inf") if due else lookout._next_reach
        lookout._look()
    assert len(asked) == 2, "at first, and when it was due"
