"""Small named documents: queries, bases. Immutable, addressed by their content, in a folder or a bucket.

A document is a JSON object. Its id is the first 20 hex digits of the SHA-256 of its canonical form (sorted keys,
no spaces), so the same document shelved twice is one, and a link keeps meaning what it meant. A name is a
movable pointer to an id, and every move is noted in `history/`. A document that was read once is kept in memory, for
it cannot change; a name is believed for a second, so others see within that time that it was moved.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from service.bucket import Bucket, open_bucket
from service.cache import ByteCache
from service.errors import Corrupt, InvalidInput, LimitExceeded, NotFound
from service.values import checked_id

V = TypeVar("V")

MAX_BYTES: Final = 8_000_000
MAX_DOCUMENTS: Final = 100_000
KEPT_BYTES: Final = 32_000_000
"""Bytes of documents kept in memory, a shelf, and of those whose values are."""
NAME_HOLDS_S: Final = 1.0
"""Seconds that a name is believed to point where it did."""
_COUNT_HOLDS_S: Final = 60.0
_MOMENT: Final = "%Y%m%dT%H%M%S.%fZ"
_ID = re.compile(r"[0-9a-f]{20}")


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one byte string that stands for a document: sorted keys, no spaces, shortest floats."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def content_id(document: Mapping[str, Any]) -> str:
    """20 hex digits that name a document by its content."""
    return _digest(canonical(document))


@dataclass(frozen=True)
class Moved:
    """A name that was made to point to a document."""

    id: str
    since: dt.datetime | None
    """UTC; None where that was not noted."""


def is_id(text: str) -> bool:
    """Whether a text is the id of a document rather than a name."""
    return bool(_ID.fullmatch(text))


class Shelf:
    """One kind of document in one place. Threads may share it.

    It holds `<id>.json`, `names/<name>` with an id in it, and `history/<name>/<moment>-<id>`.

    Args:
        place: A bucket, or a folder that is made on the first write.
        noun: What a document is called in errors: `query`, `basis`.
    """

    def __init__(self, place: Bucket | Path, noun: str) -> None:
        self.bucket = open_bucket(place) if isinstance(place, Path) else place
        self.noun = noun
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._values: ByteCache[tuple[int, Any]] = ByteCache(KEPT_BYTES, lambda held: held[0])
        self._pointers: dict[str, tuple[float, str]] = {}
        self._count = 0
        self._counted_at = float("-inf")

    def put(self, document: Mapping[str, Any], name: str | None = None) -> str:
        """Shelve a document and return its id; with `name`, point that name at it.

        Raises:
            LimitExceeded: The document is over 8 MB, or the shelf is full.
            InvalidInput: `name` cannot be a name.
            ReadOnly, Unavailable: The place does not allow it, or cannot be reached.
        """
        body = canonical(document)
        if len(body) > MAX_BYTES:
            raise LimitExceeded(f"a {self.noun} of {len(body):,} bytes is over the {MAX_BYTES:,} allowed.")
        if name is not None and is_id(name):
            raise InvalidInput(f"{name!r} looks like the id of a {self.noun}.", field="name")
        pointer = f"names/{checked_id(name, 'name')}" if name is not None else ""
        key = _digest(body)
        if key not in self._kept:
            self._require_room(key)
            self._count += self.bucket.put_new(f"{key}.json", body)
        if name is not None:
            self._remember(name, key)
            self.bucket.put(pointer, key.encode())
            self._pointers[name] = (time.monotonic(), key)
        return key

    def _remember(self, name: str, key: str) -> None:
        """Note that a name moves, before it does: what it pointed to is never lost."""
        try:
            before = self._pointed(name)
        except NotFound:
            before = ""
        if before == key:
            return
        if before and not self.bucket.names(f"history/{name}"):  # named by a version that kept no history
            self.bucket.put_new(f"history/{name}/0-{before}", b"")
        now = dt.datetime.now(dt.UTC)
        self.bucket.put_new(f"history/{name}/{now:{_MOMENT}}-{key}", b"")

    def history(self, name: str) -> list[Moved]:
        """What a name pointed to and points to, the newest first.

        Raises:
            NotFound: No such name.
            Unavailable: The place cannot be reached.
        """
        current = self._pointed(checked_id(name, self.noun))
        moves = []
        for entry in reversed(self.bucket.names(f"history/{name}")):
            moment, _, key = entry.rpartition("-")
            since = None if moment == "0" else dt.datetime.strptime(moment, _MOMENT).replace(tzinfo=dt.UTC)
            moves.append(Moved(key, since))
        return moves or [Moved(current, None)]

    def get(self, key: str) -> tuple[str, dict[str, Any]]:
        """(id, document) for an id or a name.

        Raises:
            NotFound: Nothing of that id or name.
            Corrupt: What is stored is not the document its name promises.
            Unavailable: The place cannot be reached.
        """
        key = self._id(key)
        document: dict[str, Any] = json.loads(self._body(key))
        return key, document

    def value(self, key: str, read: Callable[[dict[str, Any]], V]) -> V:
        """What `read` makes of the document of an id or a name; made once and handed out again, so never to be changed.

        Raises as `get` and `read` do.
        """
        key = self._id(key)

        def made() -> tuple[int, Any]:
            body = self._body(key)
            return len(body), read(json.loads(body))

        value: V = self._values.made((key, read), made)[1]
        return value

    def _id(self, key: str) -> str:
        return key if is_id(key) else self._pointed(checked_id(key, self.noun))  # hence no name may look like an id

    def names(self) -> dict[str, str]:
        """Every name with the id it points at."""
        found = {}
        for name in self.bucket.names("names"):
            with suppress(NotFound):  # as was believed a moment ago
                found[name] = self._pointed(name)
        return found

    def _pointed(self, name: str) -> str:
        if len(self._pointers) > MAX_DOCUMENTS:
            self._pointers.clear()
        seen, key = self._pointers.get(name, (float("-inf"), ""))
        if time.monotonic() - seen > NAME_HOLDS_S:
            now = time.monotonic()
            try:
                key = self.bucket.get(f"names/{name}").decode().strip()
            except NotFound:
                key = ""
            if self._pointers.get(name, (now, key))[0] <= now:  # else it was moved from here meanwhile
                self._pointers[name] = (now, key)
        if not key:
            raise NotFound(f"no {self.noun} named {name!r}.", field=self.noun)
        return key

    def _body(self, key: str) -> bytes:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        try:
            body = self.bucket.get(f"{key}.json")
        except (NotFound, InvalidInput):
            raise NotFound(f"no {self.noun} {key!r}.", field=self.noun) from None
        if _digest(body) != key:
            raise Corrupt(
                f"{self.noun} {key!r} was changed where it is stored.", remedy=f"Delete {key}.json and save it again."
            )
        self._keep(key, body)
        return body

    def _keep(self, key: str, body: bytes) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = body
                self._kept_bytes += len(body)
            while self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])

    def _require_room(self, key: str) -> None:
        """Count anew now and then: others shelve documents too."""
        if time.monotonic() - self._counted_at > _COUNT_HOLDS_S or self._count >= MAX_DOCUMENTS:
            held = [name for name in self.bucket.names() if name.endswith(".json")]
            self._count, self._counted_at = len(held), time.monotonic()
            if len(held) >= MAX_DOCUMENTS and f"{key}.json" not in held:
                raise LimitExceeded(
                    f"{MAX_DOCUMENTS:,} documents are shelved already: no room for another {self.noun}."
                )


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:20]
