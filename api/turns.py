"""Uploads take turns: how many are taken in, which threads they get, and what becomes of one that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from anyio import CapacityLimiter, fail_after
from anyio.to_thread import run_sync
from fastapi import Request, Response

from api.metrics import Counted
from api.settings import Limits
from service.dpixels import scratch
from service.errors import SmaltiError, Unavailable

LARGE: Final = 8_000_000
"""Bytes of a body above which few are unpacked and encoded at a time."""
SOON_S: Final = 5.0
"""When one that found no place should come again: most are through by then."""


@dataclass(frozen=True)
class Turn:
    """What an upload knows of its turn."""

    gone: Callable[[], bool]
    """Whether the client has left."""
    waited: float
    """Seconds it waited for a thread."""


class Turns:
    """The uploads of one server.

    They have threads of their own: those that wait for an encoder take none from tiles and searches. Small ones all go
    to the encoder, whose queue is fair and refuses what would wait too long; large ones take memory, disk and time,
    so a few go at once and the others wait, no longer than for an encoder.

    Args:
        limits: How many.
        refused: Counts those that were too many.
    """

    def __init__(self, limits: Limits, refused: Counted) -> None:
        self._refused = refused
        self._most, self._patience = limits.uploads_at_once, limits.encoder_wait
        self.scratch = scratch.Room(limits.scratch_bytes)
        self._threads = CapacityLimiter(limits.uploads_at_once)
        self._large = CapacityLimiter(limits.large_uploads_at_once)
        self._lock = threading.Lock()
        self._here = self._running = 0

    @contextmanager
    def taken_in(self) -> Iterator[None]:
        """Be one of the uploads that are here, until it is answered; what it takes of memory and disk is counted.

        Raises:
            Unavailable: Too many are here already.
        """
        with self._lock:
            if self._here >= self._most:
                self._refused.inc()
                raise Unavailable(
                    f"{self._here} uploads are being taken in or encoded.", remedy="Try again soon.", retry_after=SOON_S
                )
            self._here += 1
        try:
            with self.scratch.share():
                yield
        finally:
            with self._lock:
                self._here -= 1

    async def run(self, request: Request, size: int, work: Callable[[Turn], Response]) -> Response:
        """`work` in a thread, once it is an upload's turn. Of a client that leaves meanwhile, `work` is told.

        Args:
            request: Read to its end.
            size: Of the body, bytes.
            work: Unpacks, encodes and answers.

        Raises:
            Unavailable: It is large, and others as large kept it waiting for too long.
        """
        gone, started = threading.Event(), perf_counter()

        def within() -> Response:
            turn = Turn(gone.is_set, perf_counter() - started)
            if gone.is_set():
                return Response(status_code=499)  # to nobody
            with self._counted():
                try:
                    return work(turn)
                except SmaltiError:
                    if gone.is_set():
                        return Response(status_code=499)  # to nobody
                    raise

        listener = asyncio.create_task(_listen(request, gone))
        try:
            async with self._room(size):
                return await run_sync(within, limiter=self._threads)
        finally:
            listener.cancel()

    @asynccontextmanager
    async def _room(self, size: int) -> AsyncIterator[None]:
        """One of the few places of large uploads; a small one needs none."""
        if size <= LARGE:
            yield
            return
        try:
            with fail_after(self._patience):
                await self._large.acquire()
        except TimeoutError:
            self._refused.inc()
            raise Unavailable(
                f"other large uploads kept this one waiting for {self._patience} s.",
                remedy="Try again soon, or send less than 8 MB at once.",
                retry_after=self._patience,
            ) from None
        try:
            yield
        finally:
            self._large.release()

    def counts(self) -> tuple[int, int]:
        """How many uploads are unpacked and encoded now, and how many arrive, wait or are being answered."""
        with self._lock:
            return self._running, self._here - self._running

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1


async def _listen(request: Request, gone: threading.Event) -> None:
    """After the body, the next that comes from a client is that it leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()
