"""How hard an index looks, and what was measured to be found by it: of queries of one example, and of several.

A query of one example lies near to some pixel. What several come to may lie between all of them, in no list: more
lists have to be looked into to find its best, and each kind of query is told the recall of its own kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TARGET: Final = 0.99
"""Recall of the 10 best that is aimed for. 192 queries tell a share within .004 or so: the .985 promised holds."""


@dataclass(frozen=True)
class Tuning:
    """How hard to look, and what was found by it when the index was built."""

    probes: int
    """Lists to look into."""
    candidates: int
    """Candidates to rank exactly."""
    recall: float
    """Share of the true 10 best that were found of held-out pixels, half of them moved a little."""
    recall_at_100: float
    """Share of the true 100 best, likewise."""
    mixed: float
    """Share of the true 10 best that were found of means of two held-out pixels: most lie far from every pixel."""
    mixed_at_100: float
    """Share of the true 100 best, likewise."""
    queries: int
    """Held-out queries, of which a third are means."""

    @property
    def cost(self) -> float:
        """In lists: ranking a dozen candidates takes as long as looking into a list."""
        return self.probes + self.candidates / 12

    def measured(self, k: int, *, mixed: bool = False) -> float | None:
        """The recall that tells most of the k best, of queries mixed of several examples or not; None: not measured."""
        ten, hundred = (self.mixed, self.mixed_at_100) if mixed else (self.recall, self.recall_at_100)
        return ten if k <= 10 else hundred if k <= 100 else None

    def scaled(self, k: int) -> tuple[int, int]:
        """(probes, candidates) for the k best: 10 k candidates at least, and more lists for more hits."""
        wider = 1 if k <= 10 else 2 if k <= 100 else 4
        return self.probes * wider, max(self.candidates, -(-self.candidates * k // 20))


def default_of(tunings: Sequence[Tuning], *, mixed: bool = False) -> Tuning:
    """The cheapest that meets the target, for queries of one example or of several; the best where none does."""
    by_recall = [(each.measured(10, mixed=mixed) or 0.0, each) for each in tunings]
    best = max(by_recall, key=lambda pair: pair[0])[1]
    return next((each for recall, each in by_recall if recall >= TARGET), best)
