"""What was made before, kept up to so many bytes; what is just being made, made once for all who ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeAlias, TypeVar

from cachetools import LRUCache

from service.values import CacheUse

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_Batch: TypeAlias = Future[dict[Any, V]]
"""What one thread makes at once, for all who wait for any of it: a future for each value would take longer than many
a value."""


class ByteCache(Generic[V]):
    """The values used last, up to so many bytes. Many threads may share one.

    Args:
        limit: Bytes to keep; 0 keeps nothing, and still makes each value once for all who ask meanwhile.
        size: Bytes that a value takes.
    """

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self._size = size
        self._held: LRUCache[Hashable, V] = LRUCache(limit, size)
        self._making: dict[Hashable, _Batch[V]] = {}
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
        found: dict[K, V | _Batch[V]] = {}
        mine: _Batch[V] = Future()
        missing: list[K] = []
        with self._lock:
            for key in keys:
                held: V | _Batch[V] | None = self._held.get(key)
                held = self._making.get(key) if held is None else held
                self._count(held is not None)
                if held is None:
                    held = self._making[key] = mine
                    missing.append(key)
                found[key] = held
        if missing:
            found |= self._make(mine, missing, make)
        return [value.result()[key] if isinstance(value := found[key], Future) else value for key in keys]

    def _make(self, mine: _Batch[V], missing: list[K], make: Callable[[list[K]], Sequence[V]]) -> dict[K, V]:
        try:
            made = dict(zip(missing, make(missing), strict=True))
        except BaseException as error:
            self._settle(missing, {})
            mine.set_exception(error)
            raise
        self._settle(missing, made)
        mine.set_result(made)
        return made

    def _settle(self, missing: Sequence[Hashable], made: Mapping[Any, V]) -> None:
        """Nobody waits any more for what was missing; what was made of it is kept."""
        with self._lock:
            for key in missing:
                del self._making[key]
            for key, value in made.items():
                if self._size(value) <= self._held.maxsize:
                    self._held[key] = value

    def use(self) -> CacheUse:
        """How it was used since the process began, and what it holds now."""
        with self._lock:
            return CacheUse(self._hits, self._misses, int(self._held.currsize))

    def _count(self, hit: bool) -> None:
        if hit:
            self._hits += 1
        else:
            self._misses += 1
