"""An index whose shards lie on several machines answers as one machine does, to the bit; what is missing has a name."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexing.fleet.allowed import Allowed
from indexing.fleet.answering import best_for, candidates_for
from indexing.fleet.scanning import Scanning
from indexing.fleet.shards import Proposing, name_of
from indexing.fleet.share import ALL, Fleet, Question, Share
from indexing.fleet.spread import SpreadIndex
from indexing.fleet.wire import packed
from indexing.index.ann import unit
from indexing.index.build import build_index
from indexing.index.manifest import current
from indexing.index.opened import OpenedIndex
from indexing.question import Question as Asked
from indexing.question import Where
from indexing.search import Searcher
from service.deadline import Deadline
from service.errors import Conflict, Corrupt, IdentityMismatch, InvalidInput, NotFound, SmaltiError, Unavailable
from service.polygons import Polygon
from service.queries import Query
from service.values import Area, ModelIdentity, Window
from tests.fakes import IDENTITY, MemoryStore
from tests.landscapes import YEAR, landscape

PIXELS = 65536


Built = tuple[Path, MemoryStore]


@pytest.fixture(scope="module", params=[(16, 200), pytest.param((128, 560), marks=pytest.mark.slow)])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An index of four or nine shards of a block each; with 16 dimensions many estimates are equal."""
    dims, side = request.param
    folder, store = tmp_path_factory.mktemp("index"), landscape(side=side, dims=dims)
    build_index(store, "d", YEAR, folder, most_blocks=1)
    return folder, store


@dataclass
class Machine:
    """A peer in this process: its answers go through all that would travel."""

    index: OpenedIndex | None
    fault: SmaltiError | None = None
    asked: list[tuple[str, ...]] = field(default_factory=list)
    name = "machine"

    def ask(self, question: Question[Any], shards: tuple[str, ...], seconds: float) -> Future[Any]:
        self.asked.append(shards)
        future: Future[Any] = Future()
        try:
            if self.fault:
                raise self.fault
            answer = {"candidates": candidates_for, "best": best_for}[question.path]
            message = answer(question.to_bytes(shards), lambda _: self.index)
            assert len(message) <= question.most
            future.set_result(question.read(message, shards))
        except SmaltiError as error:
            future.set_exception(error)
        return future


def opened(built: Built, share: Share) -> OpenedIndex:
    folder, store = built
    generation = current(folder, YEAR)
    assert generation is not None
    return OpenedIndex.of(generation, store, "d", YEAR, share=share)


def directions(built: Built, count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    codes = built[1].parts[0].vectors.codes.reshape(-1, built[1].dims)
    return unit(codes[codes.any(axis=1)][rng.integers(0, 30_000, count)])


def told(index: OpenedIndex | SpreadIndex, *args: Any) -> list[tuple[Any, ...]]:
    found = []
    for each in index.propose(*args):
        ids, rows = index.rows(each, scales=True)
        parts = each.segment, each.position, each.estimate, ids, rows.codes, rows.norms, rows.scales
        found.append(tuple(part.tolist() for part in parts if part is not None))
    return found


@pytest.mark.parametrize("shares", [["0/2", "1/2"], ["none", "0/3", "1/3", "2/3"], ["0/3", "1/3", "0/2", "all"]])
def test_machines_together_propose_what_one_does(built: Built, shares: list[str]) -> None:
    one = opened(built, ALL)
    first, *others = (opened(built, Share.parse(share)) for share in shares)
    fleet = Fleet([Machine(index) for index in others], 5.0)
    rng = np.random.default_rng(2)
    some = [np.packbits(rng.random(each.slots * PIXELS) < 0.01, bitorder="little") for each in one.segments]
    none = [None if n % 2 else bits * np.uint8(n % 4 > 0) for n, bits in enumerate(some)]
    for queries, count, probes, allowed, segments in (
        (3, 50, 4, None, None), (20, 7, 16, None, None), (2, 300, 16, some, None), (2, 9, 2, none, [0, 2, 3]),
    ):  # fmt: skip
        asked = directions(built, queries), count, probes, allowed, segments
        spread = SpreadIndex(first, fleet)
        assert told(spread, *asked) == told(one, *asked)
        assert spread.missing == ()


def test_shards_that_nobody_answers_for_are_missing_by_name_and_the_rest_is_as_it_was(built: Built) -> None:
    one, share = opened(built, ALL), Share.parse("0/2")
    machine = Machine(opened(built, Share.parse("1/2")), Unavailable("cannot be reached."))
    spread = SpreadIndex(opened(built, share), Fleet([machine], 5.0))
    asked = directions(built, 2), 30, 4
    mine = opened(built, share).held
    assert 0 < len(mine) < len(one.segments)
    assert told(spread, *asked) == told(one, *asked, None, mine)
    assert spread.missing == tuple(sorted(each.name for each in one.segments if each.number not in mine))
    alone = SpreadIndex(opened(built, Share.parse("none")), Fleet([machine], 5.0))
    with pytest.raises(
        Unavailable, match=f"none of the {len(one.segments)} shards.*{min(s.name for s in one.segments)}"
    ):
        alone.propose(*asked)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"identity": ModelIdentity("fake", "2", "test")}, IdentityMismatch),
        ({"window": Window.year(2023)}, Conflict),
        ({"level": 8}, Conflict),
        ({"dataset": "e"}, Conflict),
    ],
)
def test_an_index_of_something_else_is_refused_by_both_names(
    built: Built, change: dict[str, Any], kind: type[SmaltiError]
) -> None:
    index = opened(built, ALL)
    question = Proposing(replace(name_of(index.manifest), **change), directions(built, 1), 3, 2, {"s-x": 1}, {})
    with pytest.raises(kind) as error:
        candidates_for(question.to_bytes(("s-x",)), lambda _: index)
    assert all(str(value) in str(error.value) for value in change.values())
    assert str(index.manifest.identity) in str(error.value)
    with pytest.raises(NotFound):
        candidates_for(question.to_bytes(("s-x",)), lambda _: None)


def test_a_machine_that_is_a_generation_ahead_answers_for_what_did_not_change(built: Built) -> None:
    one, share = opened(built, ALL), Share.parse("none")
    number = next(n for n, each in enumerate(one.segments) if each.slots == 1)
    segment = one.segments[number]
    record = replace(segment.record, blocks=((segment.record.blocks[0][0], ""),))
    ahead = replace(one, segments=tuple(replace(e, record=record) if e is segment else e for e in one.segments))
    spread = SpreadIndex(opened(built, share), Fleet([Machine(ahead)], 5.0))
    asked = directions(built, 2), 30, 4
    rest = [each.number for each in one.segments if each is not segment]
    assert told(spread, *asked) == told(one, *asked, None, rest)
    assert spread.missing == (segment.name,), "else pixels of that block would be lost in silence"
    none = [None if each is not segment else np.zeros(PIXELS // 8, np.uint8) for each in one.segments]
    again = SpreadIndex(opened(built, share), Fleet([Machine(ahead)], 5.0))
    assert told(again, *asked, none) == told(one, *asked, none)
    assert again.missing == (), "of what is not asked for nothing is missing"


def test_a_time_that_is_over_is_not_asked_for(built: Built) -> None:
    share = Share.parse("none")
    machine = Machine(opened(built, ALL))
    spread = SpreadIndex(opened(built, share), Fleet([machine], 5.0), Deadline(1.0, 0.0))
    with pytest.raises(Unavailable, match="longer than the 1 seconds"):
        spread.propose(directions(built, 1), 3, 2)
    assert not machine.asked


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_what_a_filter_leaves_is_scored_where_it_lies_and_answers_are_those_of_one_machine(
    built: Built, metric: str
) -> None:
    folder, store = built
    share, machine = Share.parse("0/2"), Machine(opened(built, Share.parse("1/2")))
    (part,) = store.parts
    lon, lat = part.grid.to_lonlat(part.row0 + np.array([180.0, 20.0]), part.col0 + np.array([9.0, 170.0]))
    (west, east), (south, north) = lon.tolist(), lat.tolist()
    triangle = {"type": "Polygon", "coordinates": [[[west, south], [east, south], [east, north], [west, south]]]}
    query = Query.of(IDENTITY, part.vectors.codes[50, 60:62].astype(np.float32), metric=metric)
    one, spread = Searcher(store, "d", folder), Searcher(store, "d", folder, share=share, fleet=Fleet([machine], 5.0))
    for where in (Where(area=Area(west, south, east, north)), Where(inside=Polygon.of_geojson(triangle, "within"))):
        question = Asked(query, YEAR, 40, where=where)
        for fault in (None, Corrupt("sends nonsense."), Unavailable("cannot be reached.")):
            machine.fault = fault
            assert spread.search(question) == one.search(question), "exact is exact, and never partial"
    assert machine.asked


def scanning(built: Built, **change: Any) -> tuple[Scanning, str]:
    """A question about a pixel of a shard, of which one block may be looked at."""
    index = opened(built, ALL)
    segment = index.segments[0]
    ((block, _),) = segment.record.blocks
    bits = np.zeros(PIXELS // 8, np.uint8)
    bits[:100] = 255
    given = {
        "name": name_of(index.manifest), "query": Query.of(IDENTITY, directions(built, 1)), "k": 3, "seconds": 5.0,
        "slots": {segment.name: 1}, "allowed": {segment.name: Allowed.of(bits)}, "places": {block: (segment.name, 0)},
    }  # fmt: skip
    return Scanning(**(given | change)), segment.name


def test_a_question_to_score_pixels_comes_back_and_lies_about_it_are_refused(built: Built) -> None:
    question, shard = scanning(built)
    back, shards = Scanning.from_bytes(question.to_bytes((shard,)))
    assert (shards, back.k, back.seconds, back.name, back.query.id) == (
        (shard,),
        3,
        5.0,
        question.name,
        question.query.id,
    )
    first = int(opened(built, ALL).segments[0].first_ids[0])

    def answer(ids: list[int], scores: list[float], **head: Any) -> bytes:
        told = {"shards": [shard], "holds": [shard], "scanned": 800} | head
        return packed(told, {"ids": np.array(ids, "<i8"), "scores": np.array(scores, "<f8")})

    assert question.read(answer([first + 1, first], [0.5, 0.25]), (shard,)).ids.tolist() == [first + 1, first]
    for lie in (
        answer([first, first + 1], [0.25, 0.5]), answer([first, first], [0.5, 0.5]), answer([first], [np.nan]),
        answer([first + 1, first], [0.5, 0.5]), answer([first + (4 << 24)], [0.5]), answer([1], [0.5]),
        answer([first] * 4, [0.5] * 4), answer([first], [0.5], shards=[]), answer([first], [0.5], shards=["s-z"]),
        answer([first], [0.5], scanned=-1), answer([first], [0.5], scanned="many"),
    ):  # fmt: skip
        with pytest.raises(Corrupt):
            question.read(lie, (shard,))
    for wrong in ({"k": 0}, {"k": 10**9}, {"seconds": 0.0}, {"seconds": float(10**9)}):
        with pytest.raises(InvalidInput):
            Scanning.from_bytes(scanning(built, **wrong)[0].to_bytes((shard,)))
    with pytest.raises(Unavailable):
        best_for(scanning(built, seconds=1e-9)[0].to_bytes((shard,)), lambda _: opened(built, ALL))
