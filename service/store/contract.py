"""What every store of embeddings can do, whatever its layout. Everything above talks to these two protocols."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from service.errors import InvalidInput
from service.grid import Block, Zone, ZoneGrid
from service.values import BLOCK, Counts, Int64Array, ModelIdentity, Vectors, Window


@dataclass(frozen=True)
class BlockData:
    """All that a commit writes for one block, together."""

    block: Block
    """Where: level 1."""
    window: Window
    """When."""
    vectors: Vectors
    """(256, 256) pixels."""
    counts: Counts
    """(256, 256) observation counts."""
    fingerprint: str
    """64 hex digits: what the block was made from (model, window, scenes, parameters)."""
    base: str | None = None
    """Version of the block this was merged from, as `read_block` gives it; None where nothing was merged."""

    def __post_init__(self) -> None:
        if self.vectors.status.shape != (BLOCK, BLOCK) or self.counts.s2.shape != (BLOCK, BLOCK):
            raise InvalidInput(f"a block is {BLOCK} x {BLOCK} pixels.", field="block")
        if self.block.level != 1:
            raise InvalidInput("only level 1 is written; overviews follow from it.", field="block")
        if len(self.fingerprint) != 64:
            raise InvalidInput("is not 64 hex digits.", field="fingerprint")


@runtime_checkable
class Store(Protocol):
    """A place embeddings are read from. Opened once, read by many threads, never changed by reading."""

    location: str
    """Absolute path or URL."""
    identity: ModelIdentity
    """The one model that made every vector here."""
    dims: int
    """Embedding dimensions stored in full."""
    depths: tuple[int, ...]
    """Prefix lengths that can be read on their own, ascending; the last is `dims`."""
    writable: bool
    """Whether this is also a WritableStore."""

    def windows(self) -> tuple[Window, ...]:
        """Windows that hold data, ascending."""

    def revision(self) -> tuple[str, bool]:
        """(revision, strong): the snapshot id, or a weaker hash of metadata where the layout has no snapshots."""

    def zones(self) -> tuple[ZoneGrid, ...]:
        """One level-1 grid per zone and hemisphere."""

    def levels(self) -> tuple[int, ...]:
        """Levels that can be read, ascending from 1; more where overviews were built."""

    def read(
        self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1, dims: int | None = None
    ) -> Vectors:
        """Read a rectangle of pixels of one zone grid at one level.

        Args:
            zone: One of `zones()`.
            window: One of `windows()`.
            rows: start and stop on the level's grid; what lies beyond it comes back with status OUTSIDE.
            cols: Likewise.
            level: One of `levels()`.
            dims: A prefix length among `depths`; all dimensions where absent.

        Returns:
            (rows, cols) pixels.

        Raises:
            NotFound: No such zone, window or level.
            InvalidInput: `dims` is not among `depths`.
            Corrupt: Stored bytes cannot be read; names the array and chunk.
            Unavailable: The transport failed.
        """

    def sample(
        self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array, *, dims: int | None = None
    ) -> Vectors:
        """Read single pixels of level 1: (n,) pixels in the order asked. Raises as `read` does."""

    def counts(self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array) -> Counts:
        """(n,) observation counts of single pixels; zeros where the layout does not record them."""

    def counts_window(self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1) -> Counts:
        """(rows, cols) observation counts of a rectangle, for which `read` says what is valid.

        An overview's pixel has the mean of the counts behind it, rounded. Zeros beyond the grid, where nothing is
        valid at a level above 1, and where the layout records none. Raises as `read` does.
        """

    def counted(self) -> tuple[int, ...]:
        """Levels at which observation counts are recorded, ascending; none where the layout has no place for them."""

    def blocks(self, window: Window, *, level: int = 1) -> tuple[Block, ...]:
        """Every block that holds at least one pixel of data, in order of name."""

    def versions(self, window: Window, blocks: Iterable[Block]) -> Mapping[Block, str]:
        """A version for each block: changes when, and only when, the block's content does. "" where empty."""

    def stale(self, window: Window, blocks: Iterable[Block]) -> frozenset[Block]:
        """Those overview blocks that are missing or older than what lies below them, at any level down to 1.

        Cheap enough to ask for every tile. Level-1 blocks are never stale.
        """

    def refresh(self) -> bool:
        """Move to the newest revision, atomically for readers. Returns whether it changed."""


class WritableStore(Store, Protocol):
    """A store whose blocks can be replaced. A block is wholly old or wholly new to every reader."""

    def read_block(self, block: Block, window: Window) -> BlockData:
        """One level-1 block as it stands, counts, fingerprint and base included; an unwritten one is empty."""

    def write(self, blocks: Sequence[BlockData], message: str) -> str:
        """Commit blocks together and return the new revision. Writers of other blocks are not disturbed.

        Raises:
            Conflict: Somebody wrote one of these blocks since it was read (`base`), or since the last `refresh`
                where it was not.
            ReadOnly: The location does not allow it.
            InvalidInput: Another number of dimensions or a window this repository cannot hold.
        """

    def fingerprints(self, window: Window, blocks: Iterable[Block]) -> Mapping[Block, str]:
        """The fingerprint stored with each block; "" where empty."""

    def write_overviews(
        self,
        window: Window,
        blocks: Iterable[Block] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Rebuild the overview blocks above `blocks`, all dirty ones where absent; returns how many changed."""

    def tidy(self, older_than: dt.timedelta = dt.timedelta(hours=1)) -> tuple[int, int, int]:
        """Forget old snapshots and delete what nothing refers to.

        Returns:
            (snapshots forgotten, files deleted, bytes deleted).

        Raises:
            Conflict: A writer is open.
        """
