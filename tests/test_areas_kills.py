"""Areas while everything around them dies: workers, the API, Postgres, object storage, the disk.

Every job ends; what is stored is what an undisturbed run leaves, byte for byte, and never anything else in between; no
block that was committed is encoded again.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from pydantic import SecretStr

from api import demo
from api.catalogue import open_or_make
from api.settings import Settings
from api.state import State
from service.area import MIN_S2
from service.embed import embed_source
from service.store import WritableStore, create_store
from service.values import Window
from tests.bad_road import bad_road
from tests.conftest import SIDE, client_of, free_port
from tests.services import S3, Postgres, Worker, environment, worker
from tests.test_jobs import body_of, ended
from tests.test_jobs_kills import slowly

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SCENE = demo.Scene.make(SIDE)
YEARS = range(2025, 2029)
WORKER_KILLS = 20
API_KILLS = 5


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, world: Settings) -> WritableStore:
    """What a run that nobody disturbed leaves of all years."""
    encoder = State(world).encoder(demo.MODEL)
    store = create_store(tmp_path_factory.mktemp("quiet") / "q.icechunk", encoder.identity)
    for year in YEARS:
        embed_source(SCENE.source(year), encoder, store, min_s2=MIN_S2)
    store.refresh()
    return store


def check_whole(settings: Settings, quiet: WritableStore) -> None:
    """Whatever can be seen of any block is all of it, and it says what it was made from."""
    state = State(settings)
    store = state.datasets.require_writable("demo")
    for window in map(Window.year, YEARS):
        for block in store.blocks(window) if window in store.windows() else ():
            here, there = (one.read_block(block, window) for one in (store, quiet))
            assert here.fingerprint == there.fingerprint
            for what, names in (("vectors", ("codes", "scales", "status")), ("counts", ("s2", "s1_asc", "s1_desc"))):
                for name in names:
                    pair = [getattr(getattr(data, what), name) for data in (here, there)]
                    np.testing.assert_array_equal(*pair, err_msg=f"{name} of {block.name} {window}")
            assert state.reports("demo").of(here.fingerprint)


def check_undisturbed(settings: Settings, quiet: WritableStore, years: Any = YEARS) -> None:
    """All blocks and overviews are there and as they should be."""
    check_whole(settings, quiet)
    store = State(settings).datasets["demo"].store
    for window in map(Window.year, years):
        for level in (1, 2, 4, 32):
            blocks = quiet.blocks(window, level=level)
            assert store.blocks(window, level=level) == blocks
            assert store.versions(window, blocks) == quiet.versions(window, blocks), "versions are hashes of content"
            assert not store.stale(window, blocks)


def check_nothing_twice(home: Path) -> None:
    """No block is begun that is committed; what was killed between its commit and the note of it counts too."""
    notes = [line.split() for line in (home / "notes").read_text().splitlines()]
    assert [note for note in notes if note[0] == "begin"]
    assert not [note for note in notes if note[0] == "again"]
    ends = Counter((block, window) for word, _, block, window in notes if word == "end")
    assert set(ends.values()) == {1}


def told(client: Any, job: str, seconds: float) -> dict[str, Any]:
    """How a job ended."""
    found = ended(client, job, seconds)
    assert (found["state"], found["done"]) == ("done", found["total"]), found["error"]
    return found


@contextmanager
def served(settings: Settings, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The API as a process of its own, killed afterwards."""
    command = [sys.executable, "-m", "api.cli", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env={**environment(settings), "SMALTI_LOG_LEVEL": "error"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def killed_over_and_over(settings: Settings, name: str, times: int, failures: list[BaseException]) -> None:
    """Start a worker and kill it, at moments that are known to nobody: mostly while it has blocks in hand."""
    chance = random.Random(name)
    try:
        for _ in range(times):
            with worker(settings, name) as running:
                before, until = len(running.notes("begin", of=name)), time.monotonic() + 6
                while len(running.notes("begin", of=name)) == before and time.monotonic() < until:
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 1.0))
    except BaseException as error:
        failures.append(error)
        raise


def asked_all_along(settings: Settings, kills: int) -> list[str]:
    """Ask the API for all years and for halves of them, again and again, while it is killed; the jobs."""
    chance, port, jobs = random.Random(5), free_port(), dict[tuple[int, int], str]()
    west, south, east, north = body_of(client_of(settings))["bbox"]
    boxes = [[west, south, east, north], [west, south, (west + east) / 2, north]]
    wanted = [(year, at) for year in YEARS for at in range(len(boxes))]
    deaths = 0
    while len(jobs) < len(wanted) or deaths < kills:
        with served(settings, port), httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            wait_for(client)
            end = time.monotonic() + (chance.uniform(0, 1.0) if deaths < kills else 60)
            while time.monotonic() < end and (deaths < kills or len(jobs) < len(wanted)):
                year, at = chance.choice(wanted)
                body = {"dataset": "demo", "window": str(year), "bbox": boxes[at]}
                job = client.post("/areas", json=body).json()["id"]
                assert jobs.setdefault((year, at), job) == job, "one order is one job, whoever died meanwhile"
        deaths += 1
    return list(jobs.values())


def wait_for(client: httpx2.Client) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            client.get("/livez").raise_for_status()
            return
        except httpx2.TransportError:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_workers_and_the_api_killed_over_and_over(own_world: Settings, quiet: WritableStore) -> None:
    settings = own_world.model_copy(update={"worker_lapse": 1.0})
    slowly(settings, 0.6)
    failures: list[BaseException] = []
    args = [(settings, name, WORKER_KILLS // 2, failures) for name in ("one", "two")]
    killers = [threading.Thread(target=killed_over_and_over, args=arg) for arg in args]
    for killer in killers:
        killer.start()
    jobs = asked_all_along(settings, API_KILLS)
    while any(killer.is_alive() for killer in killers):
        check_whole(settings, quiet)
        time.sleep(1)
    assert not failures
    slowly(settings, 0)
    client = client_of(settings)
    with worker(settings, "one"), worker(settings, "two"):
        for job in jobs:
            told(client, job, 120)
    check_nothing_twice(settings.home)
    check_undisturbed(settings, quiet)


def test_postgres_restarted_under_load(postgres: Postgres, own_world: Settings, quiet: WritableStore) -> None:
    address = SecretStr(postgres.create(f"jobs-{uuid.uuid4().hex[:8]}"))
    settings = own_world.model_copy(update={"jobs_database": address, "worker_lapse": 3.0})
    client = client_of(settings)
    slowly(settings, 0.4)
    with worker(settings, "one") as one, worker(settings, "two"):
        jobs = [client.post("/areas", json=body_of(client, window=str(year))).json()["id"] for year in YEARS[:3]]
        for begun in (2, 6):
            one.wait_for("begin", begun)
            postgres.stop("immediate")
            time.sleep(1.5)
            postgres.start()
        slowly(settings, 0)
        for job in jobs:
            told(client, job, 120)
    check_nothing_twice(settings.home)
    check_undisturbed(settings, quiet, YEARS[:3])


def empty_dataset(settings: Settings) -> None:
    """An empty dataset with a source, where settings say."""
    state = State(settings)
    manifest = state.registry.get(demo.MODEL).manifest
    open_or_make(state.storage, "demo", manifest.identity, manifest.dims, Window.year(2024))
    state.sources.put(SCENE.source(2024).to_document(), "demo")


def test_object_storage_fails_and_is_slow_for_a_while(
    s3: S3, tmp_path: Path, quiet: WritableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = Settings(home=home, storage=s3.place(uuid.uuid4().hex[:8]), catalogue=Path("none.toml"))
    empty_dataset(settings)
    with bad_road(s3.endpoint) as road:
        monkeypatch.setenv("AWS_ENDPOINT_URL", road.url)
        client = client_of(settings)
        slowly(settings, 0.2)
        with worker(settings) as running:
            jobs = [client.post("/areas", json=body_of(client, window=str(year))).json()["id"] for year in YEARS[:2]]
            running.wait_for("begin", 1)
            road.failing = True
            time.sleep(6)
            road.failing, road.delay = False, 0.2
            until = time.monotonic() + 60  # whoever failed waits a while before it tries again
            while road.delayed < 20 and time.monotonic() < until:
                time.sleep(0.1)
            road.delay = 0.0
            for job in jobs:
                told(client, job, 120)
        assert road.failed
        assert road.delayed
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    check_nothing_twice(home)
    check_undisturbed(settings, quiet, YEARS[:2])


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system that holds so little; skips where none may be mounted."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("no file system may be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as ballast, suppress(OSError):
        while ballast.write(bytes(4096)):
            pass


def test_a_full_disk_holds_a_job_up_and_no_more(tmp_path: Path, quiet: WritableStore) -> None:
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 128))
        home = tmp_path / "home"
        home.mkdir()
        settings = Settings(home=home, storage=str(disk), catalogue=Path("none.toml"))
        empty_dataset(settings)
        client = client_of(settings)
        slowly(settings, 0.1)
        running: Worker = stack.enter_context(worker(settings))
        job = client.post("/areas", json=body_of(client, window="2025")).json()["id"]
        running.wait_for("end", 1)
        fill(disk / "ballast")
        running.wait_for("begin", 2)
        time.sleep(5)
        assert client.get(f"/jobs/{job}").json()["state"] == "running"
        check_whole(settings, quiet)
        (disk / "ballast").unlink()
        told(client, job, 120)
        check_undisturbed(settings, quiet, [2025])
