"""What stored blocks were made from: a document for each fingerprint, written before the block is committed.

So every block that can be seen has one. A fingerprint stands for all that the document says, hence a document never
changes; one whose block was not committed after all is of no harm, and serves when it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from service.bucket import Bucket
from service.errors import NotFound
from service.shelf import canonical

DEEPEST: Final = 64
"""Pieces of one block that are told, the newest first."""


class Reports:
    """The documents of one dataset. Threads may share it.

    Args:
        bucket: Where they lie: `<first two digits>/<fingerprint>.json`.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def put(self, document: Mapping[str, Any], fingerprint: str, before: str = "") -> None:
        """Note what a block was made from.

        Args:
            document: What is known of it, as JSON.
            fingerprint: The block's, 64 hex digits.
            before: That of what stays of the block beside what is new; "" where nothing does.

        Raises:
            ReadOnly, Unavailable: The place does not allow it, or cannot be reached.
        """
        self._bucket.put_new(_key(fingerprint), canonical({**document, "fingerprint": fingerprint, "before": before}))

    def of(self, fingerprint: str) -> tuple[dict[str, Any], ...]:
        """What a block was made from, piece by piece, the newest first; pieces that nobody noted are left out.

        Raises:
            Unavailable: The place cannot be reached.
        """
        found: list[dict[str, Any]] = []
        while fingerprint and len(found) < DEEPEST:
            try:
                found.append(json.loads(self._bucket.get(_key(fingerprint))))
            except NotFound:
                break
            fingerprint = found[-1]["before"]
        return tuple(found)


def _key(fingerprint: str) -> str:
    return f"{fingerprint[:2]}/{fingerprint}.json"
