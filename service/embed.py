"""Journey 3: a source of time series -> d-pixels -> encoder -> int8 + scale -> blocks of a writable store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from service.encoder import Encoder
from service.errors import Conflict, ReadOnly
from service.grid import Block
from service.quant import Variant
from service.sources import Placement, Source
from service.store.contract import BlockData, WritableStore
from service.values import NOT_EMBEDDED, Counts, Vectors, Window

ATTEMPTS: Final = 5
"""How often a block is merged anew when somebody else wrote it meanwhile."""

Progress = Callable[[int, int], None]
"""Called with (pixels done, pixels in all)."""


@dataclass(frozen=True)
class EmbedReport:
    """What came of it."""

    written: tuple[Block, ...]
    """Blocks that were embedded and committed."""
    skipped: tuple[Block, ...]
    """Blocks that held the same already."""
    pixels: int
    """Pixels encoded."""
    revision: str
    """The store's revision afterwards."""


def embed_source(
    source: Source,
    encoder: Encoder,
    store: WritableStore,
    window: Window,
    *,
    min_s2: int = 0,
    on_progress: Progress | None = None,
) -> EmbedReport:
    """Embed every pixel of a source and store it, one commit a block; then renew the overviews above.

    A block that was made from the same source, model, window and parameters is skipped, so a run that was stopped
    goes on where it was.

    Args:
        source: Where the series come from.
        encoder: Runs the model; must be the model of the store.
        store: Where to.
        window: The window the series cover.
        min_s2: Least number of valid Sentinel-2 dates; pixels below it get the status `rejected`.
        on_progress: Told of pixels done.

    Raises:
        IdentityMismatch: The encoder is another model than the store's.
        Conflict: Another writer kept changing a block.
    """
    store.identity.require_same(encoder.identity, "the encoder's output")
    placement, total, done = source.placement, source.placement.height * source.placement.width, 0
    blocks = tuple(placement.blocks())
    stored = store.fingerprints(window, blocks)
    written: list[Block] = []
    encoded = 0
    for block in blocks:
        rows, cols = placement.within(block)
        count = (rows.stop - rows.start) * (cols.stop - cols.start)
        piece = piece_fingerprint(source, encoder, window, block, min_s2)
        if stored.get(block) != fingerprint(piece, ""):
            result = encoder.encode(source.read(rows, cols), min_s2=min_s2)
            shape = (rows.stop - rows.start, cols.stop - cols.start)
            write_piece(store, window, placement, block, result.vectors, result.counts, shape, piece)
            written.append(block)
            encoded += count
        done += count
        if on_progress:
            on_progress(done, total)
    if written:
        store.write_overviews(window, written)
    return EmbedReport(tuple(written), tuple(b for b in blocks if b not in written), encoded, store.revision()[0])


def write_piece(
    store: WritableStore,
    window: Window,
    placement: Placement,
    block: Block,
    vectors: Vectors,
    counts: Counts,
    shape: tuple[int, int],
    piece: str,
) -> None:
    """Merge freshly embedded pixels into one block and commit it. Pixels that got no vector keep what was there.

    Args:
        store: Where to.
        window: When.
        placement: Where the pixels lie.
        block: The block to merge into.
        vectors: (n,) pixels, row by row, those of `placement.within(block)`.
        counts: (n,) likewise.
        shape: (rows, cols) of those pixels.
        piece: What they were made from.

    Raises:
        Conflict: Another writer kept changing the block.
    """
    where = placement.in_block(block)
    for attempt in range(ATTEMPTS):
        old = store.read_block(block, window)
        try:
            store.write([_merged(old, where, vectors, counts, shape, piece)], f"embed {block.name} {window}")
            return
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
            store.refresh()


def _merged(
    old: BlockData, where: tuple[slice, slice], vectors: Vectors, counts: Counts, shape: tuple[int, int], piece: str
) -> BlockData:
    codes, scales, status = old.vectors.codes.copy(), old.vectors.scales.copy(), old.vectors.status.copy()
    new = vectors.status.reshape(shape) != NOT_EMBEDDED
    for target, fresh in ((codes, vectors.codes), (scales, vectors.scales), (status, vectors.status)):
        target[where][new] = fresh.reshape(*shape, *fresh.shape[1:])[new]
    numbers = {}
    for name in ("s2", "s1_asc", "s1_desc"):
        target = getattr(old.counts, name).copy()
        target[where][new] = getattr(counts, name).reshape(shape)[new]
        numbers[name] = target
    untouched = np.ones(old.vectors.status.shape, bool)
    untouched[where] = ~new
    before = old.fingerprint if (untouched & (old.vectors.status != NOT_EMBEDDED)).any() else ""
    return replace(
        old, vectors=Vectors(codes, scales, status), counts=Counts(**numbers), fingerprint=fingerprint(piece, before)
    )


def piece_fingerprint(source: Source, encoder: Encoder, window: Window, block: Block, min_s2: int) -> str:
    """What a source contributes to one block, as 64 hex digits: model, window, content, place and parameters."""
    placement = source.placement
    text = f"{encoder.identity}|{encoder.digest}|{encoder.precision}|{window}|{source.digest}|{placement}|{block.name}|{min_s2}"
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(piece: str, before: str) -> str:
    """The fingerprint of a block: the newest piece, and the fingerprint of what it was merged into ("" if nothing)."""
    return hashlib.sha256(f"{piece}|{before}".encode()).hexdigest()


def require_writable(store: object, name: str) -> WritableStore:
    """`store` as one that can be written to.

    Raises:
        ReadOnly: It cannot.
    """
    if not getattr(store, "writable", False):
        raise ReadOnly(f"dataset {name!r} is read-only.", field="dataset", remedy="Embed without storing.")
    return store  # type: ignore[return-value]
