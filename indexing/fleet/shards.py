"""The question that travels between machines that hold shards: which of their pixels are estimated nearest.

It carries what an index needs and nothing else: directions, how many lists to look into, how many candidates, and for
each shard which pixels may be proposed. The answer carries the candidates with their codes, so that whoever asked ranks
them as its own. What comes from another machine is checked until it could as well have been read from a file here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from indexing.fleet.allowed import PIXELS, Allowed, told_of, untold
from indexing.fleet.wire import packed, unpacked
from indexing.index.manifest import IndexManifest
from service.errors import Corrupt, InvalidInput, LimitExceeded
from service.values import (
    Float32Array,
    Int8Array,
    Int64Array,
    ModelIdentity,
    Window,
)

MAX_SLOTS: Final = 1024
"""Blocks of one shard; eight times what a build gives one."""
MAX_CANDIDATES: Final = 4_000_000
"""Of all directions of one question."""
MAX_DIRECTIONS: Final = 4096
_MAX_SHARDS: Final = 10_000
_MAX_PROBES: Final = 65_536
_HEAD_BYTES: Final = 2_000_000
"""Of an answer: names of shards."""

_ASKED: Final = {"directions": ("<f4", 2), "slots": ("|u1", 1), "bits": ("|u1", 1)}
_ANSWERED: Final = {
    "query": ("<i4", 1), "shard": ("<i4", 1), "position": ("<i8", 1), "estimate": ("<f4", 1),
    "codes": ("|i1", 2), "scales": ("<f4", 1),
}  # fmt: skip


@dataclass(frozen=True)
class IndexName:
    """What two machines must have in common to speak of the same index. Its shards change, this does not."""

    dataset: str
    identity: ModelIdentity
    window: Window
    level: int
    quantiser: str
    """Of the lists' centres: a name that is given once."""

    def __str__(self) -> str:
        return f"{self.dataset} {self.window} level {self.level} of {self.identity}, quantiser {self.quantiser}"

    def to_document(self) -> dict[str, Any]:
        """As it travels."""
        return {
            "dataset": self.dataset, "model": str(self.identity), "window": str(self.window), "level": self.level,
            "quantiser": self.quantiser,
        }  # fmt: skip

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> IndexName:
        """Read it back.

        Raises:
            InvalidInput: It is none.
        """
        try:
            identity, window = ModelIdentity.parse(document["model"]), Window.parse(document["window"])
            dataset, level, quantiser = document["dataset"], document["level"], document["quantiser"]
        except (KeyError, TypeError, AttributeError):
            dataset = level = quantiser = None
        if not (isinstance(dataset, str) and isinstance(quantiser, str) and type(level) is int):
            raise InvalidInput("names no index.", field="index")
        return cls(dataset, identity, window, level, quantiser)


def name_of(manifest: IndexManifest) -> IndexName:
    """What an index is called among machines."""
    return IndexName(manifest.dataset, manifest.identity, manifest.window, manifest.level, manifest.quantiser.name)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pixels that a peer proposes, and all that is needed to rank them."""

    shards: tuple[str, ...]
    """Those it looked into."""
    holds: frozenset[str]
    """Those of this index that it holds."""
    query: Int64Array
    """(n,) which direction each is for, ascending."""
    shard: Int64Array
    """(n,) which of the shards that were asked about."""
    position: Int64Array
    """(n,) where in the shard: 65,536 x slot + offset in the block."""
    estimate: Float32Array
    """(n,) estimated squared distance, ascending for each direction."""
    codes: Int8Array
    """(n, d) int8."""
    scales: Float32Array
    """(n,) float32."""
    asked: tuple[str, ...] = ()
    """The shards that were asked about: does not travel."""

    def to_bytes(self) -> bytes:
        """As it travels."""
        head = {"shards": self.shards, "holds": sorted(self.holds)}
        return packed(head, {name: getattr(self, name).astype(kind) for name, (kind, _) in _ANSWERED.items()})


@dataclass(frozen=True, eq=False)
class Proposing:
    """Which pixels of some shards are estimated nearest to some directions."""

    path: ClassVar[str] = "candidates"

    name: IndexName
    directions: Float32Array
    """(q, d) float32 of length 1."""
    count: int
    """Candidates wanted for each of them, of all shards together."""
    probes: int
    """Lists to look into."""
    slots: Mapping[str, int]
    """Of each shard the number of its blocks."""
    allowed: Mapping[str, Allowed]
    """Which pixels may be proposed; all of shards not named here."""

    @property
    def index(self) -> str:
        """Which index it is about."""
        return str(self.name)

    def to_bytes(self, shards: tuple[str, ...]) -> bytes:
        """As it is sent."""
        slots, bits = told_of([self.allowed.get(shard) or Allowed.all(self.slots[shard]) for shard in shards])
        head = {
            "index": self.name.to_document(), "count": self.count, "probes": self.probes,
            "shards": [[shard, self.slots[shard]] for shard in shards],
        }  # fmt: skip
        return packed(head, {"directions": self.directions, "slots": slots, "bits": bits})

    @classmethod
    def from_bytes(cls, message: bytes) -> tuple[Proposing, tuple[str, ...]]:
        """The question as it came from another machine, and which shards it is about.

        Raises:
            InvalidInput: It is none.
            LimitExceeded: It asks for too much.
        """
        try:
            head, arrays = unpacked(message, _ASKED)
        except Corrupt as error:
            raise InvalidInput(error.message, field="body") from None
        slots, count, probes = slots_of(head.get("shards")), head.get("count"), head.get("probes")
        directions = arrays["directions"]
        if type(count) is not int or type(probes) is not int or count < 1 or not 1 <= probes <= _MAX_PROBES:
            raise InvalidInput("is no number of candidates or lists.", field="count")
        if len(directions) > MAX_DIRECTIONS or len(directions) * count > MAX_CANDIDATES:
            raise LimitExceeded(f"{len(directions):,} x {count:,} candidates are too many.", field="count")
        if not np.isfinite(directions).all():
            raise InvalidInput("are not finite.", field="directions")
        allowed = untold(slots, arrays["slots"], arrays["bits"].tobytes())
        name = IndexName.from_document(head.get("index") or {})
        asked = cls(name, np.ascontiguousarray(directions, np.float32), count, probes, slots, allowed)
        return asked, tuple(slots)

    @property
    def most(self) -> int:
        """Bytes that an answer may have."""
        return _HEAD_BYTES + len(self.directions) * self.count * (int(self.directions.shape[1]) + 24)

    def read(self, message: bytes, shards: tuple[str, ...]) -> Candidates:
        """An answer to it, checked.

        Raises:
            Corrupt: It is none, or not to this question.
        """
        head, held = unpacked(message, _ANSWERED)
        answered, holds = names_of(head.get("shards")), frozenset(names_of(head.get("holds")))
        wide = {name: held[name].astype(np.int64) for name in ("query", "shard", "position")}
        estimate, scales = held["estimate"].astype(np.float32), held["scales"].astype(np.float32)
        found = Candidates(answered, holds, **wide, estimate=estimate, codes=held["codes"], scales=scales, asked=shards)
        if not self._could_be(found, shards):
            raise Corrupt("sends what is no answer to the question.")
        return found

    def _could_be(self, found: Candidates, shards: tuple[str, ...]) -> bool:
        """Whether the numbers of an answer fit together and to the question."""
        queries, dims = self.directions.shape
        columns = (found.query, found.shard, found.position, found.estimate, found.codes, found.scales)
        if len({len(column) for column in columns}) > 1 or not set(found.shards) <= set(shards):
            return False
        if found.codes.shape[1] != dims:
            return False
        if not len(found.query):
            return True
        answered = set(found.shards)
        asked = np.array([name in answered for name in shards])
        ends = np.array([self.slots[name] * PIXELS for name in shards])
        if not (_within(found.query, queries) and _within(found.shard, len(shards))):
            return False
        if not (asked[found.shard].all() and ((found.position >= 0) & (found.position < ends[found.shard])).all()):
            return False
        if (np.bincount(found.query) > self.count).any() or not found.codes.any(axis=1).all():
            return False
        if not (np.isfinite(found.estimate).all() and np.isfinite(found.scales).all() and (found.scales >= 0).all()):
            return False
        order = np.lexsort((found.estimate, found.query))
        return bool((np.diff(order) > 0).all()) and self._may(found, shards)

    def _may(self, found: Candidates, shards: tuple[str, ...]) -> bool:
        """Whether every pixel of an answer is one that may be proposed."""
        return all(
            self.allowed[name].may(found.position[found.shard == number])
            for number, name in enumerate(shards)
            if name in self.allowed
        )


def _within(numbers: Int64Array, end: int) -> bool:
    return bool(((numbers >= 0) & (numbers < end)).all())


def slots_of(told: object) -> dict[str, int]:
    """Number of blocks by shard, as a question names them."""
    found: dict[str, int] = {}
    if not isinstance(told, list) or len(told) > _MAX_SHARDS:
        raise InvalidInput("names no shards.", field="shards")
    for each in told:
        if not (isinstance(each, list) and len(each) == 2 and isinstance(each[0], str) and type(each[1]) is int):
            raise InvalidInput("names no shards.", field="shards")
        if not 0 < each[1] <= MAX_SLOTS:
            raise LimitExceeded(f"a shard has 1 to {MAX_SLOTS:,} blocks.", field="shards")
        found[each[0]] = each[1]
    return found


def names_of(told: object) -> tuple[str, ...]:
    """Names of shards as an answer tells them."""
    if not (isinstance(told, list) and all(isinstance(name, str) for name in told)):
        raise Corrupt("names no shards.")
    return tuple(told)
