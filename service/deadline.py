"""How long one request may go on reading: a value handed down, looked at between blocks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Self

from service.errors import Unavailable

SOON_S: Final = 10.0
"""When one that ran out of time may come again: what it read may be near by then."""


@dataclass(frozen=True)
class Deadline:
    """A span of wall-clock time that began with the request."""

    seconds: float
    """How long it is; errors name it."""
    end: float
    """When it ends, on the monotonic clock."""

    @classmethod
    def after(cls, seconds: float) -> Self:
        """One that begins now."""
        return cls(seconds, time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds left, 0 where none are."""
        return max(0.0, self.end - time.monotonic())

    def check(self) -> None:
        """Go on only while there is time. Work calls it between blocks.

        Raises:
            Unavailable: There is none left; names the limit.
        """
        if time.monotonic() >= self.end:
            raise Unavailable(
                f"this took longer than the {self.seconds:g} seconds that one request may read for (limit `seconds`).",
                remedy="Ask for less; or again, as what was read may be near by then.",
                retry_after=SOON_S,
            )
