"""How much one piece of work may take: bytes and time, counted as they go."""

from __future__ import annotations

import threading
import time
from typing import Final

from service.errors import LimitExceeded

SMALLER: Final = "Ask for a smaller area."


class Budget:
    """Bytes and time for one piece of work. Threads may share one.

    Args:
        size: Bytes.
        seconds: Time, from now on.
        what: What the limits are of, for errors.
    """

    def __init__(self, size: int, seconds: float, what: str) -> None:
        self._size = size
        self._seconds = seconds
        self._what = what
        self._spent = 0
        self._end = time.monotonic() + seconds
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    @property
    def spent(self) -> int:
        """Bytes."""
        return self._spent

    def spend(self, size: int = 0) -> None:
        """Count bytes that came.

        Raises:
            LimitExceeded: More than allowed came, or the time is over.
        """
        with self._lock:
            self._spent += size
        if self._spent > self._size:
            raise LimitExceeded(f"{self._what} takes more than {self._size:,} bytes.", remedy=SMALLER)
        if self.left <= 0:
            raise LimitExceeded(f"{self._what} takes longer than {self._seconds:g} seconds.", remedy=SMALLER)
