"""What a machine answers to another one that asks about the shards it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from indexing.opened import OpenedIndex
from indexing.proposals import Proposal
from indexing.segment import Segment
from indexing.shards import Candidates, IndexName, Proposing
from indexing.spread import name_of, table_of
from service.errors import Conflict, IdentityMismatch, NotFound
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
    index = index_of(question.name)
    if index is None:
        raise NotFound(f"there is no index of {question.name.dataset} {question.name.window} here.", field="index")
    here = name_of(index.manifest)
    if here.identity != question.name.identity:
        raise IdentityMismatch(f"asked is {question.name.identity}, the index here is of {here.identity}.")
    if here != question.name or question.directions.shape[1] != index.manifest.parameters.dims:
        raise Conflict(f"asked is the index {question.name}, here is {here}.", field="index")
    held = {index.segments[n].name: index.segments[n] for n in index.held}
    asked = [held[name] for name in shards if name in held and _is_same(held[name], question)]
    masks: list[UInt8Array | None] = [None] * len(index.segments)
    for segment in asked:
        if segment.name in question.allowed:
            masks[segment.number] = question.allowed[segment.name].expanded()
    numbers = [segment.number for segment in asked]
    found = index.propose(question.directions, question.count, question.probes, masks, numbers)
    return _told(index, found, shards, tuple(segment.name for segment in asked), frozenset(held)).to_bytes()


def _is_same(segment: Segment, question: Proposing) -> bool:
    """Whether every block that is asked about counts here too: it does not while this machine is a generation ahead."""
    if segment.slots != question.slots[segment.name]:
        return False
    allowed = question.allowed.get(segment.name)
    wanted: BoolArray = np.ones(segment.slots, bool) if allowed is None else allowed.states > 0
    return bool(segment.alive[wanted].all())


def _told(
    index: OpenedIndex,
    found: Sequence[Proposal],
    shards: Sequence[str],
    answered: tuple[str, ...],
    holds: frozenset[str],
) -> Candidates:
    table = table_of(found)
    own = Proposal(table.segment.astype(np.int32), table.position, table.estimate)
    _, codes, _, scales = index.rows(own)
    place = {name: number for number, name in enumerate(shards)}
    places = np.array([place.get(segment.name, -1) for segment in index.segments], np.int64)
    return Candidates(
        answered, holds, table.query, places[table.segment], table.position, table.estimate, codes, scales
    )
