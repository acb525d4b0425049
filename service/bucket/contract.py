"""What every place for objects can do, and what a key is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from service.errors import InvalidInput

NAME: Final = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9._~@-]*")
"""One name of a key."""


@dataclass(frozen=True)
class Access:
    """How an S3 bucket is reached where it is not as the AWS_* variables say."""

    anonymous: bool = False
    """Whether requests are sent unsigned."""
    region: str | None = None
    endpoint: str | None = None

    @classmethod
    def to(cls, bucket: str, anonymous: bool) -> Access:
        """What is known of a bucket by its name: public ones are read where they are."""
        return _PUBLIC.get(bucket) or cls(anonymous)


_PUBLIC: Final = {"tessera-embeddings": Access(True, "us-west-2", "https://s3.us-west-2.amazonaws.com")}


class Bucket(Protocol):
    """A place for objects. Safe to use from many threads and processes."""

    location: str
    """Absolute path, or `s3://bucket/prefix`."""
    remote: bool
    """Whether every call is a journey over a network."""

    def at(self, *names: str) -> Bucket:
        """The part of it below some names."""

    def get(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            NotFound: No such object.
            Unavailable: The bucket cannot be reached, is not there, or refuses. So does every other call.
        """

    def put(self, key: str, body: bytes) -> None:
        """Write an object, in place of what was there.

        Raises:
            ReadOnly: The location does not allow it. So do the other calls that write.
        """

    def put_new(self, key: str, body: bytes) -> bool:
        """Write an object unless there is one; of several who try, one writes. Returns whether it was this call."""

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""

    def names(self, under: str = "") -> list[str]:
        """Names of the objects directly under a key, sorted; none where nothing is."""

    def folders(self, under: str = "") -> list[str]:
        """Names directly under a key that have objects below them, sorted."""

    def upload(self, path: Path, key: str) -> None:
        """Write a file of any size as an object."""

    def download(self, key: str, path: Path) -> None:
        """Write an object of any size to a new file; what is left of a download cut short is the caller's to remove.

        Raises:
            NotFound: No such object.
        """


def is_remote(location: str) -> bool:
    """Whether a location is reached over a network."""
    return "://" in location and not location.startswith("file://")


def checked_key(key: str) -> str:
    """Return a key if it is one.

    Raises:
        InvalidInput: It is not.
    """
    for name in key.split("/"):
        if not NAME.fullmatch(name):
            raise InvalidInput(f"{key[:200]!r} is not a key.", field="key")
    return key


def joined(names: tuple[str, ...]) -> str:
    """One key of several names, empty ones left out; "" of none."""
    given = [name for name in names if name]
    return checked_key("/".join(given)) if given else ""
