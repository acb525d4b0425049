"""One place where errors of zarr, icechunk and the transport become ours: they name the array and the chunk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zarr
from icechunk import IcechunkError

from service.bucket import is_remote, trouble
from service.errors import Corrupt, NotFound, ReadOnly, SmaltiError, Unavailable
from service.store.ahead import warm

Array = zarr.Array[Any]

_TRANSPORT = ("timed out", "timeout", "dispatch failure", "connection", "dns", "service error", "credential")
_DENIED = ("permission denied", "read-only file system", "access denied", "accessdenied", "forbidden")


def reason(error: BaseException) -> str:
    """The first telling line of a library's error, short enough for a message."""
    lines = [line.strip(" │╰─▶├×").removeprefix("x ") for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)[:200].rstrip(".")


def fault(error: BaseException, location: str, thing: str) -> SmaltiError:
    """What a library's error means: the transport failed, or the stored bytes are wrong."""
    if isinstance(error, SmaltiError):
        return error
    if isinstance(error, ImportError):
        return Unavailable(
            f"{location} needs a library that is not installed: {reason(error)}.",
            remedy="Copy it to a local folder and read it there.",
        )
    if is_remote(location) and isinstance(error, FileNotFoundError):
        return NotFound(f"{location}: {thing} is not there.", field="location")
    if is_remote(location) and _is_transport(error):
        return trouble(f"{location}: {thing}", str(error))
    if isinstance(error, TimeoutError):
        return Unavailable(f"{location}: {thing} took too long to read.", remedy="Repeat; check the disk.")
    return Corrupt(
        f"{location}: {thing} cannot be read: {reason(error)}.",
        remedy="Write it again, or restore it from a copy.",
    )


def _is_transport(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, OSError) or (isinstance(error, IcechunkError) and any(word in text for word in _TRANSPORT))


@contextmanager
def reading(location: str, thing: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into an error that names `thing`.

    Raises:
        Corrupt: Stored bytes cannot be read.
        Unavailable: The transport failed.
    """
    try:
        yield
    except SmaltiError:
        raise
    except Exception as error:
        raise fault(error, location, thing) from error


@contextmanager
def writing(location: str) -> Iterator[None]:
    """Turn whatever goes wrong while writing into an error of ours.

    Raises:
        ReadOnly: The location does not allow it.
        Unavailable: Anything else: a full disk, a transport that failed. Nothing became visible.
    """
    try:
        yield
    except SmaltiError:
        raise
    except Exception as error:
        if is_remote(location) and _is_transport(error):
            raise trouble(location, str(error), writing=True) from error
        if isinstance(error, PermissionError) or any(word in str(error).lower() for word in _DENIED):
            raise ReadOnly(f"{location} cannot be written to: {reason(error)}.") from error
        raise Unavailable(f"{location}: writing failed, nothing was changed: {reason(error)}.") from error


def read_array(location: str, array: Array, *where: int | slice) -> Any:
    """Read a rectangle of an array.

    Args:
        location: Of the store, for the message.
        array: What to read.
        where: One index or slice for each axis.

    Raises:
        Corrupt: Names the array and the first chunk that cannot be read.
        Unavailable: The transport failed.
    """
    try:
        warm(array, where)
        return array[where]
    except Exception as error:
        found = fault(error, location, f"array {array.path}")
        if isinstance(found, Unavailable):
            raise found from error
        raise fault(error, location, f"array {array.path}, {_blame(array, where)}") from error


def _blame(array: Array, where: tuple[int | slice, ...]) -> str:
    """Name the first chunk inside a rectangle that cannot be read on its own."""
    spans = [slice(w, w + 1) if isinstance(w, int) else slice(*w.indices(n)) for w, n in zip(where, array.shape)]  # noqa: B905
    steps = array.chunks
    ranges = [range(s.start // c, -(-s.stop // c)) for s, c in zip(spans, steps, strict=False)]
    for chunk in itertools.product(*ranges):
        try:
            array[tuple(slice(i * c, (i + 1) * c) for i, c in zip(chunk, steps, strict=False))]
        except Exception:
            return "chunk " + "/".join(map(str, chunk))
    return "window " + ", ".join(f"{s.start}:{s.stop}" for s in spans)
