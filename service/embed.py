"""Journey 3: a source of time series -> d-pixels -> encoder -> int8 + scale -> blocks of a writable store."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.encoder import Encoder, EncodeResult
from service.errors import Conflict, InvalidInput, ReadOnly
from service.grid import Block, Zone, archive_grid
from service.sources import Source
from service.store.contract import BlockData, WritableStore
from service.values import BLOCK, NOT_EMBEDDED, Counts, Float64Array, Vectors, Window

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
            write_piece(store, window, block, *_scattered(result, placement.in_block(block)), piece)
            written.append(block)
            encoded += count
        done += count
        if on_progress:
            on_progress(done, total)
    if written:
        store.write_overviews(window, written)
    return EmbedReport(tuple(written), tuple(b for b in blocks if b not in written), encoded, store.revision()[0])


def embed_places(
    lonlat: Float64Array, result: EncodeResult, store: WritableStore, window: Window, origin: str
) -> tuple[Block, ...]:
    """Store pixels that were embedded one by one, each at its own place; then renew the overviews above.

    Args:
        lonlat: (n, 2) degrees, in the order of `result`.
        result: What the encoder made.
        store: Where to.
        window: The window the series covered.
        origin: Hex digits that say what the pixels were made from.

    Returns:
        The blocks that were written.

    Raises:
        InvalidInput: Two of the places fall into the same pixel.
        OutsideBounds: A place lies outside the grid of its zone.
        Conflict: Another writer kept changing a block.
    """
    cells: dict[Block, list[tuple[int, int, int]]] = defaultdict(list)
    for index, (lon, lat) in enumerate(lonlat):
        zone = Zone.of(lon, lat)
        row, col = archive_grid(zone).cell(lon, lat)
        cells[Block(zone.name, row // BLOCK, col // BLOCK)].append((row % BLOCK, col % BLOCK, index))
    for block, members in cells.items():
        if len({(row, col) for row, col, _ in members}) < len(members):
            raise InvalidInput(f"two places fall into the same pixel of block {block.name}.", field="pixels.at")
    for block, members in cells.items():
        rows, cols, indices = np.array(members).T
        vectors, counts = _scattered(result, (rows, cols), indices)
        write_piece(store, window, block, vectors, counts, fingerprint(origin, block.name))
    store.write_overviews(window, cells)
    return tuple(sorted(cells))


def _scattered(result: EncodeResult, where: tuple[Any, Any], indices: Any = slice(None)) -> tuple[Vectors, Counts]:
    """A whole block that holds `result[indices]` at `where` and nothing elsewhere."""
    vectors = Vectors.empty((BLOCK, BLOCK), result.vectors.dims)
    counts = Counts.zeros((BLOCK, BLOCK))
    shape = vectors.status[where].shape
    for target, fresh in (
        *((getattr(vectors, name), getattr(result.vectors, name)) for name in ("codes", "scales", "status")),
        *((getattr(counts, name), getattr(result.counts, name)) for name in ("s2", "s1_asc", "s1_desc")),
    ):
        target[where] = fresh[indices].reshape(*shape, *fresh.shape[1:])
    return vectors, counts


def write_piece(
    store: WritableStore, window: Window, block: Block, vectors: Vectors, counts: Counts, piece: str
) -> None:
    """Merge freshly embedded pixels into one block and commit it. Pixels that got no vector keep what was there.

    Args:
        store: Where to.
        window: When.
        block: The block to merge into.
        vectors: (256, 256) pixels, NOT_EMBEDDED where nothing new came.
        counts: (256, 256) likewise.
        piece: 64 hex digits: what they were made from.

    Raises:
        Conflict: Another writer kept changing the block.
    """
    for attempt in range(ATTEMPTS):
        old = store.read_block(block, window)
        try:
            store.write([_merged(old, vectors, counts, piece)], f"embed {block.name} {window}")
            return
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
            store.refresh()


def _merged(old: BlockData, vectors: Vectors, counts: Counts, piece: str) -> BlockData:
    new = vectors.status != NOT_EMBEDDED

    def pick(fresh: npt.NDArray[Any], before: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.where(new.reshape(new.shape + (1,) * (fresh.ndim - 2)), fresh, before)

    kept = (~new & (old.vectors.status != NOT_EMBEDDED)).any()
    return replace(
        old,
        vectors=Vectors(*(pick(getattr(vectors, n), getattr(old.vectors, n)) for n in ("codes", "scales", "status"))),
        counts=Counts(*(pick(getattr(counts, n), getattr(old.counts, n)) for n in ("s2", "s1_asc", "s1_desc"))),
        fingerprint=fingerprint(piece, old.fingerprint if kept else ""),
    )


def piece_fingerprint(source: Source, encoder: Encoder, window: Window, block: Block, min_s2: int) -> str:
    """What a source contributes to one block, as 64 hex digits: model, window, content, place and parameters."""
    placement = source.placement
    made_by = f"{encoder.identity}|{encoder.digest}|{encoder.precision}"
    text = f"{made_by}|{window}|{source.digest}|{placement}|{block.name}|{min_s2}"
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
