"""Where time series come from: something placed on a zone's pixel grid that yields d-pixels for any part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np

from service.dpixels import DPixels, from_arrays
from service.errors import InvalidInput
from service.grid import PIXEL, Block, Zone, archive_grid, blocks_of
from service.simulate import Landscape
from service.values import BLOCK, Window

SIMULATED: Final = "simulated"
"""Type of a document that describes a `Simulated`."""
SNAP: Final = 1e-3
"""How far, in metres, an origin may lie off the grid and still be meant to lie on it."""


@dataclass(frozen=True)
class Placement:
    """A rectangle of pixels on the archive grid of one zone."""

    zone: Zone
    """The zone whose grid the pixels lie on."""
    row: int
    """Grid row of the first row."""
    col: int
    """Grid column of the first column."""
    height: int
    """Rows."""
    width: int
    """Columns."""

    def __post_init__(self) -> None:
        grid = archive_grid(self.zone)
        inside = 0 <= self.row <= grid.height - self.height and 0 <= self.col <= grid.width - self.width
        if self.height < 1 or self.width < 1 or not inside:
            raise InvalidInput(f"does not lie within the grid of zone {self.zone.name}.", field="transform")

    @classmethod
    def of(cls, epsg: int, transform: tuple[float, ...], height: int, width: int) -> Self:
        """The placement of a raster with this CRS and affine transform (a, b, c, d, e, f).

        Raises:
            InvalidInput: The CRS is not WGS 84 / UTM, pixels are not 10 m north-up, or they lie between grid pixels.
        """
        kind, number = divmod(int(epsg), 100)
        if kind not in (326, 327) or not 1 <= number <= 60:
            raise InvalidInput(f"EPSG:{epsg} is not WGS 84 / UTM.", field="epsg", remedy="Use 326zz or 327zz.")
        zone = Zone(number, south=kind == 327)
        a, b, x0, d, e, y0 = (float(v) for v in transform)
        if (a, b, d, e) != (PIXEL, 0.0, 0.0, -PIXEL):
            raise InvalidInput(
                f"{transform} does not describe 10 m pixels, north up.",
                field="transform",
                remedy="Write [10,0,x,0,-10,y].",
            )
        grid = archive_grid(zone)
        row, col = (grid.y0 - y0) / PIXEL, (x0 - grid.x0) / PIXEL
        if not (np.isfinite(row) and np.isfinite(col)):
            raise InvalidInput(f"{transform} is not finite.", field="transform")
        if max(abs(row - round(row)), abs(col - round(col))) * PIXEL > SNAP:
            raise InvalidInput(
                f"the corner {x0}, {y0} lies between grid pixels.",
                field="transform",
                remedy="Resample to corners that are multiples of 10 m; smalti never moves pixels.",
            )
        return cls(zone, round(row), round(col), height, width)

    @property
    def rows(self) -> slice:
        """Grid rows."""
        return slice(self.row, self.row + self.height)

    @property
    def cols(self) -> slice:
        """Grid columns."""
        return slice(self.col, self.col + self.width)

    def blocks(self) -> Iterator[Block]:
        """The level-1 blocks it touches."""
        return blocks_of(self.zone.name, self.rows, self.cols)

    def touches(self, block: Block) -> bool:
        """Whether any of its pixels falls into `block`, which is one of its zone."""
        rows, cols = self.within(block)
        return bool(rows.start < rows.stop and cols.start < cols.stop)

    def within(self, block: Block) -> tuple[slice, slice]:
        """Rows and columns of this placement that fall into `block`, counted from the placement's corner."""
        top, left = max(block.rows.start, self.row), max(block.cols.start, self.col)
        bottom, right = min(block.rows.stop, self.rows.stop), min(block.cols.stop, self.cols.stop)
        return slice(top - self.row, bottom - self.row), slice(left - self.col, right - self.col)

    def pixels_in(self, block: Block) -> int:
        """How many of its pixels fall into `block`."""
        rows, cols = self.within(block)
        return int(max(0, rows.stop - rows.start) * max(0, cols.stop - cols.start))

    def in_block(self, block: Block) -> tuple[slice, slice]:
        """The same pixels, counted from the block's corner."""
        rows, cols = self.within(block)
        top, left = self.row - block.row * BLOCK, self.col - block.col * BLOCK
        return slice(rows.start + top, rows.stop + top), slice(cols.start + left, cols.stop + left)


@dataclass(frozen=True)
class Cost:
    """What making some blocks takes from whoever holds the scenes: estimates, told before anything is fetched."""

    scenes: int = 0
    """Different scenes that are read."""
    bytes: int = 0
    """Bytes that are fetched."""


class Source(Protocol):
    """Time series for a rectangle of pixels of one zone. A dataset over several zones has one for each."""

    @property
    def placement(self) -> Placement:
        """Which pixels it can reach; of a catalogue the zone's six degrees."""

    @property
    def window(self) -> Window:
        """The days the series cover."""

    def digest_of(self, block: Block) -> str:
        """64 hex digits that change when what `block` would be made from does: part of the block's fingerprint.

        Raises:
            Unavailable: It cannot be found out now.
        """

    def read(self, rows: slice, cols: slice) -> DPixels:
        """The d-pixels of some rows and columns of one block, counted from the placement's corner, row by row.

        Raises:
            InvalidInput, Corrupt: The series contradict themselves.
            LimitExceeded: They are larger than anybody may ask for.
            Unavailable: They cannot be fetched now.
        """

    def cost_of(self, blocks: Collection[Block]) -> Cost:
        """What reading some blocks takes.

        Raises:
            LimitExceeded: More than anybody may ask for.
            Unavailable: It cannot be found out now.
        """

    def provenance(self, block: Block) -> Mapping[str, Any]:
        """What a block is made from, as JSON: at least `type`; of a catalogue its mode, its scenes and their dates."""


@dataclass(frozen=True)
class Simulated:
    """A window of a simulated landscape."""

    placement: Placement
    landscape: Landscape
    window: Window

    def digest_of(self, block: Block) -> str:  # noqa: ARG002  # every block is made from the same
        """Seed, place and size say everything; they are the same for every block."""
        text = f"simulated/{self.landscape.seed}/{self.placement}/{self.window}"
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self, rows: slice, cols: slice) -> DPixels:
        """See Source."""
        return from_arrays(self.landscape.dpixels_in(self.window, *np.mgrid[rows, cols]))

    def cost_of(self, blocks: Collection[Block]) -> Cost:  # noqa: ARG002  # likewise
        """Nothing: it is made here."""
        return Cost()

    def provenance(self, block: Block) -> Mapping[str, Any]:  # noqa: ARG002  # likewise
        """The document it is made from."""
        return self.to_document()

    def to_document(self) -> dict[str, Any]:
        """What `sources_of` reads: everything but the window."""
        place = self.placement
        return {"type": SIMULATED, "seed": self.landscape.seed, "zone": place.zone.name} | {
            name: getattr(place, name) for name in ("row", "col", "height", "width")
        }

    @classmethod
    def of(cls, document: Mapping[str, Any], window: Window) -> Self:
        """The source that a document describes, for one window."""
        row, col, height, width = (int(document[name]) for name in ("row", "col", "height", "width"))
        placement = Placement(Zone.parse(document["zone"]), row, col, height, width)
        return cls(placement, Landscape(int(document["seed"]), height, width), window)
