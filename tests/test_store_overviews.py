"""Overviews: a pixel is the mean of what stands below it, and only what changed is made anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidInput
from service.globe import LEVELS, ancestors
from service.grid import ZONE_LEVELS, Block, Zone, archive_grid
from service.store import open_store
from service.store.layout import COUNT_NAMES
from service.store.mean import Summary, halved
from service.store.overviews import build_overviews
from service.store.snapshot import Snapshot
from service.values import BLOCK, NOT_EMBEDDED, REJECTED, VALID, WATER, Counts, Vectors
from tests.stores import YEAR, Tiny, blocks_from, random_vectors, tiny_archive

DIMS = 8
ZONE = Zone(31)


def gappy(shape: tuple[int, int], seed: int = 0) -> Vectors:
    """Noise with a field of water, one of rejected pixels and one that is not embedded."""
    vectors = random_vectors(shape, DIMS, seed)
    rng = np.random.default_rng(seed + 100)
    vectors.status[rng.random(shape) < 0.3] = REJECTED
    vectors.status[: shape[0] // 3, : shape[1] // 2] = WATER
    vectors.status[-shape[0] // 4 :] = NOT_EMBEDDED
    gap = vectors.status != VALID
    vectors.codes[gap], vectors.scales[gap] = 0, 0
    return vectors


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    made = tiny_archive(
        tmp_path_factory.mktemp("overviews"), gappy((300, 400)), at=(1400 * BLOCK + 37, 130 * BLOCK + 91)
    )
    assert made.store.write_overviews(YEAR) > 0
    return made


def reference(tiny: Tiny, level: int) -> tuple[slice, slice, np.ndarray, np.ndarray]:
    """(rows, cols) at a level, the float64 mean of the valid vectors under each pixel, and how many there are."""
    rows, cols = (slice(s.start // level, -(-s.stop // level)) for s in (tiny.rows, tiny.cols))
    shape = ((rows.stop - rows.start) * level, (cols.stop - cols.start) * level)
    values, there = np.zeros((*shape, DIMS)), np.zeros(shape)
    at = np.s_[tiny.row - rows.start * level :, tiny.col - cols.start * level :]
    height, width = tiny.vectors.status.shape
    values[at][:height, :width] = np.nan_to_num(tiny.vectors.dequantised().astype(np.float64))
    there[at][:height, :width] = tiny.vectors.valid
    cells = (shape[0] // level, level, shape[1] // level, level)
    count = there.reshape(cells).sum(axis=(1, 3))
    with np.errstate(invalid="ignore"):
        return rows, cols, values.reshape(*cells, DIMS).sum(axis=(1, 3)) / count[..., None], count


@pytest.mark.parametrize("level", ZONE_LEVELS[1:])
def test_an_overview_is_the_mean_of_the_valid_vectors(tiny: Tiny, level: int) -> None:
    rows, cols, mean, count = reference(tiny, level)
    found = tiny.store.read(ZONE, YEAR, rows, cols, level=level)
    np.testing.assert_array_equal(found.valid, count > 0)
    weight = tiny.store._now.array(f"overviews/{level}/31N", "weight")[7, rows, cols]
    np.testing.assert_array_equal(weight, count)
    # Each level rounds by half a step of its own scale at most, and averages what the levels below it rounded.
    below = 0.0
    for lower in LEVELS[: LEVELS.index(level)]:
        part = [slice(s.start // lower, -(-s.stop // lower)) for s in (tiny.rows, tiny.cols)]
        below += 0.5 * float(tiny.store.read(ZONE, YEAR, *part, level=lower).scales.max())
    error = np.abs(found.dequantised().astype(np.float64) - mean)[count > 0]
    assert (error <= 1.001 * (0.5 * found.scales[found.valid][:, None] + below)).all()
    assert error.mean() < 0.5 * found.scales[found.valid].mean()


def test_one_halving_is_exact_to_half_a_step(tiny: Tiny) -> None:
    rows, cols, mean, count = reference(tiny, 2)
    found = tiny.store.read(ZONE, YEAR, rows, cols, level=2)
    error = np.abs(found.dequantised().astype(np.float64) - mean)[count > 0]
    assert (error <= 0.5001 * found.scales[found.valid][:, None]).all()


def test_without_data_the_commonest_reason_stands() -> None:
    status = np.array([[WATER, WATER, NOT_EMBEDDED, NOT_EMBEDDED], [REJECTED, WATER, WATER, NOT_EMBEDDED]], np.uint8)
    nothing = Vectors(np.zeros((2, 4, DIMS), np.int8), np.zeros((2, 4), np.float32), status)
    found = halved(Summary.of(nothing, Counts.zeros((2, 4))))
    assert found.vectors.status.tolist() == [[WATER, NOT_EMBEDDED]]
    assert not found.weight.any()
    one = Vectors(
        np.full((2, 2, DIMS), 5, np.int8), np.full((2, 2), 0.02, np.float32), np.array([[1, 2], [2, 3]], np.uint8)
    )
    counts = Counts(*(np.full((2, 2), n, np.uint16) for n in (3, 2, 1)))
    found = halved(Summary(one, np.array([[7, 0], [0, 0]], np.uint32), counts))
    assert (found.vectors.status.tolist(), found.weight.tolist()) == ([[VALID]], [[7]])
    assert (found.counts.s2.tolist(), found.counts.s1_desc.tolist()) == ([[3]], [[1]])
    np.testing.assert_allclose(found.vectors.dequantised(), 0.1, rtol=1e-6)


def test_counts_are_means_over_valid_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    counts = Counts(*(rng.integers(0, 99, (300, 300)).astype(np.uint16) for _ in range(3)))
    tiny = tiny_archive(tmp_path, gappy((300, 300)), counts=counts, at=(1400 * BLOCK, 130 * BLOCK))
    tiny.store.write_overviews(YEAR)
    same = tiny.store.counts_window(ZONE, YEAR, slice(tiny.row - 5, tiny.row + 300), tiny.cols)
    np.testing.assert_array_equal(same.s1_asc[5:], counts.s1_asc)
    assert not same.s1_asc[:5].any()
    rows, cols = (slice(s.start // 2, s.start // 2 + 150) for s in (tiny.rows, tiny.cols))
    found = tiny.store.counts_window(ZONE, YEAR, rows, cols, level=2)
    valid = tiny.vectors.valid.reshape(150, 2, 150, 2)
    summed = (counts.s2.reshape(150, 2, 150, 2) * valid).sum(axis=(1, 3))
    np.testing.assert_array_equal(found.s2, np.rint(summed / np.maximum(valid.sum(axis=(1, 3)), 1)))
    beyond = tiny.store.counts_window(ZONE, YEAR, slice(-3, 2), slice(-3, 2), level=2)
    assert beyond.s2.shape == (5, 5)
    assert not beyond.s2.any()


def test_overviews_made_before_they_had_counts_are_stale_until_rebuilt(tmp_path: Path) -> None:
    tiny = tiny_archive(tmp_path, gappy((60, 60)))
    tiny.store.write_overviews(YEAR)
    session = tiny.store.repository.writer()
    root = Snapshot(tiny.store.location, session).root
    for level in ZONE_LEVELS[1:]:
        for name in COUNT_NAMES:
            del root[f"overviews/{level}/31N/{name}"]
    tiny.store.repository.commit(session, "as older versions made them")
    tiny.store.refresh()
    parents = {level: tiny.store.blocks(YEAR, level=level) for level in LEVELS}
    assert all(tiny.store.stale(YEAR, blocks) == set(blocks) for blocks in parents.values())
    assert not tiny.store.counts_window(ZONE, YEAR, slice(0, 9), slice(0, 9), level=2).s2.any()
    assert tiny.store.write_overviews(YEAR) >= len(ZONE_LEVELS[1:])
    assert not any(tiny.store.stale(YEAR, blocks) for blocks in parents.values())
    (block,) = tiny.store.blocks(YEAR, level=2)
    assert tiny.store.counts_window(ZONE, YEAR, block.rows, block.cols, level=2).s2.max() == 40


def test_only_dirty_parents_are_rebuilt(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = tiny_archive(tmp_path_factory.mktemp("dirty"), gappy((300, 400)), at=(1400 * BLOCK + 37, 131 * BLOCK + 91))
    store = made.store
    seen: list[tuple[int, int]] = []
    first = store.write_overviews(YEAR, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (first, first)
    assert store.levels() == (1, *LEVELS)
    assert store.write_overviews(YEAR) == 0
    before = {level: store.versions(YEAR, store.blocks(YEAR, level=level)) for level in LEVELS}
    block = store.blocks(YEAR)[0]
    store.write([next(iter(blocks_from("31N", *_corner(block), gappy((BLOCK, BLOCK), 9), YEAR, _none())))], "change")
    over = ancestors({ZONE: made.grid}, [block])
    assert store.write_overviews(YEAR, [block]) == len(over)
    assert store.write_overviews(YEAR) == 0
    for level in LEVELS:
        after = store.versions(YEAR, store.blocks(YEAR, level=level))
        changed = {b for b in after if after[b] != before[level].get(b)}
        assert len(changed) == 1
        assert changed < over


def test_a_reader_that_refreshes_knows_what_one_that_opens_knows(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also of zones and overviews that came since."""
    made = tiny_archive(tmp_path_factory.mktemp("reader"), gappy((60, 60)))
    reader = open_store(made.store.location)
    assert len(reader.blocks(YEAR)) == 1
    south = blocks_from("31S", 1000 * BLOCK, 130 * BLOCK, gappy((BLOCK, BLOCK)), YEAR, _none())
    made.store.write(south, "another zone")
    made.store.write_overviews(YEAR)
    assert reader.refresh()
    fresh = open_store(made.store.location)
    for level in (1, *LEVELS):
        blocks = fresh.blocks(YEAR, level=level)
        assert reader.blocks(YEAR, level=level) == blocks
        assert len(blocks) >= (2 if level < 4096 else 1)
        assert reader.versions(YEAR, blocks) == fresh.versions(YEAR, blocks)


def test_an_emptied_block_empties_its_overview(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = tiny_archive(tmp_path_factory.mktemp("emptied"), gappy((60, 60)))
    made.store.write_overviews(YEAR)
    for block in made.store.blocks(YEAR):
        nothing = Vectors.empty((BLOCK, BLOCK), DIMS)
        made.store.write(blocks_from("31N", *_corner(block), nothing, YEAR, _none()), "erase")
    assert made.store.write_overviews(YEAR) >= len(LEVELS)
    assert not any(made.store.blocks(YEAR, level=level) for level in (1, *LEVELS))
    fresh = open_store(made.store.location)
    assert not fresh.read(ZONE, YEAR, slice(1400 * 8, 1400 * 8 + 99), slice(0, 999), level=32).valid.any()


def test_an_overview_is_stale_until_it_is_rebuilt(tmp_path: Path) -> None:
    tiny = tiny_archive(tmp_path, gappy((300, 600)), at=(1400 * BLOCK, 126 * BLOCK))
    written = tiny.store.blocks(YEAR)
    nowhere = Block("31N", 3, 3, 4)
    above = ancestors({ZONE: tiny.grid}, written)
    over = [nowhere, *written, *above]
    assert tiny.store.stale(YEAR, over) == above, "missing"
    tiny.store.write_overviews(YEAR)
    assert tiny.store.stale(YEAR, over) == frozenset()

    old = tiny.store.read_block(written[-1], YEAR)
    tiny.store.write([replace(old, vectors=gappy((BLOCK, BLOCK), 9))], "change one of four")
    mine = ancestors({ZONE: tiny.grid}, [written[-1]])
    assert len(mine) < len(above)
    assert tiny.store.stale(YEAR, over) == mine, "up to the coarsest, though only level 2 differs from its children"
    assert open_store(tiny.store.location).stale(YEAR, over) == mine
    build_overviews(tiny.store.repository, YEAR, [written[-1]])
    assert tiny.store.stale(YEAR, over) == mine, "nothing moves before the refresh"
    tiny.store.refresh()
    assert tiny.store.stale(YEAR, over) == frozenset()


def test_what_is_known_to_be_stale_is_not_looked_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_archive(tmp_path, gappy((300, 300)), at=(1400 * BLOCK, 128 * BLOCK))
    far = Block("31N", 100, 10)
    tiny.store.write_overviews(YEAR)
    top = set(tiny.store.blocks(YEAR, level=32))
    assert tiny.store.stale(YEAR, top) == frozenset()
    tiny.store.write([replace(tiny.store.read_block(far, YEAR), vectors=gappy((BLOCK, BLOCK)))], "elsewhere")
    monkeypatch.setattr("service.store.snapshot.block_values", lambda *_: pytest.fail("read again"))
    assert tiny.store.stale(YEAR, top) == frozenset()


def test_the_last_rows_of_a_southern_zone(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its height is no multiple of 32 blocks: the last overview blocks reach beyond the grid."""
    grid = archive_grid(Zone(31, south=True))
    last = Block("31S", grid.height // BLOCK - 1, grid.width // BLOCK - 1)
    made = tiny_archive(
        tmp_path_factory.mktemp("last"), random_vectors((BLOCK, BLOCK), DIMS), zone="31S", at=_corner(last)
    )
    assert made.store.write_overviews(YEAR) == len(ZONE_LEVELS[1:]), "in the next zone the world has none of it"
    assert made.store.write_overviews(YEAR) == 0
    rows, cols = (slice(s.start // 32, s.stop // 32) for s in (last.rows, last.cols))
    assert made.store.read(Zone(31, south=True), YEAR, rows, cols, level=32).valid.all()


def _corner(block: Block) -> tuple[int, int]:
    return block.rows.start, block.cols.start


def _none() -> Counts:
    return Counts.zeros((BLOCK, BLOCK))


def test_what_is_known_of_blocks_is_what_zarr_reads(tiny: Tiny) -> None:
    """Many together, written and not, at the edges of the grid too; beyond it there is nothing to ask for."""
    repository = tiny.store.repository
    now = Snapshot(repository.location, repository.reader(repository.tip()))
    time, (first, *_) = now.time(YEAR), tiny.store.blocks(YEAR)
    for name, level in (("block_version", 1), ("block_fingerprint", 1), ("block_version", 2), ("block_children", 2)):
        array = now.array(now.path(ZONE, level), name)
        top, left = first.row // level - 2, first.col // level - 2
        around = [Block("31N", top + i, left + j, level) for i in range(7) for j in range(7)]
        ends = [Block("31N", i, j, level) for i in (0, array.shape[1] - 1) for j in (0, array.shape[2] - 1)]
        found = now.block_values(name, time, [*around, *ends])
        assert list(found) == [*around, *ends]
        for block, value in found.items():
            np.testing.assert_array_equal(value, array[time, block.row, block.col])
        assert any(np.any(value) for value in found.values())
        with pytest.raises(InvalidInput, match="beyond the grid"):
            now.block_values(name, time, [Block("31N", array.shape[1], 0, level)])
