"""From which snapshot on each chunk of a repository is what it is: what is kept near stays good over commits.

A snapshot never changes, but there is a new one with every commit, most of whose chunks are the old ones. What was
kept of a chunk is known by the snapshot that it was changed in last, as far as history was followed.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

log = logging.getLogger("smalti.near")

MOST: Final = 100_000
"""Chunks that are followed; beyond, all is fetched anew."""

Changes = Mapping[str, Iterable[Sequence[int]]]
"""Chunk coordinates by array path."""


@dataclass(frozen=True)
class Generations:
    """What the chunks of one snapshot are known by."""

    tip: str
    """The snapshot."""
    base: str
    """The one from which on history was followed."""
    changed: Mapping[str, str] = field(default_factory=dict)
    """By key, the snapshot that a chunk was changed in last, where that was after `base`."""

    @classmethod
    def begin(cls, tip: str) -> Generations:
        """Where nothing is known of what was before."""
        return cls(tip, tip)

    def of(self, key: str) -> str:
        """What a chunk is known by."""
        return self.changed.get(key, self.base)

    def moved(self, tip: str, changes: Changes | None) -> Generations:
        """As they are at a later snapshot, given the chunks that changed up to there; anew where that is not known."""
        if changes is None:
            return Generations.begin(tip)
        keys = {f"{path}/c/{'/'.join(map(str, at))}" for path, chunks in changes.items() for at in chunks}
        changed = {**self.changed, **dict.fromkeys(keys, tip)}
        return Generations(tip, self.base, changed) if len(changed) <= MOST else Generations.begin(tip)


class Followed:
    """The generations of one repository, remembered in a small file from one process to the next.

    Args:
        location: Of the repository.
        folder: Where the file lies; None to remember nothing.
        changes: From two snapshots to the chunks that changed between them; None where that is not known.
    """

    def __init__(self, location: str, folder: Path | None, changes: Callable[[str, str], Changes | None]) -> None:
        name = sha256(location.encode()).hexdigest()[:40]
        self._path = None if folder is None else folder / f"{name}.json"
        self._changes = changes
        self._now = self._remembered()

    def at(self, tip: str) -> Generations:
        """The generations of a snapshot, which is the newest or was."""
        before = self._now
        if before is not None and before.tip == tip:
            return before
        now = Generations.begin(tip) if before is None else before.moved(tip, self._changes(before.tip, tip))
        self._now = now
        self._remember(now)
        return now

    def _remembered(self) -> Generations | None:
        if self._path is None:
            return None
        try:
            held = json.loads(self._path.read_text())
            changed = {str(key): str(snapshot) for key, snapshot in held["changed"].items()}
            return Generations(str(held["tip"]), str(held["base"]), changed)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _remember(self, now: Generations) -> None:
        if self._path is None:
            return
        temporary = self._path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"tip": now.tip, "base": now.base, "changed": dict(now.changed)}))
            temporary.replace(self._path)
        except OSError as error:  # nothing is lost but the speed of the next start
            log.warning("%s cannot be written: %s", self._path, error.strerror)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
