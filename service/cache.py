"""What was made before, kept up to so many bytes; what is just being made, made once for all who ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from cachetools import LRUCache

from service.values import CacheUse

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteCache(Generic[V]):
    """The values used last, up to so many bytes. Many threads may share one.

    Args:
        limit: Bytes to keep; 0 keeps nothing, and still makes each value once for all who ask meanwhile.
        size: Bytes that a value takes.
    """

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self._size = size
        self._held: LRUCache[Hashable, V] = LRUCache(limit, size)
        self._making: dict[Hashable, Future[V]] = {}
        self._lock = threading.Lock()
        self._hits = self._misses = 0

    @property
    def limit(self) -> int:
        """Bytes to keep."""
        return int(self._held.maxsize)

    def get(self, key: Hashable) -> V | None:
        """What is kept under a key, if anything is."""
        with self._lock:
            found = self._held.get(key)
            self._count(found is not None)
            return found

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value; one that is larger than all that may be kept is let go at once."""
        with self._lock:
            if self._size(value) <= self._held.maxsize:
                self._held[key] = value

    def made(self, key: Hashable, make: Callable[[], V]) -> V:
        """What is kept under a key, or what `make` gives; see `many`."""
        return self.many([key], lambda _: [make()])[0]

    def many(self, keys: Sequence[K], make: Callable[[list[K]], Sequence[V]]) -> list[V]:
        """What is kept under each key; `make` gives the missing ones, all at once and in order.

        Of threads that ask for the same at once one makes it and the others wait. Where that fails, all of them get
        the error, and nothing is kept: the next one tries again.
        """
        found: dict[Hashable, V | Future[V]] = {}
        mine: dict[K, Future[V]] = {}
        with self._lock:
            for key in keys:
                held: V | Future[V] | None = self._held.get(key)
                held = self._making.get(key) if held is None else held
                self._count(held is not None)
                if held is None:
                    held = mine[key] = self._making[key] = Future()
                found[key] = held
        if mine:
            self._make(mine, make)
        return [value.result() if isinstance(value := found[key], Future) else value for key in keys]

    def _make(self, mine: dict[K, Future[V]], make: Callable[[list[K]], Sequence[V]]) -> None:
        try:
            for (key, waiting), value in zip(mine.items(), make(list(mine)), strict=True):
                self.put(key, value)
                waiting.set_result(value)
        except BaseException as error:
            for waiting in mine.values():
                if not waiting.done():
                    waiting.set_exception(error)
            raise
        finally:
            with self._lock:
                for key in mine:
                    del self._making[key]

    def use(self) -> CacheUse:
        """How it was used since the process began, and what it holds now."""
        with self._lock:
            return CacheUse(self._hits, self._misses, int(self._held.currsize))

    def _count(self, hit: bool) -> None:
        if hit:
            self._hits += 1
        else:
            self._misses += 1
