"""Workers killed, told to end, taken over from; the database restarted: every job ends, nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api import demo
from api.settings import Settings
from api.state import State
from service.area import MIN_S2
from service.embed import embed_source
from service.store import create_store
from service.values import Window
from tests.conftest import SIDE, client_of
from tests.services import Postgres, Worker, environment, free_port, worker
from tests.test_jobs import body_of, ended

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SCENE = demo.Scene.make(SIDE)


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, own_world: Settings) -> Settings:
    """A home of its own, with its jobs in either database; a worker counts as dead after three seconds."""
    changes: dict[str, Any] = {"worker_lapse": 3.0}
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        changes["jobs_database"] = SecretStr(server.create(f"jobs-{uuid.uuid4().hex[:8]}"))
    return own_world.model_copy(update=changes)


def ask(client: TestClient, year: int) -> str:
    return str(client.post("/areas", json=body_of(client, window=str(year))).json()["id"])


def slowly(settings: Settings, seconds: float) -> None:
    (settings.home / "slow").write_text(str(seconds))


def check_as_undisturbed(settings: Settings, year: int, tmp_path: Path) -> None:
    """The blocks, their fingerprints and the overviews are what a run that nobody disturbed would have left."""
    state, window = State(settings), Window.year(year)
    encoder, store = state.encoder("smalti-mini"), state.datasets["demo"].store
    quiet = create_store(tmp_path / f"quiet-{year}.icechunk", encoder.identity)
    embed_source(SCENE.source(year), encoder, quiet, min_s2=MIN_S2)
    for level in (1, 2, 4, 32):
        blocks = quiet.blocks(window, level=level)
        assert store.blocks(window, level=level) == blocks
        assert store.versions(window, blocks) == quiet.versions(window, blocks), "versions are hashes of the content"
        assert not store.stale(window, blocks)
    blocks = quiet.blocks(window)
    assert state.datasets.require_writable("demo").fingerprints(window, blocks) == quiet.fingerprints(window, blocks)


def check_nothing_twice(running: Worker) -> None:
    assert set(Counter(running.notes("end")).values()) == {1}


def test_a_worker_killed_over_and_over_goes_on_where_it_was(settings: Settings, tmp_path: Path) -> None:
    client = client_of(settings)
    slowly(settings, 0.5)
    job = ask(client, 2025)
    for begun in (1, 3, 4):  # in the first block, in the middle of a job, in a block that was begun before
        with worker(settings) as killed:
            killed.wait_for("begin", begun)
            killed.kill()
    assert client.get(f"/jobs/{job}").json()["state"] == "running"
    with worker(settings) as last:
        told = ended(client, job)
    assert (told["state"], told["done"]) == ("done", 4), told["error"]
    check_nothing_twice(last)
    check_as_undisturbed(settings, 2025, tmp_path)


def test_two_workers_share_a_queue_and_one_takes_over_from_the_dead(settings: Settings, tmp_path: Path) -> None:
    client = client_of(settings)
    slowly(settings, 1.5)
    with ExitStack() as stack:
        first = stack.enter_context(worker(settings, "first"))
        jobs = [ask(client, 2025)]
        first.wait_for("begin", 1)  # it has the job itself as well
        second = stack.enter_context(worker(settings, "second"))
        jobs.append(ask(client, 2026))
        until = time.monotonic() + 60
        while not (second.notes("begin", of="second") and len(first.notes("begin", of="first")) > 1):
            assert time.monotonic() < until, "both work"
            time.sleep(0.05)
        assert client.get("/jobs").json()["workers"] == ["first", "second"]
        first.kill()
        slowly(settings, 0)
        for job in jobs:
            told = ended(client, job, 90)
            assert (told["state"], told["done"]) == ("done", 4), told["error"]
        assert client.get("/jobs").json()["workers"] == ["second"]
        ends = Counter(second.notes("end"))
        assert sum(ends.values()) == 8, "each block of both years was committed once"
    check_as_undisturbed(settings, 2025, tmp_path)
    check_as_undisturbed(settings, 2026, tmp_path)


def test_a_worker_told_to_end_commits_its_block_and_hands_the_rest_over_at_once(settings: Settings) -> None:
    settings = settings.model_copy(update={"worker_lapse": 300.0})  # nobody waits for that
    client = client_of(settings)
    slowly(settings, 1.0)
    with worker(settings, "leaving") as leaving:
        job = ask(client, 2025)
        leaving.wait_for("begin", 2)
        assert leaving.end() == 0
        begun = leaving.notes("begin")
        assert leaving.notes("end") == begun, "no block was left half-way"
        assert len(begun) < 4
    assert client.get("/jobs").json()["workers"] == []
    slowly(settings, 0)
    with worker(settings, "coming") as coming:
        assert ended(client, job, 60)["state"] == "done"
        check_nothing_twice(coming)


def test_a_worker_told_to_end_begins_no_further_block_however_many_wait(settings: Settings) -> None:
    settings = settings.model_copy(update={"worker_lapse": 1.0})  # it signs often while it waits for the block in hand
    client = client_of(settings)
    slowly(settings, 1.0)
    with worker(settings) as leaving:
        for year in (2025, 2026, 2027):
            ask(client, year)
        leaving.wait_for("begin", 2)
        assert leaving.end() == 0
        assert len(leaving.notes("begin")) == len(leaving.notes("end")) <= 3


def test_postgres_restarted_in_the_middle_of_a_job(postgres: Postgres, own_world: Settings, tmp_path: Path) -> None:
    address = postgres.create(f"jobs-{uuid.uuid4().hex[:8]}")
    settings = own_world.model_copy(update={"jobs_database": SecretStr(address), "worker_lapse": 3.0})
    client = client_of(settings)
    slowly(settings, 1.0)
    with worker(settings) as running:
        job = ask(client, 2025)
        running.wait_for("begin", 2)
        postgres.stop("immediate")
        try:
            assert client.get(f"/jobs/{job}").status_code == 503
            assert client.get("/readyz").status_code == 503
            time.sleep(2)
        finally:
            postgres.start()
        told = ended(client, job, 120)
        assert told["state"] == "done", told["error"]
    check_nothing_twice(running)
    check_as_undisturbed(settings, 2025, tmp_path)


def children(process: subprocess.Popen[bytes]) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for file in listed for pid in file.read_text().split()]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="tells processes by /proc")
def test_a_server_keeps_a_worker_beside_it_and_neither_outlives_the_other(own_world: Settings) -> None:
    port = free_port()
    command = [sys.executable, "-m", "api.cli", "serve", "--worker", "--port", str(port)]
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        def workers() -> list[str]:
            try:
                return list(client.get("/jobs").json()["workers"])
            except httpx2.TransportError:
                return []

        for stop in (signal.SIGTERM, signal.SIGKILL):
            server = subprocess.Popen(command, env={**environment(own_world), "SMALTI_LOG_LEVEL": "warning"})
            try:
                wait_until(workers)
                (first,) = children(server)
                os.kill(first, signal.SIGKILL)
                wait_until(lambda: children(server) not in ([], [first]))  # noqa: B023  # called in this turn
                (second,) = children(server)
                time.sleep(3)
                assert client.get("/livez").status_code == 200, "the server noticed nothing"
                server.send_signal(stop)
                server.wait(30)
                wait_until(lambda: not alive(second), 30)  # noqa: B023  # called in this turn
            finally:
                server.kill()
                server.wait()
