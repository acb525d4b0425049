"""Writes are transactions: raced, killed, damaged, refused."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from service import ingest, merging
from service.errors import Conflict, Corrupt, InvalidInput, NotFound, ReadOnly, Unavailable
from service.grid import Block, Zone
from service.store import BlockData, create_store, open_store, repository_name, writable
from service.store.faults import writing
from service.store.snapshot import Snapshot
from service.values import BLOCK, Counts, ModelIdentity, Vectors, Window
from tests.conftest import ROOT
from tests.store_worker import FLIPPED, YEAR, filled
from tests.stores import TINY, random_vectors, tiny_archive

WORKER = Path(__file__).with_name("store_worker.py")


def worker(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(WORKER), *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def whole(store_location: Path) -> int:
    """The number that fills the flipped block; fails unless every part of the block tells the same."""
    store = open_store(store_location)
    data = store.read_block(FLIPPED, YEAR)  # type: ignore[attr-defined]
    (number,) = np.unique(data.vectors.codes)
    if number:
        want = filled(FLIPPED, int(number), store.dims)
        np.testing.assert_array_equal(data.vectors.scales, want.vectors.scales)
        assert data.fingerprint == want.fingerprint
        np.testing.assert_array_equal(data.counts.s2, want.counts.s2)
    assert bool(store.versions(YEAR, [FLIPPED])[FLIPPED]) == bool(number)
    return int(number)


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_the_old_or_the_new_block(tmp_path: Path, times: int) -> None:
    location = tmp_path / "k.icechunk"
    create_store(location, TINY, dims=64, zones=[Zone(31)])
    chance = random.Random(times)
    seen, before = set(), 0
    for turn in range(times):
        process = worker("flip", str(location))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        first = process.stdout.readline() if turn % 2 else ""  # half of them die in their first write or soon after
        time.sleep(chance.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        reported = [int(line) for line in (first + process.stdout.read()).split()]
        number = whole(location)
        # What was last reported as committed stands, unless the write in which the writer died came through too.
        last = reported[-1] if reported else before
        assert number in (last, 2 if last == 1 else 1)
        seen.add(number)
        before = number
    store = open_store(location)
    store.write([filled(FLIPPED, 1 if whole(location) != 1 else 2, store.dims)], "rerun")  # type: ignore[attr-defined]
    assert whole(location) in (1, 2)
    assert times < 20 or seen >= {1, 2}


@pytest.mark.slow
def test_processes_writing_other_blocks_lose_nothing(tmp_path: Path) -> None:
    location = tmp_path / "two.icechunk"
    create_store(location, TINY, dims=8)  # the zone, too, is made by whoever comes first
    processes = [worker("fill", str(location), str(row), "6") for row in (1400, 1401)]
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    store = open_store(location)
    assert store.blocks(YEAR) == tuple(Block("31N", row, 100 + col) for row in (1400, 1401) for col in range(6))
    for block in store.blocks(YEAR):
        found = store.read(Zone(31), YEAR, block.rows, block.cols)
        assert (found.codes == block.col - 99).all()


def test_the_same_block_twice_is_a_conflict(tmp_path: Path) -> None:
    tiny = tiny_archive(tmp_path, random_vectors((30, 30), 8))
    (block,) = tiny.store.blocks(YEAR)
    late = open_store(tiny.store.location)
    tiny.store.write([filled(block, 3, 8)], "first")
    with pytest.raises(Conflict, match=block.name):
        late.write([filled(block, 4, 8)], "second")  # type: ignore[attr-defined]
    assert (late.read(Zone(31), YEAR, block.rows, block.cols).codes != 3).any()
    late.refresh()
    assert (late.read(Zone(31), YEAR, block.rows, block.cols).codes == 3).all()
    late.write([filled(block, 4, 8)], "again")  # type: ignore[attr-defined]
    tiny.store.refresh()
    assert (tiny.store.read(Zone(31), YEAR, block.rows, block.cols).codes == 4).all()


def test_two_writers_that_share_a_store_lose_nothing(tmp_path: Path) -> None:
    """What counts is what each writer read, not what the object they share has seen since."""
    tiny = tiny_archive(tmp_path, random_vectors((30, 30), 8))
    store, (block,) = tiny.store, tiny.store.blocks(YEAR)
    slow, other = store.read_block(block, YEAR), Block("31N", 7, 7)
    assert slow.base == store.versions(YEAR, [block])[block]
    store.write([replace(store.read_block(block, YEAR), vectors=filled(block, 3, 8).vectors)], "the fast one")
    with pytest.raises(Conflict, match=block.name):
        store.write([replace(slow, counts=Counts.zeros((BLOCK, BLOCK)))], "the slow one")
    assert (store.read(Zone(31), YEAR, block.rows, block.cols).codes == 3).all()
    again = store.read_block(block, YEAR)
    store.write([replace(again, counts=Counts.zeros((BLOCK, BLOCK)))], "the slow one again")
    assert store.read_block(block, YEAR).counts.s2.max() == 0

    unwritten = store.read_block(other, YEAR)
    assert unwritten.base == ""
    store.write([filled(other, 1, 8)], "first there")
    with pytest.raises(Conflict, match=other.name):
        store.write([replace(unwritten, vectors=filled(other, 2, 8).vectors)], "late")


def test_whoever_merges_says_into_what(tmp_path: Path) -> None:
    tiny = tiny_archive(tmp_path, random_vectors((30, 30), 8))
    old = tiny.store.read_block(tiny.store.blocks(YEAR)[0], YEAR)
    assert old.base
    assert ingest._lay(old, (), "a" * 64).base == old.base
    nothing = Vectors.empty((BLOCK, BLOCK), 8), Counts.zeros((BLOCK, BLOCK))
    assert merging._merged(old, *nothing, "a" * 64, settles=False).base == old.base


def test_a_block_is_read_from_one_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's commit between the pixels and the fingerprint does not mix the two."""
    tiny = tiny_archive(tmp_path, random_vectors((30, 30), 8))
    store, (block,) = tiny.store, tiny.store.blocks(YEAR)
    store.write([filled(block, 1, 8)], "one")
    read = writable.read_window

    def interrupted(*arguments: object) -> Vectors:
        monkeypatch.setattr(writable, "read_window", read)
        vectors = read(*arguments)  # type: ignore[arg-type]
        store.write([filled(block, 2, 8)], "two")
        return vectors

    monkeypatch.setattr(writable, "read_window", interrupted)
    found = store.read_block(block, YEAR)
    want = filled(block, 1, 8)
    np.testing.assert_array_equal(found.vectors.codes, want.vectors.codes)
    np.testing.assert_array_equal(found.counts.s2, want.counts.s2)
    assert found.fingerprint == want.fingerprint
    assert found.base != store.versions(YEAR, [block])[block]


def test_a_refresh_is_not_disturbed_by_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers go on adding to what the older snapshot knows while the newer one takes it over."""
    tiny = tiny_archive(tmp_path, random_vectors((30, 30), 8))
    old, fresh = (Snapshot(tiny.store.location, tiny.store.repository.reader(tiny.store._now.id)) for _ in range(2))
    monkeypatch.setattr(old, "block_values", lambda *_: {})
    old.versions(7, [Block("31N", row, 0) for row in range(30_000)])
    done = threading.Event()

    def read() -> None:
        for row in itertools.count():
            if done.is_set():
                return
            old.versions(7, [Block("31N", row, 1)])

    reader = threading.Thread(target=read)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    reader.start()
    try:
        for _ in range(5):
            fresh.succeed(old, {"31N/block_version": [(7, 3, 0)]})
    finally:
        done.set()
        reader.join()
        sys.setswitchinterval(interval)
    assert (7, Block("31N", 3, 0)) not in fresh._versions
    assert (7, Block("31N", 29_999, 0)) in fresh._versions


def test_losing_the_race_at_the_commit_is_a_conflict(tmp_path: Path) -> None:
    """Both writers began from the same snapshot; the second commit meets the first one's chunks."""
    tiny = tiny_archive(tmp_path, random_vectors((30, 30), 8))
    (block,) = tiny.store.blocks(YEAR)
    late = open_store(tiny.store.location)
    commit = late.repository.commit  # type: ignore[attr-defined]

    def after_another(session: object, message: str) -> str:
        tiny.store.write([filled(block, 3, 8)], "first")
        return str(commit(session, message))

    late.repository.commit = after_another  # type: ignore[attr-defined]
    with pytest.raises(Conflict):
        late.write([filled(block, 4, 8)], "second")  # type: ignore[attr-defined]
    tiny.store.refresh()
    assert (tiny.store.read(Zone(31), YEAR, block.rows, block.cols).codes == 3).all()


def test_tidy_waits_for_writers_and_collects_what_is_left(tmp_path: Path) -> None:
    tiny = tiny_archive(tmp_path, random_vectors((30, 30), 8))
    (block,) = tiny.store.blocks(YEAR)
    for number in (1, 2, 3):
        tiny.store.write([filled(block, number, 8)], "again")
    with tiny.store.repository.open_for_writing(), pytest.raises(Conflict, match="being written"):
        tiny.store.tidy(dt.timedelta(0))
    forgotten, files, size = tiny.store.tidy(dt.timedelta(0))
    assert forgotten >= 3
    assert files > 3
    assert size > 2 * 4 * 128 * 128 * 8  # the codes of two whole blocks, and what lies beside them
    fresh = open_store(tiny.store.location)
    assert (fresh.read(Zone(31), YEAR, block.rows, block.cols).codes == 3).all()
    tiny.store.write([filled(block, 4, 8)], "after")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    store = create_store(tmp_path / "w.icechunk", TINY, dims=8)
    good = filled(FLIPPED, 1, 8)
    for wrong, where in (
        ([filled(FLIPPED, 1, 16)], "16 dimensions"),
        ([good, good], "twice"),
        ([BlockData(FLIPPED, Window.year(1999), good.vectors, good.counts, good.fingerprint)], "1999"),
        ([BlockData(FLIPPED, Window.parse("2024-05-01..2024-09-30"), good.vectors, good.counts, "a" * 64)], "2024-05"),
        ([BlockData(Block("31N", 9999, 0), YEAR, good.vectors, good.counts, good.fingerprint)], "beyond"),
        ([BlockData(FLIPPED, YEAR, good.vectors, good.counts, "z" * 64)], "hex"),
        ([BlockData(FLIPPED, YEAR, _with_scale(good.vectors, np.nan), good.counts, "a" * 64)], "scale"),
        ([BlockData(FLIPPED, YEAR, _with_scale(good.vectors, 3e38), good.counts, "a" * 64)], "scale"),
    ):
        with pytest.raises(InvalidInput, match=where):
            store.write(wrong, "wrong")
    assert store.windows() == ()
    with pytest.raises(InvalidInput, match="exists"):
        create_store(tmp_path / "w.icechunk", TINY)
    with pytest.raises(InvalidInput, match=r"\.icechunk"):
        create_store(tmp_path / "w", TINY)


def _with_scale(vectors: Vectors, scale: float) -> Vectors:
    scales = vectors.scales.copy()
    scales[7, 9] = scale
    return Vectors(vectors.codes, scales, vectors.status)


def test_a_write_that_the_system_refuses_is_read_only() -> None:
    for refusal in (PermissionError("no"), OSError("error: Read-only file system (os error 30)")):
        with pytest.raises(ReadOnly), writing("/somewhere"):
            raise refusal
    with pytest.raises(Unavailable, match="No space"), writing("/somewhere"):
        raise OSError("No space left on device")


def test_a_window_of_its_own(tmp_path: Path) -> None:
    window = Window.parse("2024-05-01..2024-09-30")
    assert repository_name("demo", window) == "demo@2024-05-01_2024-09-30.icechunk"
    assert repository_name("demo", YEAR) == "demo.icechunk"
    tiny = tiny_archive(tmp_path, random_vectors((20, 20), 8), window=window, name="demo@2024-05-01_2024-09-30")
    store = open_store(tiny.store.location)
    assert store.windows() == (window,)
    np.testing.assert_array_equal(store.read(Zone(31), window, tiny.rows, tiny.cols).codes, tiny.vectors.codes)
    with pytest.raises(NotFound, match="2024"):
        store.read(Zone(31), YEAR, tiny.rows, tiny.cols)
    with pytest.raises(InvalidInput, match="2024"):
        store.write([filled(FLIPPED, 1, 8)], "year")  # type: ignore[attr-defined]


def test_zones_with_different_time_axes_are_refused(tmp_path: Path) -> None:
    """A year must not be read at another zone's position."""
    store = create_store(tmp_path / "z.icechunk", TINY, dims=8, zones=[Zone(31), Zone(32)])
    session = store.repository.writer()
    axis: Any = zarr.open_group(session.store)["32N/time"]
    axis[:] = axis[:] - 1
    session.commit("shift")
    other = open_store(tmp_path / "z.icechunk")
    assert not other.read(Zone(31), YEAR, slice(0, 9), slice(0, 9)).valid.any()
    with pytest.raises(Corrupt, match="31N and 32N have different time axes"):
        other.read(Zone(32), YEAR, slice(0, 9), slice(0, 9))
    with pytest.raises(Corrupt, match="31N and 32N have different time axes"):
        other.sample(Zone(32), YEAR, np.arange(9), np.arange(9))
    with pytest.raises(Corrupt, match="31N and 32N have different time axes"):
        other.write([filled(Block("32N", 1400, 130), 1, 8)], "in the wrong year")  # type: ignore[attr-defined]


def test_what_the_store_says_of_itself(tmp_path: Path) -> None:
    tiny = tiny_archive(tmp_path, random_vectors((20, 20), 8))
    store = open_store(tiny.store.location)
    assert store.writable
    assert (store.identity, store.dims, store.depths, store.levels()) == (TINY, 8, (8,), (1,))
    assert store.revision() == (tiny.store.revision()[0], True)
    assert store.zones() == (tiny.grid,)
    with pytest.raises(InvalidInput, match="dims"):
        store.read(Zone(31), YEAR, tiny.rows, tiny.cols, dims=4)
    with pytest.raises(NotFound, match="32N"):
        store.read(Zone(32), YEAR, tiny.rows, tiny.cols)
    with pytest.raises(NotFound, match="level"):
        store.read(Zone(31), YEAR, tiny.rows, tiny.cols, level=2)
    with pytest.raises(InvalidInput, match="rows"):
        store.read(Zone(31), YEAR, slice(5, 2), tiny.cols)
    with pytest.raises(Exception, match=r"other@1/default") as refusal:
        open_store(tiny.store.location, identity=ModelIdentity("other", "1"))
    assert refusal.value.kind == "identity-mismatch"  # type: ignore[attr-defined]


def chunk_files(location: str) -> list[Path]:
    """Stored chunks of codes, the largest files."""
    files = sorted((Path(location) / "chunks").iterdir(), key=lambda p: p.stat().st_size)
    return [f for f in files if f.stat().st_size >= 128 * 128 * 8]


@pytest.mark.parametrize("damage", ["a bit", "cut short", "gone"])
def test_a_damaged_chunk_is_named_and_never_drawn(tmp_path: Path, damage: str) -> None:
    tiny = tiny_archive(tmp_path, random_vectors((300, 40), 8), at=(1400 * 256, 130 * 256))
    for path in chunk_files(tiny.store.location)[:1]:
        body = bytearray(path.read_bytes())
        body[1000] ^= 4
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(bytes(body) if damage == "a bit" else bytes(body[:5000]))
    store = open_store(tiny.store.location)
    with pytest.raises(Corrupt, match=r"31N/embeddings, chunk 7/28\d\d/260/0"):
        store.read(Zone(31), YEAR, tiny.rows, tiny.cols)
    rows = np.arange(tiny.rows.start, tiny.rows.stop)
    with pytest.raises(Corrupt, match=r"31N/embeddings, chunk 7/28\d\d/260/0"):
        store.sample(Zone(31), YEAR, rows, np.full(len(rows), tiny.col))


@pytest.mark.parametrize("part", ["snapshots", "manifests", "refs"])
def test_a_store_cut_short_says_so(tmp_path: Path, part: str) -> None:
    tiny = tiny_archive(tmp_path, random_vectors((30, 30), 8))
    for path in (Path(tiny.store.location) / part).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:20]) if part != "refs" else path.unlink()
    with pytest.raises(Corrupt, match=r"tiny\.icechunk"):
        open_store(tiny.store.location).read(Zone(31), YEAR, tiny.rows, tiny.cols)


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(NotFound):
        open_store(tmp_path / "nowhere.icechunk")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match="no store of embeddings"):
        open_store(tmp_path / "folder")
    (tmp_path / "empty.icechunk").mkdir()
    with pytest.raises(Corrupt, match="cut short"):
        open_store(tmp_path / "empty.icechunk")


def test_a_block_must_be_whole() -> None:
    with pytest.raises(InvalidInput, match="256"):
        BlockData(FLIPPED, YEAR, Vectors.empty((BLOCK, 9), 4), Counts.zeros((BLOCK, 9)), "a" * 64)
