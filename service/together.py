"""Several threads at one piece of work: as many as there are cores, where the cores have nothing else to do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Generic, TypeVar

T = TypeVar("T")
P = TypeVar("P")


def together(work: Callable[[Iterator[P]], T], parts: list[P]) -> list[T]:
    """`work` done by several threads, this one among them, on parts that they take from one queue.

    The calling thread waits for no helper that has not begun: where the cores are busy it does all by itself. Where
    one fails the others stop at their next part.

    Args:
        work: Called once by each thread, with the parts it takes; those may be none.
        parts: What there is to do; two threads never get the same.

    Returns:
        What each call returned, that of this thread first.
    """
    queue = _Queue(parts)

    def one() -> T:
        try:
            return work(queue)
        finally:
            queue.end()

    few = min(cores(), len(parts)) - 1
    others: list[Future[T]] = [_pool().submit(one) for _ in range(few)]
    found = [one()]
    return found + [other.result() for other in others if not other.cancel()]  # cancelled: it never began, for nothing


class _Queue(Generic[P]):
    """Parts that several threads take turns to take."""

    def __init__(self, parts: Iterable[P]) -> None:
        self._parts = iter(parts)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[P]:
        return self

    def __next__(self) -> P:
        with self._lock:
            return next(self._parts)

    def end(self) -> None:
        """Give out no more."""
        with self._lock:
            self._parts = iter(())


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, cores() - 1), thread_name_prefix="together")
