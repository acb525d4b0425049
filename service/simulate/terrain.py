"""A landscape somewhere on Earth: which zones it touches, and what each pixel of their grids holds in truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from service.errors import InvalidInput
from service.grid import PIXEL, Zone, archive_grid, transformer
from service.simulate.landscape import Landscape
from service.sources import Placement
from service.values import BoolArray, Int64Array, Window

_SAMPLES = 65
"""Places along a side of the ground at which its zones are looked for."""


@dataclass(frozen=True)
class Terrain:
    """A landscape where it lies, and the ground around it that satellites see.

    The ground is one: a pixel of another zone's grid holds what the landscape's pixel below its centre holds. Each
    zone has data within its own 6 degrees and hemisphere alone, so that every place is seen in one zone.
    """

    landscape: Landscape
    placement: Placement
    """Where the landscape's pixels lie: on the grid of its home zone."""
    ground: Placement
    """What is seen, in the home zone too; the land goes on beyond the landscape's edges."""

    @classmethod
    def of(cls, landscape: Landscape, placement: Placement, ground: Placement | None = None) -> Self:
        """The terrain of a landscape, seen as far as `ground`, or as far as its own edges.

        Raises:
            InvalidInput: The placement has another size than the landscape, or the ground lies in another zone.
        """
        if (placement.height, placement.width) != (landscape.height, landscape.width):
            size = f"{landscape.height} x {landscape.width}"
            raise InvalidInput(f"a landscape of {size} pixels has no place of another size.", field="placement")
        ground = ground or placement
        if ground.zone != placement.zone:
            raise InvalidInput(f"the landscape lies in zone {placement.zone.name}.", field="ground")
        return cls(landscape, placement, ground)

    def zones(self) -> tuple[Zone, ...]:
        """The zones in whose 6 degrees and hemisphere some of the ground lies."""
        place, grid = self.ground, archive_grid(self.ground.zone)
        row, col = np.meshgrid(
            place.row + np.linspace(0.5, place.height - 0.5, _SAMPLES),
            place.col + np.linspace(0.5, place.width - 0.5, _SAMPLES),
        )
        lon, lat = grid.to_lonlat(row.ravel(), col.ravel())
        return tuple(sorted({Zone.of(float(x), float(y)) for x, y in zip(lon, lat, strict=True)}))

    def seen_in(self, zone: Zone) -> tuple[slice, slice]:
        """Rows and columns of a zone's grid that hold the ground, as a rectangle."""
        place, home, grid = self.ground, archive_grid(self.ground.zone), archive_grid(zone)
        if zone == place.zone:
            return place.rows, place.cols
        along = np.linspace(0, 1, _SAMPLES)
        row = np.concatenate([along * place.height, along * place.height, along * 0, along * 0 + place.height])
        col = np.concatenate([along * 0, along * 0 + place.width, along * place.width, along * place.width])
        x, y = home.x0 + PIXEL * (place.col + col), home.y0 - PIXEL * (place.row + row)
        x, y = (np.asarray(v) for v in transformer(home.crs, grid.crs).transform(x, y))
        rows, cols = (grid.y0 - y) / PIXEL, (x - grid.x0) / PIXEL
        return (
            slice(max(0, int(rows.min()) - 1), min(grid.height, int(rows.max()) + 2)),
            slice(max(0, int(cols.min()) - 1), min(grid.width, int(cols.max()) + 2)),
        )

    def cells(self, zone: Zone, rows: slice, cols: slice) -> tuple[Int64Array, Int64Array, BoolArray]:
        """What lies below the pixels of a zone's grid.

        Args:
            zone: Which.
            rows: h grid rows.
            cols: w grid columns.

        Returns:
            (h, w) rows and (h, w) columns of the landscape, and (h, w) whether the zone sees anything there.
        """
        home, grid = archive_grid(self.placement.zone), archive_grid(zone)
        row, col = np.meshgrid(
            np.arange(rows.start, rows.stop) + 0.5, np.arange(cols.start, cols.stop) + 0.5, indexing="ij"
        )
        lon, lat = grid.to_lonlat(row, col)
        west, _, east, _ = zone.bounds
        held = (lon >= west) & (lon < east) & ((lat < 0) == zone.south)
        if zone != self.placement.zone:
            there = transformer(grid.crs, home.crs)
            x, y = there.transform(grid.x0 + PIXEL * col, grid.y0 - PIXEL * row)
            row, col = (home.y0 - y) / PIXEL, (x - home.x0) / PIXEL
        down, across = np.floor(row).astype(np.int64), np.floor(col).astype(np.int64)
        for at, seen in ((down, self.ground.rows), (across, self.ground.cols)):
            held &= (at >= seen.start) & (at < seen.stop)
        return down - self.placement.row, across - self.placement.col, held

    def dpixels(self, window: Window, zone: Zone, rows: slice, cols: slice) -> dict[str, npt.NDArray[Any]]:
        """The truth: the arrays of a published d-pixel folder for pixels of a zone's grid; zeros where it sees nothing.

        Args:
            window: The days.
            zone: Which.
            rows: Grid rows.
            cols: Grid columns.
        """
        row, col, held = self.cells(zone, rows, cols)
        out = self.landscape.dpixels_in(window, row, col)
        for array in out.values():
            if array.ndim > 1:
                array[:, ~held] = 0
        return out
