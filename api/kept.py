"""Finished tiles, kept in memory under their validators, and each made once for all who ask at the same time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from anyio import CapacityLimiter, CapacityLimiterStatistics, to_thread

from service.cache import ByteCache
from service.values import VALID, CacheUse

LARGEST_SHARE: Final = 32
"""A tile of numbers may take 33 MB: what takes more than this part of the cache is not kept."""
FAR_AT_ONCE: Final = 16
"""Pictures made at once from stores on other machines, which mostly wait."""
_OVERHEAD: Final = 1000
"""Bytes that an entry takes beside its content."""


@dataclass(frozen=True)
class Tile:
    """A finished tile."""

    content: bytes = field(repr=False)
    """The file."""
    headers: dict[str, str]
    """What it tells of itself: `Content-Type`, `Content-Bbox`, `Content-Crs`."""
    statuses: frozenset[int] = frozenset({VALID})
    """Of its pixels, where none of them shows a vector."""


class Kept:
    """The tiles used last, up to so many bytes. Belongs to the event loop: nothing here reads or waits in it.

    Pictures are made in threads, on this machine no more at once than it has cores and one: more only take turns, and
    all of them take longer. Whoever comes first is served first.

    Args:
        limit: Bytes to keep; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self._tiles: ByteCache[Tile] = ByteCache(limit, lambda tile: len(tile.content) + _OVERHEAD)
        self._largest = limit // LARGEST_SHARE
        self._making: dict[str, asyncio.Task[Tile]] = {}
        self._joined = 0
        self._near = CapacityLimiter(len(os.sched_getaffinity(0)) + 1)
        self._far = CapacityLimiter(FAR_AT_ONCE)

    async def made(self, tag: str, make: Callable[[], Tile], *, far: bool) -> Tile:
        """The tile of a validator, or what `make` gives.

        Of requests for the same at once one makes it; that it leaves keeps nobody else from having it. Where it fails
        all of them get the error, and nothing is kept.

        Args:
            tag: Stands for all that the tile depends on.
            make: Makes it; runs in a thread.
            far: Whether it reads from another machine.
        """
        making = self._making.get(tag)
        if making is not None:
            self._joined += 1
            return await asyncio.shield(making)
        found = self._tiles.get(tag)
        if found is not None:
            return found
        making = self._making[tag] = asyncio.create_task(self._make(tag, make, far=far))
        making.add_done_callback(partial(self._end, tag))
        return await asyncio.shield(making)

    def held(self, tag: str) -> Tile | None:
        """The tile of a validator, if it is kept."""
        return self._tiles.get(tag)

    async def alone(self, make: Callable[[], Tile], *, far: bool) -> Tile:
        """What `make` gives, for nobody else and not kept."""
        return await to_thread.run_sync(make, limiter=self._far if far else self._near)

    async def _make(self, tag: str, make: Callable[[], Tile], *, far: bool) -> Tile:
        tile = await self.alone(make, far=far)
        if len(tile.content) <= self._largest:
            self._tiles.put(tag, tile)
        return tile

    def _end(self, tag: str, making: asyncio.Task[Tile]) -> None:
        del self._making[tag]
        if not making.cancelled():
            making.exception()  # else asyncio complains where all who asked are gone

    def pictures(self) -> dict[str, CapacityLimiterStatistics]:
        """How many pictures of stores that are near and far are being made, and how many wait for their turn."""
        return {"near": self._near.statistics(), "far": self._far.statistics()}

    def use(self) -> CacheUse:
        """How it was used; those who waited for another's tile count as hits."""
        use = self._tiles.use()
        return CacheUse(use.hits + self._joined, use.misses, use.bytes)
