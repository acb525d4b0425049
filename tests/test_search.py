"""Journey 2 below HTTP: the hits, whatever state the index is in."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexing.ids import cols_of, pixel_ids, rows_of
from indexing.index.build import build_index
from indexing.index.manifest import current
from indexing.index.proposals import Proposal
from indexing.pixels import BlockCache, PixelReader
from indexing.question import Question, SearchResult, Where
from indexing.search import Searcher
from service.errors import Conflict, Corrupt, IdentityMismatch, InvalidInput, Unavailable
from service.grid import Zone, archive_grid
from service.queries import Query
from service.values import BLOCK, NOT_EMBEDDED, OUTSIDE, VALID, Area, ModelIdentity, Vectors
from tests.fakes import MemoryStore, alphaearth
from tests.stores import random_vectors
from tests.test_indexing import YEAR, landscape

NOWHERE = Path("/nonexistent")


def query_at(store: MemoryStore, i: int, j: int) -> Query:
    return Query.of(store.identity, store.parts[0].vectors.dequantised()[i, j])


def ask(query: Query, k: int, *, own: np.ndarray | None = None, **where: Any) -> Question:
    """A question of the year; what else is given tells which pixels may be hits."""
    return Question(query, YEAR, k, own=own, where=Where(**where))


def pixels(result: SearchResult) -> list[tuple[str, int, int]]:
    return [(hit.zone.name, hit.row, hit.col) for hit in result.hits]


def by_brute_force(store: MemoryStore, query: Query, k: int, keep: np.ndarray | None = None) -> list[tuple[int, int]]:
    """(row, col) of the k best pixels of the first rectangle, in float64."""
    part = store.parts[0]
    usable = part.vectors.valid if keep is None else part.vectors.valid & keep
    rows, cols = np.nonzero(usable)
    wide = part.vectors.codes[rows, cols].astype(np.float64)
    scores = (wide @ query.direction) / np.linalg.norm(wide, axis=1)
    order = np.argsort(-scores, kind="stable")[:k]
    return [(part.row0 + int(rows[n]), part.col0 + int(cols[n])) for n in order]


@pytest.fixture(autouse=True)
def few_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring takes most of the time of so small an index."""
    monkeypatch.setattr("indexing.index.learn.HELD_OUT", 40)


@pytest.fixture
def store() -> MemoryStore:
    return landscape(side=200)


def test_without_an_index_a_small_window_is_searched_exactly(shared: MemoryStore) -> None:
    query = query_at(shared, 77, 50)
    result = Searcher(shared, "demo", NOWHERE).search(ask(query, 100))
    assert result.engine == "exact"
    assert result.recall == 1
    assert result.scanned == 300 * 300 - 30 * 40
    assert [(hit.row, hit.col) for hit in result.hits] == by_brute_force(shared, query, 100)
    assert [hit.rank for hit in result.hits] == list(range(1, 101))
    part = shared.parts[0]
    first = result.hits[0]
    assert (first.row, first.col, first.score) == (part.row0 + 77, part.col0 + 50, 1.0)
    assert part.grid.cell(first.lon, first.lat) == (first.row, first.col)


def test_with_an_index_recall_is_what_the_manifest_promises(shared: MemoryStore, built: Path) -> None:
    indexed, exact = Searcher(shared, "demo", built), Searcher(shared, "demo", NOWHERE)
    rng = np.random.default_rng(5)
    for k, least in ((10, 0.97), (100, 0.97)):
        found = []
        for _ in range(15):
            i, j = rng.integers(40, 300, 2)
            query = query_at(shared, i, j)
            result, truth = (searcher.search(ask(query, k)) for searcher in (indexed, exact))
            assert result.engine == "index"
            assert result.recall is not None
            assert result.recall >= least
            assert result.scanned < 90_000 / 4
            assert result.hits[0] == truth.hits[0]
            found.append(len(set(pixels(truth)) & set(pixels(result))) / k)
        assert np.mean(found) >= least, (k, np.mean(found))


def test_the_index_of_the_real_raster_finds_what_exact_search_finds(real_data: Path, tmp_path: Path) -> None:
    store = MemoryStore(*alphaearth(real_data))
    manifest = build_index(store, "farmland", YEAR, tmp_path)
    assert manifest.parameters.bits == 2, "64 dimensions are too few for one bit each"
    assert manifest.tuning.recall >= 0.98
    rng = np.random.default_rng(2)
    found = []
    for i, j in rng.integers(0, 97, (30, 2)):
        query = query_at(store, i, j)
        result, truth = (Searcher(store, "farmland", f).search(ask(query, 10)) for f in (tmp_path, NOWHERE))
        assert (result.engine, truth.engine) == ("index", "exact")
        found.append(len(set(pixels(result)) & set(pixels(truth))) / 10)
    assert np.mean(found) >= 0.98


def test_hits_of_an_index_carry_exact_scores(shared: MemoryStore, built: Path) -> None:
    query = query_at(shared, 200, 123)
    hits = Searcher(shared, "demo", built).search(ask(query, 20)).hits
    part = shared.parts[0]
    wide = np.array([part.vectors.codes[h.row - part.row0, h.col - part.col0] for h in hits], np.float64)
    scores = (wide @ query.direction) / np.linalg.norm(wide, axis=1)
    assert np.allclose([hit.score for hit in hits], scores, rtol=0, atol=1e-12)
    assert all(hit.status == VALID for hit in hits)


def test_answers_stay_the_same_when_opened_again(shared: MemoryStore, built: Path) -> None:
    query = query_at(shared, 60, 250)
    first, again = (Searcher(shared, "demo", built).search(ask(query, 50)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("during", [False, True], ids=["before the read", "during the read"])
def test_a_refresh_beside_a_read_does_not_poison_the_cache(store: MemoryStore, during: bool) -> None:
    """The store goes from A to B and back to A; what is kept of A must be A."""
    first = store.parts[0]
    other = replace(first, vectors=Vectors(-first.vectors.codes, first.vectors.scales, first.vectors.status))
    reader = PixelReader(store, BlockCache())
    at = reader.snapshot(YEAR)
    block = next(iter(at.versions))
    want = store.read(Zone.parse(block.zone), YEAR, block.rows, block.cols)
    read = store.read

    def moving(*arguments: Any, **more: Any) -> Vectors:
        store.parts[0] = other
        return read(*arguments, **more)

    if during:
        store.read = moving  # type: ignore[method-assign]
    else:
        store.parts[0] = other
    seen = reader.block(at, block)
    np.testing.assert_array_equal(seen.codes, -want.codes)
    store.read, store.parts[0] = read, first  # type: ignore[method-assign]
    before = len(store.reads)
    found = reader.block(reader.snapshot(YEAR), block)
    np.testing.assert_array_equal(found.codes, want.codes)
    reader.block(reader.snapshot(YEAR), block)
    assert len(store.reads) == before + 1, "what stands is kept"


def test_a_cache_too_small_for_the_blocks_changes_no_answer(shared: MemoryStore, built: Path) -> None:
    query = query_at(shared, 60, 250)
    small, before = Searcher(shared, "demo", built, cache=BlockCache(1)), len(shared.reads)
    found = small.search(ask(query, 10))
    assert len(shared.reads) == before, "candidates are ranked by what lies beside the index"
    assert Searcher(shared, "demo", NOWHERE, cache=BlockCache(1)).search(ask(query, 10)).hits == found.hits


def test_searchers_that_share_a_cache_keep_no_more_together_than_it_holds() -> None:
    stores = [landscape(side=200, dims=16, seed=seed) for seed in (1, 2, 3)]
    for number, each in enumerate(stores):
        each.location = f"memory://{number}"
    blocks = len(stores[0].blocks(YEAR))
    own = [Searcher(each, "d", NOWHERE).search(ask(query_at(each, 40, 50), 5)) for each in stores]
    one = BLOCK * BLOCK * (stores[0].dims + 5)
    cache = BlockCache(one * (blocks + 1))
    shared = [Searcher(each, "d", NOWHERE, cache=cache) for each in stores]
    for _ in range(2):
        for each, searcher, found in zip(stores, shared, own, strict=True):
            assert searcher.search(ask(query_at(each, 40, 50), 5)) == found, "no block of another store"
            assert sum(one.cache_use().bytes for one in shared) <= cache.most
            assert searcher.cache_use().bytes == one * blocks, "the newest stay"
    shared[-1].search(ask(query_at(stores[-1], 40, 50), 5))
    assert shared[-1].cache_use().hits == blocks


def test_what_changed_since_the_build_is_found_and_what_was_there_is_not(store: MemoryStore, tmp_path: Path) -> None:
    build_index(store, "demo", YEAR, tmp_path)
    searcher = Searcher(store, "demo", tmp_path)
    query = query_at(store, 60, 60)
    part = store.parts[0]
    assert (searcher.search(ask(query, 1)).hits[0].row, searcher.is_current(YEAR)) == (part.row0 + 60, True)
    # The pixel becomes something else, another one takes its vector, a third loses its data: one block, one commit.
    part.vectors.codes[61, 61], part.vectors.scales[61, 61] = part.vectors.codes[60, 60], part.vectors.scales[60, 60]
    part.vectors.codes[60, 60] = -part.vectors.codes[60, 60]
    part.vectors.codes[62, 62], part.vectors.scales[62, 62], part.vectors.status[62, 62] = 0, 0, NOT_EMBEDDED
    result = searcher.search(ask(query, 30))
    assert result.engine == "index+exact"
    assert [(hit.row, hit.col) for hit in result.hits] == by_brute_force(store, query, 30)
    assert (result.hits[0].row, result.hits[0].col, result.hits[0].score) == (part.row0 + 61, part.col0 + 61, 1.0)
    assert not searcher.is_current(YEAR)
    assert "1 blocks changed" in searcher.describe(YEAR)
    build_index(store, "demo", YEAR, tmp_path)
    again = searcher.search(ask(query, 30))
    assert again.engine == "index", "the new index is seen without opening the searcher again"
    assert again.hits == result.hits


def test_blocks_newer_than_the_index_are_searched_and_removed_ones_are_not(store: MemoryStore, tmp_path: Path) -> None:
    build_index(store, "demo", YEAR, tmp_path)
    searcher, query = Searcher(store, "demo", tmp_path), query_at(store, 150, 150)
    new = store.parts[0].vectors.codes[150:152, 150:151] // 2 * 2
    store.add(new, np.full((2, 1), 0.01, np.float32), Zone(33, south=True), YEAR, 7, 8)
    result = searcher.search(ask(query, 500))
    assert result.engine == "index+exact"
    assert ("33S", 7, 8) in pixels(result)
    assert abs(result.hits[pixels(result).index(("33S", 7, 8))].score - 1) < 0.01
    del store.parts[0]
    left = searcher.search(ask(query, 500))
    assert set(pixels(left)) == {("33S", 7, 8), ("33S", 8, 8)}


def test_more_hits_than_pixels_gives_every_pixel_once(tmp_path: Path) -> None:
    store = landscape(side=45)
    store.parts[0].vectors.status[32, 41] = 2
    build_index(store, "demo", YEAR, tmp_path)
    for folder in (tmp_path, NOWHERE):
        result = Searcher(store, "demo", folder).search(ask(query_at(store, 40, 44), 5000))
        assert len(set(pixels(result))) == len(result.hits) == 45 * 45 - 30 * 40 - 1


def test_many_hits_are_not_cut_short_by_the_lists_that_were_looked_into(
    shared: MemoryStore, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexing.index.manifest.Tuning.scaled", lambda self, k: (1, k))
    result = Searcher(shared, "demo", built).search(ask(query_at(shared, 200, 200), 40_000))
    assert len(result.hits) == 40_000


def test_a_pixel_whose_codes_are_all_zero_is_like_nothing(tmp_path: Path) -> None:
    store = landscape(side=60)
    part = store.parts[0]
    part.vectors.codes[50, 50] = 0
    build_index(store, "demo", YEAR, tmp_path)
    zero = pixel_ids(Zone(31), np.array([part.row0 + 50]), np.array([part.col0 + 50]))
    for folder in (tmp_path, NOWHERE):
        result = Searcher(store, "demo", folder).search(ask(query_at(store, 40, 50), 5000, own=zero))
        assert len(result.hits) == 60 * 60 - 30 * 40 - 1
        assert all(np.isfinite(hit.score) for hit in result.hits)


def test_pixels_can_be_left_out(shared: MemoryStore, built: Path) -> None:
    part = shared.parts[0]
    own = pixel_ids(Zone(31), np.array([part.row0 + 90]), np.array([part.col0 + 90]))
    for folder in (built, NOWHERE):
        searcher, query = Searcher(shared, "demo", folder), query_at(shared, 90, 90)
        every = searcher.search(ask(query, 11, own=own))
        without = searcher.search(ask(query, 10, own=own, exclude=own))
        assert pixels(without) == pixels(every)[1:]
        assert [hit.rank for hit in without.hits] == list(range(1, 11))


def test_its_own_pixel_is_a_hit_whatever_the_index_proposes(
    shared: MemoryStore, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Proposal(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32))
    monkeypatch.setattr("indexing.finding.proposed", lambda *_: (nothing, 1))
    part = shared.parts[0]
    own = pixel_ids(Zone(31), np.array([part.row0 + 90]), np.array([part.col0 + 90]))
    result = Searcher(shared, "demo", built).search(ask(query_at(shared, 90, 90), 5, own=own))
    assert pixels(result) == [("31N", part.row0 + 90, part.col0 + 90)]


def area_of(store: MemoryStore, rows: tuple[float, float], cols: tuple[float, float]) -> tuple[Area, np.ndarray]:
    """A box in degrees around some pixels, and which pixels have their centre in it."""
    part = store.parts[0]
    height, width = part.vectors.status.shape
    lon, lat = part.grid.to_lonlat(np.array(rows) + part.row0, np.array(cols) + part.col0)
    area = Area(float(min(lon)), float(min(lat)), float(max(lon)), float(max(lat)))
    row, col = np.mgrid[0:height, 0:width] + 0.5
    x, y = part.grid.to_lonlat(row + part.row0, col + part.col0)
    inside = (x >= area.west) & (x <= area.east) & (y >= area.south) & (y <= area.north)
    return area, inside


@pytest.mark.parametrize("exact_blocks", [64, 0])
def test_hits_in_an_area_are_those_a_brute_force_of_the_area_finds(
    shared: MemoryStore, built: Path, exact_blocks: int
) -> None:
    """With few blocks by scanning, else from the index: never a pixel outside, none inside lost."""
    searcher = Searcher(shared, "demo", built, exact_blocks=exact_blocks)
    for rows, cols in (((50, 60), (50, 60)), ((10, 290), (150.2, 160.7)), ((-50, 400), (-50, 400))):
        area, inside = area_of(shared, rows, cols)
        query = query_at(shared, 250, 60)
        result = searcher.search(ask(query, 60, area=area))
        truth = by_brute_force(shared, query, 60, inside)
        found = [(hit.row, hit.col) for hit in result.hits]
        assert len(found) == len(truth)
        assert len(set(found) & set(truth)) >= (len(truth) if exact_blocks else 0.95 * len(truth))
        assert (result.engine, result.recall) == (("exact", 1.0) if exact_blocks else ("index", None))
        assert all(area.west <= h.lon <= area.east and area.south <= h.lat <= area.north for h in result.hits)


def test_an_area_with_nothing_in_it_has_no_hits(shared: MemoryStore, built: Path) -> None:
    for exact_blocks in (64, 0):
        searcher = Searcher(shared, "demo", built, exact_blocks=exact_blocks)
        assert searcher.search(ask(query_at(shared, 90, 90), 5, area=Area(10, 10, 11, 11))).hits == ()


def test_an_area_across_the_antimeridian_holds_both_sides(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-99, 99, (40, 40, 16)).astype(np.int8)
    scales = np.ones((40, 40), np.float32)
    store = None
    for lon in (179.995, -179.995):
        zone = Zone.of(lon, 10.0)
        row, col = archive_grid(zone).cell(lon, 10.0)
        if store is None:
            store = MemoryStore(codes, scales, zone, YEAR, row, col)
        else:
            store.add(codes, scales, zone, YEAR, row, col)
    assert store is not None
    query = Query.of(store.identity, codes[3, 3])
    result = Searcher(store, "demo", NOWHERE).search(ask(query, 2, area=Area(179.9, 9, -179.9, 11)))
    assert [(hit.score, hit.zone.name) for hit in result.hits] == [(1.0, "01N"), (1.0, "60N")]
    west = Searcher(store, "demo", NOWHERE).search(ask(query, 2, area=Area(179.9, 9, 180, 11)))
    assert {hit.zone.name for hit in west.hits} == {"60N"}


def test_other_models_and_sizes_are_refused(shared: MemoryStore, built: Path) -> None:
    searcher = Searcher(shared, "demo", built)
    with pytest.raises(IdentityMismatch, match=r"alien@1/x.*fake@1/test"):
        searcher.search(ask(Query.of(ModelIdentity("alien", "1", "x"), np.ones((1, 128), np.float32)), 5))
    with pytest.raises(InvalidInput, match="64 dimensions"):
        searcher.search(ask(Query.of(shared.identity, np.ones((1, 64), np.float32)), 5))
    with pytest.raises(InvalidInput, match="k"):
        searcher.search(ask(query_at(shared, 90, 90), 0))


def test_an_index_made_by_another_model_is_refused(tmp_path: Path) -> None:
    store = landscape(side=60)
    build_index(store, "demo", YEAR, tmp_path)
    store.identity = ModelIdentity("fake", "2", "test")
    searcher = Searcher(store, "demo", tmp_path)
    with pytest.raises(IdentityMismatch, match=r"fake@1/test.*fake@2/test"):
        searcher.search(ask(query_at(store, 40, 50), 5))
    assert not searcher.is_current(YEAR)
    with pytest.raises(Conflict, match=r"dataset demo.*sea"):
        Searcher(landscape(side=60), "sea", tmp_path).search(ask(query_at(landscape(side=60), 40, 50), 5))


def test_too_much_to_scan_says_what_to_do(shared: MemoryStore, built: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="smalti index build demo"):
        Searcher(shared, "demo", NOWHERE, exact_blocks=3).search(ask(query_at(shared, 90, 90), 5))
    with pytest.raises(Unavailable, match="no index"):
        Searcher(shared, "demo", NOWHERE, exact_blocks=3).describe(YEAR)
    store = landscape(side=200, dims=16)
    build_index(store, "demo", YEAR, tmp_path)
    store.parts[0].vectors.codes[:, 1:] //= 2
    with pytest.raises(Unavailable, match="too old"):
        Searcher(store, "demo", tmp_path, exact_blocks=3).search(ask(query_at(store, 90, 90), 5))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("lists.bin", "truncate"),
        ("lists.bin", "flip"),
        ("codes.i8", "remove"),
        ("centres.faiss", "flip"),
        ("manifest.json", "truncate"),
        ("manifest.json", "remove"),
    ],
)
def test_a_damaged_index_is_a_clear_error_that_names_the_file(tmp_path: Path, name: str, damage: str) -> None:
    store = landscape(side=60)
    build_index(store, "demo", YEAR, tmp_path)
    generation = current(tmp_path, YEAR)
    assert generation is not None
    (path,) = (tmp_path / "2024").glob(f"*/{name}")
    if damage == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "flip":
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 0xFF
        path.write_bytes(body)
    else:
        path.unlink()
    searcher = Searcher(store, "demo", tmp_path)
    for _ in range(2):
        with pytest.raises(Corrupt, match=name.replace(".", r"\.")) as caught:
            searcher.search(ask(query_at(store, 40, 50), 5))
        assert "smalti index build" in str(caught.value)
    assert not searcher.is_current(YEAR)
    build_index(store, "demo", YEAR, tmp_path)
    assert searcher.search(ask(query_at(store, 40, 50), 5)).engine == "index", "building again is the cure"


def test_where_the_next_generation_is_damaged_the_one_before_it_goes_on_serving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = landscape(side=60)
    build_index(store, "demo", YEAR, tmp_path)
    searcher, query = Searcher(store, "demo", tmp_path), query_at(store, 40, 50)
    before = searcher.search(ask(query, 5))
    build_index(store, "demo", YEAR, tmp_path, rebuild=True)
    newest = current(tmp_path, YEAR)
    assert newest is not None
    (newest / "manifest.json").write_text("{")
    for _ in range(2):
        assert searcher.search(ask(query, 5)).hits == before.hits
    assert [record.levelname for record in caplog.records] == ["WARNING"], "said once"
    assert "manifest.json" in caplog.text


@pytest.mark.parametrize("text", ["", "../elsewhere", "g-../../x"])
def test_a_pointer_that_names_no_generation_is_corrupt(tmp_path: Path, text: str) -> None:
    (tmp_path / "2024").mkdir()
    (tmp_path / "2024" / "current").write_text(text)
    store = landscape(side=60)
    with pytest.raises(Corrupt, match="current"):
        Searcher(store, "demo", tmp_path).search(ask(query_at(store, 40, 50), 5))


def test_places_tell_pixel_vector_and_status(shared: MemoryStore) -> None:
    part = shared.parts[0]
    rows, cols = np.array([90.5, 5.5]) + part.row0, np.array([91.5, 5.5]) + part.col0
    lon, lat = part.grid.to_lonlat(rows, cols)
    points = np.array([[lon[0], lat[0]], [100.0, 10.0], [lon[1], lat[1]], [3.0, 83.9]])
    places = Searcher(shared, "demo", NOWHERE).places(YEAR, points)
    assert places.vectors.status.tolist() == [VALID, OUTSIDE, NOT_EMBEDDED, NOT_EMBEDDED]
    assert np.array_equal(places.vectors.codes[0], part.vectors.codes[90, 91])
    assert (rows_of(places.ids[:1])[0], cols_of(places.ids[:1])[0]) == (part.row0 + 90, part.col0 + 91)
    assert places.ids[1] == -1


def test_searches_stay_right_while_the_index_is_rebuilt(shared: MemoryStore, tmp_path: Path) -> None:
    store = landscape(side=60)
    build_index(store, "demo", YEAR, tmp_path)
    searcher, query = Searcher(store, "demo", tmp_path), query_at(store, 40, 50)
    truth, wrong, stop = searcher.search(ask(query, 5)).hits, [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                if searcher.search(ask(query, 5)).hits != truth:
                    wrong.append("hits")
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for seed in range(5):
        build_index(store, "demo", YEAR, tmp_path, seed=seed)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_block_without_any_vector_is_nothing_to_rank() -> None:
    vectors = random_vectors((4, 4), 8)
    store = MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, 9, 9, status=np.full((4, 4), 2, np.uint8))
    result = Searcher(store, "demo", NOWHERE).search(ask(Query.of(store.identity, np.ones((1, 8))), 5))
    assert (result.hits, result.scanned) == ((), 0)
