"""Pieces of work that Dask's workers and other processes are given in tests: they must be able to import them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from service.errors import Corrupt


def squared(number: int) -> int:
    return number * number


def deadly_once(task: tuple[int, str]) -> int:
    """Ends the process that does it, the first time that it is done."""
    number, folder = task
    marker = Path(folder) / f"died-{number}"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return number * number


def deadly(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def complaining(number: int) -> int:
    raise Corrupt(f"piece {number} is broken.", field="piece")
