"""Journey 3: a source of time series -> d-pixels -> encoder -> int8 + scale -> blocks of a writable store."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.dpixels import DPixels
from service.encoder import Encoder, EncodeResult
from service.errors import Conflict, InvalidInput, ReadOnly
from service.grid import Block, Zone, archive_grid
from service.sources import Placement, Source
from service.store.contract import BlockData, WritableStore
from service.values import BLOCK, NOT_EMBEDDED, Counts, Float64Array, Int64Array, Vectors, Window

ATTEMPTS: Final = 5
"""How often a block is merged anew when somebody else wrote it meanwhile."""

Progress = Callable[[int, int], None]
"""Called with (pixels done, pixels in all)."""

Cells = dict[Block, tuple[Int64Array, Int64Array, Int64Array]]
"""For each block: rows and columns in it, 0..255, and the indices of the pixels that go there."""


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
    *,
    min_s2: int = 0,
    leave_out: Collection[Block] = (),
    on_progress: Progress | None = None,
) -> EmbedReport:
    """Embed every pixel of a source and store it, one commit a block; then renew the overviews above.

    A block that was made from the same source, model, window and parameters alone is skipped, so a run that was
    stopped goes on where it was. One that others wrote to since is embedded anew; if that changes nothing, at most
    its fingerprint is committed.

    Args:
        source: Where the series come from.
        encoder: Runs the model; must be the model of the store.
        store: Where to.
        min_s2: Least number of valid Sentinel-2 dates; pixels below it get the status `rejected`.
        leave_out: Blocks not to embed.
        on_progress: Told of pixels done.

    Raises:
        IdentityMismatch: The encoder is another model than the store's.
        Conflict: Another writer kept changing a block.
    """
    placement = source.placement
    blocks = tuple(block for block in placement.blocks() if block not in leave_out)
    missing = missing_blocks(source, encoder, store, blocks, min_s2=min_s2)
    total, done = sum(map(placement.pixels_in, blocks)), 0
    for block in blocks:
        if block in missing:
            within = partial(_shifted, on_progress, done, total) if on_progress else None
            embed_block(source, encoder, store, block, min_s2=min_s2, on_progress=within)
        done += placement.pixels_in(block)
        if on_progress:
            on_progress(done, total)
    store.write_overviews(source.window, blocks)  # all: a run that was stopped may have left some unmade
    skipped = tuple(block for block in blocks if block not in missing)
    return EmbedReport(missing, skipped, sum(map(placement.pixels_in, missing)), store.revision()[0])


def missing_blocks(
    source: Source, encoder: Encoder, store: WritableStore, blocks: Iterable[Block], *, min_s2: int = 0
) -> tuple[Block, ...]:
    """Those of some blocks that do not hold what the source, the model and the parameters would make of them.

    Raises:
        IdentityMismatch: The encoder is another model than the store's.
    """
    store.identity.require_same(encoder.identity, "the encoder's output")
    blocks = tuple(blocks)
    stored = store.fingerprints(source.window, blocks)
    return tuple(
        block
        for block in blocks
        if stored.get(block) != fingerprint(piece_fingerprint(source, encoder, block, min_s2), "")
    )


def embed_block(
    source: Source,
    encoder: Encoder,
    store: WritableStore,
    block: Block,
    *,
    series: DPixels | None = None,
    min_s2: int = 0,
    on_progress: Progress | None = None,
) -> None:
    """Embed what a source has of one block, whatever is stored, and commit it. Overviews are left to the caller.

    Args:
        source: Where the series come from.
        encoder: Runs the model; must be the model of the store.
        store: Where to.
        block: Which.
        series: What the source has there, where it was read beforehand.
        min_s2: Least number of valid Sentinel-2 dates of a pixel.
        on_progress: Told of pixels done.

    Raises:
        Conflict: Another writer kept changing the block.
    """
    if series is None:
        series = source.read(*source.placement.within(block))
    result = encoder.encode(series, min_s2=min_s2, on_progress=on_progress)
    vectors, counts = _scattered(result, *cells_of_raster(source.placement, block))
    piece = piece_fingerprint(source, encoder, block, min_s2)
    write_piece(store, source.window, block, vectors, counts, piece)


def _shifted(on_progress: Progress, before: int, total: int, done: int, _: int) -> None:
    """Progress within a block as progress of the whole."""
    on_progress(before + done, total)


def cells_of_places(lonlat: Float64Array, field: str = "pixels[{}].at") -> Cells:
    """Which pixel each of (n, 2) places, in degrees, falls into.

    Args:
        lonlat: Places.
        field: What errors call the place of a pixel.

    Raises:
        InvalidInput: Two of them fall into the same pixel.
        OutsideBounds: A place lies outside the grid of its zone.
    """
    found: dict[Block, dict[tuple[int, int], int]] = defaultdict(dict)
    for index, (lon, lat) in enumerate(lonlat):
        zone = Zone.of(lon, lat)
        row, col = archive_grid(zone).cell(lon, lat)
        block = Block(zone.name, row // BLOCK, col // BLOCK)
        other = found[block].setdefault((row % BLOCK, col % BLOCK), index)
        if other != index:
            raise InvalidInput(
                f"pixels {other} and {index} fall into the same 10 m cell.",
                field=field.format(index),
                remedy="Send one.",
            )
    return {block: (*np.array(list(members)).T, np.array(list(members.values()))) for block, members in found.items()}


def cells_of_raster(placement: Placement, block: Block) -> tuple[Int64Array, Int64Array]:
    """Rows and columns in `block` of the part of a raster that lies there, row by row."""
    rows, cols = placement.in_block(block)
    row, col = np.mgrid[rows, cols]
    return row.ravel(), col.ravel()


def cells_of_placement(placement: Placement) -> Cells:
    """Where each pixel of a whole raster belongs, (height x width) pixels row by row."""
    order = np.arange(placement.height * placement.width).reshape(placement.height, placement.width)
    return {
        block: (*cells_of_raster(placement, block), order[placement.within(block)].ravel())
        for block in placement.blocks()
    }


def store_result(
    cells: Cells, result: EncodeResult, store: WritableStore, window: Window, origin: str
) -> tuple[Block, ...]:
    """Merge freshly embedded pixels into the blocks they fall into, then renew the overviews above.

    Args:
        cells: For each block, where in it which pixels of `result` go.
        result: What the encoder made.
        store: Where to.
        window: The window the series covered.
        origin: What the pixels were made from, any text.

    Returns:
        The blocks that were written.

    Raises:
        Conflict: Another writer kept changing a block.
    """
    for block, (rows, cols, indices) in cells.items():
        vectors, counts = _scattered(result, rows, cols, indices)
        write_piece(store, window, block, vectors, counts, fingerprint(origin, block.name))
    store.write_overviews(window, cells)
    return tuple(sorted(cells))


def _scattered(
    result: EncodeResult, rows: Int64Array, cols: Int64Array, indices: Int64Array | slice = slice(None)
) -> tuple[Vectors, Counts]:
    """A whole block that holds `result[indices]` at rows and cols, and nothing elsewhere."""
    vectors = Vectors.empty((BLOCK, BLOCK), result.vectors.dims)
    counts = Counts.zeros((BLOCK, BLOCK))
    for name in ("codes", "scales", "status"):
        getattr(vectors, name)[rows, cols] = getattr(result.vectors, name)[indices]
    for name in ("s2", "s1_asc", "s1_desc"):
        getattr(counts, name)[rows, cols] = getattr(result.counts, name)[indices]
    return vectors, counts


def write_piece(
    store: WritableStore, window: Window, block: Block, vectors: Vectors, counts: Counts, piece: str
) -> None:
    """Merge freshly embedded pixels into one block and commit it, if that changes anything.

    A pixel that got no vector keeps the one it has: neither a gap nor a rejection takes a vector away. The same
    vectors made with other parameters are committed too where they fill the block alone: so that it is known.

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
        merged = _merged(old, vectors, counts, piece)
        told = merged.fingerprint in (old.fingerprint, fingerprint(piece, old.fingerprint))
        if told and not _differs(old, merged):
            return
        try:
            store.write([merged], f"embed {block.name} {window}")
            return
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
            store.refresh()


def _merged(old: BlockData, vectors: Vectors, counts: Counts, piece: str) -> BlockData:
    new = vectors.valid | ((vectors.status != NOT_EMBEDDED) & ~old.vectors.valid)

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


def piece_fingerprint(source: Source, encoder: Encoder, block: Block, min_s2: int) -> str:
    """What a source contributes to one block, as 64 hex digits: model, window, content, place and parameters."""
    rows, cols = source.placement.in_block(block)
    place = f"{block.name}[{rows.start}:{rows.stop},{cols.start}:{cols.stop}]"
    made_by = f"{encoder.identity}|{encoder.digest}|{encoder.precision}"
    text = f"{made_by}|{source.window}|{source.digest_of(block)}|{place}|{min_s2}"
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
