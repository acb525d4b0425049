"""Folders that one process holds at a time; the system lets go of them whatever ends the process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ModuleNotFoundError:  # no such locks on Windows
    fcntl = None


def hold(folder: Path) -> int | None:
    """A handle that holds a folder until it is closed; None where there are no locks, as on some network file systems.

    Raises:
        BlockingIOError: Another process, or another handle of this one, holds it.
        FileNotFoundError: There is no such folder.
    """
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle


def let_go(handle: int | None) -> None:
    """End what `hold` began."""
    if handle is not None:
        os.close(handle)
