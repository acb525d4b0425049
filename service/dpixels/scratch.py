"""Arrays too large for memory: they lie in files without a name, which are gone as soon as nobody holds them."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from service.dpixels.value import Number
from service.errors import Unavailable

SMALL: Final = 8_000_000
"""Bytes up to which memory is the simpler place."""
_COLUMNS: Final = 16
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def on_disk() -> Iterator[None]:
    """Say in words that the disk is full.

    Raises:
        Unavailable: It is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise Unavailable(
            "there is no room on disk to unpack this upload.",
            field="body",
            remedy="Send less at once, or try again later; operators: TMPDIR names the folder.",
        ) from None


def spool() -> IO[bytes]:
    """A file that lies in memory while it is small."""
    return tempfile.SpooledTemporaryFile(max_size=SMALL)


def zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Number:
    """An array of zeros to write into, in memory or, where it is large, in a file.

    Raises:
        Unavailable: The disk is full.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
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
