"""Large uploads: they lie on disk while they are read, leave nothing there, and a full disk is told in words."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.settings import Limits, Settings
from service.dpixels import BANDS, scratch
from service.errors import LimitExceeded, Unavailable
from tests.conftest import ROOT, client_of
from tests.uploads import ARROW, NPZ, PARQUET, UNITS, arrow, body, folder, npz, parquet, pixels, table

READ = """
import json, sys, threading, time
from pathlib import Path
from service.dpixels import Declared, UploadLimits, read_npz
from service.values import Window

def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

before, peak, over = anonymous(), 0, threading.Event()
def watch():
    global peak
    while not over.wait(0.01):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
with open(sys.argv[1], "rb") as file:
    upload = read_npz(file, UploadLimits(10**6, 10**10), Declared(Window.year(2024), "dn", "scaled"))
digest = upload.digest
over.set()
watcher.join()
print(json.dumps({"grown": peak - before, "pixels": len(upload.dpixels), "digest": digest}))
"""


def large_folder() -> dict[str, Any]:
    """430 MB of a published folder."""
    piece = np.random.default_rng(0).integers(300, 5000, (60, 64, 64, 10)).astype(np.uint16)
    held = {"bands": np.tile(piece, (1, 9, 9, 1)), "masks": np.ones((60, 576, 576), np.uint8)}
    held["doys"] = np.arange(3, 363, 6, dtype=np.int16)
    for orbit in ("ascending", "descending"):
        held |= {f"sar_{orbit}": np.zeros((0, 576, 576, 2), np.int16), f"sar_{orbit}_doy": np.zeros(0, np.int16)}
    return held


def large_pixels() -> dict[str, Any]:
    """140 MB with the pixel first, in float32 and in another order of bands, so that all of it is converted."""
    piece = np.random.default_rng(0).integers(300, 5000, (500, 60, 10)).astype(np.float32)
    return {
        "s2": np.tile(piece, (120, 1, 1)), "s2_bands": np.array(sorted(BANDS)),
        "s2_doy": np.arange(3, 363, 6), "s2_valid": np.ones((60_000, 60), np.uint8),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory as Linux tells it")
@pytest.mark.parametrize(("make", "packed"), [(large_folder, False), (large_folder, True), (large_pixels, True)])
def test_a_large_upload_takes_a_fraction_of_its_size_in_memory(make: Any, packed: bool, tmp_path: Path) -> None:
    held = make()
    size = sum(array.nbytes for array in held.values())
    (np.savez_compressed if packed else np.savez)(tmp_path / "in.npz", **held)
    command = [sys.executable, "-c", READ, str(tmp_path / "in.npz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["pixels"] in (576 * 576, 60_000)
    assert told["grown"] < 120_000_000 < size, "what is unpacked lies in files"


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for what is unpacked, and hardly any memory, so that everything goes there."""
    monkeypatch.setattr(scratch, "SMALL", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("body", [npz(folder()), npz(folder(), np.savez_compressed)[:-9], b"PK\3\4"])
def test_nothing_is_left_on_disk(client: TestClient, small_memory: Path, body: bytes) -> None:
    for content, headers in ((body, NPZ), (parquet(table(folder())), PARQUET)):
        params = {} if headers is NPZ else UNITS
        assert client.post("/embed", params=params, content=content, headers=headers).status_code in (200, 422)
    assert list(small_memory.iterdir()) == []
    gc.collect()  # a client of the same process may hold the last answer
    if Path("/proc/self/maps").exists():
        assert str(small_memory) not in Path("/proc/self/maps").read_text(), "no file without a name either"


def test_what_lies_in_files_is_the_same(client: TestClient, small_memory: Path) -> None:
    held = folder()
    fortran = {name: np.asfortranarray(array) for name, array in held.items()}
    answers = [
        client.post("/embed", params={"answer": "npz"}, content=npz(one), headers=NPZ).content
        for one in (held, fortran)
    ]
    first, second = (np.load(io.BytesIO(content)) for content in answers)
    assert all(np.array_equal(first[name], second[name]) for name in first.files)


@pytest.mark.parametrize("where", ["posix_fallocate", "write"])
def test_a_full_disk_is_told_in_words(
    client: TestClient, small_memory: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "write":
        monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", full)
    else:
        monkeypatch.setattr(os, "posix_fallocate", full)
    answer = client.post("/embed", params=UNITS, content=parquet(table(folder(40))), headers=PARQUET)
    assert (answer.status_code, answer.json()["kind"]) == (503, "unavailable")
    assert "no room on disk" in answer.json()["detail"]
    assert answer.headers["retry-after"]


def room_of(client: TestClient) -> scratch.Room:
    return client.app.state.smalti.turns.scratch  # type: ignore[attr-defined]


def test_what_an_upload_takes_is_bounded_and_given_back(world: Settings) -> None:
    """A body of a few kB unpacks to 1.2 MB here; what counts is what it takes, in whatever form it comes."""
    held = {name: array * 0 if name == "bands" else array for name, array in folder(300, 200, 2, 1).items()}
    held["doys"] = np.arange(1, 201, dtype=np.uint16)
    packed = npz(held, np.savez_compressed)
    first_pixels = npz(pixels(held), np.savez_compressed)
    long = parquet(table(folder(60, 38)))
    sent = (
        ({}, packed, NPZ), (UNITS, first_pixels, NPZ), (UNITS, long, PARQUET), (UNITS, arrow(table(folder(60))), ARROW),
        ({}, json.dumps(body(folder(60))).encode(), {"Content-Type": "application/json"}),
    )  # fmt: skip
    for params, content, headers in sent:
        client = client_of(world.model_copy(update={"limits": Limits(scratch_bytes=len(content) + 5_000)}))
        alone = client.post("/embed", params=params, content=content, headers=headers)
        assert (alone.status_code, alone.json()["kind"]) == (413, "limit-exceeded"), alone.text
        assert f"over {len(content) + 5_000:,} bytes" in alone.json()["detail"]
        assert alone.json()["remedy"] == "Send fewer pixels at once."
        assert room_of(client).taken == 0
    client = client_of(world.model_copy(update={"limits": Limits(scratch_bytes=4_000_000)}))
    assert client.post("/embed", content=packed, headers=NPZ).status_code == 200
    assert room_of(client).taken == 0
    room_of(client).add(3_500_000)  # others
    busy = client.post("/embed", content=packed, headers=NPZ)
    assert (busy.status_code, busy.json()["kind"], busy.headers["retry-after"]) == (503, "unavailable", "5")
    assert "of the 4,000,000 bytes that they may unpack to together" in busy.json()["detail"]
    assert "SCRATCH_BYTES" in busy.json()["remedy"]
    assert room_of(client).taken == 3_500_000


def test_a_place_is_kept_until_the_answer_is_sent(world: Settings) -> None:
    """Clients that do not fetch what they asked for are uploads too: their answers lie on disk."""
    client = client_of(world)
    turns, seen = client.app.state.smalti.turns, []  # type: ignore[attr-defined]
    app, content = client.app, npz(folder())

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.body" and message.get("body"):
                seen.append((turns.counts(), turns.scratch.taken > len(content)))
            await send(message)

        await app(scope, receive, sending)

    here = TestClient(watched, base_url=str(client.base_url), client=("127.0.0.1", 50000))
    assert here.post("/embed", content=content, headers=NPZ).status_code == 200
    assert seen == [((0, 1), True)]
    assert (turns.counts(), turns.scratch.taken) == ((0, 0), 0)


def test_room_is_taken_at_once_or_not_at_all() -> None:
    """Else of many that unpack together, each takes a part and none finds enough."""
    room = scratch.Room(100)

    def other(size: int) -> None:
        with room.share():
            scratch.expect(size)

    with room.share(), scratch.spool() as file:
        scratch.expect(60)
        with pytest.raises(Unavailable, match="60 of the 100 bytes") as refused:
            copy_context().run(other, 60)
        assert refused.value.retry_after
        copy_context().run(other, 40)
        file.write(b"x" * 50)
        assert room.taken == 60, "it was taken already"
        file.write(b"x" * 30)
        assert room.taken == 80
        with pytest.raises(LimitExceeded, match="over 100 bytes"):
            scratch.zeros((21,), np.uint8)
        assert room.taken == 80
    assert room.taken == 0
