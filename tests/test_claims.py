"""Notes of blocks in hand: a block is in one hand at a time, however threads and workers meet over it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.claims import Claims
from api.roster import Roster, database_url

LAPSE_S = 30.0
BLOCK = "demo/2024/31N/1280/114"


@pytest.fixture
def roster(tmp_path: Path) -> Roster:
    """Two workers have signed it."""
    found = Roster(database_url(None, tmp_path))
    found.set_up()
    for name in ("one", "two"):
        found.sign(name, name, first=True)
    return found


@pytest.fixture
def workers(roster: Roster) -> tuple[Claims, Claims]:
    """The notes of both."""
    one, two = (Claims(roster, name, LAPSE_S) for name in ("one", "two"))
    one.set_up()
    two.set_up()
    return one, two


@contextmanager
def overtaken(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Another thread of the same worker takes the block just before notes are struck out, unless it has to wait."""
    mine, taken = claims._mine, list[bool]()
    other = threading.Thread(target=lambda: taken.append(claims.take(BLOCK)))

    def late() -> Any:
        if other.ident is None:
            other.start()
            other.join(0.2)
        return mine()

    monkeypatch.setattr(claims, "_mine", late)
    yield taken
    other.join(10)


def test_a_note_counts_while_whoever_wrote_it_lives(roster: Roster, workers: tuple[Claims, Claims]) -> None:
    one, two = workers
    assert one.take(BLOCK)
    assert not one.take(BLOCK), "by another thread of the same worker"
    assert not two.take(BLOCK)
    one.drop(BLOCK)
    assert two.take(BLOCK)
    assert Claims(roster, "three", 0.0).take(BLOCK), "nobody signed lately"


def test_what_is_taken_while_notes_are_tidied_up_stays_noted(
    workers: tuple[Claims, Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = workers
    with overtaken(one, monkeypatch) as taken:
        one.tidy()
    assert taken == [True]
    assert not two.take(BLOCK)


def test_what_is_taken_while_it_is_dropped_stays_noted(
    workers: tuple[Claims, Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = workers
    assert one.take(BLOCK)
    with overtaken(one, monkeypatch) as taken:
        one.drop(BLOCK)
    assert two.take(BLOCK) is not taken[0], "one of the two has it"
