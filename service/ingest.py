"""Taking in embeddings that others made: plan which blocks, then write them block by block.

A plan is a value that can be printed; nothing is read but headers until it is carried out. Each block is committed
whole and carries a fingerprint of the files it was made from, which a rerun looks for first: an interrupted
ingest continues where it stopped, and shows nothing half done.

A fingerprint has two halves: which tiles lie in the block, and what their files held. Where only the second differs
the block holds an earlier state of these same tiles and nothing else, and is made anew, so that a pixel taken back in a
corrected file goes. A block that others wrote to as well is completed: there a pixel taken back stays.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from service.errors import Conflict, IdentityMismatch, InvalidInput, NotFound
from service.grid import Block, archive_grid, blocks_of
from service.rasters import RasterTile, find_tiles
from service.store.contract import BlockData, WritableStore
from service.values import NOT_EMBEDDED, VALID, Counts, ModelIdentity, Vectors, Window

COMMIT_BLOCKS: Final = 4
"""Blocks to a commit: what a kill costs at most, and 40 MB of memory."""
_RACES: Final = 5
_HALF: Final = 32
"""Hex digits of half a fingerprint."""


@dataclass(frozen=True)
class PlacedTile:
    """A source raster and where its first pixel lies on the zone's grid."""

    tile: RasterTile
    """What is read."""
    row: int
    """Row of the first pixel on `archive_grid(tile.zone)`."""
    col: int
    """Column, likewise."""

    @property
    def rows(self) -> slice:
        """Rows on the zone's grid."""
        return slice(self.row, self.row + self.tile.height)

    @property
    def cols(self) -> slice:
        """Columns on the zone's grid."""
        return slice(self.col, self.col + self.tile.width)


@dataclass(frozen=True)
class IngestPlan:
    """What an ingest will do."""

    source: Path
    """Folder or file."""
    dims: int
    """Embedding dimensions of every tile."""
    tiles: tuple[PlacedTile, ...]
    """In the order in which they are laid: where two overlap, the later one counts."""
    declared: ModelIdentity | None
    """The model that the source says made it, if it says so."""

    def years(self) -> tuple[int, ...]:
        """Years that tiles name, ascending."""
        return tuple(sorted({p.tile.year for p in self.tiles if p.tile.year is not None}))

    def for_window(self, window: Window) -> tuple[PlacedTile, ...]:
        """Tiles of a window: those of its year, and those that name no year.

        Raises:
            NotFound: There are none.
        """
        year = window.start.year if window.is_year else None
        found = tuple(p for p in self.tiles if p.tile.year is None or p.tile.year == year)
        if not found:
            held = ", ".join(map(str, self.years()))
            raise NotFound(f"{self.source} holds no tiles of {window}, only of {held}.", field="window")
        return found

    def blocks(self, window: Window) -> dict[Block, tuple[PlacedTile, ...]]:
        """The tiles that touch each block, in order of blocks."""
        found: dict[Block, list[PlacedTile]] = defaultdict(list)
        for placed in self.for_window(window):
            for block in blocks_of(placed.tile.zone.name, placed.rows, placed.cols):
                found[block].append(placed)
        return {block: tuple(found[block]) for block in sorted(found)}

    def __str__(self) -> str:
        zones = ", ".join(sorted({p.tile.zone.name for p in self.tiles}))
        years = ", ".join(map(str, self.years())) or "no year named"
        pixels = sum(p.tile.height * p.tile.width for p in self.tiles)
        what = f"{len(self.tiles)} tiles, {pixels:,} pixels of {self.dims} dimensions"
        return f"{self.source}: {what}, zones {zones}, {years}"


@dataclass(frozen=True)
class IngestResult:
    """What an ingest did."""

    written: int
    """Blocks written."""
    skipped: int
    """Blocks that held already what the files have for them."""
    valid: int
    """Valid pixels in the blocks written."""
    revision: str
    """Of the store afterwards."""


def plan_ingest(source: str | Path) -> IngestPlan:
    """Find the tiles in a folder, or take one GeoTIFF, and place them; reads headers only.

    Raises:
        NotFound: Nothing is there, or no tile in it.
        InvalidInput: A tile lies on another grid than its zone's 10 m grid, or the tiles differ in dimensions.
        Corrupt: A file cannot be read.
    """
    path = Path(source).absolute()
    if not path.exists():
        raise NotFound(f"there is nothing at {path}.", field="source")
    tiles = find_tiles(path)
    if not tiles:
        raise NotFound(
            f"{path} holds no embeddings that smalti knows.",
            field="source",
            remedy="It takes GeoTessera tiles (grid_X_Y.npy with scales and landmask) and embedding GeoTIFFs.",
        )
    dims = {tile.dims for tile in tiles}
    if len(dims) > 1:
        raise InvalidInput(f"the tiles in {path} have different dimensions: {sorted(dims)}.", field="source")
    return IngestPlan(path, dims.pop(), tuple(_place(tile) for tile in tiles), _declared_identity(path))


def ingest(
    plan: IngestPlan,
    store: WritableStore,
    window: Window,
    on_progress: Callable[[int, int], None] | None = None,
) -> IngestResult:
    """Carry out a plan. A block that others wrote to is completed, not replaced: tiles may share blocks.

    A tile of the same name and place counts as a later state of the one taken in before, and replaces it.

    Args:
        plan: From `plan_ingest`.
        store: Where to; of as many dimensions as the plan.
        window: Which window the vectors describe.
        on_progress: Called with (blocks done, blocks in all).

    Raises:
        InvalidInput: The store has other dimensions or cannot hold the window.
        IdentityMismatch: The source says that another model made it.
        NotFound: The plan holds no tiles of this window.
        Corrupt: A source file cannot be read.
        Conflict: Somebody else keeps writing the same blocks.
    """
    _require_fitting(plan, store)
    work = plan.blocks(window)
    if on_progress:
        on_progress(0, len(work))
    content_hash, blocks, written, valid = cache(_content_hash), list(work), 0, 0
    for start in range(0, len(blocks), COMMIT_BLOCKS):
        batch = blocks[start : start + COMMIT_BLOCKS]
        wanted = {block: _fingerprint(store, window, block, work[block], content_hash) for block in batch}
        standing = store.fingerprints(window, batch)
        todo = {block: work[block] for block in batch if standing[block][_HALF:] != wanted[block][_HALF:]}
        for data in _write(store, window, todo, wanted):
            written, valid = written + 1, valid + int(data.vectors.valid.sum())
        if on_progress:
            on_progress(start + len(batch), len(work))
    return IngestResult(written, len(work) - written, valid, store.revision()[0])


def _place(tile: RasterTile) -> PlacedTile:
    """Place a tile on its zone's grid by floor (format notes 4.1: a tile's corner need not be snapped)."""
    grid = archive_grid(tile.zone)
    col, row = (tile.left - grid.x0) / grid.pixel, (grid.y0 - tile.top) / grid.pixel
    placed = PlacedTile(tile, int(np.floor(row + 1e-6)), int(np.floor(col + 1e-6)))
    if not tile.snapped and max(abs(row - round(row)), abs(col - round(col))) > 0.01:
        raise InvalidInput(
            f"{tile.name} lies {row % 1:.2f} and {col % 1:.2f} pixels off the 10 m grid of zone {tile.zone.name}.",
            field="source",
            remedy="Resample it first: gdalwarp -tr 10 10 -tap -r near.",
        )
    if placed.row < 0 or placed.col < 0 or placed.rows.stop > grid.height or placed.cols.stop > grid.width:
        raise InvalidInput(f"{tile.name} reaches beyond zone {tile.zone.name}.", field="source")
    return placed


def _declared_identity(path: Path) -> ModelIdentity | None:
    """The dataset version and variant that a GeoTessera download notes beside its tiles."""
    folder = path if path.is_dir() else path.parent
    for place in (folder, *list(folder.parents)[:2]):
        sidecar = place / "tessera_metadata.json"
        if sidecar.is_file():
            try:
                notes = json.loads(sidecar.read_bytes())
                return ModelIdentity("tessera", str(notes["dataset_version"]), str(notes["dataset_variant"]))
            except (ValueError, KeyError, TypeError):
                return None
    return None


def _require_fitting(plan: IngestPlan, store: WritableStore) -> None:
    if plan.dims != store.dims:
        raise InvalidInput(
            f"{plan.source} has {plan.dims} dimensions, {store.location} {store.dims}.",
            field="source",
            remedy="Ingest into a dataset made for as many dimensions.",
        )
    if plan.declared and store.identity.name == plan.declared.name and store.identity != plan.declared:
        raise IdentityMismatch(f"{plan.source} was made by {plan.declared}, {store.location} holds {store.identity}.")


def _fingerprint(
    store: WritableStore,
    window: Window,
    block: Block,
    tiles: Sequence[PlacedTile],
    content_hash: Callable[[RasterTile], str],
) -> str:
    """Which tiles lie in a block that nobody else wrote to, then what the tiles hold."""
    document = {
        "ingest": 2,
        "model": str(store.identity),
        "window": str(window),
        "block": block.name,
        "quantisation": "v2",
        "tiles": [[p.tile.name, p.row, p.col, p.tile.height, p.tile.width] for p in tiles],
    }
    which = json.dumps(document, sort_keys=True)
    return _half(which) + _half(which, *(content_hash(p.tile) for p in tiles))


def _half(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_HALF]


def _content_hash(tile: RasterTile) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in tile.files:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def _write(
    store: WritableStore, window: Window, work: Mapping[Block, tuple[PlacedTile, ...]], wanted: Mapping[Block, str]
) -> list[BlockData]:
    """Lay tiles into a few blocks and commit them together; again where somebody else was faster.

    A block shared with others is left alone where nothing changes: else sources that take turns would write for ever.
    """
    for _ in range(_RACES):
        pairs = [(store.read_block(block, window), tiles) for block, tiles in work.items()]
        laid = [(old, _lay(old, tiles, wanted[old.block])) for old, tiles in pairs]
        changed = [new for old, new in laid if new.fingerprint == wanted[new.block] or not _same(old, new)]
        if not changed:
            return []
        try:
            store.write(changed, f"ingest {len(changed)} blocks")
        except Conflict:
            store.refresh()
            continue
        return changed
    raise Conflict(
        f"{store.location}: somebody else keeps writing the same blocks.", remedy="Repeat once they are done."
    )


def _lay(old: BlockData, tiles: Sequence[PlacedTile], fingerprint: str) -> BlockData:
    """A block as it stands with tiles laid over it. Nothing covers something: a gap leaves what is below.

    A block that holds but an earlier state of the same tiles counts as empty.
    """
    if old.fingerprint[:_HALF] == fingerprint[:_HALF]:
        lead = old.vectors.status.shape
        old = replace(old, vectors=Vectors.empty(lead, old.vectors.dims), counts=Counts.zeros(lead))
    elif (old.vectors.status != NOT_EMBEDDED).any():
        fingerprint = _half(fingerprint, old.fingerprint) + fingerprint[_HALF:]
    block = old.block
    codes, scales, status = old.vectors.codes.copy(), old.vectors.scales.copy(), old.vectors.status.copy()
    counts = [old.counts.s2.copy(), old.counts.s1_asc.copy(), old.counts.s1_desc.copy()]
    for placed in tiles:
        here, there = _overlap(block, placed)
        new = placed.tile.read(*there)
        better = (new.status == VALID) | ((new.status != NOT_EMBEDDED) & (status[here] != VALID))
        codes[here][better] = new.codes[better]
        scales[here][better] = new.scales[better]
        status[here][better] = new.status[better]
        for count in counts:
            count[here][better] = 0
    return BlockData(block, old.window, Vectors(codes, scales, status), Counts(*counts), fingerprint, old.base)


def _same(old: BlockData, new: BlockData) -> bool:
    """Whether two states of a block hold the same vectors."""
    pairs = ((getattr(old.vectors, name), getattr(new.vectors, name)) for name in ("status", "scales", "codes"))
    return all(np.array_equal(a, b) for a, b in pairs)


def _overlap(block: Block, placed: PlacedTile) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """(pixels of the block, pixels of the tile) where the two meet."""

    def spans() -> Iterator[tuple[slice, slice]]:
        for mine, theirs in ((block.rows, placed.rows), (block.cols, placed.cols)):
            start, stop = max(mine.start, theirs.start), min(mine.stop, theirs.stop)
            yield slice(start - mine.start, stop - mine.start), slice(start - theirs.start, stop - theirs.start)

    (rows, tile_rows), (cols, tile_cols) = spans()
    return (rows, cols), (tile_rows, tile_cols)
