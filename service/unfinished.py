"""Folders in the making, on the disk where they will stay; what a killed process left of its own is removed."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from service.errors import DISK_FULL, Unavailable
from service.locks import hold, let_go

PREFIX: Final = ".making-"
YOUNG: Final = 60.0
"""Seconds in which a folder may not yet be held by who made it."""


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A folder beside the finished ones, held while something is made in it and then removed with what is left in it.

    Args:
        folder: Where finished ones lie; made if need be. Nothing that begins with PREFIX is one.

    Raises:
        Unavailable: What is made does not fit on the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{PREFIX}*"):
        _remove_if_left(left)
    with tempfile.TemporaryDirectory(dir=folder, prefix=PREFIX) as made:
        held = _hold(Path(made))
        try:
            yield Path(made)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise Unavailable(f"the disk of {folder} is full.", remedy="Make room there, and repeat.") from None
        finally:
            let_go(held)


def _hold(folder: Path) -> int | None:
    """Hold it; None where another does, or where nobody can."""
    try:
        return hold(folder)
    except BlockingIOError:
        return None


def _remove_if_left(folder: Path) -> None:
    try:
        if time.time() - folder.stat().st_mtime < YOUNG or (held := _hold(folder)) is None:
            return
    except FileNotFoundError:  # its maker has just finished
        return
    try:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        let_go(held)
