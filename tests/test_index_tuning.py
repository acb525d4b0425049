"""What an index is measured by is what people ask: pixels from everywhere, and what lies between them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from indexing.index import learn
from indexing.index.ann import unit
from indexing.index.build import build_index
from indexing.index.truth import MIXED, Seeing, held_out
from indexing.index.tuning import TARGET, Tuning, default_of
from indexing.question import Question
from indexing.search import Searcher
from service.grid import Block, Zone
from service.queries import Query
from service.values import BLOCK, ModelIdentity, Vectors, Window
from tests.test_indexing import YEAR, landscape


class Quarters:
    """A store of whole blocks whose pixels tell the quarter and the block that they lie in."""

    dims = 3

    def read(self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1) -> Vectors:
        row, col = np.mgrid[rows, cols]
        block = np.full_like(row, col[0, 0] // BLOCK)
        codes = np.stack([1 + row // 128 % 2, 1 + col // 128 % 2, block], axis=-1).astype(np.int8)
        return Vectors(codes, np.ones(row.shape, np.float32), np.ones(row.shape, np.uint8))


def test_lists_are_learnt_and_measured_from_all_over_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "BLOCKS_SAMPLED", 20)
    for count in (18, 40):
        blocks = [Block("31N", 5, n) for n in range(count)]
        random = np.random.default_rng(0)
        held, sample, pixels = learn._sample(Quarters(), YEAR, blocks, 0, random, lambda: None)
        assert pixels == count * BLOCK * BLOCK
        assert len(np.unique(sample, axis=0)) == 4 * min(count, 20), "from each quarter of each block that is read"
        assert len(held) == learn.HELD_OUT
        beyond = set(held[:, 2].tolist()) - set(sample[:, 2].tolist())
        assert bool(beyond) == (count > 20), "not from those alone that were learnt from"


def test_a_third_of_what_is_held_out_lies_between_pixels() -> None:
    pixels = np.random.default_rng(1).integers(-99, 99, (30, 64), np.int8)
    pixels[10:12] = [pixels[10], -pixels[10]]
    queries = held_out(pixels, np.random.default_rng(2))
    assert np.array_equal(queries[::3], pixels[::3])
    own = (unit(queries) * unit(pixels)).sum(axis=1)
    assert (own[1::3] > 0.97).all()
    means = unit(pixels) + np.roll(unit(pixels), 1, axis=0)
    alike = (unit(queries) * means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-9)).sum(axis=1)[MIXED]
    opposite = np.arange(30)[MIXED] == 11
    assert (alike[~opposite] > 0.999).all()
    assert np.array_equal(queries[11], pixels[11]), "two opposite ones have no mean"


def test_the_first_look_keeps_little_wherever_the_nearest_lie() -> None:
    random = np.random.default_rng(3)
    codes = random.integers(-99, 99, (30_000, 32), np.int8)
    codes[:2_000] = np.sign(codes[:2_000]) * 2 + 90  # the first rows of a block, far from all that is asked for
    queries = random.integers(-99, 99, (60, 32), np.int8) - np.int8(20)
    norms = np.linalg.norm(codes.astype(np.float32), axis=1)
    tracemalloc.start()
    found = Seeing(queries).look(np.arange(len(codes)), codes, norms)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    cosines = unit(queries).astype(np.float64) @ unit(codes).T.astype(np.float64)
    assert np.array_equal(found.positions[:, :50], np.argsort(-cosines, axis=1, kind="stable")[:, :50])
    assert most < 25e6, "not the 60 x 30,000 that there are, of 20 bytes and more"


def test_queries_of_several_examples_look_as_hard_as_they_were_measured_to_have_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learn, "HELD_OUT", 40)
    few, many = Tuning(4, 100, 0.995, 0.9, 0.6, 0.5, 288), Tuning(64, 200, 1.0, 0.99, TARGET, 0.9, 288)
    assert default_of([few, many]) == few
    assert default_of([few, many], mixed=True) == many
    assert (many.measured(10, mixed=True), many.measured(11, mixed=True)) == (TARGET, 0.9)

    store = landscape(side=130, dims=16)
    build_index(store, "demo", YEAR, tmp_path)
    searcher, codes = Searcher(store, "demo", tmp_path), store.parts[0].vectors.codes
    examples = unit(codes[[40, 110], [50, 120]])
    identity: ModelIdentity = store.identity
    one, two = Query.of(identity, examples[0]), Query.of(identity, examples)
    assert searcher.search(Question(one, YEAR, 10)).engine == "index"
    found = searcher.search(Question(two, YEAR, 10))
    assert (found.engine, found.recall) == ("exact", 1.0), "so few pixels are all scored"
    held = [[h.score for h in found.hits], searcher.search_many([two, one], YEAR, 10)[0].scores.tolist()]
    assert held[0] == held[1] == [h.score for h in searcher.search(Question(two, YEAR, 10, exact=True)).hits]
