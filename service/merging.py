"""Freshly embedded pixels into a block that may hold others: merged, and committed as one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.errors import Conflict
from service.grid import Block
from service.store.contract import BlockData, WritableStore
from service.values import NOT_EMBEDDED, Counts, Vectors, Window

_HALF: Final = 32
ATTEMPTS: Final = 5
"""How often a block is merged anew when somebody else wrote it meanwhile."""


def write_piece(
    store: WritableStore,
    window: Window,
    block: Block,
    vectors: Vectors,
    counts: Counts,
    piece: str,
    note: Callable[[str, str], None] | None = None,
    *,
    settles: bool = False,
) -> None:
    """Merge freshly embedded pixels into one block and commit it, if that changes anything.

    A pixel that got no vector keeps the one it has: a gap takes no vector away, nor does a rejection, unless the piece
    settles what its pixels are. The same vectors made with other parameters are committed too where they fill the
    block alone, or settle it: so that it is known.

    Args:
        store: Where to.
        window: When.
        block: The block to merge into.
        vectors: (256, 256) pixels, NOT_EMBEDDED where nothing new came.
        counts: (256, 256) likewise.
        piece: 64 hex digits: what they were made from.
        note: Called before a commit with the block's new fingerprint, and with that of what stays of the block ("" if
            nothing does).
        settles: Whether the piece is what the dataset's own source has of the block: then it is the newest piece
            afterwards, and rejects what it rejects.

    Raises:
        Conflict: Another writer kept changing the block.
    """
    for attempt in range(ATTEMPTS):
        old = store.read_block(block, window)
        merged = _merged(old, vectors, counts, piece, settles)
        over = merged.fingerprint == fingerprint(piece, old.fingerprint)
        empty = (merged.vectors.status == NOT_EMBEDDED).all()
        known = empty or is_newest(piece, old.fingerprint) or (over and not settles)
        if known and not _differs(old, merged):
            return
        if note:
            note(merged.fingerprint, old.fingerprint if over else "")
        try:
            store.write([merged], f"embed {block.name} {window}")
            return
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
            store.refresh()


def _merged(old: BlockData, vectors: Vectors, counts: Counts, piece: str, settles: bool) -> BlockData:
    new = vectors.valid | ((vectors.status != NOT_EMBEDDED) & (settles | ~old.vectors.valid))

    def pick(fresh: npt.NDArray[Any], before: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.where(new.reshape(new.shape + (1,) * (fresh.ndim - 2)), fresh, before)

    kept = (~new & (old.vectors.status != NOT_EMBEDDED)).any()
    return replace(
        old,
        vectors=Vectors(*(pick(getattr(vectors, n), getattr(old.vectors, n)) for n in ("codes", "scales", "status"))),
        counts=Counts(*(pick(getattr(counts, n), getattr(old.counts, n)) for n in ("s2", "s1_asc", "s1_desc"))),
        fingerprint=fingerprint(piece, old.fingerprint if kept else ""),
    )


def _differs(old: BlockData, new: BlockData) -> bool:
    """Whether any pixel of a block changed."""
    held = [(b.vectors.codes, b.vectors.scales, b.vectors.status, *vars(b.counts).values()) for b in (old, new)]
    return not all(np.array_equal(before, after) for before, after in zip(*held, strict=True))


def fingerprint(piece: str, before: str) -> str:
    """The fingerprint of a block: the newest piece, and the fingerprint of what it was merged into ("" if nothing).

    64 hex digits: the first half of the piece's own, then a digest of both.
    """
    return piece[:_HALF] + digest(piece, before)[:_HALF]


def is_newest(piece: str, of: str) -> bool:
    """Whether a fingerprint is that of a block whose newest piece is this one."""
    return of[:_HALF] == piece[:_HALF]


def digest(*texts: str) -> str:
    """64 hex digits that stand for some texts."""
    return hashlib.sha256("|".join(texts).encode()).hexdigest()
