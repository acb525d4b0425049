"""Journey 3: a source of time series -> d-pixels -> encoder -> int8 + scale -> blocks of a writable store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from service.cells import Cells, cells_of_raster
from service.dpixels import DPixels
from service.encoder import Encoder, EncodeResult
from service.errors import ReadOnly, Unavailable
from service.grid import Block
from service.merging import digest, is_newest, write_piece
from service.pipeline import Pipeline, each
from service.reports import Reports
from service.sources import Placement, Source
from service.store.contract import WritableStore
from service.values import BLOCK, NOT_EMBEDDED, REJECTED, VALID, WATER, Counts, Int64Array, Vectors, Window

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
    *,
    min_s2: int = 0,
    leave_out: Collection[Block] = (),
    pipeline: Pipeline | None = None,
    on_progress: Progress | None = None,
    reports: Reports | None = None,
) -> EmbedReport:
    """Embed every pixel of a source and store it, one commit a block; then renew the overviews above.

    A block that was last made from the same source, model, window and parameters is skipped, so a run that was
    stopped goes on where it was. One that others wrote to since is embedded anew; if that changes nothing, its
    fingerprint alone is committed. Where a block fails, the others are embedded all the same.

    Args:
        source: Where the series come from.
        encoder: Runs the model; must be the model of the store.
        store: Where to.
        min_s2: Least number of valid Sentinel-2 dates; pixels below it get the status `rejected`.
        leave_out: Blocks not to embed.
        pipeline: What bounds how much is in hand; one of its own where absent.
        on_progress: Told of pixels done.
        reports: Where it is noted what each block was made from.

    Raises:
        IdentityMismatch: The encoder is another model than the store's.
        Conflict: Another writer kept changing a block.
        SmaltiError: What the first block that failed raised, once the others are done.
    """
    pipeline = pipeline or Pipeline()
    blocks = tuple(block for block in source.placement.blocks() if block not in leave_out)
    missing = missing_blocks(source, encoder, store, blocks, min_s2=min_s2)
    told = _Tally(source.placement, blocks, missing, on_progress)
    stopped, first = threading.Event(), None
    how = partial(
        embed_block, source, encoder, store,
        pipeline=pipeline, min_s2=min_s2, given_up=stopped.is_set, reports=reports,
    )  # fmt: skip

    def embed(block: Block) -> None:
        how(block, on_progress=partial(told.within, block))

    with closing(each(embed, missing, pipeline.pieces)) as ended, _set_after(stopped):
        for block, _, error in ended:
            first = first or error
            told.end(block)
    store.write_overviews(source.window, blocks)  # all: a run that was stopped may have left some unmade
    if first is not None:
        raise first
    skipped = tuple(block for block in blocks if block not in missing)
    return EmbedReport(missing, skipped, sum(map(source.placement.pixels_in, missing)), store.revision()[0])


@contextmanager
def _set_after(event: threading.Event) -> Iterator[None]:
    try:
        yield
    finally:
        event.set()


class _Tally:
    """Progress within blocks, which go on at the same time, as progress of the whole."""

    def __init__(
        self, placement: Placement, blocks: Sequence[Block], missing: Sequence[Block], on_progress: Progress | None
    ) -> None:
        self._sizes = {block: placement.pixels_in(block) for block in blocks}
        self._done = {block: size for block, size in self._sizes.items() if block not in missing}
        self._on_progress, self._lock = on_progress, threading.Lock()
        self._tell()

    def within(self, block: Block, done: int, _: int) -> None:
        """So many pixels of a block are encoded."""
        if done < self._sizes[block]:
            self._done[block] = done
            self._tell()

    def end(self, block: Block) -> None:
        """Nothing more comes of a block."""
        self._done[block] = self._sizes[block]
        self._tell()

    def _tell(self) -> None:
        if self._on_progress:
            with self._lock:
                self._on_progress(sum(self._done.copy().values()), sum(self._sizes.values()))


def missing_blocks(
    source: Source, encoder: Encoder, store: WritableStore, blocks: Iterable[Block], *, min_s2: int = 0
) -> tuple[Block, ...]:
    """Those of some blocks whose newest piece is not what the source, the model and the parameters would make of them.

    Raises:
        IdentityMismatch: The encoder is another model than the store's.
    """
    store.identity.require_same(encoder.identity, "the encoder's output")
    blocks = tuple(blocks)
    stored = store.fingerprints(source.window, blocks)
    return tuple(
        block
        for block in blocks
        if not is_newest(piece_fingerprint(source, encoder, block, min_s2), stored.get(block, ""))
    )


@dataclass(frozen=True)
class Made:
    """What became of one block."""

    pixels: dict[str, int]
    """See `outcome`."""
    seconds: float
    """That it was in hand: reading, encoding, and waiting between them for other blocks in hand."""


def outcome(vectors: Vectors) -> dict[str, int]:
    """How many pixels are `valid`, `rejected` (too few dates of Sentinel-2), `water` and `empty` (nothing observed)."""
    named = {"valid": VALID, "rejected": REJECTED, "water": WATER, "empty": NOT_EMBEDDED}
    return {name: int((vectors.status == status).sum()) for name, status in named.items()}


def embed_block(
    source: Source,
    encoder: Encoder,
    store: WritableStore,
    block: Block,
    *,
    pipeline: Pipeline | None = None,
    min_s2: int = 0,
    wanted: Callable[[], bool] | None = None,
    given_up: Callable[[], bool] | None = None,
    on_progress: Progress | None = None,
    reports: Reports | None = None,
) -> Made | None:
    """Embed what a source has of one block, whatever is stored, and commit it. Overviews are left to the caller.

    Args:
        source: Where the series come from.
        encoder: Runs the model; must be the model of the store.
        store: Where to.
        block: Which.
        pipeline: Where other blocks of this process are on their way; alone where absent.
        min_s2: Least number of valid Sentinel-2 dates of a pixel.
        wanted: Asked once it is this block's turn to be encoded; if it is not wanted any more, nothing is written.
        given_up: Asked now and then, and quick to answer; true once nobody wants the block.
        on_progress: Told of pixels done.
        reports: Where it is noted, before the commit, what the block was made from.

    Returns:
        What became of it; None where it was not wanted.

    Raises:
        Conflict: Another writer kept changing the block.
        Unavailable: The series cannot be fetched now, nobody wants the block any more, or the pipeline was closed.
        InvalidInput, Corrupt, LimitExceeded: The series are not what they should be.
    """
    # Before anything is read: what was read of files that change meanwhile must not pass for what they hold then.
    piece = piece_fingerprint(source, encoder, block, min_s2)
    begun = [0.0]

    def read() -> DPixels:
        begun[0] = time.monotonic()
        if given_up is not None and given_up():
            raise Unavailable("nobody waits for this any more.")
        return source.read(*source.placement.within(block))

    def encode(series: DPixels) -> tuple[Vectors, Counts, Made] | None:
        if wanted is not None and not wanted():
            return None
        result = encoder.encode(series, min_s2=min_s2, on_progress=on_progress, given_up=given_up, alone=True)
        vectors, counts = _scattered(result, *cells_of_raster(source.placement, block))
        return vectors, counts, Made(outcome(result.vectors), time.monotonic() - begun[0])

    def write(found: tuple[Vectors, Counts, Made]) -> Made:
        vectors, counts, made = found
        note = partial(reports.put, _report(source, encoder, block, min_s2, made)) if reports else None
        write_piece(store, source.window, block, vectors, counts, piece, note, settles=True)
        return made

    return (pipeline or Pipeline()).through(read, encode, write, at_once=encoder.engine.calls)


def _report(source: Source, encoder: Encoder, block: Block, min_s2: int, made: Made) -> dict[str, Any]:
    """All that a block's fingerprint stands for, and what came of it."""
    return {
        "block": block.name,
        "window": str(source.window),
        "model": str(encoder.identity),
        "encoder": encoder.digest,
        "precision": encoder.precision,
        "min_s2": min_s2,
        "pixels": made.pixels,
        "source": dict(source.provenance(block)),
    }


def store_result(
    cells: Cells,
    result: EncodeResult,
    store: WritableStore,
    window: Window,
    origin: str,
    note: Callable[[str, str], None] | None = None,
) -> tuple[Block, ...]:
    """Merge freshly embedded pixels into the blocks they fall into, then renew the overviews above.

    Args:
        cells: For each block, where in it which pixels of `result` go.
        result: What the encoder made.
        store: Where to.
        window: The window the series covered.
        origin: What the pixels were made from, any text.
        note: See `write_piece`.

    Returns:
        The blocks that were written.

    Raises:
        Conflict: Another writer kept changing a block.
    """
    for block, (rows, cols, indices) in cells.items():
        vectors, counts = _scattered(result, rows, cols, indices)
        write_piece(store, window, block, vectors, counts, digest(origin, block.name), note)
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


def piece_fingerprint(source: Source, encoder: Encoder, block: Block, min_s2: int) -> str:
    """What a source contributes to one block, as 64 hex digits: model, window, content, place and parameters."""
    rows, cols = source.placement.in_block(block)
    place = f"{block.name}[{rows.start}:{rows.stop},{cols.start}:{cols.stop}]"
    made_by = f"{encoder.identity}|{encoder.digest}|{encoder.precision}"
    return digest(made_by, str(source.window), source.digest_of(block), place, str(min_s2))


def require_writable(store: object, name: str) -> WritableStore:
    """`store` as one that can be written to.

    Raises:
        ReadOnly: It cannot.
    """
    if not getattr(store, "writable", False):
        raise ReadOnly(f"dataset {name!r} is read-only.", field="dataset", remedy="Embed without storing.")
    return store  # type: ignore[return-value]
