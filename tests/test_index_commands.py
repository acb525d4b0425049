"""smalti index: how an index stands, and building it in pieces, on machines that may die meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from distributed import LocalCluster
from typer.testing import CliRunner

from api.cli import app
from api.settings import Settings
from api.state import State
from indexing.index import sent
from indexing.index.build import build_index
from indexing.index.manifest import IndexManifest, current, home_of, load
from indexing.index.segment import SegmentTask, build_segment
from service.bucket import open_bucket
from service.bucket.folder import FolderBucket
from service.errors import Corrupt, InvalidInput
from tests.landscapes import landscape
from tests.services import S3
from tests.stores import YEAR, Tiny, blocks_from, random_vectors, tiny_archive
from tests.test_fleet_serving import field_of


def command(home: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["index", *words], env={"SMALTI_HOME": str(home), "SMALTI_CATALOGUE": "none.toml"})


def status(home: Path) -> dict[str, Any]:
    done = command(home, "status", "tiny", "--json")
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads(done.stdout)
    return dict(row)


@pytest.mark.slow
def test_status_tells_how_an_index_stands(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    tiny = tiny_archive(tmp_path / "datasets", random_vectors((120, 130), 16))
    assert status(tmp_path) == {"window": "2024", "level": 1, "state": "none"}
    done = command(tmp_path, "build", "tiny", "--json")
    (built,) = json.loads(done.stdout)
    stands = status(tmp_path)
    assert {key: stands[key] for key in built} == built
    assert (stands["state"], stands["behind"], stands["gone"]) == ("current", 0, 0)
    assert (stands["pixels"], stands["model"]) == (120 * 130, "tiny@1/test")
    rewrite(tiny, next(iter(tiny.store.blocks(YEAR))).name)
    assert (status(tmp_path)["state"], status(tmp_path)["behind"]) == ("behind", 1)
    assert command(tmp_path, "build", "tiny").exit_code == 0
    again = status(tmp_path)
    assert (again["state"], again["generation"] != stands["generation"]) == ("current", True)
    assert command(tmp_path, "build", "tiny").exit_code == 0
    assert status(tmp_path) == again, "nothing to do, nothing done"
    assert command(tmp_path, "build", "tiny", "--rebuild").exit_code == 0
    assert status(tmp_path)["generation"] != again["generation"]
    refused = command(tmp_path, "build", "tiny", "--level", "7")
    assert isinstance(refused.exception, InvalidInput)
    assert "level 7" in str(refused.exception)


def rewrite(tiny: Tiny, block: str) -> None:
    """Write one block anew, with other pixels."""
    other = random_vectors(tiny.vectors.status.shape, tiny.vectors.dims, seed=9)
    blocks = blocks_from("31N", tiny.row, tiny.col, other, tiny.window, tiny.counts)
    tiny.store.write([data for data in blocks if data.block.name == block], "changed")


@pytest.mark.slow
def test_a_segment_left_in_a_bucket_is_made_once_and_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, store = FolderBucket(tmp_path / "bucket"), landscape(side=120, dims=16)
    manifest = build_index(store, "d", YEAR, tmp_path / "here")
    (record,) = manifest.segments
    home = home_of(tmp_path / "here", YEAR)
    task = SegmentTask(YEAR, 1, manifest.quantiser, record.blocks)
    sent.send_quantiser(home, manifest.quantiser, bucket)
    assert sent.make_there(store, task, bucket) == record
    there = home_of(tmp_path / "there", YEAR)
    there.mkdir(parents=True)
    sent.fetch_segment(there, record, bucket)
    for file in record.files:
        file.check(there / record.name, whole=True)
    assert build_segment(store, task, there) == record, "found made"

    def made_again(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(sent, "build_segment", made_again)
        assert sent.make_there(store, task, bucket) == record
    (key,) = (f"2024/{record.name}/{file.key}" for file in record.files if file.name == "lists.bin")
    lists = bucket.get(key)
    bucket.put(key, lists[:-1] + bytes([lists[-1] ^ 1]))
    elsewhere = home_of(tmp_path / "elsewhere", YEAR)
    elsewhere.mkdir(parents=True)
    with pytest.raises(Corrupt, match="was changed"):
        sent.fetch_segment(elsewhere, record, bucket)
    assert not list(elsewhere.iterdir())


def same(a: IndexManifest, b: IndexManifest) -> bool:
    """Whether two builds made the same segments under the same lists, to the byte."""
    files = [[(each.name, each.files) for each in manifest.segments] for manifest in (a, b)]
    return a.quantiser == b.quantiser and files[0] == files[1]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_worker_of_dask_is_killed_during_a_build(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    s3: S3 | None = request.getfixturevalue("s3") if where == "bucket" else None
    storage = s3.place("dask-build") if s3 else str(tmp_path / "world")
    told = {"SMALTI_STORAGE": storage, **(s3.variables() if s3 else {})}
    made = tiny_archive(tmp_path / "made", field_of(400, 32))
    whole = build_index(made.store, "tiny", YEAR, tmp_path / "whole", most_blocks=1)
    place_store(made, storage)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        killed: list[int] = []

        def kill_one() -> None:
            """The first worker that has begun a segment."""
            until = time.monotonic() + 60
            while not killed and time.monotonic() < until:
                busy = [n for n, w in cluster.scheduler.workers.items() if w.processing]
                if busy:
                    worker = next(w for w in cluster.workers.values() if w.worker_address == busy[0])
                    killed.append(worker.pid)
                    os.kill(worker.pid, signal.SIGKILL)
                time.sleep(0.05)

        killer = threading.Thread(target=kill_one)
        killer.start()
        done = build_by(cluster.scheduler_address, tmp_path / "home", told)
        killer.join()
    assert killed, "no worker was killed"
    assert len(done.segments) == len(whole.segments) == 4
    assert same(done, whole), "as if one process had made it undisturbed"


def place_store(made: Tiny, storage: str) -> None:
    """The same pixels in the storage."""
    bucket = open_bucket(storage)
    root = Path(made.store.location)
    for path in root.rglob("*"):
        if path.is_file():
            bucket.upload(path, f"datasets/{root.name}/{path.relative_to(root).as_posix()}")


BUILD = """
import sys
from indexing.index import build
build.build_index.__kwdefaults__["most_blocks"] = 1
from api.cli import main
main()
"""
"""`smalti`, whose segments have a block each: so little is indexed here."""


def build_by(address: str, home: Path, told: dict[str, str]) -> IndexManifest:
    home.mkdir()
    words = ["index", "build", "tiny", "--scheduler", address, "--json"]
    environment = os.environ | told | {"SMALTI_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    state = State(Settings(home=home, storage=told["SMALTI_STORAGE"], catalogue=home / "none.toml"))
    generation = current(state.build_folder("tiny"), YEAR)
    assert generation is not None
    return load(generation)
