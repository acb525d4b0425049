"""What travels between machines with shards comes back as it was; what no honest machine would send is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexing.fleet.allowed import PIXELS, Allowed
from indexing.fleet.shards import Candidates, IndexName, Proposing
from indexing.fleet.wire import packed, unpacked
from service.errors import Corrupt, InvalidInput, LimitExceeded
from service.values import ModelIdentity, Window
from tests.fakes import IDENTITY

NAME = IndexName("d", IDENTITY, Window.parse("2024"), 1, "q-1")
SHARDS = ("s-a", "s-b", "s-c")


def bits(*slots: object) -> np.ndarray:
    """Bits of a shard: for each block none, all, or every nth pixel."""
    rows = [np.zeros(PIXELS, bool) for _ in slots]
    for row, every in zip(rows, slots, strict=True):
        if every:
            row[:: int(str(every))] = True
    return np.packbits(np.stack(rows), axis=1, bitorder="little").ravel()


QUESTION = Proposing(
    NAME, np.eye(2, 4, dtype=np.float32), 3, 8, {"s-a": 2, "s-b": 3, "s-c": 1},
    {"s-b": Allowed.of(bits(0, 1, 7)), "s-c": Allowed.of(bits(0))},
)  # fmt: skip
GOOD = Candidates(
    ("s-a", "s-b"), frozenset({"s-a", "s-b", "s-z"}), np.array([0, 0, 1]), np.array([1, 0, 1]),
    np.array([PIXELS + 3, 2 * PIXELS - 1, 2 * PIXELS + 14]), np.array([0.25, 0.5, 0.125], np.float32),
    np.arange(1, 13, dtype=np.int8).reshape(3, 4), np.array([0.5, 1, 2], np.float32),
)  # fmt: skip


def test_a_question_comes_back_as_it_was_for_the_shards_it_is_sent_about() -> None:
    back, shards = Proposing.from_bytes(QUESTION.to_bytes(SHARDS[1:]))
    assert shards == SHARDS[1:]
    assert (back.name, back.count, back.probes, dict(back.slots)) == (NAME, 3, 8, {"s-b": 3, "s-c": 1})
    np.testing.assert_array_equal(back.directions, QUESTION.directions)
    np.testing.assert_array_equal(back.allowed["s-b"].expanded(), bits(0, 1, 7))
    np.testing.assert_array_equal(back.allowed["s-c"].expanded(), bits(0))
    assert not Proposing.from_bytes(QUESTION.to_bytes(SHARDS[:1]))[0].allowed, "all of it"


def test_an_answer_comes_back_as_it_was() -> None:
    back = QUESTION.read(GOOD.to_bytes(), SHARDS)
    assert (back.shards, back.holds) == (GOOD.shards, GOOD.holds)
    for name in ("query", "shard", "position", "estimate", "codes", "scales"):
        np.testing.assert_array_equal(getattr(back, name), getattr(GOOD, name))
    none = Candidates((), frozenset(), *(getattr(GOOD, n)[:0] for n in ("query", "shard", "position", "estimate")),
                      GOOD.codes[:0], GOOD.scales[:0])  # fmt: skip
    assert not len(QUESTION.read(none.to_bytes(), SHARDS).query)


def changed(name: str, at: int, value: float) -> dict[str, Any]:
    column = getattr(GOOD, name).copy()
    column[at] = value
    return {name: column}


LIES: dict[str, dict[str, Any]] = {
    "about a shard it was not asked for": {"shards": ("s-a", "s-z")},
    "from a shard it did not look into": {"shards": ("s-a",)},
    "beyond the shards": changed("shard", 0, 3),
    "before the first shard": changed("shard", 0, -1),
    "beyond the shard": changed("position", 1, 2 * PIXELS),
    "before the shard": changed("position", 1, -1),
    "a block of which none may be proposed": changed("position", 0, 3),
    "a pixel that may not be proposed": changed("position", 2, 2 * PIXELS + 13),
    "for no direction": changed("query", 0, 2),
    "out of order": changed("query", 0, 1),
    "the far ones first": changed("estimate", 0, 0.75),
    "an estimate that is no number": changed("estimate", 0, np.nan),
    "a scale that is no number": changed("scales", 0, np.inf),
    "a pixel without direction": {"codes": GOOD.codes * np.array([[1], [0], [1]], np.int8)},
    "other dimensions": {"codes": GOOD.codes[:, :3]},
    "columns of other lengths": {"scales": GOOD.scales[:2]},
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_no_honest_peer_sends_is_refused(lie: str) -> None:
    with pytest.raises(Corrupt):
        QUESTION.read(replace(GOOD, **LIES[lie]).to_bytes(), SHARDS)


def test_more_than_was_asked_for_is_refused() -> None:
    columns = {name: np.repeat(getattr(GOOD, name)[:1], 4, axis=0) for name in
               ("query", "shard", "position", "estimate", "codes", "scales")}  # fmt: skip
    with pytest.raises(Corrupt):
        QUESTION.read(replace(GOOD, **columns).to_bytes(), SHARDS)
    assert len(GOOD.to_bytes()) < QUESTION.most < 3_000_000


def asked(**head: Any) -> bytes:
    """A question with another head."""
    kinds = {"directions": ("<f4", 2), "slots": ("|u1", 1), "bits": ("|u1", 1)}
    told, arrays = unpacked(QUESTION.to_bytes(SHARDS), kinds)
    arrays |= {name: value for name, value in head.items() if name in kinds}
    return packed({**told, **{name: value for name, value in head.items() if name not in kinds}}, arrays)


@pytest.mark.parametrize(
    "head",
    [
        {"count": 0}, {"count": True}, {"count": "3"}, {"probes": 0}, {"probes": 10**6}, {"index": []},
        {"index": NAME.to_document() | {"level": "1"}}, {"index": NAME.to_document() | {"model": "x"}},
        {"shards": {"a": 1}}, {"shards": [["a", 1, 2]]}, {"shards": [["a", -1]]}, {"shards": [["a", 1]]},
        {"shards": [["a", 10**9]]}, {"count": 10**9}, {"slots": np.full(6, 3, np.uint8)},
        {"bits": np.zeros(5, np.uint8)}, {"directions": np.full((2, 4), np.nan, np.float32)},
        {"slots": np.full(6, 2, np.uint8)},
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_is_refused(head: dict[str, Any]) -> None:
    with pytest.raises((InvalidInput, LimitExceeded, Corrupt)):
        Proposing.from_bytes(asked(**head))
    assert Proposing.from_bytes(asked())[1] == SHARDS


@given(st.lists(st.sampled_from([0, 1, 2, 9]), min_size=1, max_size=5), st.data())
@settings(max_examples=30, deadline=None)
def test_what_is_allowed_means_the_same_on_both_sides(slots: list[int], data: st.DataObject) -> None:
    whole = bits(*slots)
    allowed = Allowed.of(whole)
    np.testing.assert_array_equal(allowed.expanded(), whole)
    assert len(allowed.bits) == sum(every > 1 for every in slots) * PIXELS // 8
    position = np.array(data.draw(st.lists(st.integers(0, len(slots) * PIXELS - 1), max_size=4)), np.int64)
    truth = np.unpackbits(whole, bitorder="little")[position].astype(bool)
    assert allowed.may(position) == bool(truth.all())


def test_indexes_are_the_same_only_if_all_of_it_is() -> None:
    others = [
        replace(NAME, dataset="e"), replace(NAME, identity=ModelIdentity("fake", "2", "test")),
        replace(NAME, window=Window.parse("2023")), replace(NAME, level=8), replace(NAME, quantiser="q-2"),
    ]  # fmt: skip
    assert IndexName.from_document(NAME.to_document()) == NAME
    assert len({str(name) for name in (NAME, *others)}) == 6
