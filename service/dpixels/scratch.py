"""Arrays too large for memory: they lie in files without a name, which are gone as soon as nobody holds them."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from service.dpixels.value import Number
from service.errors import DISK_FULL, LimitExceeded, Unavailable

SMALL: Final = 8_000_000
"""Bytes up to which memory is the simpler place."""
_COLUMNS: Final = 16
SOON_S: Final = 5.0
"""When one that found no room should come again."""


class Room:
    """Bytes that all uploads of a server may take together, in memory and in files.

    A small body may unpack to hundreds of times its size, so it is what they take that is counted, not what was sent.

    Args:
        most: How many; refusals name it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self.taken = 0

    @contextmanager
    def share(self) -> Iterator[None]:
        """Count what this upload takes by `spool` and `zeros`, here and in threads begun here; forgotten at the end."""
        share = _Share(self)
        before = _SHARE.set(share)
        try:
            yield
        finally:
            _SHARE.reset(before)
            self.add(-share.taken)

    def add(self, size: int) -> None:
        """Take `size` bytes, or give them back where it is negative.

        Raises:
            Unavailable: Others have taken too much.
        """
        with self._lock:
            if size > 0 and self.taken + size > self._most:
                raise Unavailable(
                    f"uploads take {self.taken:,} of the {self._most:,} bytes that they may unpack to together.",
                    field="body",
                    remedy="Try again soon; operators: SMALTI_LIMITS__SCRATCH_BYTES.",
                    retry_after=SOON_S,
                )
            self.taken += size

    def check(self, size: int) -> None:
        """Refuse what one upload would take even of an empty room.

        Raises:
            LimitExceeded: It is too much.
        """
        if size > self._most:
            raise LimitExceeded(
                f"takes over {self._most:,} bytes once unpacked and converted.",
                field="body",
                remedy="Send fewer pixels at once.",
            )


class _Share:
    """What one upload has taken so far."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._ahead = 0
        self.taken = 0

    def take(self, size: int, *, ahead: bool = False) -> None:
        more = size if ahead else max(0, size - self._ahead)
        self._ahead += size if ahead else more - size
        self._room.check(self.taken + more)
        self._room.add(more)
        self.taken += more


_SHARE: ContextVar[_Share | None] = ContextVar("share", default=None)


def expect(size: int) -> None:
    """Take room for what is to come at once: of many uploads that unpack together, none might ever find enough of it.

    Raises:
        Unavailable, LimitExceeded: As `spool` and `zeros` do.
    """
    if share := _SHARE.get():
        share.take(size, ahead=True)


class _Spool(tempfile.SpooledTemporaryFile[bytes]):
    """A file that is counted."""

    def write(self, data: Any) -> int:
        if share := _SHARE.get():
            share.take(len(data))
        return super().write(data)


@contextmanager
def on_disk() -> Iterator[None]:
    """Say in words that the disk is full.

    Raises:
        Unavailable: It is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise Unavailable(
            "there is no room on disk for what is sent or made.",
            field="body",
            remedy="Send less at once, or try again later; operators: TMPDIR names the folder.",
        ) from None


def spool() -> IO[bytes]:
    """A file that lies in memory while it is small. Writing raises as `Room.share` does where there is one."""
    return _Spool(max_size=SMALL)


def zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Number:
    """An array of zeros to write into, in memory or, where it is large, in a file.

    Raises:
        Unavailable: The disk is full, or other uploads take what room there is.
        LimitExceeded: It takes more room than there is.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if share := _SHARE.get():
        share.take(size)
    if size <= SMALL:
        return np.zeros(shape, dtype)
    with on_disk(), tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a hole in a full disk would kill the process once written to
        return np.memmap(file, dtype, "r+", shape=shape)


def held(file: IO[bytes], dtype: npt.DTypeLike, offset: int = 0) -> Number:
    """What a file of `spool` holds from `offset` on, as a flat array: read where it lies if it is large.

    Args:
        file: May be closed afterwards.
        dtype: Type of each item.
        offset: Bytes to leave out.
    """
    file.flush()
    size = file.seek(0, os.SEEK_END)
    if size <= SMALL:
        file.seek(offset)
        return np.frombuffer(file.read(), dtype)
    return np.memmap(file, dtype, "r", offset, ((size - offset) // np.dtype(dtype).itemsize,))


def in_c_order(array: Number) -> Number:
    """The same numbers, last axis fastest; copied only if they lie otherwise."""
    if array.flags.c_contiguous:
        return array
    out = zeros(array.shape, array.dtype)
    for start in range(0, array.shape[1], _COLUMNS):  # runs of bytes on both sides, whichever way they lie
        out[:, start : start + _COLUMNS] = array[:, start : start + _COLUMNS]
    return out
