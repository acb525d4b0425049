"""A look that is made beside the requests, for all of them together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Glance:
    """One look at a time, by a thread of its own. Who finds that nobody looked for long may wait for it a moment.

    Args:
        look: What is done; what goes wrong in it is its own matter.
        lock: Held meanwhile.
    """

    def __init__(self, look: Callable[[], None], lock: threading.Lock) -> None:
        self._look, self._lock = look, lock
        self._over = threading.Event()
        self._began = float("-inf")

    def begin(self) -> None:
        """Look, unless somebody does. Returns at once."""
        if self._lock.acquire(blocking=False):
            self._over.clear()
            self._began = time.monotonic()
            threading.Thread(target=self._run, daemon=True).start()

    def wait(self, patience: float) -> None:
        """Wait until the look under way is over, or so many seconds have passed since it began."""
        self._over.wait(max(0.0, self._began + patience - time.monotonic()))

    def _run(self) -> None:
        try:
            self._look()
        finally:  # whatever went wrong: else nobody would look again
            self._over.set()
            self._lock.release()
