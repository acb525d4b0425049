"""Pixels of many callers share batches: one queue, and a few threads that run the graph.

Callers prepare their own pixels and put them here in parts; each thread takes the part that is due next, and fills the
batch with pixels of the same lengths from whoever has some. Who is due follows self-clocked fair queueing (Golestani
1994): a part is due when the queue's clock has run on by as many pixels as it holds, and the clock stands where the
part that is first has got to. So a caller with one pixel goes ahead of one with a hundred thousand, and nobody waits
for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from service.encoder.engines import Engine, Run
from service.encoder.parts import Part, packed
from service.errors import Unavailable
from service.values import Float32Array, Int64Array

PARTS: Final = 2
"""Parts of one caller that may lie here: one runs, the next is prepared meanwhile."""
MOST_BYTES: Final = 1_000_000_000
"""Prepared pixels that may lie here."""
POLL_S: Final = 0.25
"""How often a caller that waits is asked whether it still wants its answer."""
LINGER_S: Final = 0.005
"""Longest that a batch with room left waits for pixels of others, where there are others; and never above a tenth of
what a run takes."""
NEWEST: Final = 0.1
"""Weight of the newest run in the mean duration of a run."""


@dataclass(frozen=True)
class Use:
    """What the lanes of one encoder have before them, and what they have done."""

    callers: int
    """Calls that are in."""
    pixels: int
    """Pixels of theirs that have no vector yet, prepared or not."""
    run: int
    """Pixels that were run so far."""
    places: int
    """Places in the batches that they were run in: what is above `run` was padding."""


@dataclass(eq=False)
class Call:
    """One caller in the queue. Made by `Lanes.call`."""

    left: int
    """Pixels without a vector, prepared or not."""
    bytes: int
    """Most bytes of its prepared pixels."""
    changed: threading.Condition
    given_up: Callable[[], bool] | None = None
    alone: bool = False
    """Whether no batch holds pixels of this caller and of another."""
    last: int = 0
    """When its newest part is due."""
    came: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    """Seconds until the first of its pixels were run; 0 where none were."""
    parts: list[_Entry] = field(default_factory=list)
    """Those that are not done."""
    error: BaseException | None = None

    def check(self) -> None:
        """Raise what has gone wrong for this caller.

        Raises:
            Unavailable: It gave up, or the encoder was closed.
        """
        if self.error is not None:
            raise self.error
        if self.given_up is not None and self.given_up():
            raise Unavailable("nobody waits for this any more.")

    def wait(self, most: int = 0) -> None:
        """Wait until at most so many parts of this caller are unfinished.

        Raises:
            Unavailable: As `check` does.
        """
        with self.changed:
            while True:
                self.check()
                if len(self.parts) <= most:
                    return
                self.changed.wait(POLL_S)


@dataclass(eq=False)
class _Entry:
    """A part in the queue."""

    part: Part
    call: Call
    due: int
    unfinished: int


Piece = tuple[_Entry, Int64Array]
"""Some pixels of one part, in a batch."""


class Lanes:
    """The queue of one engine and its threads, which start with the first call.

    Args:
        engine: What runs batches.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # To be taken twice by one thread: a lane may be where an encoder that was forgotten is found, and closed.
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._calls: list[Call] = []
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._clock = self._run = self._places = 0
        self._seconds: float | None = None

    def use(self) -> Use:
        """What was done and what waits."""
        with self._lock:
            return Use(len(self._calls), sum(call.left for call in self._calls), self._run, self._places)

    @contextmanager
    def call(
        self,
        pixels: int,
        held: int,
        *,
        patience: float | None = None,
        given_up: Callable[[], bool] | None = None,
        alone: bool = False,
    ) -> Iterator[Call]:
        """A place in the queue. What is left of it when the block ends is forgotten.

        Args:
            pixels: How many it is about.
            held: Most bytes of them that will lie here at a time.
            patience: Seconds it may have to wait for others; None for as long as it takes.
            given_up: Asked now and then, and quick to answer; true once nobody wants the vectors.
            alone: Whether its batches are its own.

        Raises:
            Unavailable: It would have to wait longer, too much lies here already, or the encoder was closed.
        """
        call = Call(pixels, held, threading.Condition(self._lock), given_up, alone)
        with self._lock:
            if patience is not None:
                self._refuse(call, patience)
            while not self._closed and not self._fits(call):
                self._room.wait(POLL_S)
                call.check()
            if self._closed:
                raise Unavailable("the encoder was closed.")
            self._start()
            self._calls.append(call)
        try:
            yield call
        finally:
            with self._lock:
                self._calls.remove(call)
                self._room.notify_all()

    def put(self, call: Call, part: Part, pixels: int) -> None:
        """Hand in a part that covers `pixels` pixels; waits while two parts of this caller lie here.

        Raises:
            Unavailable: The caller gave up, or the encoder was closed.
        """
        call.wait(PARTS - 1)
        with self._lock:
            call.left -= pixels - part.wanted
            if part.wanted:
                call.last = max(self._clock, call.last) + part.wanted
                call.parts.append(_Entry(part, call, call.last, part.wanted))
                self._work.notify_all()

    def close(self) -> None:
        """End the threads after the batches they are at; callers that wait are told."""
        with self._lock:
            self._closed = True
            self._tell(lambda: Unavailable("the encoder was closed."))
            self._work.notify_all()
            self._room.notify_all()
        if threading.current_thread() in self._threads:
            return  # it found the encoder forgotten, maybe with the lock in its hands, which the others need to end
        for thread in tuple(self._threads):
            thread.join()

    def _tell(self, error: Callable[[], BaseException]) -> None:
        """Let every caller that is in fail: each with an error of its own, as each raises it in its own thread."""
        for call in self._calls:
            call.error = call.error or error()
            call.changed.notify_all()

    def _fits(self, call: Call) -> bool:
        return not self._calls or sum(other.bytes for other in self._calls) + call.bytes <= MOST_BYTES

    def _refuse(self, call: Call, patience: float) -> None:
        """As the queue is fair, a caller waits at most for as many pixels of each other as it has itself."""
        others = f"{len(self._calls)} uploads are being encoded"
        if not self._fits(call):
            raise Unavailable(
                f"{others}, and more do not fit into memory.",
                remedy="Try again soon.",
                retry_after=self._wait(min(other.left for other in self._calls)),
            )
        wait = self._wait(call.left)
        if wait > patience:
            raise Unavailable(
                f"{others}, and this one would wait {wait:.0f} s for them.",
                remedy="Try again soon, or send fewer pixels at once.",
                retry_after=wait,
            )

    def _wait(self, pixels: int) -> float:
        """Seconds that others keep so many pixels waiting at most."""
        ahead = sum(min(other.left, pixels) for other in self._calls)
        return ahead * (self._seconds or 0.0) / (self._engine.batch * self._engine.lanes)

    def _start(self) -> None:
        while len(self._threads) < self._engine.lanes:
            name = f"smalti-{self._engine.device}-{len(self._threads)}"
            thread = threading.Thread(target=self._serve, args=(self._engine.lane(),), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, run: Run) -> None:
        """What a lane does. Should it fail, all who wait are told, and the next call starts another in its place."""
        try:
            self._serve_all(run)
        except BaseException as error:
            reason = f"a thread of the encoder failed: {error!r}"[:300]
            with self._lock:
                self._threads.remove(threading.current_thread())
                self._tell(lambda: Unavailable(reason, remedy="Try again."))
            raise

    def _serve_all(self, run: Run) -> None:
        while pieces := self._next():
            started = time.perf_counter()
            errors = self._attempt(run, pieces)
            seconds = time.perf_counter() - started
            with self._lock:
                self._seconds = seconds + (1 - NEWEST) * ((self._seconds or seconds) - seconds)
                for (entry, pixels), error in zip(pieces, errors, strict=True):
                    self._done(entry, len(pixels), error)

    def _attempt(self, run: Run, pieces: list[Piece]) -> list[BaseException | None]:
        """Run a batch; where it fails, each caller's pixels alone, so that nobody suffers from another's."""
        try:
            vectors: Float32Array = run(packed([(entry.part, pixels) for entry, pixels in pieces], self._engine.batch))
            start = 0
            for entry, pixels in pieces:
                entry.part.fill(pixels, vectors[start : start + len(pixels)])
                start += len(pixels)
        except Exception as error:
            if len(pieces) == 1:
                return [error]
            return [found for piece in pieces for found in self._attempt(run, [piece])]
        return [None] * len(pieces)

    def _done(self, entry: _Entry, pixels: int, error: BaseException | None) -> None:
        call = entry.call
        call.error = call.error or error
        call.left -= pixels
        entry.unfinished -= pixels
        self._run += pixels
        if not entry.unfinished:
            call.parts.remove(entry)
        if call.error or not entry.unfinished:
            call.changed.notify_all()

    def _next(self) -> list[Piece]:
        """Wait for pixels, and take a batch of them; empty once closed."""
        until: float | None = None
        with self._lock:
            while not self._closed:
                waiting = sorted(
                    (entry for call in self._calls if not call.error for entry in call.parts if entry.part.fullest),
                    key=lambda entry: entry.due,
                )
                if not waiting:
                    until = None
                    self._work.wait()
                    continue
                now = time.monotonic()
                until = until or now + min(LINGER_S, (self._seconds or 0.0) / 10)
                if now >= until or not self._may_fill(waiting):
                    return self._take(waiting)
                self._work.wait(until - now)
        return []

    def _may_fill(self, waiting: list[_Entry]) -> bool:
        """Whether the next batch has room, and somebody has yet to come with pixels for it."""
        if waiting[0].call.alone:
            return False
        shape = waiting[0].part.fullest or 0
        in_it = [entry for entry in waiting if entry.part.waiting(shape) and not entry.call.alone]
        room = sum(entry.part.waiting(shape) for entry in in_it) < self._engine.batch
        return room and len({id(entry.call) for entry in in_it}) < len(self._calls)

    def _take(self, waiting: list[_Entry]) -> list[Piece]:
        """Pixels of one shape: of the part that is due, then of the others in their order."""
        shape, room = waiting[0].part.fullest or 0, self._engine.batch
        pieces: list[Piece] = []
        first = waiting[0].call
        for entry in waiting:
            if entry.call is not first and (first.alone or entry.call.alone):
                continue
            pixels = entry.part.take(shape, room)
            if len(pixels):
                pieces.append((entry, pixels))
                entry.call.waited = entry.call.waited or time.monotonic() - entry.call.came
                room -= len(pixels)
        self._clock = max(self._clock, waiting[0].due - waiting[0].part.left)
        self._places += self._engine.batch
        return pieces
