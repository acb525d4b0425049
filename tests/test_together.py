"""Threads that share a piece of work: each part is done once, and nobody waits for a helper that has no core."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from service.together import cores, together


def test_each_part_is_done_once_whoever_does_it() -> None:
    found = together(list[int], list(range(1000)))
    assert sorted(part for one in found for part in one) == list(range(1000))
    assert 1 <= len(found) <= cores()
    assert together(list[int], []) == [[]]


def test_whoever_calls_does_all_of_it_while_the_helpers_are_busy() -> None:
    free, busy = threading.Event(), threading.Semaphore(0)

    def wait(parts: Iterator[int]) -> None:
        for _ in parts:
            busy.release()
            free.wait(60)

    holder = threading.Thread(target=together, args=(wait, list(range(cores()))))
    holder.start()
    for _ in range(cores()):
        busy.acquire(timeout=60)
    try:
        assert together(list[int], [1, 2, 3]) == [[1, 2, 3]]
    finally:
        free.set()
        holder.join(60)


def test_what_fails_is_raised_and_the_others_stop() -> None:
    seen = []

    def work(parts: Iterator[int]) -> None:
        for part in parts:
            seen.append(part)
            if part == 3:
                raise ValueError(part)

    with pytest.raises(ValueError, match="3"):
        together(work, list(range(1_000_000)))
    assert len(seen) < 1_000_000
