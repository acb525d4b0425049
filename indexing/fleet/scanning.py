"""The other question that travels between machines that hold shards: the best of some pixels, all of them scored.

Where a filter leaves few pixels all of them are scored. Those of a shard lie unpacked on the machine that holds it,
which scores them in milliseconds; whoever asked would have to fetch and unpack them. The answer is exact, so it does
not matter who gives it, and what nobody answers for is read from the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from indexing.fleet.allowed import Allowed, told_of, untold
from indexing.fleet.shards import IndexName, names_of, slots_of
from indexing.fleet.wire import packed, unpacked
from indexing.ids import cols_of, rows_of
from indexing.pixels import block_of, by_block
from service.errors import Corrupt, InvalidInput, LimitExceeded, SmaltiError
from service.grid import Block
from service.queries import Query
from service.values import BLOCK, Float64Array, Int64Array

MAX_HITS: Final = 1_000_000
_LONGEST_S: Final = 300.0
_HEAD_BYTES: Final = 2_000_000
_ASKED: Final = {"slots": ("|u1", 1), "bits": ("|u1", 1)}
_ANSWERED: Final = {"ids": ("<i8", 1), "scores": ("<f8", 1)}


@dataclass(frozen=True, eq=False)
class Scored:
    """The best of the pixels that a peer scored."""

    shards: tuple[str, ...]
    """Those it looked into."""
    holds: frozenset[str]
    """Those of this index that it holds."""
    scanned: int
    """Pixels it scored."""
    ids: Int64Array
    """(n,) pixel ids, best first, equal scores in order."""
    scores: Float64Array
    """(n,) float64; see `Query`."""


@dataclass(frozen=True, eq=False)
class Scanning:
    """Which pixels of some blocks are the best."""

    path: ClassVar[str] = "best"

    name: IndexName
    query: Query
    k: int
    seconds: float
    """How long it may take."""
    slots: Mapping[str, int]
    """Of each shard the number of its blocks."""
    allowed: Mapping[str, Allowed]
    """Which pixels may be hits; all of shards not named here."""
    places: Mapping[Block, tuple[str, int]]
    """In which shard each block lies, and where: for checking answers, does not travel."""

    @property
    def index(self) -> str:
        """Which index it is about."""
        return str(self.name)

    @property
    def most(self) -> int:
        """Bytes that an answer may have."""
        return _HEAD_BYTES + 16 * self.k

    def to_bytes(self, shards: tuple[str, ...]) -> bytes:
        """As it is sent."""
        slots, bits = told_of([self.allowed.get(shard) or Allowed.all(self.slots[shard]) for shard in shards])
        head = {
            "index": self.name.to_document(), "query": self.query.to_document(), "k": self.k, "seconds": self.seconds,
            "shards": [[shard, self.slots[shard]] for shard in shards],
        }  # fmt: skip
        return packed(head, {"slots": slots, "bits": bits})

    @classmethod
    def from_bytes(cls, message: bytes) -> tuple[Scanning, tuple[str, ...]]:
        """The question as it came from another machine, and which shards it is about.

        Raises:
            InvalidInput: It is none.
            LimitExceeded: It asks for too much.
        """
        try:
            head, arrays = unpacked(message, _ASKED)
        except Corrupt as error:
            raise InvalidInput(error.message, field="body") from None
        slots, k, seconds = (head.get(name) for name in ("shards", "k", "seconds"))
        if type(k) is not int or k < 1:
            raise InvalidInput("is no number of hits.", field="k")
        if not isinstance(seconds, float) or not 0 < seconds <= _LONGEST_S:
            raise InvalidInput(f"are not up to {_LONGEST_S:g}.", field="seconds")
        if k > MAX_HITS:
            raise LimitExceeded(f"{k:,} hits; at most {MAX_HITS:,}.", field="k")
        query, name = _query(head.get("query")), IndexName.from_document(head.get("index") or {})
        held = slots_of(slots)
        allowed = untold(held, arrays["slots"], arrays["bits"].tobytes())
        return cls(name, query, k, seconds, held, allowed, {}), tuple(held)

    def read(self, message: bytes, shards: tuple[str, ...]) -> Scored:
        """An answer to it, checked.

        Raises:
            Corrupt: It is none, or not to this question.
        """
        head, held = unpacked(message, _ANSWERED)
        answered, holds, scanned = names_of(head.get("shards")), names_of(head.get("holds")), head.get("scanned")
        ids, scores = held["ids"].astype(np.int64), held["scores"].astype(np.float64)
        sound = type(scanned) is int and scanned >= 0 and len(ids) == len(scores) <= self.k
        if not (sound and set(answered) <= set(shards) and np.isfinite(scores).all() and self._may(ids, answered)):
            raise Corrupt("sends what is no answer to the question.")
        if not (np.lexsort((ids, -scores)) == np.arange(len(ids))).all() or len(np.unique(ids)) < len(ids):
            raise Corrupt("sends what is not in order.")
        return Scored(answered, frozenset(holds), int(scanned or 0), ids, scores)

    def _may(self, ids: Int64Array, answered: Sequence[str]) -> bool:
        """Whether every pixel of an answer is one that may be a hit."""
        try:
            for group in by_block(ids):
                shard, slot = self.places.get(block_of(group[0]), ("", 0))
                offset = rows_of(group) % BLOCK * BLOCK + cols_of(group) % BLOCK
                if shard not in answered:
                    return False
                allowed = self.allowed.get(shard)
                if allowed is not None and not allowed.may(slot * BLOCK * BLOCK + offset):
                    return False
        except SmaltiError:  # what is no pixel id at all
            return False
        return True


def _query(document: object) -> Query:
    try:
        return Query.from_document(document)  # type: ignore[arg-type]  # it refuses what is none
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, SmaltiError):
            raise
        raise InvalidInput("is no query.", field="query") from None
