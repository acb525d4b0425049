"""Overviews of the world: the means of what the zones hold, on one grid in degrees, wherever zones meet."""

from __future__ import annotations

import morecantile
import numpy as np
import pytest

from service.grid import WORLD_GRID, WORLD_LEVELS, ZONE_LEVELS, Zone, archive_grid, zone_numbers
from service.store import create_store
from service.store.contract import Store
from service.store.writable import WritableArchive
from service.values import REJECTED, VALID, WATER, Counts, Vectors
from tests.stores import TINY, YEAR, blocks_from, random_vectors

DIMS, SIDE = 4, 320
TMS = morecantile.tms.get("WebMercatorQuad")
PLACES = {"01N": (-180.0, 0.0), "01S": (-180.0, 0.0), "60N": (180.0, 0.0), "60S": (180.0, 0.0), "33N": (15.2, 78.0)}
"""Four zones that meet on the equator at the antimeridian, and one far north."""
Patch = tuple[str, int, int, Vectors]


def patches() -> list[Patch]:
    """(zone, row, column, pixels) of a square around each place; over a corner each zone has more than its part."""
    out = []
    for seed, (name, (lon, lat)) in enumerate(PLACES.items()):
        grid = archive_grid(Zone.parse(name))
        row, col = (int(axis[0]) for axis in grid.from_lonlat(np.array([lon]), np.array([lat])))
        vectors = random_vectors((SIDE, SIDE), DIMS, seed)
        vectors.status[:100, :80], vectors.status[200:300, 300:] = WATER, REJECTED
        gap = vectors.status != VALID
        vectors.codes[gap], vectors.scales[gap] = 0, 0
        top, left = (min(max(at - SIDE // 2, 0), size - SIDE) for at, size in ((row, grid.height), (col, grid.width)))
        out.append((name, top, left, vectors))
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> WritableArchive:
    store = create_store(tmp_path_factory.mktemp("world") / "w.icechunk", TINY, dims=DIMS)
    for name, row, col, vectors in patches():
        counts = Counts(*(np.full((SIDE, SIDE), n + len(name), np.uint16) for n in (40, 30, 20)))
        store.write(blocks_from(name, row, col, vectors, YEAR, counts), name)
    store.write_overviews(YEAR)
    return store


Sums = dict[tuple[int, int], tuple[np.ndarray, int]]


def coarse(patch: Patch) -> Sums:
    """Of each 32 x 32 pixels the float64 sum of the valid vectors, and how many there are."""
    _, top, left, vectors = patch
    values, out = np.nan_to_num(vectors.dequantised().astype(np.float64)), Sums()
    i, j = np.nonzero(vectors.valid)
    keys = ((top + i) // 32) * 2**32 + (left + j) // 32
    for key in np.unique(keys):
        mine = keys == key
        out[int(key >> 32), int(key & 0xFFFFFFFF)] = values[i[mine], j[mine]].sum(axis=0), int(mine.sum())
    return out


def expected() -> tuple[Sums, Sums]:
    """Pixel by pixel: what lies in each pixel of the world at level 64, and what holds the centres of the others."""
    fine, within, around = WORLD_GRID.at_level(64), Sums(), Sums()
    for patch in patches():
        zone = Zone.parse(patch[0])
        grid = archive_grid(zone).at_level(32)
        found = coarse(patch)
        for (row, col), (total, count) in found.items():
            lon, lat = (float(axis[0]) for axis in grid.to_lonlat(np.array([row + 0.5]), np.array([col + 0.5])))
            if zone_numbers(np.array([lon]))[0] != zone.number or (lat < 0) != zone.south:
                continue
            cell = int((90 - lat) // fine.pixel), int((lon + 180) // fine.pixel)
            before = within.get(cell, (np.zeros(DIMS), 0))
            within[cell] = before[0] + total, before[1] + count
            for i in range(cell[0] - 1, cell[0] + 2) if lat > 50 else ():  # nearer to the equator each holds its own
                for j in range(cell[1] - 3, cell[1] + 4):
                    at = -180 + (j % fine.width + 0.5) * fine.pixel, 90 - (i + 0.5) * fine.pixel
                    mine = zone_numbers(np.array([at[0]]))[0] == zone.number and (at[1] < 0) == zone.south
                    if mine and grid.cell(*at) == (row, col):
                        around[i, j % fine.width] = total, count
    return within, {cell: held for cell, held in around.items() if cell not in within}


def test_the_world_is_the_mean_of_what_the_zones_hold(made: WritableArchive) -> None:
    within, around = expected()
    assert len(within) > 80
    assert len(around) > 30, "far north pixels of the world are narrower than those of the zones"
    held = within | around
    below = sum(_step(made, level) for level in ZONE_LEVELS[1:])
    for level in WORLD_LEVELS:
        read: dict[tuple[int, int], np.ndarray] = {}
        for block in made.blocks(YEAR, level=level):
            found = made.read(Zone.WORLD, YEAR, block.rows, block.cols, level=level)
            for i, j in np.argwhere(found.valid):
                read[block.rows.start + int(i), block.cols.start + int(j)] = found.dequantised()[i, j]
        below += _step(made, level)
        assert read.keys() == held.keys()
        worst = max(float(np.abs(read[cell] - total / count).max()) for cell, (total, count) in held.items())
        assert worst <= 1.001 * below, level
        above = Sums()
        for (i, j), (total, count) in held.items():
            before = above.get((i // 2, j // 2), (np.zeros(DIMS), 0))
            above[i // 2, j // 2] = before[0] + total, before[1] + count
        held = above


def _step(store: Store, level: int) -> float:
    """By how much a level may round: half of its largest step."""
    blocks = store.blocks(YEAR, level=level)
    return max(
        float(store.read(Zone.parse(b.zone), YEAR, b.rows, b.cols, level=level).scales.max()) / 2 for b in blocks
    )
