"""Small named documents: queries, bases. Immutable, addressed by their content, on disk.

A document is a JSON object. Its id is the first 20 hex digits of the SHA-256 of its canonical form (sorted keys,
no spaces), so the same document shelved twice is one, and a link keeps meaning what it meant. A name is a
movable pointer to an id.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from service.errors import Corrupt, InvalidInput, LimitExceeded, NotFound
from service.values import checked_id

MAX_BYTES: Final = 8_000_000
MAX_DOCUMENTS: Final = 100_000
_ID = re.compile(r"[0-9a-f]{20}")


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one byte string that stands for a document: sorted keys, no spaces, shortest floats."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def content_id(document: Mapping[str, Any]) -> str:
    """20 hex digits that name a document by its content."""
    return hashlib.sha256(canonical(document)).hexdigest()[:20]


class Shelf:
    """One kind of document in one folder: `<folder>/<id>.json`, and `<folder>/names/<name>` holding an id.

    Args:
        folder: Where; made on the first write.
        noun: What a document is called in errors: `query`, `basis`.
    """

    def __init__(self, folder: Path, noun: str) -> None:
        self.folder = folder
        self.noun = noun

    def put(self, document: Mapping[str, Any], name: str | None = None) -> str:
        """Shelve a document and return its id; with `name`, point that name at it.

        Raises:
            LimitExceeded: The document is over 8 MB, or the shelf is full.
            InvalidInput: `name` cannot be a name.
        """
        body = canonical(document)
        if len(body) > MAX_BYTES:
            raise LimitExceeded(f"a {self.noun} of {len(body):,} bytes is over the {MAX_BYTES:,} allowed.")
        if name is not None and _ID.fullmatch(name):
            raise InvalidInput(f"{name!r} looks like the id of a {self.noun}.", field="name")
        key = content_id(document)
        path = self.folder / f"{key}.json"
        if not path.exists():
            if self.folder.exists() and sum(1 for _ in self.folder.glob("*.json")) >= MAX_DOCUMENTS:
                raise LimitExceeded(
                    f"{MAX_DOCUMENTS:,} documents are shelved already: no room for another {self.noun}."
                )
            _write(path, body)
        if name is not None:
            _write(self.folder / "names" / checked_id(name, "name"), key.encode())
        return key

    def get(self, key: str) -> tuple[str, dict[str, Any]]:
        """(id, document) for an id or a name.

        Raises:
            NotFound: Nothing of that id or name.
            Corrupt: The file does not hold the document its name promises.
        """
        if not _ID.fullmatch(key):  # hence no name may look like an id
            pointer = self.folder / "names" / checked_id(key, self.noun)
            if not pointer.exists():
                raise NotFound(f"no {self.noun} named {key!r}.", field=self.noun)
            key = pointer.read_text().strip()
        path = self.folder / f"{key}.json"
        try:
            body = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no {self.noun} {key!r}.", field=self.noun) from None
        if hashlib.sha256(body).hexdigest()[:20] != key:
            raise Corrupt(f"{self.noun} {key!r} was changed on disk.", remedy=f"Delete {path.name} and save it again.")
        document: dict[str, Any] = json.loads(body)
        return key, document

    def names(self) -> dict[str, str]:
        """Every name with the id it points at."""
        folder = self.folder / "names"
        pointers = sorted(path for path in folder.glob("*") if not path.name.startswith("."))
        return {path.name: path.read_text().strip() for path in pointers}


def _write(path: Path, body: bytes) -> None:
    """Write whole or not at all: a reader never sees half a document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
