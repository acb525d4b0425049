"""Replicas on one bucket: what one makes, all see; nothing is lost; what fails says so, soon."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
from fastapi.testclient import TestClient

from api import demo
from api.catalogue import open_or_make
from api.settings import Settings
from api.state import State
from service.bucket import is_remote, open_bucket
from service.colour import fit_basis
from service.errors import Conflict, IdentityMismatch, SmaltiError, Unavailable
from service.grid import Block, Zone, archive_grid
from service.store import create_store, open_store
from service.store.repository import Repository
from service.values import ModelIdentity, Window
from tests.conftest import SIDE, client_of
from tests.services import S3, moto_python, s3_server
from tests.store_worker import YEAR, filled
from tests.stores import random_vectors
from tests.test_embed_api import NPZ, patch
from tests.test_journeys import write_tiffs

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("store_worker.py")
TINY = ModelIdentity.parse("tiny@1")
SOON = 8.0
"""Seconds within which replicas see each other's work; on a quiet machine it takes about a second."""


@pytest.fixture(scope="module")
def place(s3: S3) -> str:
    return s3.place("world")


@pytest.fixture(scope="module")
def homes(s3: S3, place: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Settings]:
    """Two replicas of the small world; only the first has made it."""
    one, two = (
        Settings(home=tmp_path_factory.mktemp(name), storage=place, catalogue=Path("none.toml"))
        for name in ("one", "two")
    )
    demo.prepare(State(one), SIDE)
    return one, two


@pytest.fixture(scope="module")
def replicas(homes: tuple[Settings, Settings]) -> Iterator[tuple[TestClient, TestClient]]:
    one, two = (client_of(settings) for settings in homes)
    with one, two:
        yield one, two


def state_of(client: TestClient) -> State:
    state: State = client.app.state.smalti  # type: ignore[attr-defined]
    return state


def soon(what: Callable[[], Any], seconds: float = SOON) -> Any:
    """Wait until something is true; what it was."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.05)
    return found


def center(client: TestClient) -> tuple[float, float]:
    lon, lat = client.get("/datasets/demo").json()["center"]
    return lon, lat


def test_both_are_ready_and_say_where_the_data_is(replicas: tuple[TestClient, TestClient], place: str) -> None:
    for client in replicas:
        answer = client.get("/readyz")
        assert answer.status_code == 200, answer.text
        assert answer.json()["parts"]["storage"] == f"ok, {place}"
        assert client.get("/datasets/demo").json()["writable"]


def test_a_query_and_a_basis_of_one_are_the_others_too(replicas: tuple[TestClient, TestClient]) -> None:
    one, two = replicas
    lon, lat = center(one)
    body = {"dataset": "demo", "window": "2024", "points": [[lon, lat]]}
    asked = one.post("/queries", json=body)
    assert asked.status_code in {200, 201}, asked.text
    query = asked.json()["id"]
    assert two.get(f"/queries/{query}").json() == one.get(f"/queries/{query}").json()
    tile = f"/datasets/demo/2024/bbox/{lon - 0.001},{lat - 0.001},{lon + 0.001},{lat + 0.001}.png"
    pictures = [client.get(tile, params={"view": f"similarity:{query}"}).content for client in replicas]
    assert pictures[0] == pictures[1]

    basis = fit_basis(state_of(one).datasets["demo"].store, [Window.year(2023)], seed=9, sample=1000)
    before = two.get(tile).content
    state_of(one).bases("demo").put(basis.to_document(), "default")
    after = soon(lambda: (seen := two.get(tile).content) != before and seen)
    assert after == one.get(tile).content


def test_a_block_and_an_index_of_one_are_the_others_too(
    replicas: tuple[TestClient, TestClient], homes: tuple[Settings, Settings]
) -> None:
    one, two = replicas
    body, where = patch(homes[0])
    lon, lat = center(one)
    assert two.get(f"/datasets/demo/2024/search?lon={lon}&lat={lat}&k=3").json()["engine"] == "index"
    before = two.get("/datasets/demo").json()["revision"]
    stored = one.post("/embed", params={**where, "answer": "json"}, content=body, headers=NPZ)
    assert stored.status_code == 200, stored.text
    revision = soon(lambda: (now := two.get("/datasets/demo").json()["revision"]) != before and now)
    assert revision == one.get("/datasets/demo").json()["revision"]
    search = f"/datasets/demo/2024/search?lon={lon}&lat={lat}&k=3"
    assert two.get(search).json()["engine"] == "index+exact", "the new block is scanned"

    state = state_of(one)
    state.build_index(state.datasets["demo"], Window.year(2024))
    assert soon(lambda: two.get(search).json()["engine"] == "index")
    assert one.get(search).json()["features"] == two.get(search).json()["features"]


def test_three_writers_in_processes_lose_nothing(s3: S3) -> None:
    location = s3.place("raced/writers.icechunk")
    create_store(location, TINY, dims=4)
    blocks = 4
    writers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), "fill", location, str(1400 + number), str(blocks)], cwd=WORKER.parents[1]
        )
        for number in range(3)
    ]
    assert [writer.wait(180) for writer in writers] == [0, 0, 0]
    store = open_store(location)
    assert len(store.blocks(YEAR)) == 3 * blocks
    for row in range(1400, 1403):
        for col in range(blocks):
            block = Block("31N", row, 100 + col)
            vectors = store.read(Zone(31), YEAR, block.rows, block.cols)
            assert (vectors.codes == col + 1).all(), block.name


def test_of_two_who_write_one_block_the_second_is_told(s3: S3) -> None:
    location = s3.place("raced/block.icechunk")
    create_store(location, TINY, dims=4)
    one, two = open_store(location), open_store(location)
    block = Block("31N", 1400, 100)
    one.write([filled(block, 1, 4)], "one")  # type: ignore[attr-defined]
    with pytest.raises(Conflict):
        two.write([filled(block, 2, 4)], "two")  # type: ignore[attr-defined]
    assert open_store(location).read_block(block, YEAR).vectors.codes.max() == 1  # type: ignore[attr-defined]


def test_of_many_who_make_a_dataset_one_does_and_all_have_it(s3: S3) -> None:
    bucket = open_bucket(s3.place("made"))
    start = threading.Barrier(6)

    def make(number: int) -> object:
        start.wait()
        model = TINY if number else ModelIdentity.parse("other@1")
        try:
            return open_or_make(bucket, "new", model, 4, YEAR).revision()
        except SmaltiError as error:
            return type(error)

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(make, range(6)))
    other, rest = made[0], set(made[1:])
    assert len(rest) == 1, made
    assert IdentityMismatch in {other, *rest}, "of two models one is refused"
    assert {other, *rest} != {IdentityMismatch}
    repo = icechunk.Repository.open(icechunk.s3_storage(
        bucket=s3.bucket, prefix="made/datasets/new.icechunk", from_env=True, force_path_style=True
    ))  # fmt: skip
    assert [entry.message for entry in repo.ancestry(branch="main")] == ["create", "Repository initialized"]


def test_a_dataset_whose_maker_was_killed_is_made_by_the_next(s3: S3) -> None:
    bucket = open_bucket(s3.place("killed"))
    location = f"{bucket.location}/datasets/half.icechunk"

    def killed(_: Repository) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Repository.create(location, killed)
    store = open_or_make(bucket, "half", TINY, 4, YEAR)
    store.write([filled(Block("31N", 1400, 100), 3, 4)], "first")
    assert open_or_make(bucket, "half", TINY, 4, YEAR).blocks(YEAR)


def hurried(ask: Callable[[], Any], most: float) -> Any:
    started = time.monotonic()
    answer = ask()
    assert time.monotonic() - started < most
    return answer


def test_a_silent_store_is_told_soon_and_all_is_well_once_it_answers(
    replicas: tuple[TestClient, TestClient], homes: tuple[Settings, Settings], s3: S3
) -> None:
    one, _ = replicas
    lon, lat = center(one)
    fresh = client_of(homes[1].model_copy(update={"home": homes[1].home / "third"}))
    with s3.silent():
        ready = hurried(lambda: one.get("/readyz"), 15)
        assert ready.status_code == 503
        assert set(ready.json()["parts"]) == {"storage"}
        assert "AWS_ENDPOINT_URL" in ready.json()["parts"]["storage"]
        assert one.get("/livez").status_code == 200
        for asked in ("/datasets", "/datasets/demo", f"/datasets/demo/2024/point/{lon},{lat}"):
            answer = hurried(lambda asked=asked: fresh.get(asked), 15)
            assert answer.status_code == 503, asked
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["kind"] == "unavailable"
            assert "AWS_ENDPOINT_URL" in answer.text
        assert hurried(lambda: one.get("/datasets/demo/2024/search?lon=0&lat=0"), 15).status_code in {404, 422, 503}
    for client in (one, fresh):
        assert soon(lambda client=client: client.get("/readyz").status_code == 200, 60)
        assert client.get(f"/datasets/demo/2024/point/{lon},{lat}").status_code == 200


def test_a_store_that_is_not_there_is_told_at_once(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    client = client_of(Settings(home=tmp_path, storage=place, catalogue=Path("none.toml")))
    for path in ("/readyz", "/datasets", "/datasets/demo"):
        answer = hurried(lambda path=path: client.get(path), 5)
        assert answer.status_code == 503
        assert "AWS_ENDPOINT_URL" in answer.text


@pytest.mark.parametrize(
    ("variable", "value", "bucket", "says"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIANOBODY", "bucket", "AWS_ACCESS_KEY_ID"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", "bucket", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_REGION", "us-east-1", "no-such-bucket", "there is no such bucket"),
    ],
)
def test_refused_keys_and_missing_buckets_are_named(
    tmp_path: Path, s3: S3, variable: str, value: str, bucket: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    client = client_of(Settings(home=tmp_path, storage=f"s3://{bucket}/world", catalogue=Path("none.toml")))
    ready = hurried(lambda: client.get("/readyz"), 5)
    assert ready.status_code == 503
    assert says in ready.json()["parts"]["storage"]
    assert says in client.get("/datasets").json()["detail"] + str(client.get("/datasets").json())
    for ask in (open_store, lambda location: create_store(location, TINY, dims=4)):
        with pytest.raises(Unavailable, match=says):
            ask(f"s3://{bucket}/world/datasets/x.icechunk")


def test_a_public_bucket_is_read_without_keys_and_not_written_to(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(moto_python(), guarded=False) as public:
        for name, value in public.variables().items():
            monkeypatch.setenv(name, value)
        location = public.place("datasets/p.icechunk")
        create_store(location, TINY, dims=4).write([filled(Block("31N", 1400, 100), 1, 4)], "one")
        public.open_to_all()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        with pytest.raises(Unavailable, match="AWS_SKIP_SIGNATURE"):
            open_store(location)
        assert open_store(location, anonymous=True).blocks(YEAR)
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        client = client_of(Settings(home=tmp_path, storage=public.place(""), catalogue=Path("none.toml")))
        held = client.get("/datasets").json()
        assert [(dataset["id"], dataset["writable"]) for dataset in held["datasets"]] == [("p", False)], held


def test_the_command_line_works_on_a_bucket(
    s3: S3, homes: tuple[Settings, Settings], place: str, tmp_path: Path
) -> None:
    environment = {
        "PATH": "/usr/bin:/bin", "SMALTI_HOME": str(tmp_path / "home"), "SMALTI_STORAGE": place, **s3.variables(),
    }  # fmt: skip

    def smalti(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("smalti")), *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"{place}/datasets/demo.icechunk" in smalti("datasets", "list", "--json")
    smalti("pca", "fit", "demo", "--name", "mine", "--sample", "1000")
    smalti("index", "build", "demo", "--window", "2023")
    smalti("store", "overviews", "demo")
    smalti("store", "tidy", "demo")
    smalti("store", "export", "demo", str(tmp_path / "out"))
    assert (tmp_path / "out").is_dir()
    vectors = random_vectors((40, 40), 16)
    write_tiffs(tmp_path, archive_grid(Zone(31)), 358_400, 25_600, vectors, 2024)
    smalti("ingest", str(tmp_path), "--dataset", "taken", "--model", "tiny@1", "--window", "2024")
    assert open_store(f"{place}/datasets/taken.icechunk").blocks(YEAR) == (Block("31N", 1400, 100),)
    assert "mine" in State(homes[1]).bases("demo").names()
    assert not list((tmp_path / "home").rglob("*.icechunk"))


def test_every_location_is_told_from_a_path() -> None:
    assert is_remote("s3://b/x")
    assert not is_remote("/x")
    assert not is_remote("file:///x")
    assert np.array([is_remote(f"{scheme}://x") for scheme in ("https", "gs", "memory")]).all()
