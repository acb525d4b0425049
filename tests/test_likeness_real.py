"""Questions to real farmland and to the demo's landscape: each answer held against float64 over every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api import demo
from api.settings import Settings
from api.state import State
from indexing.index.build import build_index
from indexing.question import Question, RangeQuestion, SearchResult, Where
from indexing.search import Searcher
from service.grid import Zone, ZoneGrid
from service.polygons import Polygon
from service.queries import Query
from service.store import Store
from service.values import BoolArray, Float32Array, Float64Array, Int64Array, Window
from tests.fakes import MemoryStore, alphaearth
from tests.test_polygons import brute_force, polygon

SPACING = 95.0
"""Metres. No two pixels lie so far apart, nor within a thousandth of it, so that any distance decides alike."""
NEAR = 1e-9
"""Scores may differ by this much: the order of additions."""


@dataclass(frozen=True, eq=False)
class Place:
    """Everything one store holds, as one list of pixels."""

    store: Store
    dataset: str
    window: Window
    folder: Path
    """Of an index of it."""
    grid: ZoneGrid
    rows: Int64Array
    cols: Int64Array
    vectors: Float64Array
    """(n, d) dequantised; NaN where there is none."""

    @classmethod
    def of(cls, store: Store, dataset: str, window: Window, folder: Path) -> Place:
        (zone,) = {block.zone for block in store.blocks(window)}
        parts = []
        for block in store.blocks(window):
            read = store.read(Zone.parse(zone), window, block.rows, block.cols)
            wide = read.codes.astype(np.float64) * read.scales[..., None]
            wide[~read.valid] = np.nan
            row, col = np.mgrid[block.rows, block.cols]
            parts.append((row.ravel(), col.ravel(), wide.reshape(-1, store.dims)))
        rows, cols, vectors = (np.concatenate(part) for part in zip(*parts, strict=True))
        (grid,) = (grid for grid in store.zones() if grid.zone.name == zone)
        return cls(store, dataset, window, folder, grid, rows, cols, vectors)

    @property
    def valid(self) -> BoolArray:
        return np.asarray(np.isfinite(self.vectors[:, 0]))

    def examples(self, count: int, seed: int) -> Float32Array:
        """(count, d) vectors of pixels chosen at random."""
        held = np.flatnonzero(self.valid)
        chosen = np.random.default_rng(seed).choice(held, count, replace=False)
        return np.asarray(self.vectors[chosen], np.float32)

    def inside(self, shape: Polygon) -> BoolArray:
        """(n,) which pixels have their centre in a polygon."""
        return brute_force(shape, *self.grid.to_lonlat(self.rows + 0.5, self.cols + 0.5))

    def shape(self, *corners: tuple[float, float]) -> Polygon:
        """A polygon of shares of the way from the first row and column with data to the last."""
        rows, cols = self.rows[self.valid], self.cols[self.valid]
        where = np.array(corners)
        row = rows.min() + where[:, 0] * (rows.max() - rows.min())
        col = cols.min() + where[:, 1] * (cols.max() - cols.min())
        return polygon(list(zip(*(axis.tolist() for axis in self.grid.to_lonlat(row, col)), strict=True)))

    def searcher(self, *, indexed: bool = False) -> Searcher:
        return Searcher(self.store, self.dataset, self.folder if indexed else self.folder / "none")

    def at(self, result: SearchResult) -> list[int]:
        """Which pixels the hits are."""
        known = {at: n for n, at in enumerate(zip(self.rows.tolist(), self.cols.tolist(), strict=True))}
        return [known[hit.row, hit.col] for hit in result.hits]


@pytest.fixture(scope="module", params=["farmland", pytest.param("demo", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    if request.param == "farmland":
        codes = alphaearth(request.getfixturevalue("real_data"))
        store, folder = MemoryStore(*codes), tmp_path_factory.mktemp("farmland")
        build_index(store, "farmland", codes[3], folder)
        return Place.of(store, "farmland", codes[3], folder)
    world: Settings = request.getfixturevalue("world")
    state, window = State(world), Window.year(demo.YEARS[-1])
    return Place.of(state.datasets[demo.ID].at(window).store, demo.ID, window, state.indexes(demo.ID))


def cosines(place: Place, wanted: Float32Array, unwanted: Float32Array) -> Float64Array:
    """The documented formula, on dequantised vectors: the codes know no better."""
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (np.float64(wanted), np.float64(unwanted))]
    towards = unit[0].mean(axis=0) - (0.5 * unit[1].mean(axis=0) if len(unwanted) else 0)
    lengths = np.linalg.norm(place.vectors, axis=1) * np.linalg.norm(towards)
    return np.asarray(place.vectors @ towards / lengths)


def closeness(place: Place, wanted: Float32Array, unwanted: Float32Array) -> Float64Array:
    """The same of Euclidean distances: 1 - |v - q| / |q|, of vectors as float32 has them."""
    mean = np.float64(wanted).mean(axis=0)
    towards = mean + (0.5 * (mean - np.float64(unwanted).mean(axis=0)) if len(unwanted) else 0)
    vectors = np.float64(np.float32(place.vectors))
    return np.asarray(1 - np.linalg.norm(vectors - towards, axis=1) / np.linalg.norm(towards))


SCORES = {"cosine": cosines, "euclidean": closeness}


def require_best(place: Place, result: SearchResult, scores: Float64Array, may: BoolArray, k: int) -> None:
    """Hits are the k best of the pixels that may be one, best first; what ties with the last is as good as it."""
    found = place.at(result)
    assert len(found) == len(set(found)) == min(k, int(may.sum()))
    assert may[found].all()
    told = np.array([hit.score for hit in result.hits])
    np.testing.assert_allclose(told, scores[found], rtol=0, atol=NEAR)
    assert (np.diff(told) <= 0).all()
    np.testing.assert_allclose(told, np.sort(scores[may])[::-1][: len(told)], rtol=0, atol=NEAR)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_examples_against_push_the_answer_where_the_formula_says(place: Place, metric: Any) -> None:
    wanted, unwanted = place.examples(4, 1), place.examples(3, 2)
    for against in (unwanted, unwanted[:0]):
        query = Query.of(place.store.identity, wanted, against, metric)
        result = place.searcher().search(Question(query, place.window, 150))
        assert (result.engine, result.recall) == ("exact", 1.0)
        require_best(place, result, SCORES[metric](place, wanted, against), place.valid, 150)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_hits_in_and_outside_of_polygons_are_those_of_brute_force(place: Place, metric: Any) -> None:
    field = place.shape((0.05, 0.1), (0.2, 0.93), (0.9, 0.8), (0.55, 0.5), (0.97, 0.07))
    hole = place.shape((0.3, 0.3), (0.3, 0.7), (0.45, 0.7), (0.45, 0.3))
    wanted = place.examples(2, 3)
    scores = SCORES[metric](place, wanted, wanted[:0])
    inside, holed = place.inside(field), place.inside(hole)
    assert 0 < (holed & inside & place.valid).sum() < inside.sum() < place.valid.sum()
    query = Query.of(place.store.identity, wanted, metric=metric)
    for where, may in (
        (Where(inside=field), inside), (Where(outside=(field,)), ~inside),
        (Where(inside=field, outside=(hole,)), inside & ~holed),
    ):  # fmt: skip
        result = place.searcher().search(Question(query, place.window, 120, where=where))
        require_best(place, result, scores, may & place.valid, 120)


def test_an_index_gives_the_scores_of_brute_force_and_as_much_of_its_hits_as_it_says(place: Place) -> None:
    found, promised = [], set()
    for seed in range(12):
        wanted = place.examples(1, seed)
        scores = cosines(place, wanted, wanted[:0])
        question = Question(Query.of(place.store.identity, wanted), place.window, 10)
        result = place.searcher(indexed=True).search(question)
        assert result.engine in {"index", "exact"}
        promised.add(result.recall)
        at = place.at(result)
        np.testing.assert_allclose([hit.score for hit in result.hits], scores[at], rtol=0, atol=NEAR)
        tenth = np.sort(scores[place.valid])[-10]
        found.append((scores[at] >= tenth - NEAR).sum() / 10)
    (recall,) = promised
    assert recall is not None
    assert recall >= 0.98
    assert np.mean(found) >= recall - 0.04, "120 hits were looked at"


def spread(place: Place, scores: Float64Array, may: BoolArray, k: int) -> list[int]:
    """The best pixel, and again the best that lies at least so far from all there are."""
    kept: list[int] = []
    ids = np.lexsort((place.cols, place.rows, -np.round(scores, 9)))
    for n in ids[may[ids]].tolist():
        if all(10 * np.hypot(place.rows[n] - place.rows[m], place.cols[n] - place.cols[m]) >= SPACING for m in kept):
            kept.append(n)
        if len(kept) == k:
            break
    return kept


@pytest.mark.parametrize("indexed", [False, True], ids=["exact", "index"])
def test_hits_with_a_spacing_are_as_many_places(place: Place, indexed: bool) -> None:
    wanted = place.examples(1, 7)
    scores = cosines(place, wanted, wanted[:0])
    query = Query.of(place.store.identity, wanted)
    for k in (1, 8, 100_000 if not indexed else 12):
        result = place.searcher(indexed=indexed).search(Question(query, place.window, k, spacing=SPACING))
        found, truth = place.at(result), spread(place, scores, place.valid, k)
        rows, cols = place.rows[found], place.cols[found]
        apart = 10 * np.hypot(np.subtract.outer(rows, rows), np.subtract.outer(cols, cols))
        assert (apart[~np.eye(len(found), dtype=bool)] >= SPACING).all()
        np.testing.assert_allclose([hit.score for hit in result.hits], scores[found], rtol=0, atol=NEAR)
        if indexed:
            assert len(found) == len(truth)
            assert len(set(found) & set(truth)) >= 0.9 * len(truth)
        else:
            assert found == truth
            assert result.exhausted == (k == 100_000)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_counts_and_hectares_within_a_range_are_exact(place: Place, metric: Any) -> None:
    shapes = (
        place.shape((0.0, 0.0), (0.1, 0.95), (0.9, 0.9), (0.6, 0.4)),
        place.shape((0.5, 0.02), (0.98, 0.4), (0.95, 0.95)),
        place.shape((0.4, 0.4), (0.4, 0.41), (0.41, 0.41)),
    )
    wanted, unwanted = place.examples(3, 5), place.examples(2, 6)
    scores = SCORES[metric](place, wanted, unwanted)
    query = Query.of(place.store.identity, wanted, unwanted, metric)
    left_out = place.shape((0.2, 0.5), (0.6, 0.55), (0.5, 0.8))
    may, ordered = ~place.inside(left_out), np.sort(scores[place.valid])
    insides = [place.inside(shape) & may for shape in shapes]
    for share in (0.0, 0.3, 0.9, 0.999, 1.0):
        least = _between(ordered, share)
        asked = RangeQuestion(query, place.window, least, where=Where(outside=(left_out,)), polygons=shapes, most=20)
        result = place.searcher(indexed=True).count(asked)
        with np.errstate(invalid="ignore"):
            alike = scores >= least
        for inside, count in zip(insides, result.counts, strict=True):
            assert (count.valid, count.within) == ((inside & place.valid).sum(), (inside & alike).sum())
            assert count.hectares == pytest.approx((inside & alike).sum() / 100, abs=1e-12)
        anywhere = np.logical_or.reduce(insides) & place.valid & alike
        best = np.sort(scores[anywhere])[::-1][:20]
        np.testing.assert_allclose([hit.score for hit in result.hits], best, rtol=0, atol=NEAR)


def _between(ordered: Float64Array, share: float) -> float:
    """A number that this share of the scores lies below, and that no score is near to."""
    at = int(share * len(ordered))
    if at in (0, len(ordered)):
        return float(ordered[0] - 1e-3 if at == 0 else ordered[-1] + 1e-3)
    while ordered[at] - ordered[at - 1] < 10 * NEAR:
        at += 1
    return float((ordered[at] + ordered[at - 1]) / 2)
