"""How the C library keeps memory that was given back to it, where that is glibc."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
"""M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX of malloc.h."""
_KEPT: Final = 256 << 20
"""Bytes that were given back and stay with the process."""
_MAPPED: Final = 32 << 20
"""Bytes of an array that is mapped for itself: the most that glibc allows."""
_TOLD: Final = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


def steady(environment: Mapping[str, str]) -> bool:
    """Keep the heap small and warm: one arena for all threads, unless the environment says otherwise.

    glibc gives each thread an arena, up to eight a core, and each keeps what its largest picture took, for itself: with
    two cores, 350 MB beside the 130 that were in use. Threads that make pictures hardly ever wait for an arena: their
    time goes into large arrays. Left to itself glibc gives those back to the system after every picture, and a third of
    the time of the next one goes into getting them again, page by page.

    Returns:
        Whether anything was set.
    """
    if sys.platform != "linux" or any(name in environment for name in _TOLD):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    asked = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _MAPPED), (_TRIM_THRESHOLD, _KEPT))
    return mallopt is not None and all(bool(mallopt(*one)) for one in asked)
