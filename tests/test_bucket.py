"""A folder and a bucket do the same, and what goes wrong is told apart."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from service import shelf as shelf_module
from service.bucket import Bucket, open_bucket, require_conditional_puts, trouble
from service.bucket.folder import FolderBucket
from service.bucket.objects import ObjectBucket
from service.errors import Corrupt, InvalidInput, LimitExceeded, NotFound, ReadOnly, SmaltiError, Unavailable
from service.shelf import Shelf
from tests.services import S3

FOLDERS = st.sampled_from(["", "a/", "b/", "a/2024-05-01..2024-09-30/"])
KEYS = st.builds(lambda folder, name: folder + name, FOLDERS, st.sampled_from(["x.json", "y@1~z", "_w-3", "n.faiss"]))
BODIES = st.binary(max_size=40)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "put_new"]), KEYS, BODIES),
        st.tuples(st.sampled_from(["get", "delete", "download"]), KEYS, st.just(b"")),
        st.tuples(st.just("upload"), KEYS, BODIES),
        st.tuples(st.sampled_from(["names", "folders"]), FOLDERS, st.just(b"")),
    ),
    max_size=30,
)


def memory() -> ObjectBucket:
    store = MemoryStore()
    return ObjectBucket("s3://memory", store, store).at("prefix")


def done(bucket: Bucket, what: tuple[str, str, bytes], scratch: Path) -> object:
    """What an operation gives, or the class of what it raises."""
    name, key, body = what
    file = scratch / "file"
    file.unlink(missing_ok=True)
    try:
        if name in ("put", "put_new"):
            return getattr(bucket, name)(key, body)
        if name == "upload":
            file.write_bytes(body)
            return bucket.upload(file, key)
        if name == "download":
            bucket.download(key, file)
            return file.read_bytes()
        return getattr(bucket, name)(key.rstrip("/"))
    except SmaltiError as error:
        return type(error)


def compare(ours: Bucket, other: Bucket, operations: list[tuple[str, str, bytes]], scratch: Path) -> None:
    model: dict[str, bytes] = {}
    for what in operations:
        name, key, body = what
        answers = done(ours, what, scratch), done(other, what, scratch)
        assert answers[0] == answers[1], what
        if name in ("get", "download"):
            assert answers[0] == model.get(key, NotFound)
        if name in ("put", "upload") or (name == "put_new" and key not in model):
            model[key] = body
        if name == "delete":
            model.pop(key, None)
    for folder in ("", "a", "b", "a/2024-05-01..2024-09-30"):
        below = [key.removeprefix(f"{folder}/" if folder else "") for key in model if key.startswith(folder)]
        below = [key for key in below if not folder or f"{folder}/{key}" in model]
        for bucket in (ours, other):
            assert bucket.names(folder) == sorted(key for key in below if "/" not in key)
            assert bucket.folders(folder) == sorted({key.split("/")[0] for key in below if "/" in key})


@given(OPERATIONS)
@settings(max_examples=100, deadline=None)
def test_a_folder_and_a_bucket_do_the_same(operations: list[tuple[str, str, bytes]]) -> None:
    with TemporaryDirectory() as folder:
        compare(FolderBucket(Path(folder, "own")), memory(), operations, Path(folder))


@pytest.mark.slow
def test_so_does_a_bucket_behind_http(s3: S3, tmp_path: Path) -> None:
    numbers = iter(range(1000))

    @given(OPERATIONS)
    @settings(max_examples=15, deadline=None)
    def run(operations: list[tuple[str, str, bytes]]) -> None:
        number = next(numbers)
        compare(FolderBucket(tmp_path / f"{number}"), open_bucket(s3.place(f"model-{number}")), operations, tmp_path)

    run()


@pytest.mark.parametrize("make", [lambda folder: FolderBucket(folder), lambda _: memory()])
def test_of_many_who_put_a_new_object_one_does(make: Callable[[Path], Bucket], tmp_path: Path) -> None:
    bucket = make(tmp_path)
    start = threading.Barrier(8)

    def put(number: int) -> bool:
        start.wait()
        return bucket.put_new("pointer", b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(8)))
    assert won.count(True) == 1
    assert bucket.get("pointer") == b"%d" % won.index(True)


def test_objects_and_folders_come_and_go_under_many_hands(tmp_path: Path) -> None:
    bucket = FolderBucket(tmp_path)

    def churn(number: int) -> None:
        for _ in range(60):
            bucket.put(f"deep/er/{number}", b"x")
            assert bucket.get(f"deep/er/{number}") == b"x"
            bucket.delete(f"deep/er/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))
    assert bucket.folders() == []


@pytest.mark.parametrize("key", ["", "/", "a//b", "../x", "a/../b", ".hidden", "a/.b", "a b", "ä", "x/", "/x", "a\nb"])
def test_what_is_no_key_is_refused_by_both(key: str, tmp_path: Path) -> None:
    for bucket in (FolderBucket(tmp_path), memory()):
        for ask in (bucket.get, bucket.delete, lambda k, b=bucket: b.put(k, b"")):
            with pytest.raises(InvalidInput):
                ask(key)


@pytest.mark.parametrize(
    "location", ["gs://bucket/x", "https://host/x", "s3://", "s3:///x", "s3://user@host/x", "s3://b/../x"]
)
def test_what_is_no_place_is_refused(location: str) -> None:
    with pytest.raises(InvalidInput):
        open_bucket(location)


def test_a_write_that_is_cut_short_leaves_nothing_to_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = FolderBucket(tmp_path)
    bucket.put("x", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="nothing was changed: No space left"):
        bucket.put("x", b"new")
    assert bucket.get("x") == b"old"
    assert bucket.names() == ["x"]
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    bucket = FolderBucket(tmp_path)
    assert bucket.put_new("x", b"1")
    assert not bucket.put_new("x", b"2")
    assert bucket.get("x") == b"1"


def test_large_files_travel_whole(tmp_path: Path) -> None:
    body = os.urandom(1000) * 33_000  # three pieces
    (tmp_path / "in").write_bytes(body)
    for number, bucket in enumerate((FolderBucket(tmp_path / "own"), memory())):
        bucket.upload(tmp_path / "in", "large")
        bucket.download("large", tmp_path / f"{number}")
        assert (tmp_path / f"{number}").read_bytes() == body


@pytest.mark.parametrize(
    ("text", "writing", "kind", "says"),
    [
        ("404 <Code>NoSuchBucket</Code>", False, Unavailable, "no such bucket. Make it"),
        ("403 Forbidden <Code>InvalidAccessKeyId</Code>", True, Unavailable, "AWS_ACCESS_KEY_ID"),
        ("403 Forbidden <Code>SignatureDoesNotMatch</Code>", False, Unavailable, "AWS_SECRET_ACCESS_KEY"),
        ("403 Forbidden <Code>AccessDenied</Code>", True, ReadOnly, "do not allow it"),
        ("403 Forbidden <Code>AccessDenied</Code>", False, Unavailable, "what these credentials may do"),
        ("an error occurred while loading credentials", False, Unavailable, "AWS_SKIP_SIGNATURE"),
        ("<Code>PermanentRedirect</Code>", False, Unavailable, "AWS_REGION"),
        ("tcp connect error", False, Unavailable, "AWS_ENDPOINT_URL"),
    ],
)
def test_each_trouble_has_its_remedy(text: str, writing: bool, kind: type[SmaltiError], says: str) -> None:
    error = trouble("s3://b/x", text, writing=writing)
    assert type(error) is kind
    assert str(error).startswith("s3://b/x")
    assert says in str(error)


def test_a_store_that_ignores_conditions_is_refused() -> None:
    class Careless(ObjectBucket):
        def put_new(self, key: str, body: bytes) -> bool:
            self.put(key, body)
            return True

    store = MemoryStore()
    with pytest.raises(Unavailable, match="conditions"):
        require_conditional_puts(Careless("s3://careless", store, store))
    careful = memory()
    require_conditional_puts(careful)
    assert careful.names() == []


class Counting:
    """A bucket that counts what is asked of it."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        what = getattr(self._bucket, name)

        def ask(*arguments: Any) -> Any:
            self.asked.append(" ".join([name, *(a for a in arguments if isinstance(a, str))]))
            return what(*arguments)

        return ask if callable(what) else what


def test_a_shelf_asks_for_a_document_once_and_for_a_name_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = memory()
    counting = Counting(bucket)
    shelf, other = Shelf(counting, "basis"), Shelf(bucket, "basis")
    first, second = other.put({"a": 1}, "default"), other.put({"a": 2})
    for _ in range(5):
        assert shelf.get("default") == (first, {"a": 1})
    assert counting.asked == ["get names/default", f"get {first}.json"]
    other.put({"a": 2}, "default")
    assert shelf.get("default")[0] == first, "believed for a second"
    monkeypatch.setattr(shelf_module, "NAME_HOLDS_S", -1.0)
    assert shelf.get("default") == (second, {"a": 2})
    shelf.get("default")[1]["a"] = 3
    assert shelf.get("default") == (second, {"a": 2}), "what was handed out is the caller's own"


def test_a_name_that_was_not_there_is_seen_once_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = memory()
    shelf, other = Shelf(bucket, "basis"), Shelf(bucket, "basis")
    with pytest.raises(NotFound):
        shelf.get("default")
    other.put({"a": 1}, "default")
    assert shelf.names() == {}, "and the list does not fail over it"
    monkeypatch.setattr(shelf_module, "NAME_HOLDS_S", -1.0)
    assert shelf.names() == other.names() != {}


def test_the_memory_of_a_shelf_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "KEPT_BYTES", 100)
    shelf = Shelf(memory(), "query")
    keys = [shelf.put({"number": number}) for number in range(20)]
    assert [shelf.get(key)[1]["number"] for key in keys] == list(range(20))
    assert shelf._kept_bytes == sum(map(len, shelf._kept.values())) <= 100
    monkeypatch.setattr(shelf_module, "KEPT_BYTES", 0)
    assert shelf.get(keys[0])[1] == {"number": 0}


def test_a_full_shelf_takes_what_it_has_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "MAX_DOCUMENTS", 3)
    bucket = memory()
    keys = [Shelf(bucket, "query").put({"number": number}) for number in range(3)]
    full = Shelf(bucket, "query")
    assert full.put({"number": 1}) == keys[1]
    with pytest.raises(LimitExceeded, match="no room"):
        full.put({"number": 9})
    bucket.delete(f"{keys[0]}.json")
    assert full.put({"number": 9})


def test_a_document_changed_in_the_bucket_is_corrupt() -> None:
    bucket = memory()
    shelf = Shelf(bucket, "query")
    key = shelf.put({"a": 1})
    bucket.put(f"{key}.json", b'{"a":2}')
    with pytest.raises(Corrupt, match=key):
        shelf.get(key)
    bucket.put("names/evil", b"../../x")
    with pytest.raises(NotFound):
        shelf.get("evil")
