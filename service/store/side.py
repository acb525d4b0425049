"""Overviews of a store that is only read: kept in a repository of our own, and joined to it.

The vectors come from the store itself, at level 1; the coarser levels from the repository beside it. Whether they show
what stands below is told by the store's own versions: where it has none for each block, by its weak revision.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import icechunk
import zarr
from zarr.errors import ContainsGroupError

from service.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from service.globe import Grids
from service.grid import Block, Zone, ZoneGrid
from service.store.chunks import ChunkCache
from service.store.contract import Store
from service.store.layer import Layer, read_counts_window, read_window
from service.store.layout import WINDOW, root_attributes, years_of
from service.store.near import Near, zarr_store
from service.store.overviews import Progress, build_overviews
from service.store.repository import Repository
from service.store.snapshot import Snapshot
from service.values import Counts, Int64Array, Vectors, Window


class SideSnapshot(Snapshot):
    """Overviews from one snapshot of a repository, level 1 from the store that they belong to.

    Args:
        location: Of the repository.
        session: On it.
        base: The store.
        chunks: Where decoded squares are kept.
        near: Where what is fetched over a network is kept.
    """

    has_block_versions = True

    def __init__(
        self,
        location: str,
        session: icechunk.Session,
        base: Store,
        chunks: ChunkCache | None = None,
        near: Near | None = None,
    ) -> None:
        super().__init__(location, session, chunks, near)
        self.base = base
        self.base_revision = base.revision()[0]
        self.zones = tuple(sorted(self.grids))

    @cached_property
    def grids(self) -> Grids:
        """The level-1 grid of each zone of the store."""
        return {grid.zone: grid for grid in self.base.zones()}

    @property
    def years(self) -> tuple[int, ...]:
        """The time axis of the repository."""
        own = self.attributes.get(WINDOW)
        return years_of(None if own is None else Window.parse(own))

    def require_same_years(self, zone: Zone) -> None:
        """There is one time axis."""

    def listed(self, level: int, time: int) -> frozenset[Block]:
        """Blocks that hold data, of the store or of the repository."""
        if level > 1:
            return super().listed(level, time)
        window = self.window(time)
        return frozenset(self.base.blocks(window)) if window in self.base.windows() else frozenset()

    def versions(self, time: int, blocks: Iterable[Block]) -> dict[Block, str]:
        """The version of each block; one of the store's is hashed to 16 hex digits, whatever it looks like."""
        wanted = list(blocks)
        missing = [block for block in wanted if block.level == 1 and (time, block) not in self._versions]
        held = self.listed(1, time) if missing else frozenset()
        found = self.base.versions(self.window(time), held.intersection(missing)) if held else {}
        for block in missing:
            self._versions[time, block] = _hashed(found.get(block, ""))
        return super().versions(time, wanted)

    def pixels(self, zone: Zone, time: int, rows: slice, cols: slice) -> tuple[Vectors, Counts]:
        """A rectangle of the store."""
        window = self.window(time)
        vectors = self.base.read(zone, window, rows, cols)
        return vectors, self.base.counts_window(zone, window, rows, cols)

    def _open_layer(self, zone: Zone, level: int) -> Layer:
        found = super()._open_layer(zone, level)
        if found.grid != self.grid(zone, level):
            raise Corrupt(
                f"{self.location} holds the overviews of a store with another grid in zone {zone.name}.",
                remedy="Delete it and run `smalti store overviews` again.",
            )
        return found


def _hashed(version: str) -> str:
    return hashlib.blake2b(version.encode(), digest_size=8).hexdigest() if version else ""


class SideStore:
    """A store that is only read, with overviews from the repository beside it. Threads may share it.

    Args:
        base: The store. From now on nobody else refreshes it.
        repository: Made by `side_repository` for it.
        chunks: Where decoded squares are kept.

    Raises:
        IdentityMismatch: The repository holds overviews of another model's vectors.
        Corrupt: It cannot be read, or holds those of another store.
    """

    writable = False

    def __init__(self, base: Store, repository: Repository, chunks: ChunkCache | None = None) -> None:
        self.base, self.repository, self._chunks = base, repository, chunks
        self.location, self.identity = base.location, base.identity
        self.dims, self.depths = base.dims, base.depths
        self._swap = threading.Lock()
        self._now = self._look(repository.tip())
        declared = self._now.attributes.get("geoemb:model")
        if (declared, self._now.dims) != (str(self.identity), self.dims):
            raise Corrupt(
                f"{repository.location} holds overviews of {declared}, not of {self.identity}.",
                remedy="Delete it and run `smalti store overviews` again.",
            )

    def _look(self, tip: str) -> SideSnapshot:
        session, near = self.repository.reader(tip), self.repository.near(tip)
        return SideSnapshot(self.repository.location, session, self.base, self._chunks, near)

    def windows(self) -> tuple[Window, ...]:
        """Windows that hold data, ascending."""
        return self.base.windows()

    def revision(self) -> tuple[str, bool]:
        """That of the store and of its overviews; strong if the store's is."""
        now = self._now
        revision, strong = self.base.revision()
        if revision != now.base_revision:
            # `refresh` is under way, or failed: the vectors are new, and overviews still those of the older store. What
            # is remembered of that must be found neither under what was before nor under what comes then.
            revision = f"{revision}.{now.base_revision}"
        return f"{revision}.{now.id}", strong

    def zones(self) -> tuple[ZoneGrid, ...]:
        """One level-1 grid per zone and hemisphere."""
        return self.base.zones()

    def levels(self) -> tuple[int, ...]:
        """Levels that can be read, ascending from 1."""
        return self._now.levels

    def read(
        self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1, dims: int | None = None
    ) -> Vectors:
        """Read a rectangle; see `Store.read`. Of overviews a prefix is the first codes under the whole scale."""
        if level == 1:
            return self.base.read(zone, window, rows, cols, dims=dims)
        if dims is not None and dims not in self.depths:
            raise InvalidInput(f"{dims} dimensions cannot be read; there are {self.depths}.", field="dims")
        now = self._now
        found = read_window(now.layer(zone, level), now.time(window), rows, cols)
        if dims in (None, self.dims):
            return found
        return Vectors(found.codes[..., :dims].copy(), found.scales, found.status)

    def sample(
        self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array, *, dims: int | None = None
    ) -> Vectors:
        """Read single pixels; see `Store.sample`."""
        return self.base.sample(zone, window, rows, cols, dims=dims)

    def counts(self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array) -> Counts:
        """(n,) observation counts of single pixels."""
        return self.base.counts(zone, window, rows, cols)

    def counts_window(self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1) -> Counts:
        """(rows, cols) observation counts of a rectangle; see `Store.counts_window`."""
        if level == 1:
            return self.base.counts_window(zone, window, rows, cols)
        now = self._now
        return read_counts_window(now.layer(zone, level), now.time(window), rows, cols)

    def counted(self) -> tuple[int, ...]:
        """Levels at which counts are kept: those of the overviews too, where the store records any."""
        return self._now.levels if self.base.counted() else ()

    def blocks(self, window: Window, *, level: int = 1) -> tuple[Block, ...]:
        """Every block that holds data, in order of name."""
        if level == 1:
            return self.base.blocks(window)
        now = self._now
        return tuple(sorted(now.listed(level, now.time(window))))

    def versions(self, window: Window, blocks: Iterable[Block]) -> Mapping[Block, str]:
        """The store's own versions at level 1, content hashes of overviews."""
        now, wanted = self._now, list(blocks)
        own = self.base.versions(window, [block for block in wanted if block.level == 1])
        over = [block for block in wanted if block.level > 1]
        return {**own, **(now.versions(now.time(window), over) if over else {})}

    def stale(self, window: Window, blocks: Iterable[Block]) -> frozenset[Block]:
        """Overview blocks that do not show what stands below them now."""
        now = self._now
        return now.lineage.stale(now.time(window), blocks)

    def refresh(self) -> bool:
        """Look at the store and at its overviews again; whether either changed. Readers see both change at once.

        Raises:
            Unavailable: The store cannot be reached, or has moved while its overviews cannot be.
            Corrupt: Either cannot be read any more.
        """
        with self._swap:
            before = self._now
            # The second: a look that failed below left the overviews where the store was.
            moved = self.base.refresh() or before.base_revision != self.base.revision()[0]
            try:
                tip = self.repository.tip()
            except Unavailable:
                if moved:
                    raise
                return False  # they go on showing what stands below
            if not moved and tip == before.id:
                return False
            fresh = self._look(tip)
            changed = None if moved else self.repository.changed_chunks(before.id, tip)
            if changed is not None:
                fresh.succeed(before, changed)
            self._now = fresh
            return True

    def write_overviews(self, window: Window, on_progress: Progress | None = None) -> int:
        """Build what is missing or stale; returns how many overview blocks changed. Stopped, it goes on where it was.

        Raises:
            NotFound: The store has no such window, or the repository cannot hold it.
            Conflict: Somebody else keeps building the same.
            ReadOnly: The repository cannot be written to.
        """
        if window not in self.base.windows():
            raise NotFound(f"{self.location} holds no window {window}.", field="window")
        look = partial(SideSnapshot, base=self.base)
        changed = build_overviews(self.repository, window, None, on_progress, look)
        self.refresh()
        return changed


def side_repository(location: str, base: Store) -> Repository:
    """The repository for the overviews of a store, made if it is not there.

    Args:
        location: Where, ending in `.icechunk`.
        base: The store.

    Raises:
        ReadOnly: The location does not allow it.
        Unavailable: It cannot be reached.
    """
    windows = base.windows()
    own = next((window for window in windows if not window.is_year), None)
    attributes: dict[str, Any] = {**root_attributes(base.identity, base.dims, own), "smalti:overviews": 1}

    def fill(repository: Repository) -> None:
        session = repository.writer()
        try:
            zarr.create_group(zarr_store(repository.location, session), attributes=attributes)
        except ContainsGroupError:
            raise Conflict(f"{location} is filled already.") from None
        repository.commit(session, "create")

    with suppress(NotFound):
        return Repository.open(location)
    with suppress(InvalidInput):  # somebody else made it first
        Repository.create(location, fill)
    return Repository.open(location)
