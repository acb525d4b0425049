"""Decoded squares kept in memory: the same pixels as read past them, fewer reads, never an older block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec

from service.errors import Corrupt
from service.grid import Zone, ZoneGrid
from service.queries import norms_of
from service.store import BlockData, open_store
from service.store.archive import ArchiveStore
from service.store.chunks import Kept, Plane, chunk_cache, read_plane, rectangles
from service.store.export import export_geoemb
from service.store.geoemb import GeoembStore
from service.values import Counts, Vectors
from tests.stores import YEAR, Tiny, blocks_from, random_vectors, tiny_archive

LIMIT = 64_000_000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny_archive(tmp_path_factory.mktemp("chunks"))


@pytest.fixture(scope="module", params=["ours", "geoemb"])
def location(request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "ours":
        return tiny.store.location
    folder = tmp_path_factory.mktemp("export") / "store"
    export_geoemb(tiny.store, folder, shard=512)
    return str(folder)


def same(one: Vectors, other: Vectors) -> None:
    for field in ("codes", "scales", "status"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    if one.norms:
        np.testing.assert_array_equal(one.norms(), norms_of(one.codes))


@settings(max_examples=25, deadline=None)
@given(top=st.integers(-300, 300), left=st.integers(-300, 300), height=st.integers(0, 300), width=st.integers(0, 300))
def test_any_window_is_the_same_through_the_cache_and_past_it(
    location: str, tiny: Tiny, top: int, left: int, height: int, width: int
) -> None:
    kept = open_store(location, chunks=KEPT)
    past = open_store(location)
    zone = tiny.grid.zone
    row, col = _first(kept, tiny)
    rows, cols = slice(row + top, row + top + height), slice(col + left, col + left + width)
    expected = past.read(zone, YEAR, rows, cols)
    same(kept.read(zone, YEAR, rows, cols), expected)
    same(kept.read(zone, YEAR, rows, cols), expected)


KEPT = chunk_cache(LIMIT)


def _first(store: object, tiny: Tiny) -> tuple[int, int]:
    """(row, col) of the first pixel in a store that may lie on another grid."""
    assert isinstance(store, ArchiveStore | GeoembStore)
    grid = next(grid for grid in store.zones() if grid.zone == tiny.grid.zone)
    return grid.cell(*tiny.lonlat(0, 0))


def test_what_was_read_is_not_read_again_and_is_the_callers_own(location: str, tiny: Tiny) -> None:
    cache = chunk_cache(LIMIT)
    store = open_store(location, chunks=cache)
    row, col = _first(store, tiny)
    rows, cols = slice(row, row + 200), slice(col, col + 240)
    first = store.read(tiny.grid.zone, YEAR, rows, cols)
    misses = cache.use().misses
    first.codes[:] = 0
    again = store.read(tiny.grid.zone, YEAR, rows, cols)
    assert cache.use().misses == misses
    np.testing.assert_array_equal(again.codes, tiny.vectors.codes)
    assert 0 < cache.use().bytes <= LIMIT


def test_lengths_are_kept_where_codes_are_and_nothing_is_read_twice_for_them(location: str, tiny: Tiny) -> None:
    zone, (row, col) = tiny.grid.zone, _first(open_store(location), tiny)
    window = slice(row, row + 200), slice(col, col + 200)
    roomy = open_store(location, chunks=chunk_cache(LIMIT)).read(zone, YEAR, *window)
    assert roomy.norms is not None
    np.testing.assert_array_equal(roomy.norms(), norms_of(roomy.codes))
    tight = chunk_cache(roomy.codes.nbytes)
    for store in (open_store(location), open_store(location, chunks=tight)):
        assert store.read(zone, YEAR, *window).norms is None


def test_a_new_block_is_seen_at_once_and_the_others_stay(tmp_path: Path) -> None:
    tiny = tiny_archive(tmp_path, random_vectors((300, 300)))
    cache = chunk_cache(LIMIT)
    store = open_store(tiny.store.location, chunks=cache)
    store.read(tiny.grid.zone, YEAR, tiny.rows, tiny.cols)
    other = random_vectors((40, 40), seed=9)
    (changed,) = blocks_from("31N", tiny.row, tiny.col, other, YEAR, _no_counts(other))
    tiny.store.write([BlockData(changed.block, YEAR, changed.vectors, changed.counts, "cd" * 32)], "new")
    store.refresh()
    misses = cache.use().misses
    read = store.read(tiny.grid.zone, YEAR, tiny.rows, tiny.cols)
    np.testing.assert_array_equal(read.codes[:40, :40], other.codes)
    np.testing.assert_array_equal(read.codes[160:, 200:], tiny.vectors.codes[160:, 200:])
    assert cache.use().misses - misses == 9, (
        "4 chunks of codes and a plane of scales of one block, and who is valid in all 4"
    )


def test_an_emptied_block_is_empty(tmp_path: Path) -> None:
    tiny = tiny_archive(tmp_path, random_vectors((60, 60)))
    store = open_store(tiny.store.location, chunks=chunk_cache(LIMIT))
    assert store.read(tiny.grid.zone, YEAR, tiny.rows, tiny.cols).valid.all()
    nothing = Vectors.empty((60, 60), 128)
    tiny.store.write(blocks_from("31N", tiny.row, tiny.col, nothing, YEAR, _no_counts(nothing)), "none")
    store.refresh()
    assert not store.read(tiny.grid.zone, YEAR, tiny.rows, tiny.cols).valid.any()


def _no_counts(vectors: Vectors) -> Counts:

    return Counts.zeros(vectors.status.shape)


def test_a_damaged_chunk_is_an_error_each_time_and_is_not_kept(tmp_path: Path) -> None:
    tiny = tiny_archive(tmp_path, random_vectors((60, 60)))
    for path in Path(tiny.store.location, "chunks").iterdir():
        if path.stat().st_size > 2_000_000:
            path.write_bytes(b"\1" + path.read_bytes()[1:])
    store = open_store(tiny.store.location, chunks=chunk_cache(LIMIT))
    for _ in range(2):
        with pytest.raises(Corrupt, match=r"31N/embeddings, chunk 7/2[78]\d\d/26\d/0 cannot be read: its checksum"):
            store.read(tiny.grid.zone, YEAR, tiny.rows, tiny.cols)


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("separator", ["/", "."])
def test_chunks_that_are_not_packed_are_what_zarr_reads(tmp_path: Path, endian: Any, separator: Any) -> None:
    group = zarr.create_group(tmp_path)
    array = group.create_array(
        "scales", shape=(2, 70, 40), dtype="float32", chunks=(1, 32, 32), compressors=None, filters=None,
        serializer=BytesCodec(endian=endian), chunk_key_encoding={"name": "default", "separator": separator},
    )  # fmt: skip
    array[:] = np.random.default_rng(0).random((2, 70, 40), np.float32)
    grid = ZoneGrid(Zone(31), 500_000.0, 6_000_000.0, 40, 70)
    kept = Kept(chunk_cache(LIMIT), lambda _, blocks: dict.fromkeys(blocks, "a"))
    found = read_plane(Plane(str(tmp_path), array, grid, 0), kept, 1, slice(10, 70), slice(20, 40))
    np.testing.assert_array_equal(found, array[1, 10:70, 20:40])


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30))
def test_rectangles_hold_each_cell_once_and_no_other(cells: set[tuple[int, int]]) -> None:
    def held() -> Iterator[tuple[int, int]]:
        for top, bottom, left, right in rectangles(cells):
            yield from ((row, col) for row in range(top, bottom) for col in range(left, right))

    assert sorted(held()) == sorted(cells)
