"""Pieces of work on their way through three stages: read, encode, write. The stages of different pieces overlap.

While one piece is encoded the next is read and the one before it is written. What lies between is bounded, in pieces
and in bytes, however many pieces there are. Whoever has a piece takes it through in its own thread, so jobs, Dask and
a plain loop all go the same way.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol, TypeVar

from service.errors import Unavailable

PIECES: Final = 3
"""Pieces in hand: one is read while one is encoded and one is written."""
MOST_BYTES: Final = 1_000_000_000
"""What was read and is not encoded yet, and what is being read, at most."""
WRITING: Final = 1
"""Pieces that are written at a time."""


class Weighed(Protocol):
    """What a reader gives."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""


S = TypeVar("S", bound=Weighed)
T = TypeVar("T")
M = TypeVar("M")
R = TypeVar("R")


@dataclass(eq=False)
class _Place:
    """One piece in hand."""

    bytes: int
    """What it holds, or is expected to hold once it is read."""


class Pipeline:
    """The gates between stages. Safe to use from many threads; each brings one piece at a time.

    Args:
        pieces: In hand at a time, at any stage. More where reading waits for a network: all but those that are
            encoded and written are read, or lie read.
        most_bytes: Bound on what is read ahead. A single piece may be larger: it then goes alone.
    """

    def __init__(self, pieces: int = PIECES, most_bytes: int = MOST_BYTES) -> None:
        self.pieces = pieces
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._places: list[_Place] = []
        self._at: Counter[str] = Counter()
        self._largest = self._unbroken = 0
        self.closed = False
        """Whether nothing more is begun."""

    def through(
        self, read: Callable[[], S], encode: Callable[[S], M | None], write: Callable[[M], R], *, at_once: int = 1
    ) -> R | None:
        """Take one piece through. Waits, before it reads, until there is room.

        Args:
            read: Gives what is encoded.
            encode: Gives what is written; None if nothing is to be written after all.
            write: Stores it.
            at_once: Pieces that whatever encodes this one is fed with at the same time.

        Returns:
            What `write` gives; None where nothing was written.

        Raises:
            Unavailable: The pipeline was closed before it was this piece's turn to be encoded.
        """
        with ExitStack() as hand:
            place = hand.enter_context(self._room())
            series = read()
            self._weigh(place, series.nbytes)
            with self._turn("encode", at_once):
                hand.enter_context(self.unbroken())
                made = encode(series)
            del series
            self._weigh(place, 0)
            if made is None:
                return None
            with self._turn("write", WRITING):
                return write(made)

    @contextmanager
    def unbroken(self) -> Iterator[None]:
        """What is begun here is finished even if the pipeline is closed meanwhile.

        Raises:
            Unavailable: It is closed.
        """
        with self._changed:
            self._require_open()
            self._unbroken += 1
        try:
            yield
        finally:
            with self._changed:
                self._unbroken -= 1
                self._changed.notify_all()

    def close(self, patience: float | None = None) -> bool:
        """Begin nothing more, and wait for what was begun.

        Args:
            patience: Seconds to wait; None for as long as it takes.

        Returns:
            Whether all of it is finished.
        """
        with self._changed:
            self.closed = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._unbroken, patience)

    @contextmanager
    def _turn(self, stage: str, most: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._at[stage] < most)
            self._at[stage] += 1
        try:
            yield
        finally:
            with self._changed:
                self._at[stage] -= 1
                self._changed.notify_all()

    @contextmanager
    def _room(self) -> Iterator[_Place]:
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._fits())
            self._require_open()
            place = _Place(self._largest)
            self._places.append(place)
        try:
            yield place
        finally:
            with self._changed:
                self._places.remove(place)
                self._changed.notify_all()

    def _fits(self) -> bool:
        """Whether another piece may be begun; the first goes alone, as nobody knows how large it is."""
        if not self._places:
            return True
        held = sum(place.bytes for place in self._places) + self._largest
        return bool(self._largest) and len(self._places) < self.pieces and held <= self._most_bytes

    def _weigh(self, place: _Place, size: int) -> None:
        with self._changed:
            place.bytes = size
            self._largest = max(self._largest, size)
            self._changed.notify_all()

    def _require_open(self) -> None:
        if self.closed:
            raise Unavailable("this process is about to end, and begins nothing more.", remedy="Try again.")


def each(
    function: Callable[[T], R], tasks: Iterable[T], threads: int
) -> Generator[tuple[T, R | None, Exception | None], None, None]:
    """Do a function to every task in a few threads; what came of each, as they end.

    An error of one does not keep the others from being done. Whoever stops listening leaves undone what was not
    begun, and waits for the rest.

    Args:
        function: Of one task.
        tasks: Taken one by one, as threads become free.
        threads: How many at a time.

    Yields:
        (task, result, None) or (task, None, error).
    """
    left, going = iter(tasks), dict[Future[R], T]()
    with ThreadPoolExecutor(threads, "smalti-piece") as pool:
        while True:
            for task in islice(left, threads - len(going)):
                going[pool.submit(function, task)] = task
            if not going:
                return
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                error, task = future.exception(), going.pop(future)
                if error is not None and not isinstance(error, Exception):
                    raise error  # an interrupt is nobody's outcome
                yield task, None if error else future.result(), error
