"""An end to waiting: the clients below us do not give up on a connection over which nothing comes any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

from icechunk import IcechunkStore
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

PATIENCE: Final = 20.0
"""Seconds for one object or one question; a chunk has about 2 MB."""
COMMIT_PATIENCE: Final = 300.0
"""Seconds for a commit, which may have to be repeated many times while others commit too."""

T = TypeVar("T")


def within(seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, from a thread that runs no loop.

    Raises:
        TimeoutError: It took longer; it was cancelled.
    """
    return sync(asyncio.wait_for(coroutine, seconds))


class PatientStore(WrapperStore[IcechunkStore]):
    """A store over a network, each of whose reads and writes ends in time."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """As zarr has it; TimeoutError where nothing comes."""
        async with asyncio.timeout(PATIENCE):
            return await self._store.get(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """As zarr has it; TimeoutError where nothing comes."""
        async with asyncio.timeout(PATIENCE):
            return await self._store.get_partial_values(prototype, key_ranges)

    async def exists(self, key: str) -> bool:
        """As zarr has it; TimeoutError where nothing comes."""
        async with asyncio.timeout(PATIENCE):
            return await self._store.exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """As zarr has it; TimeoutError where nothing is taken."""
        async with asyncio.timeout(PATIENCE):
            await self._store.set(key, value)
