"""What a machine answers to another one that asks about the shards it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from indexing.exact import scan
from indexing.fleet.allowed import Allowed
from indexing.fleet.gathered import table_of
from indexing.fleet.scanning import Scanning
from indexing.fleet.shards import Candidates, IndexName, Proposing, name_of
from indexing.fleet.wire import packed
from indexing.index.opened import OpenedIndex
from indexing.index.proposals import Proposal
from indexing.index.segment import Segment
from indexing.pixels import Pixels
from service.deadline import Deadline
from service.errors import Conflict, IdentityMismatch, NotFound
from service.grid import Block
from service.values import BoolArray, UInt8Array


def candidates_for(message: bytes, index_of: Callable[[IndexName], OpenedIndex | None]) -> bytes:
    """What this machine answers to another one's question about candidates.

    Args:
        message: The question.
        index_of: Finds what is here of an index by dataset, window and level.

    Raises:
        InvalidInput, LimitExceeded: It is no question, or asks for too much.
        NotFound: There is no such index here.
        IdentityMismatch, Conflict: It is of another model, or another training. Names both.
    """
    question, shards = Proposing.from_bytes(message)
    index = index_for(question.name, index_of)
    dims = index.manifest.parameters.dims
    if question.directions.shape[1] != dims:
        raise Conflict(f"asked is for {question.directions.shape[1]} dimensions, the index has {dims}.", field="index")
    asked, holds = asked_of(index, shards, question.slots, question.allowed)
    masks: list[UInt8Array | None] = [None] * len(index.segments)
    for segment in asked:
        if segment.name in question.allowed:
            masks[segment.number] = question.allowed[segment.name].expanded()
    numbers = [segment.number for segment in asked]
    found = index.propose(question.directions, question.count, question.probes, masks, numbers)
    return _told(index, found, shards, tuple(segment.name for segment in asked), holds).to_bytes()


def index_for(name: IndexName, index_of: Callable[[IndexName], OpenedIndex | None]) -> OpenedIndex:
    """What is here of the index that another machine asks about.

    Raises:
        NotFound: Nothing.
        IdentityMismatch, Conflict: What is here is of another model, or another training. Names both.
    """
    index = index_of(name)
    if index is None:
        raise NotFound(f"there is no index of {name.dataset} {name.window} here.", field="index")
    here = name_of(index.manifest)
    if here.identity != name.identity:
        raise IdentityMismatch(f"asked is {name.identity}, the index here is of {here.identity}.")
    if here != name:
        raise Conflict(f"asked is the index {name}, here is {here}.", field="index")
    return index


def asked_of(
    index: OpenedIndex, shards: Sequence[str], slots: Mapping[str, int], allowed: Mapping[str, Allowed]
) -> tuple[list[Segment], frozenset[str]]:
    """Those of the shards asked about that can be answered for here, and the names of all that are here.

    None is of which a block is asked about that does not count here: it is so while this machine is a generation ahead.
    """
    held = {index.segments[n].name: index.segments[n] for n in index.held}
    asked = []
    for segment in (held[name] for name in shards if name in held):
        wanted = allowed.get(segment.name)
        asks: BoolArray = np.ones(segment.slots, bool) if wanted is None else wanted.states > 0
        if segment.slots == slots[segment.name] and segment.alive[asks].all():
            asked.append(segment)
    return asked, frozenset(held)


def _told(
    index: OpenedIndex,
    found: Sequence[Proposal],
    shards: Sequence[str],
    answered: tuple[str, ...],
    holds: frozenset[str],
) -> Candidates:
    table = table_of(found)
    own = Proposal(table.segment.astype(np.int32), table.position, table.estimate)
    _, rows = index.rows(own, scales=True)
    assert rows.scales is not None  # noqa: S101  # they were asked for
    place = {name: number for number, name in enumerate(shards)}
    places = np.array([place.get(segment.name, -1) for segment in index.segments], np.int64)
    return Candidates(
        answered, holds, table.query, places[table.segment], table.position, table.estimate, rows.codes, rows.scales
    )


def best_for(message: bytes, index_of: Callable[[IndexName], OpenedIndex | None]) -> bytes:
    """What this machine answers to another one that has it score pixels.

    Args:
        message: The question.
        index_of: Finds what is here of an index by dataset, window and level.

    Raises:
        InvalidInput, LimitExceeded: It is no question, or asks for too much.
        NotFound: There is no such index here.
        IdentityMismatch, Conflict: It is of another model, or another training. Names both.
        Unavailable: It takes longer than it may.
    """
    question, shards = Scanning.from_bytes(message)
    index = index_for(question.name, index_of)
    question.query.require_same_space(index.manifest.identity, index.manifest.parameters.dims, "the index")
    segments, holds = asked_of(index, shards, question.slots, question.allowed)
    places = {
        block: (segment, slot, allowed)
        for segment in segments
        for allowed in [question.allowed.get(segment.name)]
        for slot, (block, _) in enumerate(segment.record.blocks)
        if allowed is None or allowed.states[slot]
    }
    deadline = Deadline.after(question.seconds)

    def read(block: Block) -> Pixels:
        deadline.check()
        segment, slot, _ = places[block]
        assert segment.rows is not None  # noqa: S101  # it is held here
        return segment.rows.block(slot)

    def mask(block: Block) -> BoolArray | None:
        _, slot, allowed = places[block]
        return None if allowed is None else allowed.block(slot)

    top, scanned = scan(question.query, places, read, question.k, mask=mask)
    head = {"shards": [segment.name for segment in segments], "holds": sorted(holds), "scanned": scanned}
    return packed(head, {"ids": top.ids.astype("<i8"), "scores": top.scores.astype("<f8")})
