"""What stays near of what was fetched over a network: bounded, shared, never of another state, whatever the damage."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.store.generations import Followed, Generations
from service.store.place import Listing
from service.store.records import Record, Records, object_name

KEY = object_name("s3://bucket/a", "one", "31N/scales/c/0/0/0")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def kept(folder: Path, name: str = KEY, part: str = "all") -> Record | None:
    """What another process would find."""
    return Records(folder, 10**9).get(name, part)


def test_a_record_is_found_by_other_processes_whole_or_not_at_all(tmp_path: Path) -> None:
    records = Records(tmp_path, 10**9)
    records.put(KEY, "0-3", Record(b"abc", "etag"))
    assert records.get(KEY, "0-3") == Record(b"abc", "etag")
    records.settle()
    assert kept(tmp_path, part="0-3") == Record(b"abc", "etag")
    assert kept(tmp_path, part="0-4") is None
    assert kept(tmp_path, object_name("s3://bucket/a", "two", "31N/scales/c/0/0/0"), "0-3") is None
    records.forget(KEY)
    assert kept(tmp_path, part="0-3") is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "foreign"])
def test_a_damaged_record_is_none(tmp_path: Path, damage: str) -> None:
    records = Records(tmp_path, 10**9)
    records.put(KEY, "all", Record(bytes(1000), "etag"))
    records.settle()
    (path,) = files(tmp_path)
    text = path.read_bytes()
    wrong = {"cut": text[:-1], "flipped": text[:500] + b"\1" + text[501:], "emptied": b"", "foreign": b"x" * 100}
    path.write_bytes(wrong[damage])
    assert kept(tmp_path) is None
    assert not path.exists()


def test_it_stays_within_its_bound_and_lets_go_of_what_was_used_longest_ago(tmp_path: Path) -> None:
    limit = 100_000
    records = Records(tmp_path, limit)
    names = [object_name("s3://bucket/a", "one", str(i)) for i in range(60)]
    for age, name in enumerate(names[:20]):
        records.put(name, "all", Record(bytes(4000)))
        records.settle()
        then = time.time() - 10_000 + age
        for path in files(tmp_path / name[:2] / name[2:]):
            os.utime(path, (then, then))
    Records(tmp_path, limit).get(names[0], "all")  # used again, by another process
    for name in names[20:]:
        records.put(name, "all", Record(bytes(4000)))
        records.settle()
        assert sum(path.stat().st_size for path in files(tmp_path)) <= limit
    assert kept(tmp_path, names[1]) is None
    assert kept(tmp_path, names[-1]) is not None
    large = Records(tmp_path, limit)
    large.put(KEY, "all", Record(bytes(limit // 2)))  # would drive everything else out
    large.settle()
    assert kept(tmp_path) is None


def test_a_full_disk_costs_speed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path / "near", 10**9)
    real = Path.write_bytes

    def full(path: Path, text: bytes) -> int:
        real(path, text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        records.put(KEY, "all", Record(b"abc"))
        records.settle()
    assert records.get(KEY, "all") == Record(b"abc"), "from memory"
    assert files(tmp_path) == []
    records.put(KEY, "1-2", Record(b"b"))
    records.settle()
    assert files(tmp_path) == [], "it does not try again at once"
    nowhere = Records(Path("/proc/nowhere"), 10**9)
    nowhere.put(KEY, "all", Record(b"abc"))
    nowhere.settle()
    for off in (Records(tmp_path / "off", 0), Records(None, 10**9)):
        off.put(KEY, "all", Record(b"abc"))
        off.settle()
        assert off.get(KEY, "all") == Record(b"abc")
    assert not (tmp_path / "off").exists()


def test_history_is_followed_over_commits_and_restarts(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    changes = {("a", "b"): {"31N/codes": [[0, 1, 2, 0]]}, ("b", "c"): {"31N/scales": [[0, 1, 2]]}, ("c", "d"): None}

    def changed(old: str, new: str) -> dict[str, list[list[int]]] | None:
        told.append((old, new))
        return changes[old, new]

    def at(tip: str) -> Generations:
        return Followed("s3://bucket/x.icechunk", tmp_path, changed).at(tip)  # each time another process

    codes, scales = "31N/codes/c/0/1/2/0", "31N/scales/c/0/1/2"
    assert [at("a").of(key) for key in (codes, scales)] == ["a", "a"]
    assert [at("b").of(key) for key in (codes, scales)] == ["b", "a"]
    assert [at("c").of(key) for key in (codes, scales)] == ["b", "c"]
    assert at("c").of("31N/codes/c/9/9/9/0") == "a"
    assert [at("d").of(key) for key in (codes, scales)] == ["d", "d"], "history is gone: nothing is known"
    assert told == [("a", "b"), ("b", "c"), ("c", "d")]
    (remembered,) = files(tmp_path)
    remembered.write_text(remembered.read_text()[:-9])
    assert at("d").base == "d"


@pytest.mark.parametrize("beside", [True, False])
def test_what_is_near_is_good_while_the_listing_says_so(beside: bool) -> None:
    def names(validator: str, key: str) -> str:
        listing = Listing()
        told = {"utm31/scales": {(0, 0, 0): validator, (0, 0, 1): "b"}}
        listing.tell(told, lambda at: (at[0], *at[-2:]), beside)
        return listing.of(key)

    here, there, nowhere = (f"utm31/embeddings/c/0/0/0/{col}" for col in (0, 1, 2))
    assert names("a", here) == names("a", here) != names("c", here)
    assert (names("a", there) == names("c", there)) == beside, "else each object may hold any pixel"
    assert names("a", nowhere) != names("c", nowhere), "it has no scales beside it"
    assert names("a", "utm31/zarr.json") == names("c", "utm31/zarr.json") == ""


WRITER = """
import sys
from pathlib import Path
from service.store.place import Listing
from service.store.records import Record, Records, object_name
records = Records(Path(sys.argv[1]), 300_000)
for i in range(150):
    name = object_name("s3://bucket/a", "one", str(i % 100))
    found = records.get(name, "all")
    assert found is None or found.body == bytes([i % 100]) * 5000, i
    records.put(name, "all", Record(bytes([i % 100]) * 5000))
records.settle()
"""


@pytest.mark.slow
def test_processes_share_one_folder(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(3)]
    time.sleep(0.5)
    writers.append(subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]))
    writers[0].kill()
    assert [writer.wait(60) for writer in writers[1:]] == [0, 0, 0]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 300_000 * 1.25
