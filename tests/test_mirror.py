"""An index that is published in one place and copied to another: always whole, always the newest, never in the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from indexing.fleet.share import Share
from indexing.index import mirror as mirroring
from indexing.index.build import build_index
from indexing.index.manifest import FileRecord, SegmentRecord, current, home_of, load
from indexing.index.mirror import Mirror, build_published, publish, published
from indexing.index.opened import OpenedIndex, Serving
from indexing.index.segment import SegmentTask
from indexing.index.sent import fetch_segment, make_there, send_quantiser
from indexing.question import Question
from indexing.search import Searcher
from service.bucket import Bucket
from service.bucket.folder import FolderBucket
from service.errors import Conflict, Corrupt, NotFound, Unavailable
from service.queries import Query
from tests.fakes import IDENTITY, MemoryStore
from tests.test_indexing import YEAR, landscape

STORE = landscape(side=100, dims=16)
QUERY = Query.of(IDENTITY, np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32))


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return FolderBucket(tmp_path / "published")


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr("indexing.index.learn.HELD_OUT", 40)


def build(tmp_path: Path, bucket: Bucket, store: MemoryStore = STORE) -> str:
    """Build anew and publish; the name of the generation."""
    build_published(store, "d", YEAR, tmp_path / "scratch", bucket, rebuild=True)
    return str(published(bucket, YEAR))


def settled(mirror: Mirror, name: str) -> Path:
    """Look as searches do until a generation is here."""
    until = time.monotonic() + 60
    while True:
        mirror.look(YEAR)
        held = current(mirror.folder, YEAR)
        if held and held.name == name:
            return held
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_replica_answers_from_its_copy_and_follows_the_next(tmp_path: Path, bucket: Bucket) -> None:
    mirror = Mirror(tmp_path / "copies", bucket)
    searcher = Searcher(STORE, "d", mirror)
    assert searcher.search(Question(QUERY, YEAR, 5)).engine == "exact", "nothing is published yet"
    assert not mirror.folder.exists()

    first = build(tmp_path, bucket)
    copy = settled(mirror, first)
    assert load(copy) == load(tmp_path / "published" / "2024" / first)
    found = searcher.search(Question(QUERY, YEAR, 5))
    assert found.engine == "index"
    assert searcher.is_current(YEAR)

    second, third = build(tmp_path, bucket), ""
    settled(mirror, second)
    assert [h.score for h in searcher.search(Question(QUERY, YEAR, 5)).hits] == [h.score for h in found.hits]
    third = build(tmp_path, bucket)
    settled(mirror, third)
    until = time.monotonic() + 60
    while {path.name for path in (mirror.folder / "2024").glob("g-*")} != {second, third}:
        assert time.monotonic() < until, "one back is kept, what is older goes once the next is pointed at"
        time.sleep(0.01)


def test_what_nothing_points_at_is_removed_an_hour_later(tmp_path: Path, bucket: Bucket) -> None:
    build(tmp_path, bucket)
    old = (datetime.now(UTC) - timedelta(hours=2)).strftime("g-%Y%m%dT%H%M%SZ-00000000")
    sending = (datetime.now(UTC) - timedelta(minutes=30)).strftime("g-%Y%m%dT%H%M%SZ-00000000")
    for name in (old, sending):
        segment = f"s-{name[-8:]}" if name == old else "s-sent"
        document = bucket.get(f"2024/{published(bucket, YEAR)}/manifest.json").decode()
        held = load(tmp_path / "scratch" / "2024" / str(published(bucket, YEAR))).segments[0].name
        bucket.put(f"2024/{name}/manifest.json", document.replace(held, segment).encode())
        bucket.put(f"2024/{segment}/lists.bin", b"x")
    first = published(bucket, YEAR)
    second = build(tmp_path, bucket)
    left = set(bucket.folders("2024"))
    assert {name for name in left if name.startswith("g-")} == {sending, first, second}
    assert "s-sent" in left, "what is being sent is not cleared away"
    assert "s-00000000" not in left
    for name in (first, second):
        manifest = load(tmp_path / "published" / "2024" / str(name))
        assert {manifest.quantiser.name, *(each.name for each in manifest.segments)} <= left


def test_a_published_index_that_is_not_what_it_says_is_not_taken(tmp_path: Path, bucket: Bucket) -> None:
    mirror = Mirror(tmp_path / "copies", bucket)
    good = build(tmp_path, bucket)
    settled(mirror, good)
    bad = build(tmp_path, bucket)
    segment = load(tmp_path / "published" / "2024" / bad).segments[0]
    (key,) = (f"2024/{segment.name}/{file.key}" for file in segment.files if file.name == "lists.bin")
    whole = bucket.get(key)
    bucket.put(key, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Corrupt, match="was changed"):
        mirror.fetch(YEAR)
    bucket.delete(key)
    with pytest.raises(Corrupt, match="not whole"):
        mirror.fetch(YEAR)
    held = current(mirror.folder, YEAR)
    assert held == mirror.folder / "2024" / good, "what served goes on serving"
    assert not list(mirror.folder.rglob(".part-*"))
    bucket.put(key, whole)
    settled(mirror, bad)


def test_building_again_elsewhere_cures_what_is_damaged_in_the_bucket(tmp_path: Path, bucket: Bucket) -> None:
    segment = load(tmp_path / "published" / "2024" / build(tmp_path, bucket)).segments[0]
    bucket.put(f"2024/{segment.name}/{segment.files[0].key}", b"damaged")
    assert build_published(STORE, "d", YEAR, tmp_path / "another", bucket).segments[0] == segment
    settled(Mirror(tmp_path / "copies", bucket), str(published(bucket, YEAR)))


def test_what_a_build_that_was_killed_left_is_not_mixed_up_with_what_another_machine_makes(
    tmp_path: Path, bucket: Bucket
) -> None:
    home = home_of(tmp_path / "dead", YEAR)
    theirs = build_index(STORE, "d", YEAR, tmp_path / "dead").quantiser
    path = home / theirs.name / "held-out.npy"
    np.save(path, -np.load(path))  # other bytes of the same inputs: as another processor, or more threads, make them
    other = replace(theirs, files=tuple(FileRecord.of(home / theirs.name / file.name) for file in theirs.files))
    send_quantiser(home, other, bucket)
    home = home_of(tmp_path / "scratch", YEAR)

    def run(_: object, tasks: Sequence[SegmentTask]) -> Iterator[SegmentRecord]:
        for task in tasks:
            assert task.quantiser == theirs
            assert task.name != replace(task, quantiser=other).name, "nor are segments made under the other"
            send_quantiser(home, task.quantiser, bucket)
            record = make_there(STORE, task, bucket)
            fetch_segment(home, record, bucket)
            yield record

    build_published(STORE, "d", YEAR, tmp_path / "scratch", bucket, run=run)
    settled(Mirror(tmp_path / "copies", bucket), str(published(bucket, YEAR)))


@pytest.mark.parametrize("name", [b"../../x", b"g-/../x", b"", b"\xff", b"x" * 5000])
def test_a_pointer_to_nowhere_is_corrupt(name: bytes, bucket: Bucket) -> None:
    bucket.put("2024/current", name)
    with pytest.raises(Corrupt):
        published(bucket, YEAR)


def test_a_damaged_copy_is_fetched_again(tmp_path: Path, bucket: Bucket) -> None:
    mirror = Mirror(tmp_path / "copies", bucket)
    name = build(tmp_path, bucket)
    copy = settled(mirror, name)
    (path,) = copy.parent.glob("s-*/lists.npy")
    path.write_bytes(b"not an index")
    searcher = Searcher(STORE, "d", mirror)
    with pytest.raises(Corrupt):
        searcher.search(Question(QUERY, YEAR, 5))
    settled(mirror, name)
    assert searcher.search(Question(QUERY, YEAR, 5)).engine == "index"


def test_a_copy_cut_short_by_a_kill_is_cleared_away(tmp_path: Path, bucket: Bucket) -> None:
    mirror = Mirror(tmp_path / "copies", bucket)
    left = mirror.folder / "2024" / ".part-left"
    left.mkdir(parents=True)
    settled(mirror, build(tmp_path, bucket))
    assert not left.exists()


def test_searches_go_on_while_the_bucket_is_away(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = Mirror(tmp_path / "copies", bucket)
    settled(mirror, build(tmp_path, bucket))
    searcher = Searcher(STORE, "d", mirror)

    def away(key: str) -> bytes:
        raise Unavailable(f"{key} could not be reached.", remedy="Wait.")

    monkeypatch.setattr(bucket, "get", away)
    for _ in range(20):
        assert searcher.search(Question(QUERY, YEAR, 5)).engine == "index"
        time.sleep(0.01)
    assert [record.levelname for record in caplog.records] == ["WARNING"], "said once, not at every look"
    with pytest.raises(Unavailable):
        build_published(STORE, "d", YEAR, tmp_path / "other", bucket)
    assert not (tmp_path / "other").exists(), "told before the work, not after"


def test_looks_are_seldom_and_one_at_a_time(tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "LOOK_AGAIN_S", 3600.0)
    mirror = Mirror(tmp_path / "copies", bucket)
    fetched: list[object] = []
    monkeypatch.setattr(mirror, "fetch", lambda *window: fetched.append(window))
    for _ in range(100):
        mirror.look(YEAR)
    assert fetched == [(YEAR, 1)]


def test_a_generation_that_is_not_there_cannot_be_published(tmp_path: Path, bucket: Bucket) -> None:
    with pytest.raises((Corrupt, NotFound)):
        publish(tmp_path / "2024" / "g-none", bucket)
    assert published(bucket, YEAR) is None


def test_nothing_points_at_a_generation_that_was_cleared_away_while_it_was_sent(
    tmp_path: Path, bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(tmp_path, bucket)
    upload = bucket.upload

    def cleared(path: Path, key: str) -> None:
        upload(path, key)
        if ".faiss" in key:
            bucket.delete(key)

    monkeypatch.setattr(bucket, "upload", cleared)
    with pytest.raises(Conflict, match="cleared away"):
        build(tmp_path, bucket)
    assert published(bucket, YEAR) == first


def test_a_replica_copies_only_the_segments_it_is_given(tmp_path: Path, bucket: Bucket) -> None:
    store = landscape(side=200, dims=16)  # four blocks
    scratch = tmp_path / "scratch"
    build_index(store, "d", YEAR, scratch, most_blocks=1)
    generation = current(scratch, YEAR)
    assert generation is not None
    publish(generation, bucket)
    whole = OpenedIndex.of(current(scratch, YEAR) or generation, store, "d", YEAR)
    share = Share(0, 2)
    mine = whole.manifest.held_by(share)
    assert len(mine) == 2
    mirror = Mirror(tmp_path / "copies", bucket, share)
    mirror.fetch(YEAR)
    assert {path.name for path in (mirror.folder / "2024").glob("s-*")} == mine
    index = Serving(store, "d", mirror).index(YEAR)
    assert index is not None
    assert {index.segments[number].name for number in index.held} == mine
    (away, *_) = [segment for segment in index.segments if segment.name not in mine]
    assert index.block(away.record.blocks[0][0]) is None
    asked = QUERY.direction[None].astype(np.float32)
    with pytest.raises(Unavailable, match=away.name):
        index.propose(asked, 10, 4)
    (part,), (all_of_it,) = index.propose(asked, 10_000, 16, segments=index.held), whole.propose(asked, 50_000, 16)
    wanted = np.isin(all_of_it.segment, index.held)
    assert part.position.tolist() == all_of_it.position[wanted][:10_000].tolist()
    assert index.rows(part)[0].tolist() == whole.ids(all_of_it)[wanted][:10_000].tolist()


def test_growth_sends_and_fetches_only_what_is_new(
    tmp_path: Path, bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = landscape(side=200, dims=16)
    build_published(store, "d", YEAR, tmp_path / "scratch", bucket)
    mirror = Mirror(tmp_path / "copies", bucket)
    mirror.fetch(YEAR)
    first = load(current(mirror.folder, YEAR) or tmp_path)
    store.add(np.full((5, 5, 16), 3, np.int8), np.ones((5, 5)), store.zones()[0], YEAR, 256 * 1405, 256 * 120)
    sent: list[str] = []
    upload, download = bucket.upload, bucket.download
    monkeypatch.setattr(bucket, "upload", lambda path, key: (sent.append(key), upload(path, key)))
    build_published(store, "d", YEAR, tmp_path / "scratch", bucket)
    fetched: list[str] = []
    monkeypatch.setattr(bucket, "download", lambda key, path: (fetched.append(key), download(key, path)))
    mirror.fetch(YEAR)
    second = load(current(mirror.folder, YEAR) or tmp_path)
    new = {segment.name for segment in second.segments} - {segment.name for segment in first.segments}
    assert new
    folders = {key.split("/")[1] for key in sent}
    assert {name for name in folders if not name.startswith("g-")} == new
    assert {key.split("/")[1] for key in fetched} == folders
    sent.clear()
    assert build_published(store, "d", YEAR, tmp_path / "scratch", bucket) == second
    assert not sent, "nothing changed, nothing is sent"
