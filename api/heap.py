"""How the C library keeps memory that was given back to it, where that is glibc."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import Final

_ARENA_MAX: Final = -8
"""M_ARENA_MAX of malloc.h."""
_ARENAS: Final = 2
_TOLD: Final = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


def steady(environment: Mapping[str, str]) -> bool:
    """Keep the heap small: two arenas for all threads, unless the environment says otherwise.

    glibc gives each thread an arena, up to eight a core, and each keeps what its largest picture took, for itself: with
    two cores, 350 MB beside the 130 that were in use. Threads that make pictures hardly ever wait for an arena: most of
    their time goes into large arrays, for which two that stay warm take fewer page faults than sixteen.

    Returns:
        Whether anything was set.
    """
    if sys.platform != "linux" or any(name in environment for name in _TOLD):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and bool(mallopt(_ARENA_MAX, _ARENAS))
