"""One tree of errors, grouped by what the catcher does about them.

Each class has a stable `kind`: clients may match on it, so a kind is never renamed. `api/problems.py` maps
kinds to HTTP statuses and to one problem+json body; the command line prints the same message and remedy.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Final

DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What an operating system says of a full disk: its `errno`."""


class SmaltiError(Exception):
    """Base of everything smalti raises on purpose.

    Args:
        message: What is wrong, naming the thing.
        field: The input field at fault, as the caller wrote it (`pixels[3].s2.bands`), if any.
        remedy: What the caller can do about it, if anything.
    """

    kind: ClassVar[str] = "internal"

    def __init__(self, message: str, *, field: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        return f"{where}{self.message}" + (f" {self.remedy}" if self.remedy else "")


class InvalidInput(SmaltiError, ValueError):
    """The caller sent something that cannot be right. Mend the input and ask again."""

    kind = "invalid-input"


class LimitExceeded(InvalidInput):
    """The input may be right but is larger than this server allows. Ask for less."""

    kind = "limit-exceeded"


class NotFound(SmaltiError, LookupError):
    """No dataset, window, model, query, basis or block of that name."""

    kind = "not-found"


class OutsideBounds(NotFound):
    """The place lies outside everything this dataset can hold."""

    kind = "outside"


class IdentityMismatch(SmaltiError):
    """Vectors of two different models would meet. They are never compared, merged or searched together."""

    kind = "identity-mismatch"


class ReadOnly(SmaltiError):
    """The dataset cannot be written to."""

    kind = "read-only"


class Conflict(SmaltiError):
    """Somebody else changed the same block. Read it again and repeat."""

    kind = "conflict"


class Corrupt(SmaltiError):
    """Stored bytes cannot be read or contradict their own metadata. Names the file or array."""

    kind = "corrupt"


class BadSource(Corrupt):
    """A catalogue of scenes, or a file that it names, is not what it is said to be. Names it, and what is wrong."""

    kind = "bad-source"


class Unavailable(SmaltiError):
    """Something needed is not there now: a model file, an index, a device, room. Repeat once it is.

    Args:
        message: As of every error.
        field: As of every error.
        remedy: As of every error.
        retry_after: Seconds until it may be there, where all that is wrong is that much is asked for at once.
    """

    kind = "unavailable"

    def __init__(
        self, message: str, *, field: str | None = None, remedy: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, field=field, remedy=remedy)
        self.retry_after = retry_after


class Unauthorized(SmaltiError):
    """No valid API key was given where one is needed."""

    kind = "unauthorized"


class Forbidden(SmaltiError):
    """The caller is known, or comes from elsewhere, and may not do this."""

    kind = "forbidden"
