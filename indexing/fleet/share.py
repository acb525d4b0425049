"""A question over shards on many machines: who is asked for what, and what comes back, whole or in part.

A shard is a segment of an index. Each machine of a fleet holds some of them and proposes pixels of these; whoever was
asked merges what all propose as if one machine had held everything, so who holds what never shows in an answer. What
travels is what an index needs and no more: directions, how hard to look, and which pixels may be proposed. Filters,
freshness and every decision are the asker's.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from service.errors import SmaltiError, Unavailable

A_co = TypeVar("A_co", bound="Answered", covariant=True)
A = TypeVar("A", bound="Answered")

ROOM: Final = 1.2
"""How much of what is an equal share one machine takes at most, where shards are not too large for that."""
ROUNDS: Final = 3
"""Times that what is still missing is asked of others."""
REST_S: Final = 1.0
"""How long a peer is left alone that did not answer; twice as long each time, up to `LONGEST_REST_S`."""
LONGEST_REST_S: Final = 30.0

log = logging.getLogger("smalti.fleet")


@dataclass(frozen=True)
class Share:
    """Which shards of every index one machine holds.

    Every machine finds the same shares by itself: each shard goes where its name prefers to be (rendezvous hashing),
    unless there is no room left (consistent hashing with bounded loads, Mirrokni et al. 2018, arXiv 1608.01350). So
    shares are of about one size, and when an index grows hardly any of the shards that stay changes hands.
    """

    part: int = 0
    of: int = 1
    """0: none at all."""

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read `all`, `none`, or `0/3`."""
        part, slash, of = text.partition("/")
        return cls(int(part), int(of)) if slash else cls(of=int(text == "all"))

    @property
    def is_all(self) -> bool:
        """Whether it is everything."""
        return self.of == 1

    def chosen(self, sizes: Mapping[str, int]) -> frozenset[str]:
        """Those of all shards of an index, given by name with their sizes, that belong to it."""
        if self.of < 2:
            return frozenset(sizes if self.of else ())
        room, loads, mine = ROOM * sum(sizes.values()) / self.of, [0] * self.of, set()
        for name in sorted(sizes):
            wanted = sorted(range(self.of), key=lambda part: zlib.crc32(f"{part} {name}".encode()))
            least = min(wanted, key=loads.__getitem__)
            part = next((part for part in wanted if loads[part] + sizes[name] <= room), least)
            loads[part] += sizes[name]
            mine |= {name} if part == self.part else set()
        return frozenset(mine)


ALL: Final = Share()


class Answered(Protocol):
    """What a peer sent back."""

    @property
    def shards(self) -> tuple[str, ...]:
        """Those of the shards it was asked for that it looked into."""

    @property
    def holds(self) -> frozenset[str]:
        """All shards of this index that it holds."""


class Peer(Protocol):
    """Another machine of the fleet."""

    @property
    def name(self) -> str:
        """What it is called in logs; no secret."""

    def ask(self, question: Question[A], shards: tuple[str, ...], seconds: float) -> Future[A]:
        """Put a question about some shards, and do not wait.

        The future ends within the seconds. It raises Unavailable where there was no answer, and another error of ours
        where the peer refused or what it sent is no answer; neither repeats what the peer wrote.
        """


class Question(Protocol[A_co]):
    """What is asked. Peers over HTTP send `to_bytes`, and read what comes back."""

    @property
    def path(self) -> str:
        """Which kind of question it is."""

    @property
    def index(self) -> str:
        """Which index it is about: everything that has to be the same on both sides."""

    def to_bytes(self, shards: tuple[str, ...]) -> bytes:
        """The question about these shards, as it is sent."""

    @property
    def most(self) -> int:
        """Bytes that an answer may have."""

    def read(self, message: bytes, shards: tuple[str, ...]) -> A_co:
        """An answer to it.

        Raises:
            Corrupt: It is none.
        """


@dataclass
class _Known:
    """What is known of one peer."""

    holds: dict[str, frozenset[str]] = field(default_factory=dict)
    """By index."""
    rest: float = 0.0
    until: float = float("-inf")
    fault: str = ""


class Fleet:
    """Other machines that hold shards. Safe to use from many threads.

    Args:
        peers: Them. The asker itself may be among them: it is asked for nothing that it holds.
        seconds: How long each of them has to answer.
    """

    def __init__(self, peers: Sequence[Peer], seconds: float) -> None:
        self.seconds = seconds
        self._peers = tuple(peers)
        self._known = [_Known() for _ in peers]
        self._lock = threading.Lock()

    def gather(
        self, question: Question[A], wanted: Iterable[str], meanwhile: Callable[[], None] = lambda: None,
        seconds: float | None = None, patience: float | None = None,
    ) -> tuple[list[tuple[A, frozenset[str]]], tuple[str, ...]]:  # fmt: skip
        """Ask those who hold some shards, each shard of one of them; of another where that one fails.

        Args:
            question: What to ask.
            wanted: About which shards.
            meanwhile: What to do while the others work.
            seconds: How long it may take, if not as long as everybody may take.
            patience: How long each has to answer, where the question is no ordinary one.

        Returns:
            Answers, each with the shards it is to be believed for, so that none counts twice; and the names of those
            shards for which there was none, sorted.
        """
        left, asked, answers = set(wanted), set[tuple[int, str]](), list[tuple[A, frozenset[str]]]()
        each = self.seconds if patience is None else patience
        longest = ROUNDS * self.seconds if patience is None else patience + self.seconds
        end = time.monotonic() + (longest if seconds is None else min(seconds, longest))
        for turn in range(ROUNDS):
            allowed = min(each, end - time.monotonic())
            plan = self._plan(question.index, left, asked) if allowed > 0 else {}
            futures = {n: self._peers[n].ask(question, shards, allowed) for n, shards in plan.items()}
            if not turn:
                meanwhile()
            for n, future in futures.items():
                asked |= {(n, shard) for shard in plan[n]}
                answer = self._answer(n, question.index, future)
                if answer is not None:
                    believed = left & set(answer.shards) & set(plan[n])
                    left -= believed
                    answers.append((answer, frozenset(believed)))
            if not left:
                break
        return answers, tuple(sorted(left))

    def _plan(self, index: str, wanted: set[str], asked: set[tuple[int, str]]) -> dict[int, tuple[str, ...]]:
        """Whom to ask for what: of those known to hold a shard one, else all who were not asked for it yet."""
        now, plan = time.monotonic(), dict[int, list[str]]()
        with self._lock:
            there = {n: known.holds.get(index, ()) for n, known in enumerate(self._known) if now >= known.until}
        for shard in sorted(wanted):
            left = [n for n in there if (n, shard) not in asked]
            holders = [n for n in left if shard in there[n]]
            # The same one each time, so that its memory holds the shard; another for the next shard.
            for n in [holders[zlib.crc32(shard.encode()) // 7 % len(holders)]] if holders else left:
                plan.setdefault(n, []).append(shard)
        return {n: tuple(shards) for n, shards in plan.items()}

    def _answer(self, number: int, index: str, future: Future[A]) -> A | None:
        """What a peer answered; None where it did not, which is logged when it is news."""
        known, fault, silent, answer = self._known[number], "", False, None
        try:
            answer = future.result()
        except SmaltiError as error:
            fault = str(error)
            silent = isinstance(error, Unavailable)
        with self._lock:
            news, known.fault = fault != known.fault, fault
            if answer is not None:
                known.holds = {index: answer.holds, **_newest(known.holds, index)}
                known.rest = 0.0
            elif silent:
                known.rest = min(max(2 * known.rest, REST_S), LONGEST_REST_S)
                known.until = time.monotonic() + known.rest
        if fault and news:
            log.warning("peer %s: %s", self._peers[number].name, fault)
        return answer


def _newest(holds: Mapping[str, frozenset[str]], but: str) -> dict[str, frozenset[str]]:
    """What was learnt lately of other indexes: a hundred of them are enough."""
    return dict([item for item in holds.items() if item[0] != but][:99])
