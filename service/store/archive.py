"""Reading an Icechunk repository in the layout of the global archive, made by smalti or by others."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from service.errors import Corrupt, IdentityMismatch, InvalidInput
from service.grid import Block, Zone, ZoneGrid
from service.store.ahead import fetch_all
from service.store.chunks import ChunkCache
from service.store.faults import reading
from service.store.held import Scales, held_blocks
from service.store.layer import read_counts, read_counts_window, read_points, read_window
from service.store.layout import MODEL
from service.store.repository import Repository
from service.store.snapshot import Snapshot
from service.values import Counts, Int64Array, ModelIdentity, Vectors, Window


class ArchiveStore:
    """A Store over one repository. Threads may share it; `refresh` swaps what they see at once.

    Args:
        repository: Where.
        identity: The model that made the vectors; needed where the repository does not say.
        chunks: Where decoded squares of its arrays are kept; nowhere if absent.

    Raises:
        InvalidInput: No identity was given and the repository names none.
        IdentityMismatch: It names another one.
        Corrupt: Metadata is missing or contradicts itself.
    """

    writable = False

    def __init__(
        self, repository: Repository, identity: ModelIdentity | None = None, chunks: ChunkCache | None = None
    ) -> None:
        self.repository = repository
        self._chunks = chunks
        self.location = repository.location
        self._swap = threading.Lock()
        self._now = self._at(repository.tip())
        self.identity = declared_identity(self.location, self._now.attributes.get(MODEL), identity)
        self.dims = self._declared_dims()
        self.depths: tuple[int, ...] = (self.dims,)

    def _at(self, snapshot: str) -> Snapshot:
        found = Snapshot(self.location, self.repository.reader(snapshot), self._chunks, self.repository.near(snapshot))
        with reading(self.location, "the time axes"):  # of 120 groups: not one journey after the other
            fetch_all(found.root.store, [f"{zone.name}/time/c/0" for zone in found.zones])
        return found

    def _declared_dims(self) -> int:
        declared = self._now.attributes.get("geoemb:dimensions")
        if self._now.zones:
            stored = int(self._now.layer(self._now.zones[0]).codes.shape[-1])
            if declared not in (None, stored):
                raise Corrupt(f"{self.location} declares {declared} dimensions and stores {stored}.")
            return stored
        if not isinstance(declared, int):
            raise Corrupt(f"{self.location} has no zone group and does not say how many dimensions it has.")
        return declared

    def windows(self) -> tuple[Window, ...]:
        """Windows that hold data, ascending."""
        now = self._now
        if now.has_block_versions:
            times: Iterable[int] = now.blocks(1)
        else:
            times = _complete_times(now)
        return tuple(sorted(now.window(time) for time in times))

    def revision(self) -> tuple[str, bool]:
        """(snapshot id, True)."""
        return self._now.id, True

    def zones(self) -> tuple[ZoneGrid, ...]:
        """One level-1 grid per zone and hemisphere."""
        now = self._now
        return tuple(now.layer(zone).grid for zone in now.zones)

    def levels(self) -> tuple[int, ...]:
        """Levels that can be read, ascending from 1."""
        return self._now.levels

    def read(
        self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1, dims: int | None = None
    ) -> Vectors:
        """Read a rectangle; see `Store.read`. A window that could be held and is not yet reads as empty."""
        now = self._now
        self._check(dims)
        return read_window(now.layer(zone, level), now.time(window), rows, cols)

    def sample(
        self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array, *, dims: int | None = None
    ) -> Vectors:
        """Read single pixels; see `Store.sample`."""
        now = self._now
        self._check(dims)
        return read_points(now.layer(zone), now.time(window), rows, cols)

    def counts(self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array) -> Counts:
        """(n,) observation counts of single pixels."""
        now = self._now
        return read_counts(now.layer(zone), now.time(window), rows, cols)

    def counts_window(self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1) -> Counts:
        """(rows, cols) observation counts of a rectangle; see `Store.counts_window`."""
        now = self._now
        return read_counts_window(now.layer(zone, level), now.time(window), rows, cols)

    def counted(self) -> tuple[int, ...]:
        """Levels that have counts: overviews made by older versions have none."""
        return self._now.counted

    def _check(self, dims: int | None) -> None:
        if dims not in (None, self.dims):
            raise InvalidInput(f"this store holds {self.dims} dimensions, no prefix of {dims}.", field="dims")

    def blocks(self, window: Window, *, level: int = 1) -> tuple[Block, ...]:
        """Every block in which any pixel is valid, water or rejected, in order of name.

        In repositories made by others: those that stored chunks touch; LimitExceeded where they are too many.
        """
        now = self._now
        time = now.time(window)
        if now.has_block_versions:
            return tuple(sorted(now.blocks(level).get(time, frozenset())))
        return held_blocks((Scales.of(now.layer(zone, level)), _written(now, zone, time)) for zone in now.zones)

    def versions(self, window: Window, blocks: Iterable[Block]) -> Mapping[Block, str]:
        """Content hash of each block, "" where empty; the snapshot id in repositories made by others."""
        now = self._now
        if now.has_block_versions:
            return now.versions(now.time(window), blocks)
        return dict.fromkeys(blocks, now.id)

    def stale(self, window: Window, blocks: Iterable[Block]) -> frozenset[Block]:
        """Overview blocks that do not show what stands below them; none in repositories made by others."""
        now = self._now
        return now.lineage.stale(now.time(window), blocks) if now.has_block_versions else frozenset()

    def refresh(self) -> bool:
        """Move to the newest snapshot."""
        with self._swap:
            tip = self.repository.tip()
            if tip == self._now.id:
                return False
            fresh = self._at(tip)
            changed = self.repository.changed_chunks(self._now.id, tip)
            if changed is not None:
                fresh.succeed(self._now, changed)
            self._now = fresh
            return True

    @property
    def is_ours(self) -> bool:
        """Whether smalti made the repository."""
        return self._now.is_ours


def declared_identity(location: str, declared: object, given: ModelIdentity | None) -> ModelIdentity:
    """The identity of a store's vectors, from what it declares and what the catalogue says.

    Raises:
        InvalidInput: Neither says.
        IdentityMismatch: They differ.
    """
    if declared is None:
        if given is None:
            raise InvalidInput(
                f"{location} does not say which model made it.",
                field="model",
                remedy="Give its identity, name@version/variant.",
            )
        return given
    found = ModelIdentity.parse(str(declared))
    if given is not None and given != found:
        raise IdentityMismatch(f"{location} was made by {found}, not by {given}.", field="model")
    return found


def _complete_times(now: Snapshot) -> list[int]:
    """Times that a repository made by others declares as filled in any zone; all where it declares nothing."""
    years: set[int] = set()
    for zone in now.zones:
        years.update(now.group(zone.name).attrs.get("years_complete", now.years))  # type: ignore[arg-type]
    return [time for time, year in enumerate(now.years) if year in years]


def _written(now: Snapshot, zone: Zone, time: int) -> list[tuple[int, ...]]:
    return [at for at in now.chunks(now.layer(zone).scales.path) if at[0] == time]
