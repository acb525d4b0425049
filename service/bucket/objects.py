"""Objects in an S3-compatible bucket: one of the two doors to obstore; the other is for what zarr reads.

Of S3 only what every compatible server has is used: path-style addresses and conditional puts. Endpoint, region and
credentials come from the usual AWS_* variables, which obstore reads as Icechunk does; an `http://` endpoint is taken
as meant. Every call ends within seconds, also where nothing answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, S3Store

from service.bucket.contract import NAME, Access, checked_key, joined
from service.bucket.faults import trouble
from service.errors import NotFound

if TYPE_CHECKING:
    from obstore.store import S3Config

_PIECE: Final = 16_000_000
"""Bytes of a file fetched at a time, so that each request can have a short limit however large the file."""
_CONNECT: Final = timedelta(seconds=2)
_ANSWER: Final = timedelta(seconds=5)
_ANSWER_PIECE: Final = timedelta(seconds=60)
_RETRIES: Final = 2
_RETRY_UNTIL: Final = timedelta(seconds=4)


class ObjectBucket:
    """An S3-compatible bucket, or whatever else obstore knows, from a prefix on.

    Args:
        location: What errors call it.
        store: Where small objects are asked for: a request has little time.
        files: The same with more time, for pieces of large files.
        prefix: What keys are below; "" for all of it.
    """

    remote = True

    def __init__(self, location: str, store: ObjectStore, files: ObjectStore, prefix: str = "") -> None:
        self.location = location
        self._store = store
        self._files = files
        self._prefix = prefix

    @classmethod
    def of_s3(cls, name: str, anonymous: bool = False) -> Self:
        """All of an S3 bucket, by its name."""
        access = Access.to(name, anonymous)
        return cls(f"s3://{name}", s3_client(name, access, _ANSWER), s3_client(name, access, _ANSWER_PIECE))

    def at(self, *names: str) -> ObjectBucket:
        """See `Bucket.at`."""
        below = joined(names)
        location = f"{self.location}/{below}" if below else self.location
        return ObjectBucket(location, self._store, self._files, self._full(below))

    def get(self, key: str) -> bytes:
        """See `Bucket.get`."""
        with self._asking(key):
            return bytes(obstore.get(self._store, self._full(checked_key(key))).bytes())

    def put(self, key: str, body: bytes) -> None:
        """See `Bucket.put`."""
        with self._asking(key, writing=True):
            obstore.put(self._store, self._full(checked_key(key)), body)

    def put_new(self, key: str, body: bytes) -> bool:
        """See `Bucket.put_new`."""
        with self._asking(key, writing=True):
            try:
                obstore.put(self._store, self._full(checked_key(key)), body, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def delete(self, key: str) -> None:
        """See `Bucket.delete`."""
        with self._asking(key, writing=True):
            try:
                obstore.delete(self._store, self._full(checked_key(key)))
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise

    def names(self, under: str = "") -> list[str]:
        """See `Bucket.names`."""
        return sorted(name for name in self._listed(under)[0] if NAME.fullmatch(name))

    def folders(self, under: str = "") -> list[str]:
        """See `Bucket.folders`."""
        return sorted(name for name in self._listed(under)[1] if NAME.fullmatch(name))

    def upload(self, path: Path, key: str) -> None:
        """See `Bucket.upload`."""
        with self._asking(key, writing=True):
            obstore.put(self._files, self._full(checked_key(key)), path)

    def download(self, key: str, path: Path) -> None:
        """See `Bucket.download`."""
        whole = self._full(checked_key(key))
        with path.open("xb") as file, self._asking(key):
            size = obstore.head(self._store, whole)["size"]
            for start in range(0, size, _PIECE):
                file.write(obstore.get_range(self._files, whole, start=start, end=min(start + _PIECE, size)))

    def _full(self, key: str) -> str:
        return "/".join(part for part in (self._prefix, key) if part)

    def _listed(self, under: str) -> tuple[list[str], list[str]]:
        with self._asking(under):
            found = obstore.list_with_delimiter(self._store, self._full(checked_key(under) if under else "") or None)
        paths = [entry["path"] for entry in found["objects"]], list(found["common_prefixes"])
        objects, prefixes = ([path.rpartition("/")[2] for path in some] for some in paths)
        return objects, prefixes

    @contextmanager
    def _asking(self, key: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise trouble(self.location, str(error)) from error
            raise NotFound(f"{self.location} holds no {key}.", field="key") from None
        except (BaseError, OSError) as error:
            raise trouble(self.location, str(error), writing=writing) from error


def s3_client(bucket: str, access: Access, answer: timedelta, prefix: str = "") -> ObjectStore:
    """A client of an S3 bucket, or of what lies below a prefix of it.

    Args:
        bucket: Its name.
        access: How it is reached.
        answer: How long one request may take.
        prefix: What its keys are below.
    """
    config: S3Config = {"skip_signature": True} if access.anonymous else {}
    if access.region and access.endpoint:
        config |= {"region": access.region, "endpoint": access.endpoint}
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={"allow_http": True, "connect_timeout": _CONNECT, "timeout": answer},
        retry_config={
            "max_retries": _RETRIES,
            "retry_timeout": _RETRY_UNTIL,
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1)},
        },
    )
