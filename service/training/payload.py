"""What a file of torch.save holds, read without running anything in it.

A checkpoint is a pickle, and a pickle can run code when it is read. Only tensors and plain values are let through.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, Final

import torch

from service.errors import Corrupt, NotFound

AGAIN: Final = "Download it again; if it is of your own making, save it anew."
"""What to do about a file that is not what it should be."""


class Unread:
    """Stands for a value that plays no part here: makes nothing, keeps nothing."""

    def __init__(self, *_: object) -> None:
        """Whatever it was to be made of."""

    def __setstate__(self, _: object) -> None:
        """Whatever it was to hold."""


_HARMLESS: Final[list[Any]] = [
    argparse.Namespace,
    *(
        (Unread, f"{module}.{name}")
        for module, names in {
            "numpy": ("dtype", "ndarray"),
            "numpy.core.multiarray": ("scalar", "_reconstruct"),
            "numpy._core.multiarray": ("scalar", "_reconstruct"),
            "pathlib": ("Path", "PosixPath", "PurePosixPath"),
        }.items()
        for name in names
    ),
]
"""What training runs leave beside the tensors: the options they were started with, which are read, and scores, tables
and places, in whose stead stands `Unread`, so that not even theirs is run."""


def read_payload(path: Path) -> dict[str, Any]:
    """What a file of `torch.save` holds, its tensors still on disk; nothing in it is run.

    Raises:
        NotFound: There is no file.
        Corrupt: It is none, or holds something else than tensors and plain values.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}.", field="file")
    if not zipfile.is_zipfile(path):
        raise Corrupt(
            f"{path} is not a whole file of torch.save: it is cut short, or of before torch 1.6.",
            remedy="Download it again; an old one is to be saved anew with a newer torch.",
        )
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise Corrupt(
            f"{path} holds more than tensors and plain values: {_offender(error)}. Reading that could run code, so it "
            f"was not read.",
            remedy="If you trust it, load it where you made it and save its tensors and plain values alone.",
        ) from None
    except Exception as error:  # a damaged pickle makes torch raise anything
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise Corrupt(f"{path} cannot be read: {first}", remedy="Download it again.") from None
    if not isinstance(payload, dict):
        raise Corrupt(f"{path} holds a {type(payload).__name__}, not a checkpoint.")
    return payload


def _offender(error: Exception) -> str:
    """The class or function that a pickle asks for, out of torch's long explanation."""
    text = str(error)
    found = re.search(r"GLOBAL (\S+)", text) or re.search(r"(?:instantiate|class|function) [`']?([\w.]{3,})", text)
    return found[1] if found else "something that is not allowed"


def stamp_of(path: Path) -> tuple[int, ...]:
    """What changes when a file is written to or replaced; empty where there is none."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return ()
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns
