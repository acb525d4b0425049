"""Overviews of the world: the means of what the zones hold, on one grid in degrees, wherever zones meet."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import morecantile
import numpy as np
import pytest

from service.colour import VectorView
from service.globe import LEVELS, ancestors, children, parents
from service.grid import WORLD_GRID, WORLD_LEVELS, ZONE_LEVELS, Block, Zone, archive_grid, zone_numbers
from service.paint import paint
from service.plan import Source, plan, touched
from service.store import create_store, open_store
from service.store.contract import Store
from service.store.writable import WritableArchive
from service.tiles import TileReader, tile_target
from service.values import BLOCK, REJECTED, VALID, WATER, Counts, Vectors
from service.warp import Target
from tests.conftest import ROOT
from tests.stores import TINY, YEAR, blocks_from, random_vectors

DIMS, SIDE = 4, 320
TMS = morecantile.tms.get("WebMercatorQuad")
PLACES = {"01N": (-180.0, 0.0), "60S": (180.0, 0.0), "01S": (-180.0, 0.0), "60N": (180.0, 0.0), "33N": (15.2, 78.0)}
"""Four zones that meet on the equator at the antimeridian, and one far north."""
FEW = 2
"""Of these places that hold both ends of the world."""
Patch = tuple[str, int, int, Vectors]


def patches(count: int = len(PLACES)) -> list[Patch]:
    """(zone, row, column, pixels) of a square around each place; over a corner each zone has more than its part."""
    out = []
    for seed, (name, (lon, lat)) in enumerate(list(PLACES.items())[:count]):
        grid = archive_grid(Zone.parse(name))
        row, col = (int(axis[0]) for axis in grid.from_lonlat(np.array([lon]), np.array([lat])))
        vectors = random_vectors((SIDE, SIDE), DIMS, seed)
        vectors.status[:100, :80], vectors.status[200:300, 300:] = WATER, REJECTED
        gap = vectors.status != VALID
        vectors.codes[gap], vectors.scales[gap] = 0, 0
        top, left = (min(max(at - SIDE // 2, 0), size - SIDE) for at, size in ((row, grid.height), (col, grid.width)))
        out.append((name, top, left, vectors))
    return out


def built(folder: Path, count: int) -> WritableArchive:
    store = create_store(folder / "w.icechunk", TINY, dims=DIMS)
    for name, row, col, vectors in patches(count):
        counts = Counts(*(np.full((SIDE, SIDE), n + len(name), np.uint16) for n in (40, 30, 20)))
        store.write(blocks_from(name, row, col, vectors, YEAR, counts), name)
    store.write_overviews(YEAR)
    return store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> WritableArchive:
    """All places."""
    return built(tmp_path_factory.mktemp("world"), len(PLACES))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> WritableArchive:
    """Two of them: each zone costs a quick test a second."""
    return built(tmp_path_factory.mktemp("ends"), FEW)


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


@pytest.mark.slow
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


def source_of(store: Store) -> Source:
    return Source(store, YEAR, VectorView(DIMS), DIMS, picture=False)


def versions(store: Store, lon: float, lat: float, z: int) -> dict[Block, str]:
    """What a tile's ETag is made from."""
    tile = TMS.tile(lon, lat, z)
    found = touched(source_of(store), tile_target(TMS, tile.x, tile.y, z))
    assert not found.stale
    assert found.blocks is not None
    return dict(store.versions(YEAR, found.blocks))


def test_the_whole_world_is_one_block(few: WritableArchive) -> None:
    (rectangle,) = plan(source_of(few), tile_target(TMS, 0, 0, 0))
    assert (rectangle.shown.grid.zone, rectangle.level) == (Zone.WORLD, WORLD_LEVELS[-1])
    assert rectangle.rows.stop <= 128
    assert rectangle.cols.stop <= 256
    assert set(versions(few, 0, 0, 0)) == {Block("world", 0, 0, WORLD_LEVELS[-1])}
    assert TileReader(source_of(few)).minzoom == 0
    assert TileReader(source_of(few)).tile(0, 0, 0).array.count() >= FEW * DIMS


def test_pictures_over_the_antimeridian_read_both_ends_of_the_grid(few: WritableArchive) -> None:
    target = Target("EPSG:4326", (178.9, -0.7, 181.1, 0.7), 300, 200)
    source = source_of(few)
    parts = plan(source, target)
    assert [part.level for part in parts] == [64, 64]
    assert sum(part.count for part in parts) < 200_000, "not all that lies between"
    picture = paint(source, target)
    fine = WORLD_GRID.at_level(64)
    lon = (target.xs + 180) % 360 - 180
    rows, cols = (np.floor(axis).astype(int) for axis in ((90 - target.ys) / fine.pixel, (lon + 180) / fine.pixel))
    for half in (cols < 1000, cols > 1000):
        down, across = slice(rows.min(), rows.max() + 1), slice(cols[half].min(), cols[half].max() + 1)
        stored = few.read(Zone.WORLD, YEAR, down, across, level=64)
        at = np.ix_(rows - down.start, cols[half] - across.start)
        shown = picture[:, :, half]
        np.testing.assert_array_equal(np.ma.getmaskarray(shown)[0], ~stored.valid[at])
        assert stored.valid[at].sum() >= 2
        wanted = np.moveaxis(stored.dequantised()[at], -1, 0)
        np.testing.assert_array_equal(shown.compressed(), wanted[:, stored.valid[at]].ravel())


@pytest.mark.slow
def test_a_new_block_changes_only_the_tiles_that_show_it(made: WritableArchive, tmp_path: Path) -> None:
    own = shutil.copytree(made.location, tmp_path / "own.icechunk")
    made = open_store(own)  # type: ignore[assignment]
    far, near, zooms = (15.25, 77.99), (-179.995, 0.005), range(14)
    before = {(place, z): versions(made, *place, z) for place in (far, near) for z in zooms}
    block = next(b for b in made.blocks(YEAR) if b.zone == "33N")
    old = made.read_block(block, YEAR)
    made.write([replace(old, vectors=replace(old.vectors, scales=old.vectors.scales * np.float32(0.9)))], "new")
    tile = TMS.tile(*far, 9)
    assert touched(source_of(made), tile_target(TMS, tile.x, tile.y, 9)).blocks != tuple(before[far, 9])
    made.write_overviews(YEAR, [block])
    reader = open_store(made.location)
    for store in (made, reader):
        after = {key: versions(store, *key[0], key[1]) for key in before}
        same = {z for z in zooms if after[near, z] == before[near, z]}
        assert same == set(zooms) - {0}, "they share the tile of the world alone"
        assert not any(after[far, z] == before[far, z] for z in range(10))


@pytest.mark.slow
def test_a_build_that_stops_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.overviews._BATCH", 4)
    store = create_store(tmp_path / "w.icechunk", TINY, dims=DIMS)
    store.write(blocks_from("31N", 900 * BLOCK, 100 * BLOCK, random_vectors((30, 30), DIMS), YEAR, none(30)), "x")

    def stop(done: int, _: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write_overviews(YEAR, on_progress=stop)
    store = open_store(store.location)  # type: ignore[assignment]
    total = len(ancestors({Zone(31): archive_grid(Zone(31))}, store.blocks(YEAR)))
    assert 0 < store.write_overviews(YEAR) <= total - 8
    assert store.write_overviews(YEAR) == 0


def none(side: int) -> Counts:
    return Counts.zeros((side, side))


@pytest.mark.slow
def test_a_killed_build_leaves_whole_blocks_and_goes_on(tmp_path: Path) -> None:
    store = create_store(tmp_path / "w.icechunk", TINY, dims=DIMS)
    for row in range(0, 40, 4):
        vectors = random_vectors((300, 300), DIMS, row)
        store.write(blocks_from("31N", (900 + row) * BLOCK, 100 * BLOCK, vectors, YEAR, none(300)), "x")
    build = (
        "import sys; from service.store import open_store; from service.values import Window\n"
        "open_store(sys.argv[1]).write_overviews(Window.year(2024), on_progress=lambda *at: print(*at, flush=True))"
    )
    command = [sys.executable, "-c", build, store.location]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        done = int(process.stdout.readline().split()[0])
        time.sleep(0.3)
        process.kill()
    store.refresh()
    total = len(ancestors({Zone(31): archive_grid(Zone(31))}, store.blocks(YEAR)))
    left = store.write_overviews(YEAR)
    assert 0 < left <= total - done
    whole = create_store(tmp_path / "again.icechunk", TINY, dims=DIMS)
    whole.write([replace(store.read_block(block, YEAR), base=None) for block in store.blocks(YEAR)], "copy")
    whole.write_overviews(YEAR)
    for level in LEVELS:
        blocks = whole.blocks(YEAR, level=level)
        assert store.versions(YEAR, blocks) == whole.versions(YEAR, blocks)
        assert not store.stale(YEAR, blocks)


@pytest.mark.slow
def test_a_build_takes_no_more_memory_for_more_blocks(tmp_path: Path) -> None:
    def peak(name: str, side: int) -> int:
        store = create_store(tmp_path / f"{name}.icechunk", TINY, dims=DIMS)
        vectors, counts = random_vectors((side, side), DIMS), Counts.zeros((side, side))
        store.write(blocks_from("31N", 900 * BLOCK, 100 * BLOCK, vectors, YEAR, counts), "x")
        tracemalloc.start()
        store.write_overviews(YEAR)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak("many", 6 * BLOCK) < 1.2 * peak("few", 2 * BLOCK)


def test_blocks_of_zones_and_of_the_world_know_each_other() -> None:
    grids = {zone: archive_grid(zone) for zone in map(Zone.parse, ("01N", "01S", "60N", "60S", "33N"))}
    rng = np.random.default_rng(1)
    for zone, grid in grids.items():
        coarse = grid.at_level(32)
        for row, col in zip(rng.integers(0, coarse.height // BLOCK, 6), rng.integers(0, 9, 6), strict=True):
            block = Block(zone.name, int(row), int(col), 32)
            over = parents(grids, [block])
            assert all(block in children(grids, above) for above in over)
            i, j = np.mgrid[0:BLOCK:9, 0:BLOCK:9] + 0.5
            lon, lat = coarse.to_lonlat((i + block.rows.start).ravel(), (j + block.cols.start).ravel())
            mine = (zone_numbers(lon) == zone.number) & ((lat < 0) == zone.south)
            cells = zip((90 - lat[mine]) // (1.40625), (lon[mine] + 180) // 1.40625, strict=True)
            assert {Block("world", int(r), int(c), 64) for r, c in cells} <= over
