"""Questions to a search, judged by brute force over every pixel in float64: nothing is lost, nothing is invented."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from indexing.areas import contains, pixels_within
from indexing.fleet.share import Share
from indexing.ids import cols_of, pixel_ids, rows_of
from indexing.index.build import build_index
from indexing.pixels import BlockCache
from indexing.question import Question, RangeQuestion, SearchResult, Where
from indexing.search import Searcher
from service.deadline import Deadline
from service.errors import InvalidInput, NotFound, Unavailable
from service.grid import Block, Zone, archive_grid
from service.linear import CoarseDirection
from service.polygons import Polygon
from service.queries import Metric, Query
from service.values import BLOCK, VALID, WATER, Area, BoolArray, Float64Array, Int8Array, Int64Array
from tests.fakes import IDENTITY, MemoryStore
from tests.landscapes import Counted, landscape
from tests.test_indexing import YEAR
from tests.test_polygons import brute_force, polygon
from tests.test_search import NOWHERE, ask

DECIMALS = 12


def corner(seed: int, dims: int, span: int, length: float, side: int = 40) -> Counted:
    """Pixels of few values around a corner of four blocks, so that many tie; some without data, some all zero."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-span, span + 1, (side, side, dims)).astype(np.int8)
    scales = (rng.choice([0.25, 0.5, 1.0], (side, side)) * length).astype(np.float32)
    status = rng.choice([VALID, VALID, VALID, WATER, 0], (side, side)).astype(np.uint8)
    codes[3, 3] = 0
    at = 1400 * BLOCK - side // 2, 120 * BLOCK - side // 2
    return Counted(codes, scales, Zone(31), YEAR, *at, status=status)


def places(store: MemoryStore) -> tuple[Float64Array, Float64Array, Int64Array]:
    """Longitude, latitude and id of every pixel of the first rectangle."""
    part = store.parts[0]
    rows, cols = np.mgrid[0 : part.vectors.status.shape[0], 0 : part.vectors.status.shape[1]]
    rows, cols = rows + part.row0, cols + part.col0
    lon, lat = part.grid.to_lonlat(rows + 0.5, cols + 0.5)
    return lon, lat, pixel_ids(part.grid.zone, rows.ravel(), cols.ravel()).reshape(rows.shape)


def pixel(store: MemoryStore, i: int, j: int) -> Query:
    """The query that one pixel makes."""
    return Query.of(store.identity, store.parts[0].vectors.codes[i, j])


def truth(store: Counted, query: Query) -> Float64Array:
    """The score of every pixel of the first rectangle by its definition, in float64; NaN where there is none."""
    vectors = store.parts[0].vectors
    usable = vectors.valid & (store.lengths > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        if query.metric == "cosine":
            scores = (store.wide @ query.direction) / store.lengths
        else:
            wide = np.float64(vectors.codes.astype(np.float32) * vectors.scales[..., None])
            away = wide - query.direction * query.length
            scores = 1 - np.sqrt((away**2).sum(axis=-1)) / query.length
    return np.where(usable, np.round(scores, DECIMALS), np.nan)


def found_ids(result: SearchResult) -> Int64Array:
    return np.array([pixel_ids(h.zone, np.array([h.row]), np.array([h.col]))[0] for h in result.hits], np.int64)


def require_best(result: SearchResult, scores: Float64Array, ids: Int64Array, k: int) -> None:
    """The hits are the k best of the scores that are numbers; ties may fall either way by rounding alone."""
    usable = np.isfinite(scores)
    best = np.sort(scores[usable])[::-1][:k]
    found = found_ids(result)
    told = np.array([hit.score for hit in result.hits])
    slack = 4e-12 * max(1.0, float(np.abs(best).max(initial=1)))
    assert len(found) == len(best)
    assert len(set(found.tolist())) == len(found)
    np.testing.assert_allclose(told, best, rtol=0, atol=slack)
    own = dict(zip(ids[usable].tolist(), scores[usable].tolist(), strict=True))
    np.testing.assert_allclose([own[one] for one in found.tolist()], told, rtol=0, atol=slack)
    assert np.array_equal(np.lexsort((found, -told)), np.arange(len(found)))
    lost = {one for one, score in own.items() if len(best) == k and score > best[-1] + slack} - set(found.tolist())
    assert not lost


def box(store: MemoryStore, rows: tuple[float, float], cols: tuple[float, float]) -> Area:
    part = store.parts[0]
    lon, lat = part.grid.to_lonlat(np.array(rows) + part.row0, np.array(cols) + part.col0)
    return Area(float(min(lon)), float(min(lat)), float(max(lon)), float(max(lat)))


def square(store: MemoryStore, rows: tuple[float, float], cols: tuple[float, float]) -> Polygon:
    part = store.parts[0]
    (top, bottom), (left, right) = rows, cols
    lon, lat = part.grid.to_lonlat(
        part.row0 + np.array([top, top, bottom, bottom]), part.col0 + np.array([left, right, right, left])
    )
    return polygon(list(zip(lon.tolist(), lat.tolist(), strict=True)))


def filtered(store: MemoryStore, kind: str, rng: np.random.Generator) -> tuple[Where, BoolArray]:
    """A filter, and which pixels of the first rectangle it lets through."""
    lon, lat, ids = places(store)
    a, b = (sorted(rng.uniform(-3, 43, 2)) for _ in range(2))
    if kind == "area":
        area = box(store, tuple(a), tuple(b))
        return Where(area), (lon >= area.west) & (lon <= area.east) & (lat >= area.south) & (lat <= area.north)
    shape = square(store, tuple(a), tuple(b))
    if kind == "inside":
        return Where(inside=shape), brute_force(shape, lon, lat)
    if kind == "outside":
        return Where(outside=(shape,)), ~brute_force(shape, lon, lat)
    if kind == "exclude":
        out = rng.choice(ids.ravel(), 200)
        return Where(exclude=out), ~np.isin(ids, out)
    if kind == "counts":
        least = int(rng.integers(0, 10_007))
        counts = store.counts_window(Zone(31), YEAR, *(slice(s, s + 40) for s in origin(store)))
        return Where(min_s2=least, min_s1_asc=1), (counts.s2 >= least) & (counts.s1_asc >= 1)
    return Where(), np.ones(lon.shape, bool)


def origin(store: MemoryStore) -> tuple[int, int]:
    return store.parts[0].row0, store.parts[0].col0


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dims=st.sampled_from([1, 3, 64, 128]),
    span=st.sampled_from([1, 2, 127]),
    k=st.sampled_from([1, 10, 300, 3000]),
    lengths=st.sampled_from([(1e-30, 1e-30), (1.0, 1.0), (1e30, 1e30), (1e-30, 1.0), (1.0, 1e-30), (1e-3, 1e3)]),
    metric=st.sampled_from(["cosine", "euclidean"]),
    kind=st.sampled_from(["area", "inside", "outside", "exclude", "counts", "all"]),
)
@example(seed=0, dims=128, span=1, k=1, lengths=(1.0, 1e-30), metric="euclidean", kind="area")
def test_an_exact_search_with_filters_is_brute_force(
    seed: int, dims: int, span: int, k: int, lengths: tuple[float, float], metric: Metric, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    store = corner(seed, dims, span, lengths[0])
    signs = rng.choice([-1.0, 1.0], dims)  # examples on one side, so that they never cancel out
    wanted = (signs * rng.choice([0.25, 0.5, 1.0], (2, dims)) * lengths[1]).astype(np.float32)
    query = Query.of(IDENTITY, wanted, wanted[:1] / 2, metric=metric)
    where, keep = filtered(store, kind, rng)
    result = Searcher(store, "d", NOWHERE, cache=BlockCache(0)).search(Question(query, YEAR, k, where=where))
    assert (result.engine, result.recall) == ("exact", 1.0)
    scores, (*_, ids) = truth(store, query), places(store)
    require_best(result, np.where(keep, scores, np.nan), ids, k)
    if metric == "euclidean":
        told = [(1 - hit.score) * query.length for hit in result.hits]
        np.testing.assert_allclose([hit.distance for hit in result.hits], told, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dims=st.sampled_from([1, 3, 128]),
    span=st.sampled_from([1, 127]),
    metric=st.sampled_from(["cosine", "euclidean"]),
    kind=st.sampled_from(["outside", "counts", "all"]),
)
def test_counts_and_hectares_are_those_of_brute_force(
    seed: int, dims: int, span: int, metric: Metric, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    store = corner(seed, dims, span, 1.0)
    query = Query.of(IDENTITY, (rng.choice([-1.0, 1.0], dims)).astype(np.float32), metric=metric)
    where, keep = filtered(store, kind, rng)
    scores, (lon, lat, ids) = truth(store, query), places(store)
    least = float(rng.choice(scores[np.isfinite(scores)]))  # that of a pixel, which counts itself
    shapes = (
        square(store, (5.2, 25.1), (-4, 19.7)),
        square(store, (12.3, 33), (9.9, 30.4)),
        square(store, (90, 95), (90, 95)),
    )
    searcher = Searcher(store, "d", NOWHERE)
    result = searcher.count(RangeQuestion(query, YEAR, least, where=where, polygons=shapes, most=50))
    every = np.zeros_like(keep)
    for shape, count in zip(shapes, result.counts, strict=True):
        mine = keep & brute_force(shape, lon, lat)
        every |= mine
        within = mine & (scores >= least - 2e-12)
        if np.abs(scores[mine & np.isfinite(scores)] - least).min(initial=1) > 4e-12 or kind == "all":
            assert count.within == within.sum()
        assert count.valid == (mine & np.isfinite(scores)).sum()
        assert count.inside >= count.valid
        assert count.hectares == pytest.approx(count.within / 100)
    assert result.scanned == (every & np.isfinite(scores)).sum()
    assert len(result.hits) == min(50, (every & (scores >= least - 2e-12)).sum())
    assert all(every.ravel()[np.flatnonzero(ids.ravel() == one)[0]] for one in found_ids(_as_search(result)))
    everywhere = searcher.count(RangeQuestion(query, YEAR, least, where=where)).counts
    assert [count.within for count in everywhere] == [(keep & (scores >= least - 2e-12)).sum()]


def _as_search(result: Any) -> SearchResult:
    return SearchResult(result.hits, "exact", result.revision, 1.0, result.scanned, 0)


def greedy(
    scores: Float64Array, ids: Int64Array, lon: Float64Array, lat: Float64Array, metres: float, k: int
) -> list[int]:
    """Best first, each kept where it is far enough from all kept before: by the law of cosines on the ellipsoid."""
    phi, lam = np.radians(lat), np.radians(lon)
    normal = 6_378_137.0 / np.sqrt(1 - 0.00669437999014 * np.sin(phi) ** 2)
    x, y = normal * np.cos(phi) * np.cos(lam), normal * np.cos(phi) * np.sin(lam)
    z = normal * (1 - 0.00669437999014) * np.sin(phi)
    usable = np.flatnonzero(np.isfinite(scores))
    kept: list[int] = []
    for n in usable[np.lexsort((ids[usable], -scores[usable]))].tolist():
        if len(kept) == k:
            break
        if all((x[n] - x[j]) ** 2 + (y[n] - y[j]) ** 2 + (z[n] - z[j]) ** 2 >= metres**2 for j in kept):
            kept.append(n)
    return ids[kept].tolist()


@pytest.mark.parametrize(("metres", "k"), [(10.0, 40), (55.0, 30), (300.0, 60), (100_000.0, 3)])
def test_hits_that_keep_their_distance_are_those_of_a_greedy_brute_force(
    shared: Counted, built: Path, metres: float, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexing.finding._LEAST_DEEP", 64)  # so that several rounds are needed
    monkeypatch.setattr("indexing.finding._DEEPER", 1)
    query, (lon, lat, ids) = pixel(shared, 77, 50), places(shared)
    area = box(shared, (30, 210), (10, 200))
    keep = (lon >= area.west) & (lon <= area.east) & (lat >= area.south) & (lat <= area.north)
    scores = np.where(keep, truth(shared, query), np.nan).ravel()
    want = greedy(scores, ids.ravel(), lon.ravel(), lat.ravel(), metres, k)
    asked = Question(query, YEAR, k, spacing=metres, where=Where(area), exact=True)
    for folder in (NOWHERE, built):
        result = Searcher(shared, "demo", folder).search(asked)
        assert found_ids(result).tolist() == want
        assert result.exhausted == (len(want) < k)


def over_a_border(codes: Int8Array) -> MemoryStore:
    """The same square of pixels in the middle of a border, once in each zone."""
    side, scales = len(codes), np.ones(codes.shape[:2])
    places = [(grid, *grid.cell(6.0, 52.0)) for grid in (archive_grid(Zone(31)), archive_grid(Zone(32)))]
    (first, row, col), (second, *at) = places
    store = MemoryStore(codes, scales, first, YEAR, row - side // 2, col - side // 2)
    store.add(codes, scales, second, YEAR, at[0] - side // 2, at[1] - side // 2)
    return store


def test_hits_keep_their_distance_across_zones() -> None:
    store = over_a_border(np.full((30, 30, 8), 3, np.int8))
    query = Query.of(store.identity, np.ones((1, 8), np.float32))
    hits = Searcher(store, "d", NOWHERE).search(Question(query, YEAR, 50, spacing=100.0)).hits
    assert 5 < len(hits) < 18, "the ground of both zones is the same 300 metres"
    xyz = np.array([archive_grid(Zone.parse("31N")).from_lonlat(np.array(h.lon), np.array(h.lat)) for h in hits]) * 10
    apart = np.linalg.norm(xyz[:, None] - xyz[None], axis=-1) + 1e9 * np.eye(len(hits))
    assert apart.min() > 99


@pytest.mark.parametrize("screened", [True, False])
def test_a_distance_that_leaves_one_place_of_a_field_over_a_border_is_answered_at_once(
    screened: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pixels beyond the border lie too near, and there are more of them than one round looks at."""
    monkeypatch.setattr("indexing.finding._LEAST_DEEP", 64)
    if not screened:  # the distance decides alone, and rounds grow until they reach beyond what is too near
        monkeypatch.setattr("indexing.finding.Around.away", lambda *_: None)
    store = over_a_border(np.random.default_rng(0).integers(1, 100, (60, 60, 8)).astype(np.int8))
    query = Query.of(store.identity, store.parts[0].vectors.codes[10, 10])
    build_index(store, "d", YEAR, tmp_path)
    for folder in (NOWHERE, tmp_path):
        searcher = Searcher(store, "d", folder, exact_blocks=0 if folder == tmp_path else 256)
        asked = Question(query, YEAR, 2, spacing=5000.0, deadline=Deadline.after(20))
        assert [hit.zone.name for hit in searcher.search(asked).hits] == ["31N"]


def test_few_pixels_over_too_many_blocks_to_scan_are_found_by_the_index(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(1, 60, (BLOCK * 6, 1, 4)).astype(np.int8)
    store = Counted(codes, np.ones((BLOCK * 6, 1)), Zone(31), YEAR, BLOCK * 1000, BLOCK * 120)
    build_index(store, "d", YEAR, tmp_path)
    for examples in (codes[4, 0], codes[[4, 8], 0]):
        query = Query.of(store.identity, examples.astype(np.float32))
        for where in (Where(), Where(min_s2=1)):
            found = Searcher(store, "d", tmp_path, exact_blocks=1).search(Question(query, YEAR, 5, where=where))
            assert (found.engine, len(found.hits)) == ("index", 5)


def test_blocks_that_others_hold_cost_a_count_as_much_as_any_as_it_reads_them_itself(tmp_path: Path) -> None:
    store = landscape(side=300, dims=16)
    build_index(store, "d", YEAR, tmp_path)
    query = Query.of(store.identity, store.parts[0].vectors.codes[100, 100].astype(np.float32))
    for share, refused in (("all", False), ("none", True)):
        searcher = Searcher(store, "d", tmp_path, share=Share.parse(share), exact_blocks=1)
        with pytest.raises(Unavailable, match="too many to scan") if refused else nullcontext():
            searcher.count(RangeQuestion(query, YEAR, 0.5))


def test_counts_are_read_while_there_is_time(shared: Counted, built: Path) -> None:
    asked = Question(pixel(shared, 77, 50), YEAR, 5, where=Where(min_s2=1), deadline=Deadline.after(0))
    with pytest.raises(Unavailable, match="took longer"):
        Searcher(shared, "demo", built, exact_blocks=0).search(asked)


def test_examples_of_a_zone_that_another_window_lacks_are_no_hits_of_it(shared: Counted) -> None:
    elsewhere = pixel_ids(Zone(32), np.array([256_000]), np.array([30_000]))
    other_block = pixel_ids(Zone(31), np.array([5]), np.array([5]))
    own = np.concatenate([elsewhere, other_block])
    for where in (Where(), Where(exclude=own), Where(box(shared, (0, 99), (0, 99)), exclude=own)):
        asked = Question(pixel(shared, 77, 50), YEAR, 5, where=where, own=own, spacing=50.0)
        assert len(Searcher(shared, "demo", NOWHERE).search(asked).hits) == 5


@pytest.mark.parametrize("share", [0.3, 0.01, 0.0002])
@pytest.mark.parametrize("kind", ["counts", "area"])
def test_an_index_finds_95_percent_whatever_a_filter_leaves(
    shared: Counted, built: Path, share: float, kind: str
) -> None:
    """`exact_blocks=0`: nothing may be scanned, so the index answers however few pixels are left."""
    searcher, rng = Searcher(shared, "demo", built, exact_blocks=0), np.random.default_rng(3)
    lon, lat, ids = places(shared)
    shares, lost = [], []
    for _ in range(5):
        i, j = rng.integers(40, 300, 2).tolist()
        if kind == "counts":
            where = Where(min_s2=int(10_007 * (1 - share)))
            counts = shared.counts_window(Zone(31), YEAR, *(slice(s, s + 300) for s in origin(shared)))
            keep = counts.s2 >= where.min_s2
        else:
            side = 300 * share**0.5 / 2
            where = Where(box(shared, (150 - side, 150 + side), (150 - side, 150 + side)))
            area = where.area
            assert area is not None
            keep = (lon >= area.west) & (lon <= area.east) & (lat >= area.south) & (lat <= area.north)
        query = pixel(shared, i, j)
        scores = np.where(keep, truth(shared, query), np.nan)
        result = searcher.search(Question(query, YEAR, 10, where=where))
        assert (result.engine, result.recall) == ("index", None)
        found, best = found_ids(result), np.sort(scores[np.isfinite(scores)])[::-1][:10]
        allowed = set(ids[np.isfinite(scores)].tolist())
        assert set(found.tolist()) <= allowed, "never invented"
        told = np.array([hit.score for hit in result.hits])
        lost.append(1 - (told >= best[-1] - 1e-12).sum() / len(best) if len(best) else 0)
        shares.append(np.isfinite(scores).mean())
    assert 0 < np.mean(shares) < 2 * share
    assert np.mean(lost) <= 0.05, np.mean(lost)


def test_many_questions_together_are_answered_as_one_by_one(shared: Counted, built: Path) -> None:
    searcher = Searcher(shared, "demo", built)
    queries = [pixel(shared, 40 + n, 290 - n) for n in range(70)]
    for k, some in ((10, queries), (1, queries[:2]), (700, queries[:2])):
        for query, top in zip(some, searcher.search_many(some, YEAR, k), strict=True):
            one = searcher.search(ask(query, k))
            assert found_ids(one).tolist() == top.ids.tolist()
            assert [hit.score for hit in one.hits] == top.scores.tolist()
    exact = Searcher(shared, "demo", NOWHERE)
    (top,) = exact.search_many(queries[:1], YEAR, 10)
    assert top.ids.tolist() == found_ids(exact.search(ask(queries[0], 10))).tolist()
    assert exact.search_many([], YEAR, 10) == []


def test_a_small_filter_is_answered_exactly_beside_an_index(shared: Counted, built: Path) -> None:
    searcher, query = Searcher(shared, "demo", built), pixel(shared, 200, 200)
    few = Where(min_s2=9990)
    result, truth_ = (
        one.search(Question(query, YEAR, 20, where=few)) for one in (searcher, Searcher(shared, "d", NOWHERE))
    )
    assert (result.engine, result.recall, result.hits) == ("exact", 1.0, truth_.hits)
    everything = searcher.search(Question(query, YEAR, 20, exact=True))
    assert (everything.engine, everything.recall, everything.scanned) == ("exact", 1.0, 300 * 300 - 30 * 40)
    before = len(shared.reads)
    searcher.search(Question(query, YEAR, 20, exact=True))
    assert len(shared.reads) == before, "the pixels beside the index are scanned"


def test_more_recall_is_asked_for_or_refused(shared: Counted, built: Path) -> None:
    searcher, query = Searcher(shared, "demo", built, exact_blocks=1), pixel(shared, 200, 200)
    plain = searcher.search(Question(query, YEAR, 10))
    better = searcher.search(Question(query, YEAR, 10, recall=plain.recall))
    assert better.recall is not None
    assert plain.recall is not None
    assert better.recall >= plain.recall
    index = searcher.index(YEAR)
    assert index is not None
    best = max(each.recall for each in index.manifest.tunings)
    if best < 1:
        with pytest.raises(InvalidInput, match="the best finds") as refused:
            searcher.search(Question(query, YEAR, 10, recall=1.0))
        assert refused.value.field == "recall"


@pytest.fixture(scope="module")
def narrow() -> Counted:
    """Of few dimensions: an overview of a store in memory is made anew from all that lies below it."""
    return Counted.of(landscape(dims=12), levels=(1, 8))


def test_a_coarse_level_has_hits_of_its_own_grid_and_can_be_refined(narrow: Counted) -> None:
    searcher, query = Searcher(narrow, "demo", NOWHERE), pixel(narrow, 200, 203)
    part = narrow.parts[0]
    coarse = searcher.search(Question(query, YEAR, 5, level=8))
    assert (coarse.level, coarse.engine) == (8, "exact")
    grid = part.grid.at_level(8)
    assert [grid.cell(hit.lon, hit.lat) for hit in coarse.hits] == [(hit.row, hit.col) for hit in coarse.hits]
    fine = searcher.search(Question(query, YEAR, 5, level=8, refine=True))
    assert fine.level == 1
    assert fine.hits == searcher.search(Question(query, YEAR, 5)).hits, "of a small area every pixel is scored"
    with pytest.raises(NotFound, match="no level 16"):
        searcher.search(Question(query, YEAR, 5, level=16))
    with pytest.raises(InvalidInput, match="refine"):
        Question(query, YEAR, 5, refine=True)


def test_below_the_best_coarse_pixels_the_best_fine_ones_are_found(
    narrow: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexing.refining._BLOCKS", 2)
    query, (*_, ids) = pixel(narrow, 200, 203), places(narrow)
    searcher = Searcher(narrow, "demo", NOWHERE)
    part = narrow.parts[0]
    own = pixel_ids(Zone(31), np.array([part.row0 + 200]), np.array([part.col0 + 203]))
    result = searcher.search(Question(query, YEAR, 10, level=8, refine=True, own=own))
    scores = truth(narrow, query)
    assert (result.recall, result.engine) == (None, "index+exact"), "what lies elsewhere was not looked at"
    assert (result.hits[0].row, result.hits[0].col) == (part.row0 + 200, part.col0 + 203)
    cells = searcher.search(Question(query, YEAR, 256, level=8)).hits
    rows, cols = rows_of(ids), cols_of(ids)
    every = [((part.row0 + 200) // 8, (part.col0 + 203) // 8), *((hit.row, hit.col) for hit in cells)]
    blocks = list(dict.fromkeys((row // 32, col // 32) for row, col in every))[:2]
    below = np.zeros(ids.shape, bool)
    for row, col in every:
        if (row // 32, col // 32) in blocks:
            below |= (rows // 8 == row) & (cols // 8 == col)
    require_best(result, np.where(below, scores, np.nan), ids, 10)


def test_what_cannot_be_asked_is_refused_by_name(shared: Counted, built: Path) -> None:
    query = pixel(shared, 90, 90)
    vectors = shared.parts[0].vectors
    plain = MemoryStore(vectors.codes, vectors.scales, Zone(31), YEAR, 9, 9)
    with pytest.raises(InvalidInput, match="no observation counts"):
        Searcher(plain, "demo", NOWHERE).search(ask(query, 5, min_s2=1))
    near = Query.of(query.identity, query.wanted, metric="euclidean")
    with pytest.raises(Unavailable, match="every pixel is to be scored"):
        Searcher(shared, "demo", built, exact_blocks=0).search(ask(near, 5))
    with pytest.raises(Unavailable, match="every pixel is to be scored"):
        Searcher(shared, "demo", NOWHERE, exact_blocks=3).count(RangeQuestion(query, YEAR, 0.5))
    for bad in ({"spacing": -1.0}, {"spacing": float("nan")}, {"recall": 0.0}, {"recall": 1.5}, {"k": 0}, {"level": 3}):
        with pytest.raises(InvalidInput):
            Question(**{"query": query, "window": YEAR, "k": 5, **bad})  # type: ignore[arg-type]


def test_a_euclidean_answer_is_the_same_with_an_index_and_without(shared: Counted, built: Path) -> None:
    part = shared.parts[0]
    query = Query.of(shared.identity, part.vectors.dequantised()[90, 90], metric="euclidean")
    one, other = (Searcher(shared, "demo", folder).search(ask(query, 40)) for folder in (built, NOWHERE))
    assert one.hits == other.hits
    assert (one.engine, one.hits[0].score, one.hits[0].distance) == ("exact", 1.0, 0.0)
    scores = query.scores(part.vectors.codes, scales=part.vectors.scales)
    for hit in one.hits:
        assert abs(float(scores[hit.row - part.row0, hit.col - part.col0]) - hit.score) < 2e-5


@pytest.mark.parametrize(("lon", "lat", "level"), [(3.1, 52.0, 1), (5.9, 82.0, 1), (179.99, 10.0, 1), (0.2, 75.0, 32)])
def test_places_between_known_ones_are_on_the_right_side_of_every_edge(lon: float, lat: float, level: int) -> None:
    zone = Zone.of(lon, lat)
    grid = archive_grid(zone).at_level(level)
    row, col = grid.cell(lon, lat)
    block = Block(zone.name, row // BLOCK, col // BLOCK, level)
    rows, cols = np.mgrid[block.rows, block.cols] + 0.5
    x, y = grid.to_lonlat(rows, cols)
    for i, j in ((0, 255), (40, 200), (128, 129)):  # edges through the centres of pixels, and beside them
        for more in (0.0, 1e-9, 1e-5):
            south, north = sorted((float(y[i, j]), float(y[j, i])))
            area = Area(float(x[i, i]) - more, south - more, float(x[j, j]) + more, north + more)
            assert np.array_equal(pixels_within(area, grid, block), contains(area, x, y))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), dims=st.sampled_from([1, 2, 16, 128]), near=st.sampled_from([0.0, 0.02, 0.5, 3.0])
)
def test_a_first_look_loses_nothing_that_is_alike_enough(seed: int, dims: int, near: float) -> None:
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(dims)
    direction /= np.linalg.norm(direction)
    wide = direction + near * rng.standard_normal((300, dims)) / dims**0.5
    codes = np.rint(127 * wide / np.abs(wide).max(axis=1, keepdims=True)).astype(np.int8)
    codes[7] = 0
    norms = np.linalg.norm(codes.astype(np.float64), axis=1).astype(np.float32)
    with np.errstate(invalid="ignore"):
        cosines = codes.astype(np.float64) @ direction / np.linalg.norm(codes.astype(np.float64), axis=1)
    look = CoarseDirection(direction)
    for least in (-0.5, 0.0, 0.3, 0.99, float(np.nanmax(cosines))):
        found = look.above(codes, norms, least)
        assert set(np.flatnonzero(cosines >= least).tolist()) <= set(found.tolist())
        assert 7 not in found
