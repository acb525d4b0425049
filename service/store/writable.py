"""Writing the layout of `layout.py`: blocks wholly old or wholly new, whoever else is writing."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from zarr.errors import ContainsGroupError

from service.bucket import is_remote
from service.errors import Conflict, InvalidInput, NotFound
from service.grid import Block, Zone, archive_grid
from service.quant import is_data
from service.store.archive import ArchiveStore
from service.store.contract import BlockData
from service.store.faults import writing
from service.store.layer import read_counts_window, read_window
from service.store.layout import COUNT_NAMES, add_zone, root_attributes, years_of
from service.store.near import zarr_store
from service.store.overviews import build_overviews
from service.store.repository import Repository
from service.store.snapshot import Snapshot
from service.values import BLOCK, NOT_EMBEDDED, REJECTED, VALID, Counts, ModelIdentity, Vectors, Window

EMPTY_FINGERPRINT: Final = "0" * 64
"""What an unwritten block carries in place of a fingerprint."""
_RACES: Final = 20
"""Times a group is created again when somebody else commits in between."""


class WritableArchive(ArchiveStore):
    """A WritableStore over a repository that smalti made.

    A write stands on what its writer has read: if a block is no longer what `BlockData.base` says, writing it is
    a Conflict. A block that was not read first stands on what this object has seen at its last `refresh`; `write`
    refreshes. Threads may share the object.
    """

    writable = True

    def read_block(self, block: Block, window: Window) -> BlockData:
        """One level-1 block as it stands; an unwritten one is empty and has the fingerprint 0...0.

        Raises:
            NotFound: A window this repository cannot hold.
            InvalidInput: A block beyond the zone.
            Corrupt: Stored bytes cannot be read.
        """
        now = self._now
        time = now.time(window)
        zone = _zone_of(block)
        if zone not in now.zones:
            lead = (BLOCK, BLOCK)
            return BlockData(block, window, Vectors.empty(lead, self.dims), Counts.zeros(lead), EMPTY_FINGERPRINT, "")
        layer = now.layer(zone)
        vectors = read_window(layer, time, block.rows, block.cols)
        counts = read_counts_window(layer, time, block.rows, block.cols)
        fingerprint = _fingerprints(now, time, [block])[block] or EMPTY_FINGERPRINT
        return BlockData(block, window, vectors, counts, fingerprint, now.versions(time, [block])[block])

    def fingerprints(self, window: Window, blocks: Iterable[Block]) -> Mapping[Block, str]:
        """The fingerprint stored with each block; "" where empty."""
        now = self._now
        return _fingerprints(now, now.time(window), list(blocks))

    def write(self, blocks: Sequence[BlockData], message: str) -> str:
        """Commit blocks together and return the new revision.

        Raises:
            Conflict: One of these blocks was written by somebody else since it was read, or since this store
                was refreshed where its `base` is None.
            ReadOnly: The location does not allow it.
            InvalidInput: Other dimensions, a window this repository cannot hold, a block twice or beyond the
                zone, or a valid pixel without a usable scale.
        """
        self._require_writable(blocks)
        zones = sorted({_zone_of(data.block) for data in blocks})
        with self.repository.open_for_writing():
            for zone in zones:
                self._ensure_zone(zone)
            session = self.repository.writer()
            tip = Snapshot(self.location, session)
            for zone in zones:
                tip.require_same_years(zone)
            self._require_unchanged(tip, blocks)
            with writing(self.location):
                for data in blocks:
                    _put(tip.group(data.block.zone), tip.time(data.window), data)
            revision = self.repository.commit(session, message)
        self.refresh()
        return revision

    def write_overviews(
        self,
        window: Window,
        blocks: Iterable[Block] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Rebuild the overview blocks above `blocks` (all dirty ones where absent); returns how many changed.

        Args:
            window: Which.
            blocks: Level-1 blocks that were written.
            on_progress: Called with (overview blocks done, overview blocks in all) of each level.
        """
        changed = build_overviews(self.repository, window, None if blocks is None else list(blocks), on_progress)
        self.refresh()
        return changed

    def tidy(self, older_than: dt.timedelta = dt.timedelta(hours=1)) -> tuple[int, int, int]:
        """Forget old snapshots and delete what nothing refers to; see `Repository.tidy`.

        Args:
            older_than: Readers elsewhere may hold a snapshot this long.
        """
        return self.repository.tidy(older_than)

    def _require_writable(self, blocks: Sequence[BlockData]) -> None:
        if len({(data.block, data.window) for data in blocks}) != len(blocks):
            raise InvalidInput("a block is given twice.", field="blocks")
        for data in blocks:
            if data.vectors.dims != self.dims:
                raise InvalidInput(
                    f"block {data.block.name} has {data.vectors.dims} dimensions, {self.location} {self.dims}.",
                    field="blocks",
                )
            try:
                self._now.time(data.window)
            except NotFound as error:
                raise InvalidInput(error.message, field="window") from None
            _require_sound(data)

    def _require_unchanged(self, tip: Snapshot, blocks: Sequence[BlockData]) -> None:
        """Optimistic locking: what stands now must be what the writer read, or else what this store has seen."""
        now = self._now
        for window in {data.window for data in blocks}:
            mine = {data.block: data.base for data in blocks if data.window == window}
            seen, standing = now.versions(now.time(window), mine), tip.versions(tip.time(window), mine)
            changed = [b.name for b, base in mine.items() if standing[b] != (seen[b] if base is None else base)]
            if changed:
                raise Conflict(
                    f"{self.location}: {', '.join(changed[:5])} was written by somebody else meanwhile.",
                    remedy="Read it again and repeat.",
                )

    def _ensure_zone(self, zone: Zone) -> None:
        """Make a zone's arrays unless they are there; somebody else may be making them at the same time."""
        for _ in range(_RACES):
            session = self.repository.writer()
            now = Snapshot(self.location, session)
            if zone in now.zones:
                return
            with writing(self.location):
                add_zone(now.root, zone, now.years, self.dims)
            try:
                self.repository.commit(session, f"add zone {zone.name}")
            except Conflict:
                continue
            return
        raise Conflict(f"{self.location}: zone {zone.name} could not be added: others keep committing.")


def create_store(
    path: str | Path,
    identity: ModelIdentity,
    *,
    dims: int = 128,
    window: Window | None = None,
    zones: Iterable[Zone] = (),
) -> WritableArchive:
    """Make an empty writable repository.

    Args:
        path: Where, ending in `.icechunk`; absolute, or `s3://bucket/prefix`.
        identity: The model whose vectors it will hold.
        dims: Embedding dimensions.
        window: A window that is no calendar year, if it shall hold just that; else it holds years.
        zones: Zones to make now; others come with their first block.

    Raises:
        InvalidInput: Something is there already, or the name does not end in `.icechunk`.
        ReadOnly: The location does not allow it.
    """
    location = str(path) if is_remote(str(path)) else str(Path(path).absolute())
    if not location.endswith(".icechunk"):
        raise InvalidInput(f"{location} does not end in .icechunk.", field="path")
    if not 1 <= dims <= 4096:
        raise InvalidInput(f"{dims} is no number of dimensions.", field="dims")

    def fill(repository: Repository) -> None:
        session = repository.writer()
        try:
            attributes = root_attributes(identity, dims, window)
            root = zarr.create_group(zarr_store(repository.location, session), attributes=attributes)
        except ContainsGroupError:
            raise Conflict(f"{location} is filled already.") from None
        for zone in sorted(set(zones)):
            add_zone(root, zone, years_of(window), dims)
        repository.commit(session, "create")

    return WritableArchive(Repository.create(location, fill), identity)


def repository_name(dataset: str, window: Window | None = None) -> str:
    """Name of the repository that holds a window of a dataset: years share one, any other has its own."""
    return (
        f"{dataset}.icechunk" if window is None or window.is_year else f"{dataset}@{window.start}_{window.end}.icechunk"
    )


def content_version(data: BlockData) -> int:
    """A 64-bit hash of all that is stored of a block; 0 if it holds nothing (BLAKE2b, 8 bytes)."""
    if not (data.vectors.status != NOT_EMBEDDED).any():
        return 0
    digest = hashlib.blake2b(digest_size=8)
    vectors, counts = data.vectors, data.counts
    for array in (vectors.codes, vectors.scales, vectors.status, counts.s2, counts.s1_asc, counts.s1_desc):
        digest.update(np.ascontiguousarray(array).data)
    return int.from_bytes(digest.digest(), "little") or 1


def canonical(data: BlockData) -> BlockData:
    """The same block with codes and scales zero wherever no vector is."""
    vectors = data.vectors
    codes = np.where(vectors.valid[..., None], vectors.codes, np.int8(0))
    scales = np.where(vectors.valid, vectors.scales, np.float32(0))
    return BlockData(data.block, data.window, Vectors(codes, scales, vectors.status), data.counts, data.fingerprint)


def _fingerprints(now: Snapshot, time: int, blocks: Sequence[Block]) -> dict[Block, str]:
    """The fingerprint stored with each block; "" where empty."""
    stored = now.block_values("block_fingerprint", time, blocks)
    hexes = {block: bytes(np.asarray(value, np.uint8)).hex() for block, value in stored.items()}
    return {b: "" if hexes.get(b, EMPTY_FINGERPRINT) == EMPTY_FINGERPRINT else hexes[b] for b in blocks}


def _put(group: zarr.Group, time: int, data: BlockData) -> None:
    """Write the chunks of one block: whole ones, so nothing is read first."""
    data = canonical(data)
    at = (time, data.block.rows, data.block.cols)
    vectors, counts = data.vectors, data.counts
    scales = np.where(vectors.valid, vectors.scales, np.float32(np.nan))
    values: dict[str, Any] = {"embeddings": vectors.codes, "scales": scales, "status": vectors.status}
    values |= dict(zip(COUNT_NAMES, (counts.s2, counts.s1_asc, counts.s1_desc), strict=True))
    for name, value in values.items():
        _array_of(group, name)[at] = value
    cell = (time, data.block.row, data.block.col)
    _array_of(group, "block_version")[cell] = np.uint64(content_version(data))
    _array_of(group, "block_fingerprint")[cell] = np.frombuffer(bytes.fromhex(data.fingerprint), np.uint8)


def _array_of(group: zarr.Group, name: str) -> Any:
    return group[name]


def _require_sound(data: BlockData) -> None:
    vectors, block = data.vectors, data.block
    if vectors.status.max() > REJECTED:
        raise InvalidInput(f"block {block.name} holds a status that is not stored.", field="status")
    if not is_data(vectors.scales[vectors.status == VALID]).all():
        raise InvalidInput(f"block {block.name} has a valid pixel without a scale between 0 and 1.", field="scales")
    grid = archive_grid(_zone_of(block))
    if block.row < 0 or block.col < 0 or block.rows.stop > grid.height or block.cols.stop > grid.width:
        raise InvalidInput(f"block {block.name} lies beyond the zone.", field="block")
    try:
        bytes.fromhex(data.fingerprint)
    except ValueError:
        raise InvalidInput("is not 64 hex digits.", field="fingerprint") from None


def _zone_of(block: Block) -> Zone:
    return Zone.parse(block.zone)
