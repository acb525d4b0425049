"""Looks now and then at which jobs wait or run, and how far sources reach: for all requests together, beside them.

A request waits for that, a moment at most, only where nobody asked for so long that what is known means nothing any
more. While the jobs database cannot be reached, what is empty is told as if no job ran.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from api.glance import Glance
from api.missing import Hope, Outlook, Running
from api.progress import Order
from service.errors import SmaltiError

log = logging.getLogger("smalti.lookout")

LOOK_S: Final = 2.0
"""Seconds that what is known of jobs may be old before it is looked up again."""
REACH_S: Final = 30.0
"""The same of sources, which seldom change; those of a folder take a look at each of its files."""
OLD_S: Final = 2.0
"""Seconds that a look may be overdue until requests wait for it: nobody asked, and no request made it due."""
PATIENCE_S: Final = 0.25
"""How long after its beginning a look is waited for."""
AGAIN_S: Final = 10.0
"""Seconds until a database that could not be reached is asked again."""
_KEPT: Final = 256
"""Windows of datasets whose sources are known at once."""


class Lookout:
    """What is known of jobs, seconds old, and of sources; shared by all requests, and hardly one waits for a look.

    The first question about a dataset's source is answered by looking at once. One that comes when nobody asked for
    long waits a moment for the look that it makes: what was known then may be hours old.

    Args:
        running: The orders of the jobs that wait or run, newest first; may take long, and fail.
        source: What the source of a dataset can do for a window; may fail.
    """

    def __init__(self, running: Callable[[], Mapping[str, Order]], source: Callable[[str, str], Hope]) -> None:
        self._ask, self._hope_of = running, source
        self._glance = Glance(self._look, threading.Lock())
        self._running: tuple[Running, ...] = ()
        self._hopes: dict[tuple[str, str], Hope] = {}
        self._asked: set[tuple[str, str]] = set()
        self._next = float("-inf")
        self._next_reach = time.monotonic() + REACH_S
        self._turn = 0

    def outlook(self, dataset: str, window: str) -> Outlook:
        """What is known of the empty places of one window of a dataset."""
        key = dataset, window
        hope = self._hopes.get(key)
        if hope is None:
            if len(self._hopes) >= _KEPT:
                self._hopes.clear()
            hope = self._hopes[key] = self._looked(key)
        self._asked.add(key)
        overdue = time.monotonic() - self._next
        if overdue >= 0:
            self._glance.begin()
        if overdue >= OLD_S:
            self._glance.wait(PATIENCE_S)
        own = tuple(job for job in self._running if job.dataset == dataset)
        return Outlook(tuple(job for job in own if job.window == window), hope.reach, hope.on_view, bool(own))

    def look_soon(self) -> None:
        """A job was begun or ended here: what is known is too old."""
        self._turn += 1
        self._next = float("-inf")

    def _look(self) -> None:
        turn, wait = self._turn, AGAIN_S
        try:
            wait = self._look_at_jobs()
            if time.monotonic() >= self._next_reach:
                asked, self._asked = self._asked, set()
                self._hopes |= {key: self._looked(key) for key in list(asked)[:_KEPT]}
                self._next_reach = time.monotonic() + REACH_S
        finally:
            self._next = time.monotonic() + wait if turn == self._turn else float("-inf")

    def _look_at_jobs(self) -> float:
        """Find out what is being embedded; seconds until the next look."""
        try:
            self._running = tuple(Running.of(job, order) for job, order in self._ask().items())
            return LOOK_S
        except SmaltiError as error:
            log.info("what is being embedded is not known: %s", error)
            self._running = ()
            return AGAIN_S

    def _looked(self, key: tuple[str, str]) -> Hope:
        try:
            return self._hope_of(*key)
        except (SmaltiError, OSError) as error:
            log.info("how far the source of %s reaches in %s is not known: %s", *key, error)
            return self._hopes.get(key, Hope())
