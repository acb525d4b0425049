"""What was made before, kept up to so many bytes; what is just being made, made once for all who ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from cachetools import LRUCache

from service.values import CacheUse

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
        """What is kept under a key, or what `make` gives.

        Of threads that ask for the same at once one makes it and the others wait. Where it fails, all of them get the
        error, and nothing is kept: the next one tries again.
        """
        with self._lock:
            found = self._held.get(key)
            other = self._making.get(key)
            self._count(found is not None or other is not None)
            if found is not None:
                return found
            if other is None:
                mine: Future[V] = Future()
                self._making[key] = mine
        if other is not None:
            return other.result()
        try:
            value = make()
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            self.put(key, value)
            mine.set_result(value)
            return value
        finally:
            with self._lock:
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
