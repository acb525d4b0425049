"""Which cells of which blocks pixels belong to: of single places, and of rasters."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from service.errors import InvalidInput
from service.grid import Block, Zone, archive_grid
from service.sources import Placement
from service.values import BLOCK, Float64Array, Int64Array

Cells = dict[Block, tuple[Int64Array, Int64Array, Int64Array]]
"""For each block: rows and columns in it, 0..255, and the indices of the pixels that go there."""


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
