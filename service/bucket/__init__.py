"""Small objects and whole files, in a folder or under a prefix of an S3-compatible bucket.

Both kinds do the same. An object appears whole or not at all, whoever is killed; what was put is seen by whoever asks
next. Keys are names joined by `/`; no name begins with a dot.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from urllib.parse import urlparse

from service.bucket.contract import Access, Bucket, is_remote
from service.bucket.faults import trouble
from service.bucket.folder import FolderBucket
from service.bucket.objects import ObjectBucket
from service.errors import InvalidInput, Unavailable

__all__ = ["Access", "Bucket", "is_remote", "open_bucket", "require_conditional_puts", "trouble"]


def open_bucket(location: str | Path, *, anonymous: bool = False) -> Bucket:
    """The place a location names. Nothing is asked of it yet.

    Args:
        location: A folder, which need not be there, or `s3://bucket/prefix`.
        anonymous: Whether to send requests to S3 unsigned.

    Raises:
        InvalidInput: Neither a path nor such an address.
    """
    text = str(location)
    if not is_remote(text):
        return FolderBucket(Path(text.removeprefix("file://")))
    url = urlparse(text)
    if url.scheme != "s3" or not url.netloc or url.query or url.fragment or url.username:
        raise InvalidInput(f"{text} is neither a folder nor s3://bucket/prefix.", field="storage")
    return ObjectBucket.of_s3(url.netloc, anonymous).at(*url.path.strip("/").split("/"))


def require_conditional_puts(bucket: Bucket) -> None:
    """Refuse an object store that would let two writers win: commits rest upon one of them being told.

    Raises:
        Unavailable: It is such a one, or cannot be reached.
        ReadOnly: Nothing can be written there.
    """
    key = f"probe-{uuid.uuid4().hex}"
    bucket.put_new(key, b"first")
    twice = bucket.put_new(key, b"second")
    bucket.delete(key)
    if twice:
        raise Unavailable(
            f"{bucket.location}: this object store ignores conditions on puts (If-None-Match), so that writers would "
            "overwrite each other.",
            remedy="Use one that keeps them.",
        )
