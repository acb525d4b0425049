"""Caches bounded in bytes: what stays, what goes, and what is made once for many."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.cache import ByteCache


def test_the_least_used_goes_first_and_the_bytes_stay_within_the_limit() -> None:
    cache: ByteCache[bytes] = ByteCache(30, len)
    for key in "abc":
        cache.put(key, b"x" * 10)
    assert cache.get("a") is not None
    cache.put("d", b"x" * 10)
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
    assert cache.use().bytes == 30


def test_what_is_larger_than_all_of_it_is_not_kept() -> None:
    cache: ByteCache[bytes] = ByteCache(30, len)
    cache.put("a", b"x" * 10)
    assert cache.made("big", lambda: b"x" * 31) == b"x" * 31
    assert cache.get("big") is None
    assert cache.get("a") is not None


def test_many_who_ask_at_once_have_it_made_once() -> None:
    cache: ByteCache[bytes] = ByteCache(100, len)
    started, calls = threading.Barrier(8), []
    go = threading.Event()

    def make() -> bytes:
        calls.append(1)
        go.wait(5)
        return b"made"

    def ask() -> bytes:
        started.wait(5)
        return cache.made("key", make)

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask) for _ in range(8)]
        threading.Timer(0.1, go.set).start()
        assert {answer.result(5) for answer in answers} == {b"made"}
    assert len(calls) == 1
    assert (cache.use().hits, cache.use().misses) == (7, 1)


def test_an_error_reaches_all_and_is_forgotten() -> None:
    cache: ByteCache[bytes] = ByteCache(100, len)

    def fail() -> bytes:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.made("key", fail)
    assert cache.made("key", lambda: b"yes") == b"yes"


def test_only_what_is_missing_is_made_and_in_one_go() -> None:
    cache: ByteCache[str] = ByteCache(100, len)
    cache.put("b", "kept")
    asked: list[list[str]] = []

    def make(keys: list[str]) -> list[str]:
        asked.append(keys)
        return [key.upper() for key in keys]

    assert cache.many(["a", "b", "c", "a"], make) == ["A", "kept", "C", "A"]
    assert asked == [["a", "c"]]
