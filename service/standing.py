"""What a picture depends on in its stores, as one short text: found without reading a pixel, and remembered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from service.cache import ByteCache
from service.footprint import ByIdentity
from service.plan import Source, touched
from service.warp import Target

_KEPT: Final = 8_000_000
_SIZE: Final = 1_000
"""Bytes that one takes with its key, about."""


@dataclass(frozen=True)
class Standing:
    """How the blocks that a picture shows stand in its stores."""

    blocks: str | None
    """Changes when, and only when, one of them does; None where they are too many to ask for each."""
    stale: bool
    """Whether it shows an overview that is older than what lies below it."""


def standing(source: Source, target: Target) -> Standing:
    """How the blocks that a picture shows stand. Kept until a store's revision changes.

    Raises:
        NotFound: No such window.
        Unavailable: The transport failed.
    """
    key = _key(source, target)
    known = _known.get(key)
    if known is None:
        known = _look(source, target)
        if _key(source, target) == key:  # else a store moved on meanwhile
            _known.put(key, known)
    return known


def revisions(source: Source) -> tuple[tuple[str, bool], ...]:
    """(revision, strong) of each side."""
    return tuple(side.store.revision() for side in source.sides)


def _key(source: Source, target: Target) -> object:
    sides = tuple((ByIdentity(side.store), side.window) for side in source.sides)
    return sides, revisions(source), source.levels, source.dims, source.resampling, target


def _look(source: Source, target: Target) -> Standing:
    found = touched(source, target)
    if found.blocks is None:
        return Standing(None, found.stale)
    digest = hashlib.sha256()
    for side in source.sides:
        for block, version in side.store.versions(side.window, found.blocks).items():
            digest.update(f"{block.name}={version}\0".encode())
    return Standing(digest.hexdigest(), found.stale)


_known: Final[ByteCache[Standing]] = ByteCache(_KEPT, lambda _: _SIZE)
