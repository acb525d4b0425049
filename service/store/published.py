"""What stores that others publish have in common: one level, a time axis of years, no snapshots, never written."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

from service.errors import InvalidInput, NotFound, Unavailable
from service.grid import Block, Zone, ZoneGrid
from service.store.archive import declared_identity
from service.store.faults import reading
from service.store.layer import Layer, read_points, read_window
from service.values import Counts, Int64Array, ModelIdentity, Vectors, Window

log = logging.getLogger("smalti.store")


class State(Protocol):
    """Everything known of a published store at one time; replaced as a whole."""

    revision: str
    """A weak one: a hash of the metadata and of what the transport says of the objects."""
    declared: object
    """The model identity as the store gives it; None where it does not."""
    years: tuple[int, ...]
    """The time axis."""
    depths: tuple[int, ...]
    """Prefix lengths that can be read, ascending; the last is all dimensions."""
    grids: dict[Zone, ZoneGrid]
    """At level 1."""

    def held(self) -> Iterable[int]:
        """Positions on the time axis at which anything is stored; all where that cannot be told cheaply."""

    def layer(self, zone: Zone, dims: int) -> Layer:
        """The arrays of a zone. Raises NotFound, Corrupt and Unavailable as `Store.read` does."""

    def blocks(self, at: int) -> tuple[Block, ...]:
        """Blocks that may hold data at a position in time, in order of name; kept."""

    def unchanged(self) -> bool:
        """Whether one cheap look tells that this is how things still are."""


class PublishedStore:
    """A Store over a published layout. It has no snapshots, so its revision is a weak one.

    Args:
        location: For messages.
        look: Opens the state; given the one before, if there was one.
        identity: The model; needed where the store does not name one in smalti's way.

    Raises:
        InvalidInput: No identity was given and the store names none.
        Corrupt: Metadata is missing or contradicts itself.
        Unavailable: The transport failed.
    """

    writable = False
    recheck_after = 30.0
    """Seconds for which `refresh` takes the last look at the metadata as good enough."""
    look_whole_after = 600.0
    """Seconds after which it looks at everything again, also where the root metadata did not change."""

    def __init__(
        self, location: str, look: Callable[[State | None], State], identity: ModelIdentity | None = None
    ) -> None:
        self.location = location
        self._look = look
        self._swap = threading.Lock()
        self._now = look(None)
        self._looked = self._looked_whole = time.monotonic()
        self.identity = declared_identity(location, self._now.declared, identity)
        self.depths = self._now.depths
        self.dims = self.depths[-1]

    def windows(self) -> tuple[Window, ...]:
        """Windows for which anything is stored; all on the time axis where the location cannot be listed."""
        now = self._now
        return tuple(sorted(Window.year(now.years[at]) for at in now.held()))

    def revision(self) -> tuple[str, bool]:
        """(hash of the metadata and its validators, False)."""
        return self._now.revision, False

    def zones(self) -> tuple[ZoneGrid, ...]:
        """One level-1 grid per zone and hemisphere, both in the CRS of the stored group."""
        return tuple(grid for _, grid in sorted(self._now.grids.items()))

    def levels(self) -> tuple[int, ...]:
        """Level 1 alone: the layout has no overviews of embeddings."""
        return (1,)

    def read(
        self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1, dims: int | None = None
    ) -> Vectors:
        """Read a rectangle; see `Store.read`."""
        self._require_finest(level)
        layer, at = self._at(zone, window, dims)
        return read_window(layer, at, rows, cols)

    def sample(
        self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array, *, dims: int | None = None
    ) -> Vectors:
        """Read single pixels; see `Store.sample`."""
        layer, at = self._at(zone, window, dims)
        return read_points(layer, at, rows, cols)

    def counts(self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array) -> Counts:
        """Zeros: the layout does not record them."""
        self._at(zone, window, None)
        return Counts.zeros(np.broadcast(rows, cols).shape)

    def counts_window(self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1) -> Counts:
        """Zeros: the layout does not record them."""
        self._require_finest(level)
        self._at(zone, window, None)
        return Counts.zeros((rows.stop - rows.start, cols.stop - cols.start))

    def counted(self) -> tuple[int, ...]:
        """No level: the layout does not record them."""
        return ()

    def blocks(self, window: Window, *, level: int = 1) -> tuple[Block, ...]:
        """Every block in which any pixel may be valid or water: those that stored chunks touch."""
        self._require_finest(level)
        now = self._now
        return now.blocks(self._time(now, window))

    def versions(self, window: Window, blocks: Iterable[Block]) -> Mapping[Block, str]:
        """The store's weak revision for every block."""
        now = self._now
        self._time(now, window)
        return dict.fromkeys(blocks, now.revision)

    def stale(self, window: Window, blocks: Iterable[Block]) -> frozenset[Block]:  # noqa: ARG002
        """None: there are no overviews."""
        return frozenset()

    def refresh(self) -> bool:
        """Look at the metadata again, unless that was done a moment ago; whether it changed.

        Where the transport fails, things stay as they are: what is near can still be read.
        """
        try:
            return self._refresh()
        except Unavailable as error:
            log.warning("%s was not looked at again: %s", self.location, error.message)
            return False

    def _refresh(self) -> bool:
        with self._swap:
            moment = time.monotonic()
            if moment - self._looked < self.recheck_after:
                return False
            self._looked = moment
            if moment - self._looked_whole < self.look_whole_after and self._now.unchanged():
                return False
            self._looked_whole = moment
            with reading(self.location, "its metadata"):
                fresh = self._look(self._now)
            if fresh.revision == self._now.revision:
                return False
            self._now = fresh
            return True

    def _require_finest(self, level: int) -> None:
        if level != 1:
            raise NotFound(f"{self.location} has no overviews.", field="level")

    def _at(self, zone: Zone, window: Window, dims: int | None) -> tuple[Layer, int]:
        now = self._now
        dims = self.dims if dims is None else dims
        if dims not in now.depths:
            raise InvalidInput(f"{dims} dimensions cannot be read; there are {self.depths}.", field="dims")
        return now.layer(zone, dims), self._time(now, window)

    def _time(self, now: State, window: Window) -> int:
        if not window.is_year or window.start.year not in now.years:
            raise NotFound(f"{self.location} holds no window {window}.", field="window")
        return now.years.index(window.start.year)
