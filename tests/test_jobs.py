"""Jobs over HTTP: what an area takes, one job for one order, progress to the end, errors that name what failed."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np
import pytest
from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api import demo
from api.progress import Hands, Order
from api.roster import Roster, database_url
from api.routes import areas
from api.routes import jobs as streams
from api.settings import ApiKey, Limits, Settings
from api.state import State
from api.workbench import Bench
from service.embed import embed_source
from service.errors import Conflict, Corrupt, IdentityMismatch, Unavailable
from service.simulate import Landscape
from service.sources import Simulated
from service.values import VALID, Window
from tests.conftest import SIDE, client_of
from tests.services import Worker, worker
from tests.test_metrics import numbers

SCENE = demo.Scene.make(SIDE)
EMPTY = SCENE.empty.name
YEAR = Window.year(2024)


def body_of(client: TestClient, **more: Any) -> dict[str, Any]:
    """A request for all of the landscape, of which one block is empty."""
    bounds = client.get("/datasets/demo").json()["source_bounds"]
    return {"dataset": "demo", "window": "2024", "bbox": bounds, **more}


def ended(client: TestClient, job: str, seconds: float = 60) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while (told := client.get(f"/jobs/{job}").json())["state"] in {"queued", "running"}:
        assert time.monotonic() < until, told
        time.sleep(0.1)
    return told


def events(client: TestClient, job: str) -> list[tuple[str, dict[str, Any]]]:
    """Every event of a stream that ends by itself."""
    with client.stream("GET", f"/jobs/{job}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        text = "".join(stream.iter_text())
    parts = [part.splitlines() for part in text.strip().split("\n\n")]
    return [(part[0].removeprefix("event: "), json.loads(part[1].removeprefix("data: "))) for part in parts]


def test_a_dataset_tells_its_source(client: TestClient) -> None:
    told = client.get("/datasets/demo").json()
    assert told["source"] == "simulated"
    west, south, east, north = told["source_bounds"]
    assert west < told["center"][0] < east
    assert south < told["center"][1] < north


def test_a_dry_run_tells_what_it_would_take_and_leaves_nothing_behind(client: TestClient, world: Settings) -> None:
    answer = client.post("/areas", json=body_of(client, dry_run=True))
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert (told["id"], told["blocks"], told["blocks_left"]) == (None, 4, 1)
    assert (told["pixels"], told["pixels_left"]) == (SIDE * SIDE, SIDE * SIDE // 4)
    assert 0 < told["seconds"] < 10
    assert not told["measured"]
    other = client.post("/areas", json=body_of(client, dry_run=True, window="2023-05-01..2023-09-30")).json()
    assert other["blocks_left"] == 4
    assert other["outside_training"]
    more = client.post("/areas", json=body_of(client, dry_run=True, min_s2=3)).json()
    assert more["blocks_left"] == 4, "other parameters are another embedding"
    assert client.get("/jobs").json() == {"jobs": [], "workers": []}
    assert client.get("/jobs/" + "0" * 20).status_code == 404
    assert not (world.home / "jobs.sqlite").exists()
    assert not list((world.home / "datasets").glob("*@*"))


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"bbox": [10, 10, 11, 11]}, 422, "It covers"),
        ({"bbox": None}, 422, "either bbox or geometry"),
        ({"bbox": [2, 54, 2, 55]}, 422, "box of degrees"),
        ({"dataset": "nothing"}, 404, "no dataset"),
        ({"window": "yesterday"}, 422, "not a window"),
        ({"min_s2": -1}, 422, "greater than or equal"),
        ({"tiles": True}, 422, "Extra inputs"),
    ],
)
def test_what_cannot_be_embedded_is_refused(client: TestClient, change: Any, status: int, says: str) -> None:
    answer = client.post("/areas", json={**body_of(client), **change})
    assert answer.status_code == status
    assert says in answer.text


def test_a_dataset_without_a_source_names_the_remedy(own_world: Settings) -> None:
    shutil.rmtree(own_world.home / "shelf" / "sources")
    client = client_of(own_world)
    assert client.get("/datasets/demo").json()["source"] is None
    answer = client.post("/areas", json={"dataset": "demo", "window": "2024", "bbox": [2, 54, 3, 55]})
    assert answer.status_code == 422
    assert answer.json()["field"] == "dataset"
    assert "/embed" in answer.json()["remedy"]


def test_a_source_of_an_unknown_kind_is_named_and_takes_nothing_else_down(own_world: Settings) -> None:
    State(own_world).sources.put({"type": "crystal ball"}, "demo")
    client = client_of(own_world)
    told = client.get("/datasets/demo").json()
    assert (told["source"], told["source_bounds"]) == ("crystal ball", None)
    answer = client.post("/areas", json={"dataset": "demo", "window": "2024", "bbox": [2, 54, 3, 55]})
    assert "crystal ball" in answer.json()["detail"]


def test_a_source_whose_document_lacks_something_says_what(own_world: Settings) -> None:
    State(own_world).sources.put({"type": "simulated"}, "demo")
    told = (
        client_of(own_world).post("/areas", json={"dataset": "demo", "window": "2024", "bbox": [2, 54, 3, 55]}).json()
    )
    assert "'simulated' cannot be made from its document: it lacks '" in told["detail"], told
    assert "docs/stores.md" in told["remedy"]


def test_one_order_is_one_job_until_it_is_cancelled_and_asked_again(own_world: Settings) -> None:
    client = client_of(own_world)
    first = client.post("/areas", json=body_of(client))
    job = first.json()["id"]
    assert first.status_code == 202
    assert first.headers["location"] == f"/jobs/{job}"
    assert first.json()["state"] == "queued"
    assert first.json()["workers"] == 0
    west, south, east, north = body_of(client)["bbox"]
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    polygon = {**body_of(client), "bbox": None, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    assert client.post("/areas", json=polygon).json()["id"] == job, "the same blocks, however they are named"
    assert client.post("/areas", json=body_of(client, min_s2=3)).json()["id"] != job
    assert len(client.get("/jobs").json()["jobs"]) == 2
    told = client.get(f"/jobs/{job}").json()
    assert (told["state"], told["done"], told["total"], told["eta_s"]) == ("queued", 0, 4, None)
    assert {block["state"] for block in told["blocks"]} == {"queued"}

    assert client.delete(f"/jobs/{job}").json()["state"] == "cancelled"
    assert client.delete(f"/jobs/{job}").json()["state"] == "cancelled", "twice is once"
    names = [name for name, _ in events(client, job)]
    assert names == ["progress", "end"]
    again = client.post("/areas", json=body_of(client)).json()
    assert (again["id"], again["state"]) == (job, "queued")
    assert len(client.get("/jobs").json()["jobs"]) == 2, "a job that runs again is one job"


def test_jobs_that_ended_long_ago_are_forgotten(own_world: Settings) -> None:
    client = client_of(own_world)
    cancelled, waiting = (client.post("/areas", json=body_of(client, min_s2=n)).json()["id"] for n in (1, 2))
    client.delete(f"/jobs/{cancelled}")
    jobs = client.app.state.smalti.jobs  # type: ignore[attr-defined]
    jobs.roster.sign("a-pod-long-gone", "x")
    assert jobs.forget() == 0, "not before their time"
    assert jobs.workers() == ("a-pod-long-gone",)
    assert jobs.forget(dt.timedelta(seconds=-5)) == 1
    assert jobs.workers() == ()
    assert client.get(f"/jobs/{cancelled}").status_code == 404
    assert client.get(f"/jobs/{waiting}").json()["state"] == "queued"


def test_limits_of_jobs_hold(own_world: Settings) -> None:
    limits = Limits(job_blocks=3, jobs_waiting=1)
    client = client_of(own_world.model_copy(update={"limits": limits}))
    west, south, east, north = body_of(client)["bbox"]
    answer = client.post("/areas", json=body_of(client))
    assert answer.status_code == 413
    assert "4 blocks" in answer.json()["detail"]
    small = [(west + east) / 2 + 1e-4, (south + north) / 2 + 1e-4, east, north]
    first = client.post("/areas", json=body_of(client, bbox=small))
    assert first.json()["blocks"] == 1
    full = client.post("/areas", json=body_of(client, bbox=small, min_s2=2))
    assert full.status_code == 503
    assert "retry-after" in full.headers
    assert client.post("/areas", json=body_of(client, bbox=small)).json()["id"] == first.json()["id"]
    deaf = client_of(own_world.model_copy(update={"limits": Limits(job_listeners=1)}))
    deaf.app.state.smalti.jobs.listeners = 1  # type: ignore[attr-defined]
    assert deaf.get(f"/jobs/{first.json()['id']}/events").status_code == 503


def test_however_many_listen_the_database_is_asked_once(own_world: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(own_world)
    key = client.post("/areas", json=body_of(client)).json()["id"]
    jobs = client.app.state.smalti.jobs  # type: ignore[attr-defined]
    asked: list[str] = []
    read = jobs.read
    monkeypatch.setattr(jobs, "read", lambda key: asked.append(key) or read(key))
    monkeypatch.setattr("api.jobs.LOOK_S", 60.0)
    assert [jobs.look(key).state for _ in range(20)] == ["queued"] * 20
    assert len(asked) == 1
    monkeypatch.setattr("api.jobs.LOOK_S", 0.0)
    jobs.cancel(key)
    assert jobs.look(key).state == "cancelled", "a look is believed for its time only"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"window": "2014-01-01..2023-12-31"}, "at most 366 days"),
        ({"bbox": [-20, 30, 50, 70]}, "limit `job_blocks`"),
        (
            {"bbox": None, "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [50, 0], [50, 60], [0, 0]]]}},
            "job_blocks",
        ),
    ],
)
def test_a_continent_and_ten_years_are_refused_by_name_at_once(own_world: Settings, change: Any, says: str) -> None:
    State(own_world).sources.put(
        {**SCENE.source(2024).to_document(), "row": 0, "height": 900_000, "col": 0, "width": 60_000}, "demo"
    )
    client = client_of(own_world)
    body = {"dataset": "demo", "window": "2024", "bbox": [2, 54, 3, 55], **change}
    client.post("/areas", json=body)  # opens the model
    began = time.perf_counter()
    answer = client.post("/areas", json=body)
    assert time.perf_counter() - began < 0.25
    assert answer.status_code in (413, 422)
    assert says in answer.json()["detail"]


def test_each_key_has_quotas_of_its_own(own_world: Settings) -> None:
    keys = {name: {"X-API-Key": name} for name in ("ada", "eve")}
    known = tuple(ApiKey.parse(f"{sha256(name.encode()).hexdigest()}:embed") for name in keys)
    limits = Limits(key_jobs=2, key_pixels=2 * SIDE * SIDE)
    client = client_of(own_world.model_copy(update={"api_keys": known, "limits": limits}))

    def ask(who: str, **more: Any) -> Any:
        return client.post("/areas", json=body_of(client, **more), headers=keys[who])

    first = ask("ada", min_s2=1)
    assert first.status_code == 202
    assert ask("eve", min_s2=1).json()["id"] == first.json()["id"], "the same area is one job, whoever asks"
    west, south, east, north = body_of(client)["bbox"]
    assert ask("ada", bbox=[west, south, (west + east) / 2, north]).status_code == 202
    full = ask("ada", min_s2=2)
    assert (full.status_code, "key_jobs" in full.text) == (503, True)
    assert ask("eve", min_s2=2).status_code == 202
    assert ask("eve", min_s2=3, dry_run=True).status_code == 202
    small = client_of(own_world.model_copy(update={"api_keys": known, "limits": Limits(key_pixels=2 * SIDE * SIDE)}))
    most = small.post("/areas", json=body_of(client, min_s2=4), headers=keys["ada"])
    assert (most.status_code, "key_pixels" in most.text) == (503, True)
    tiny = client_of(own_world.model_copy(update={"api_keys": known, "limits": Limits(key_pixels=9)}))
    assert tiny.post("/areas", json=body_of(client, min_s2=4), headers=keys["eve"]).status_code == 413
    kept = b"".join(path.read_bytes() for path in own_world.home.glob("jobs.sqlite*"))
    assert sha256(b"ada").hexdigest()[:12].encode() in kept
    assert sha256(b"ada").hexdigest().encode() not in kept


def test_asking_and_cancelling_need_the_right_to_embed(own_world: Settings) -> None:
    client = client_of(own_world, client=("192.0.2.1", 50000))
    assert client.post("/areas", json=body_of(client)).status_code == 403
    assert client.delete("/jobs/" + "0" * 20).status_code == 403
    assert client.get("/jobs").status_code == 200


@pytest.mark.parametrize("who", ["smalti:hunter2@127.0.0.1:1/jobs", "127.0.0.1:1/jobs?user=smalti&password=hunter2"])
def test_a_lost_jobs_database_shows_in_readyz_without_its_password(world: Settings, who: str) -> None:
    secret = SecretStr(f"postgresql://{who}")
    settings = world.model_copy(update={"jobs_database": secret})
    client = client_of(settings)
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "cannot be used" in ready.json()["parts"]["jobs"]
    asked = client.post("/areas", json=body_of(client))
    assert asked.status_code == 503
    for text in (ready.text, asked.text, client.get("/jobs").text, repr(settings)):
        assert "hunter2" not in text
    assert client.get("/datasets").status_code == 200


@pytest.mark.parametrize("text", ["mysql://a:hunter2@b/c", "hunter2", "sqlite://"])
def test_what_is_no_jobs_database_is_refused_without_repeating_it(world: Settings, text: str) -> None:
    client = client_of(world.model_copy(update={"jobs_database": SecretStr(text)}))
    answer = client.get("/jobs")
    assert answer.status_code == 422
    assert "SMALTI_JOBS_DATABASE" in answer.text
    assert "hunter2" not in answer.text


def test_several_may_set_up_the_database_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = database_url(None, tmp_path)
    first, second = Roster(url), Roster(url)
    create = second._table.create

    def overtaken(connection: Any, *, checkfirst: bool) -> None:
        first.set_up()
        create(connection, checkfirst=not checkfirst)  # it looked before the other one made the table

    monkeypatch.setattr(second._table, "create", overtaken)
    second.set_up()
    assert second.sign("one", "a", first=True)
    assert first.seen(10) == ("one",)


def test_a_cut_off_database_is_given_up_within_seconds(tmp_path: Path) -> None:
    told = database_url("postgresql://a@b/c?connect_timeout=9", tmp_path).query
    assert told["connect_timeout"] == "9", "what is asked for is done"
    assert int(str(told["tcp_user_timeout"])) <= 10_000
    assert sum(int(str(told[f"keepalives_{name}"])) for name in ("idle", "interval", "count")) <= 15


@pytest.fixture(scope="module")
def one(world: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Worker]]:
    """A home of its own, and a worker."""
    home = tmp_path_factory.mktemp("working") / "home"
    shutil.copytree(world.home, home)
    settings = world.model_copy(update={"home": home})
    with worker(settings) as running:
        yield settings, running
        assert running.end() == 0, "it ends when it is told to"


@pytest.fixture
def working(one: tuple[Settings, Worker]) -> Settings:
    return one[0]


def test_the_empty_quarter_is_embedded_as_it_would_be_directly(working: Settings) -> None:
    client = client_of(working)
    lon, lat = middle_of(working, EMPTY)
    read = {"points": [[lon, lat]]}
    assert client.post("/datasets/demo/2024/vectors", json=read).json()["results"][0]["status"] == "not-embedded"
    asked = client.post("/areas", json=body_of(client)).json()
    told = events(client, asked["id"])
    assert [name for name, _ in told][-1] == "end"
    assert {name for name, _ in told[:-1]} == {"progress"}
    last = told[-1][1]
    assert (last["state"], last["done"], last["pixels_done"]) == ("done", 4, SIDE * SIDE)
    assert last == ended(client, asked["id"])
    client.app.state.smalti.datasets.look_now()  # type: ignore[attr-defined]
    assert client.post("/datasets/demo/2024/vectors", json=read).json()["results"][0]["status"] == "valid"
    hits = client.get(f"/datasets/demo/2024/search?lon={lon}&lat={lat}&k=1").json()["features"]
    assert hits[0]["properties"]["score"] > 0.99

    state = State(working)
    store, rows, cols = state.datasets["demo"].store, SCENE.empty.rows, SCENE.empty.cols
    stored = store.read(SCENE.placement.zone, YEAR, rows, cols)
    series = SCENE.source(2024).read(*SCENE.placement.within(SCENE.empty))
    direct = state.encoder("smalti-mini").encode(series, min_s2=15).vectors
    assert (stored.codes[stored.status == VALID] == direct.codes[direct.status == VALID]).all()
    parents = store.blocks(YEAR, level=2)
    assert parents
    assert not store.stale(YEAR, parents)

    revision = store.revision()
    again = client.post("/areas", json=body_of(client)).json()
    assert (again["id"], again["state"], again["blocks_left"]) == (asked["id"], "done", 0)
    assert again["measured"]
    assert again["workers"] == 1

    told = numbers(client_of(working))
    assert told("smalti_jobs", state="done") >= 1
    assert told("smalti_job_workers") == 1
    assert 0 < told("smalti_job_block_seconds") < 60
    store.refresh()
    assert store.revision() == revision


def middle_of(settings: Settings, block: str) -> tuple[float, float]:
    """(lon, lat) of the middle of what the landscape has of a block."""
    place = SCENE.placement
    rows, cols = place.within(SCENE.empty)
    assert block == EMPTY
    grid = State(settings).datasets["demo"].store.zones()[0]
    row, col = place.row + (rows.start + rows.stop) / 2, place.col + (cols.start + cols.stop) / 2
    lon, lat = grid.to_lonlat(np.array([row]), np.array([col]))
    return float(lon[0]), float(lat[0])


@pytest.mark.slow
def test_a_job_in_a_window_of_its_own_makes_its_repository(working: Settings) -> None:
    client = client_of(working)
    body = body_of(client, window="2024-05-01..2024-09-30")
    told = ended(client, client.post("/areas", json=body).json()["id"])
    assert told["state"] == "done", told["error"]
    client.app.state.smalti.datasets.look_now()  # type: ignore[attr-defined]
    assert "2024-05-01..2024-09-30" in client.get("/datasets/demo").json()["windows"]
    counts = client.post(
        "/datasets/demo/2024-05-01..2024-09-30/vectors", json={"points": [list(middle_of(working, EMPTY))]}
    ).json()["results"][0]["counts"]
    assert 5 < counts["s2"] < 31, "a date every five days, some of them cloudy"
    assert counts["s1_asc"] in {12, 13}


def test_a_block_that_fails_is_named_and_the_others_go_on(one: tuple[Settings, Worker]) -> None:
    settings, running = one
    client = client_of(settings)
    body = body_of(client, window="2025")
    running.tell(broken=EMPTY)
    job = client.post("/areas", json=body).json()["id"]
    told = ended(client, job)
    assert told["state"] == "failed"
    assert EMPTY in told["error"]
    assert "contradict themselves" in told["error"]
    assert {block["block"]: block["state"] for block in told["blocks"]}[EMPTY] == "failed"
    assert told["done"] == 3
    running.tell(broken="")
    before = len(running.notes("end"))
    assert client.post("/areas", json={**body, "dry_run": True}).json()["blocks_left"] == 1
    again = client.post(f"/jobs/{job}/retry")
    assert (again.status_code, again.json()["done"]) == (202, 3)
    told = ended(client, job)
    assert (told["state"], told["done"]) == ("done", 4)
    assert sum(told["outcome"].values()) == SIDE * SIDE, "of the first run and of the second"
    assert running.notes("end")[before:] == [EMPTY], "what was done is not done again"
    assert client.post(f"/jobs/{job}/retry").status_code == 409


def test_areas_that_overlap_share_blocks_and_none_is_encoded_twice(one: tuple[Settings, Worker]) -> None:
    settings, running = one
    client, before = client_of(settings), len(running.notes("begin"))
    running.tell(slow=0.2)
    body = body_of(client, window="2028", min_s2=366)  # more dates than there are: all pixels are rejected
    west, south, east, north = body["bbox"]
    halves = [[west, south, (west + east) / 2, north], [west, south, east, (south + north) / 2]]
    jobs = [client.post("/areas", json=body).json()]
    running.wait_for("begin", before + 1)
    jobs += [client.post("/areas", json={**body, "bbox": half}).json() for half in halves]
    assert len({job["id"] for job in jobs}) == 3
    assert [job["blocks_shared"] for job in jobs[1:]] == [job["blocks_left"] for job in jobs[1:]]
    told = [ended(client, job["id"]) for job in jobs]
    running.tell(slow="")
    assert {job["state"] for job in told} == {"done"}
    assert sorted(running.notes("begin")[before:]) == sorted(block["block"] for block in told[0]["blocks"])
    of_all = {block["block"]: block["outcome"] for block in told[0]["blocks"]}
    for job in told[1:]:
        assert all(block["outcome"] == of_all[block["block"]] for block in job["blocks"]), "told of, whoever made it"

    assert told[0]["outcome"] == {"valid": 0, "rejected": SIDE * SIDE, "water": 0, "empty": 0}, (
        "never plausible numbers"
    )
    client.app.state.smalti.datasets.look_now()  # type: ignore[attr-defined]
    block = client.get(f"/datasets/demo/2028/blocks/{EMPTY}").json()
    assert block["pixels"] == {"valid": 0, "rejected": SIDE * SIDE // 4, "water": 0, "empty": 65536 - SIDE * SIDE // 4}
    assert block["made"][0]["min_s2"] == 366
    assert block["made"][0]["source"]["type"] == "simulated"
    assert block["made"][0]["fingerprint"] == block["fingerprint"]
    assert client.get("/datasets/demo/2028/blocks/31N/0/0").status_code == 404


def test_a_running_job_is_cancelled_after_the_block_in_hand(one: tuple[Settings, Worker]) -> None:
    settings, running = one
    client, window = client_of(settings), Window.year(2026)
    begun = len(running.notes("begin"))
    running.tell(slow=1.0)
    job = client.post("/areas", json=body_of(client, window="2026")).json()["id"]
    running.wait_for("begin", begun + 2)  # the first is committed
    assert client.delete(f"/jobs/{job}").json()["state"] == "cancelled"
    running.wait_for("end", begun + 1)
    running.tell(slow="")
    store = State(settings).datasets["demo"].store
    until = time.monotonic() + 30
    while not (parents := store.blocks(window, level=2)) or store.stale(window, parents):
        assert time.monotonic() < until, "what was done shows at every zoom"
        time.sleep(0.2)
        store.refresh()
    assert len(running.notes("begin")) <= begun + 3, "what waited was not begun"
    assert client.get(f"/jobs/{job}").json()["state"] == "cancelled"


@pytest.mark.slow
def test_a_job_cancelled_in_its_first_block_shows_that_block_at_every_zoom(one: tuple[Settings, Worker]) -> None:
    settings, running = one
    client, window = client_of(settings), Window.year(2027)
    begun, done = len(running.notes("begin")), len(running.notes("end"))
    running.tell(slow=2.5)
    job = client.post("/areas", json=body_of(client, window="2027")).json()["id"]
    running.wait_for("begin", begun + 1)
    time.sleep(0.8)  # until another block waits for its turn
    assert client.delete(f"/jobs/{job}").json()["done"] == 0
    running.wait_for("end", done + 1)
    running.tell(slow="")
    store = State(settings).datasets["demo"].store
    until = time.monotonic() + 30
    while not (parents := store.blocks(window, level=2)) or store.stale(window, parents):
        assert time.monotonic() < until
        time.sleep(0.2)
        store.refresh()
    assert len(running.notes("begin")) == begun + 1, "the one that waited for its turn was not begun"


def test_workers_of_one_home_have_names_of_their_own(tmp_path: Path) -> None:
    from api.worker import named

    with named(tmp_path, None) as first, named(tmp_path, None) as second:
        assert second == f"{first}-2"
        with pytest.raises(Conflict, match="works here already"), named(tmp_path, first):
            pass
    with named(tmp_path, None) as third:
        assert third == first, "free again when its process is gone"


def test_a_worker_takes_what_the_source_is_now(own_world: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.shelf.NAME_HOLDS_S", 0.0)
    state, block = State(own_world), SCENE.empty
    encoder, bench = state.encoder(demo.MODEL), Bench(state)
    order = Order("demo", "2024", str(encoder.identity), encoder.digest, 0, {EMPTY: 1})
    first, _, _ = bench.of(order, block)
    assert bench.of(order, block)[0] is first, "what was made for one block serves the next"
    other = Simulated(SCENE.placement, Landscape(demo.SEED + 1, SIDE, SIDE), YEAR)
    State(own_world).sources.put(other.to_document(), "demo")
    now, _, _ = bench.of(order, block)
    assert isinstance(now, Simulated)
    assert now.landscape.seed == demo.SEED + 1


def test_a_worker_that_computes_in_another_precision_refuses(world: Settings) -> None:
    state = State(world)
    encoder = state.encoder(demo.MODEL)
    order = Order("demo", "2024", str(encoder.identity), encoder.digest, 0, {EMPTY: 1}, "fp16")
    with pytest.raises(IdentityMismatch, match="fp16, and this worker computes in fp32") as refused:
        Bench(state).of(order, SCENE.empty)
    assert "SMALTI_PRECISION" in refused.value.remedy
    assert order.id != replace(order, precision="fp32").id


@pytest.mark.parametrize(
    ("hands", "pixels", "blocks", "speed", "seconds"),
    [
        (Hands(2, 3), 12_000, 12, 100.0, 20.0),
        (Hands(2, 3), 12_000, 2, 100.0, 60.0),
        (Hands(0, 3), 12_000, 12, 100.0, 40.0),
        (Hands(2, 3), 80_000, 12, None, 10.0),
        (Hands(2, 3), 0, 0, 100.0, 0.0),
    ],
)
def test_what_a_job_takes_is_reckoned_by_blocks_in_hand(
    hands: Hands, pixels: int, blocks: int, speed: float | None, seconds: float
) -> None:
    assert hands.seconds(pixels, blocks, speed) == seconds


@pytest.mark.slow
def test_a_worker_keeps_the_index_near_what_is_stored(own_world: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from api import workbench as working_

    state = State(own_world)
    encoder = state.encoder(demo.MODEL)
    source = Simulated(SCENE.placement, Landscape(demo.SEED, SIDE, SIDE), YEAR)
    embed_source(source, encoder, state.datasets.writable("demo", YEAR))
    state.datasets.look_now()
    order = Order("demo", "2024", str(encoder.identity), encoder.digest, 0, {EMPTY: 1})
    bench, searcher = working_.Bench(state), state.searcher(state.datasets["demo"].at(YEAR))
    assert bench.renew_index(order) == searcher.behind(YEAR) == 1, "one block is no reason to index anew"
    monkeypatch.setattr(working_, "REINDEX", 0)
    assert bench.renew_index(order) == 1
    assert searcher.behind(YEAR) == 0


def test_an_index_that_cannot_be_made_fails_no_job(world: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from api import worker as working

    class FullDisk:
        def renew_index(self, order: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(working, "_bench", FullDisk())
    order = {"dataset": "demo", "window": "2024", "model": "m@1/x", "encoder": "", "min_s2": 0, "pixels": {}}
    assert working._index_step(order) is None


def test_a_job_whose_overviews_failed_says_so_and_can_be_retried(
    own_world: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from api import worker as working

    class Torn:
        def hands(self) -> int:
            return 1

        def renew_overviews(self, order: object) -> int:
            raise Corrupt("the parent block cannot be read.")

        def renew_index(self, order: object) -> int:
            return 0

    monkeypatch.setattr(working, "_bench", Torn())
    client = client_of(own_world)
    key = client.post("/areas", json=body_of(client)).json()["id"]
    jobs = client.app.state.smalti.jobs  # type: ignore[attr-defined]
    run = jobs._last_run(key)
    order = run.input["args"][0]
    outcome = inspect.unwrap(working._area)(order, dict.fromkeys(order["pixels"]))  # all blocks were made
    over = SimpleNamespace(**{**vars(run), "status": "SUCCESS", "output": outcome})
    monkeypatch.setattr(jobs, "_last_run", lambda _: over)
    told = client.get(f"/jobs/{key}").json()
    assert (told["state"], told["done"], told["total"]) == ("failed", 4, 4)
    assert "overviews" in told["error"]
    assert "parent block" in told["error"]
    assert client.post(f"/jobs/{key}/retry").status_code == 202
    (again,) = jobs._runs(workflow_id_prefix=f"{key}.2")
    assert again.input["args"][1].keys() == order["pixels"].keys(), "none of its blocks is made again"


@pytest.mark.parametrize(("workers", "most"), [(1, 16), (8, 48)])
def test_a_job_has_enough_blocks_on_the_queue_for_all_workers(
    world: Settings, monkeypatch: pytest.MonkeyPatch, workers: int, most: int
) -> None:
    from api import worker as working

    state = State(world)
    monkeypatch.setattr(state.jobs, "workers", lambda: ("one",) * workers)
    bench = Bench(state)
    monkeypatch.setattr(bench, "renew_overviews", lambda _: 0)
    monkeypatch.setattr(bench, "renew_index", lambda _: 0)
    monkeypatch.setattr(working, "_bench", bench)
    queued: list[str] = []
    lengths: list[int] = []

    def enqueue(queue: str, workflow: object, part: object, name: str) -> Any:
        queued.append(name)
        lengths.append(len(queued))
        return SimpleNamespace(get_result=lambda **_: queued.remove(name) or {})

    monkeypatch.setattr(working, "DBOS", SimpleNamespace(workflow_id="job.1", enqueue_workflow=enqueue))
    names = [f"31N/1/{col}" for col in range(100)]
    order = asdict(Order("demo", "2024", "m@1/x", "", 0, dict.fromkeys(names, 1)))
    told = inspect.unwrap(working._area)(order, {names[0]: None})
    assert told == {"failed": {}, "pixels": {}}
    assert (len(lengths), max(lengths)) == (99, most)


def test_nobody_is_taken_for_dead_as_soon_as_the_database_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from api import worker as working

    taken: list[list[str]] = []
    database = SimpleNamespace(there=True)

    def sign(*_: str) -> bool:
        if not database.there:
            raise Unavailable("the jobs database cannot be used.")
        return True

    pending = SimpleNamespace(executor_id="other")
    dbos = SimpleNamespace(list_workflows=lambda **_: [pending], _recover_pending_workflows=taken.append)
    monkeypatch.setattr(working, "DBOS", dbos)
    jobs = SimpleNamespace(
        roster=SimpleNamespace(sign=sign), reaching=nullcontext, workers=lambda: ("own",), forget=lambda: 0
    )
    pulse = working.Pulse(jobs, SimpleNamespace(tidy=lambda: None), "own", "1")  # type: ignore[arg-type]
    told = []
    for there in (True, True, False, True, True):
        database.there = there
        assert pulse.beat()
        told.append(len(taken))
    assert told == [0, 1, 1, 1, 2], "only once the others have had time to sign"


def test_neither_planning_nor_listening_takes_threads_from_tiles(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, planned = client.app.state.smalti, areas._planned  # type: ignore[attr-defined]
    planning: list[int] = []

    def watched(*what: Any) -> Any:
        planning.append(state.planning.borrowed_tokens)
        return planned(*what)

    monkeypatch.setattr(areas, "_planned", watched)
    assert client.post("/areas", json=body_of(client, dry_run=True)).status_code == 202
    assert planning == [1]

    monkeypatch.setattr(streams, "LOOK_S", 0.0)
    back = threading.Event()
    job = SimpleNamespace(id="", state="running", error=None, model_dump_json=lambda: "{}")

    def look(_: str) -> Any:
        back.wait(10)
        return SimpleNamespace(id="", state="done", error=None, model_dump_json=lambda: "{}")

    held = SimpleNamespace(jobs=SimpleNamespace(listeners=0, look=look), listening=CapacityLimiter(2))

    async def listen() -> tuple[float, float]:
        opened = [streams._listened(held, job) for _ in range(5)]  # type: ignore[arg-type]
        for stream in opened:
            await anext(stream)
        waiting = [asyncio.ensure_future(anext(stream)) for stream in opened]
        await asyncio.sleep(0.05)
        taken = current_default_thread_limiter().borrowed_tokens, held.listening.borrowed_tokens
        back.set()
        assert all(event.startswith("event: progress") for event in await asyncio.gather(*waiting))
        return taken

    assert anyio.run(listen) == (0, 2)
