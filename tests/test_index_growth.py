"""How an index is cut into segments and how it grew: neither may show in what it proposes, nor in what it claims."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexing.ids import cols_of, levels_of, rows_of
from indexing.index import growth
from indexing.index.ann import Parameters, unit
from indexing.index.build import build_index
from indexing.index.manifest import IndexManifest, QuantiserRecord, SegmentRecord, current, home_of, load, write_durably
from indexing.index.opened import OpenedIndex
from indexing.index.segment import SegmentTask, build_segment
from indexing.index.truth import MIXED
from indexing.pixels import BlockCache, PixelReader
from service.errors import Conflict
from service.grid import Block, Zone
from service.values import Float32Array
from tests.fakes import MemoryStore
from tests.test_indexing import YEAR
from tests.test_indexing import landscape as a_landscape

ROW0, COL0 = 256 * 1400 + 100, 256 * 120 + 100


SIDE = 170
"""Pixels: the upper left one of four blocks is nearly full, the others hold a strip each."""


@pytest.fixture(autouse=True)
def few_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring takes most of the time of so small an index."""
    monkeypatch.setattr("indexing.index.learn.HELD_OUT", 40)


def landscape(dims: int = 128) -> MemoryStore:
    return a_landscape(side=SIDE, dims=dims)


def opened(store: MemoryStore, folder: Path, level: int = 1) -> OpenedIndex:
    generation = current(folder, YEAR, level)
    assert generation is not None
    return OpenedIndex.of(generation, store, "demo", YEAR, level)


def directions(store: MemoryStore, count: int = 40, seed: int = 5) -> Float32Array:
    rng = np.random.default_rng(seed)
    codes = store.parts[0].vectors.codes
    vectors = unit(codes[rng.integers(30, codes.shape[0], count), rng.integers(40, codes.shape[1], count)])
    vectors += 0.1 / codes.shape[-1] ** 0.5 * rng.standard_normal(vectors.shape).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def proposed(index: OpenedIndex, asked: Float32Array, count: int = 100, probes: int = 8) -> list[tuple[list, list]]:
    found = index.propose(asked, count, probes)
    return [(index.ids(each).tolist(), each.estimate.tolist()) for each in found]


def test_an_index_that_is_open_answers_when_its_folder_is_gone(tmp_path: Path) -> None:
    store = landscape()
    asked = directions(store, 3)
    build_index(store, "demo", YEAR, tmp_path / "i")
    waiting, expected = opened(store, tmp_path / "i"), proposed(opened(store, tmp_path / "i"), asked)
    shutil.rmtree(tmp_path / "i")
    assert proposed(waiting, asked) == expected, "its first search would ask for its lists by name"


def fields(kinds: int) -> MemoryStore:
    """A landscape in which most pixels are the same as a great many others."""
    store = landscape()
    rng = np.random.default_rng(3)
    codes = store.parts[0].vectors.codes
    codes[30:, 40:] = rng.integers(-99, 99, (kinds, 128), np.int8)[rng.integers(0, kinds, codes[30:, 40:].shape[:2])]
    return store


@pytest.mark.parametrize("store", [landscape(), landscape(dims=16), fields(30)], ids=["1 bit", "2 bits", "ties"])
def test_proposals_are_the_same_however_an_index_is_cut(tmp_path: Path, store: MemoryStore) -> None:
    asked = directions(store)
    answers = []
    for most in (128, 1):
        manifest = build_index(store, "demo", YEAR, tmp_path / str(most), most_blocks=most)
        assert len(manifest.segments) == -(-4 // most)
        assert manifest.parameters.bits == (2 if store.dims == 16 else 1)
        index = opened(store, tmp_path / str(most))
        answers.append(proposed(index, asked))
        assert answers[-1] == [proposed(index, one[None])[0] for one in asked], "alone or with others"
        ids, rows = index.rows(index.propose(asked[:1], 50, 8)[0], scales=True)
        codes, norms, scales = rows.codes, rows.norms, rows.scales
        part = store.parts[0].vectors
        row, col = rows_of(ids) - ROW0, cols_of(ids) - COL0
        assert np.array_equal(codes, part.codes[row, col])
        assert np.array_equal(scales, part.scales[row, col])
        assert np.allclose(norms, np.linalg.norm(codes.astype(float), axis=1))
    assert answers[0] == answers[1]
    assert [len(ids) for ids, _ in answers[0]] == [100] * len(asked)


def grown(store: MemoryStore, folder: Path) -> tuple[MemoryStore, list[IndexManifest]]:
    """A store that gets its blocks in three steps, one of which changes a block that was there; indexed each time."""
    part = store.parts[0]
    whole, now = part.vectors, a_landscape(side=60, dims=store.dims)
    manifests = []
    for height, change in ((120, 7), (160, 0), (SIDE, 0)):
        codes = whole.codes[:height].copy()
        codes[50:60, 50:60] += np.int8(change)
        now.parts = [replace_part(part, codes, height)]
        manifests.append(build_index(now, "demo", YEAR, folder))
    return now, manifests


def replace_part(part, codes, height):  # type: ignore[no-untyped-def]
    vectors = type(part.vectors)(codes, part.vectors.scales[:height], part.vectors.status[:height])
    return replace(part, vectors=vectors)


def test_an_index_that_grew_answers_as_one_that_was_made_at_once(tmp_path: Path) -> None:
    store, manifests = grown(landscape(), tmp_path / "grown")
    assert len({manifest.quantiser.name for manifest in manifests}) == 1
    assert dict(manifests[-1].blocks) == dict(store.versions(YEAR, store.blocks(YEAR)))
    generation = current(tmp_path / "grown", YEAR)
    assert generation is not None
    assert load(generation) == manifests[-1]
    last = manifests[-1]
    home = home_of(tmp_path / "once", YEAR)
    shutil.copytree(home_of(tmp_path / "grown", YEAR) / last.quantiser.name, home / last.quantiser.name)
    (home / "g-none").mkdir()
    write_durably(home / "g-none" / "manifest.json", replace(last, segments=()).to_json())
    write_durably(home / "current", "g-none")
    once = build_index(store, "demo", YEAR, tmp_path / "once")
    assert len(once.segments) == 1
    assert once.count == last.count
    assert once.tunings == last.tunings, "what was measured piece by piece is what is measured of the whole"
    asked = directions(store)
    answers = [proposed(opened(store, tmp_path / name), asked) for name in ("grown", "once")]
    assert answers[0] == answers[1]


def test_growing_reads_only_what_is_new_and_changes_nothing_that_is_there(tmp_path: Path) -> None:
    store = landscape(dims=16)
    first = build_index(store, "demo", YEAR, tmp_path, most_blocks=2)
    home = home_of(tmp_path, YEAR)
    before = {path: path.stat().st_mtime_ns for path in home.glob("s-*/*")}
    store.reads.clear()
    assert build_index(store, "demo", YEAR, tmp_path, most_blocks=2) == first
    assert not store.reads, "nothing changed, nothing is read"
    generation = current(tmp_path, YEAR)

    store.add(np.full((5, 5, 16), 3, np.int8), np.ones((5, 5)), Zone(31), YEAR, 256 * 1405, 256 * 120)
    second = build_index(store, "demo", YEAR, tmp_path, most_blocks=2)
    assert current(tmp_path, YEAR) != generation
    assert [(rows.start, cols.start) for _, _, rows, cols in store.reads] == [(256 * 1405, 256 * 120)]
    assert second.count == first.count + 25
    assert {segment.name for segment in first.segments} & {segment.name for segment in second.segments}
    assert {path: path.stat().st_mtime_ns for path in before} == before, "the index before it may still be in use"


@pytest.mark.slow
def test_blocks_that_changed_or_went_are_not_proposed_and_their_room_is_taken_back(tmp_path: Path) -> None:
    store = landscape()
    first = build_index(store, "demo", YEAR, tmp_path)
    store.parts[0].vectors.codes[156:, 156:] = 5  # one block of four
    second = build_index(store, "demo", YEAR, tmp_path)
    assert len(second.segments) == 2
    assert sorted(version == "" for _, version in second.segments[0].blocks) == [False, False, False, True]
    assert second.count == first.count
    index, reader = opened(store, tmp_path), PixelReader(store, BlockCache())
    at = reader.snapshot(YEAR)
    assert not index.changed(at)
    assert [fresh.tolist() for fresh in index.fresh(at)] == [each.alive.tolist() for each in index.segments]
    for proposal in index.propose(directions(store), 500, 16):
        ids, rows = index.rows(proposal)
        codes = rows.codes
        row, col = rows_of(ids) - ROW0, cols_of(ids) - COL0
        assert np.array_equal(codes, store.parts[0].vectors.codes[row, col]), "no pixel as it was before"
        assert len(np.unique(ids)) == len(ids)
    for block in store.blocks(YEAR):
        held = index.block(block)
        assert held is not None
        assert np.array_equal(held.codes, reader.block(at, block).codes)
        assert np.array_equal(held.norms, reader.block(at, block).norms)
    store.parts[0].vectors.codes[:156, 156:] //= 2
    third = build_index(store, "demo", YEAR, tmp_path)
    assert [len(segment.blocks) for segment in third.segments] == [4], "half of it counted for nothing"
    assert third.count == first.count


@pytest.mark.slow
@pytest.mark.parametrize("dims", [16, 128])
def test_the_recall_that_is_claimed_is_that_of_brute_force(tmp_path: Path, dims: int) -> None:
    store, manifests = grown(landscape(dims=dims), tmp_path)
    manifest = manifests[-1]
    index = opened(store, tmp_path)
    queries = np.load(index.generation.parent / manifest.quantiser.name / "held-out.npy")
    vectors = store.parts[0].vectors
    codes = vectors.codes.reshape(-1, dims).astype(np.float64)
    lengths = np.linalg.norm(codes, axis=1)
    usable = np.flatnonzero(vectors.valid.ravel() & (lengths > 0))
    scores = queries.astype(np.float64) @ codes[usable].T / lengths[usable] / np.linalg.norm(queries, axis=1)[:, None]
    least = -np.sort(-scores, axis=1)[:, 9] - 1e-6
    for tuning in manifest.tunings:
        found = []
        for n, proposal in enumerate(index.propose(unit(queries), tuning.candidates, tuning.probes)):
            ids = index.ids(proposal)
            place = (rows_of(ids) - ROW0) * vectors.codes.shape[1] + cols_of(ids) - COL0
            at = np.searchsorted(usable, place)
            found.append(min((scores[n, at] >= least[n]).sum() / 10, 1.0))
        mixed, alone = np.mean(found[MIXED]), np.mean(found[::3] + found[1::3])
        assert np.allclose((alone, mixed), (tuning.recall, tuning.mixed), rtol=0, atol=1e-9)
    assert manifest.tuning.recall >= 0.985
    assert list(manifest.tunings) == sorted(manifest.tunings, key=lambda each: each.cost)
    assert index.setting(10) == manifest.tuning
    better = index.setting(10, max(each.recall for each in manifest.tunings))
    assert better is not None
    assert better.recall >= manifest.tuning.recall
    assert index.setting(10, 1.1) is None


def test_a_build_that_was_cut_short_is_gone_on_with(tmp_path: Path) -> None:
    store = landscape()

    def fail(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(store, "demo", YEAR, tmp_path, most_blocks=1, on_progress=fail)
    assert current(tmp_path, YEAR) is None
    store.reads.clear()
    manifest = build_index(store, "demo", YEAR, tmp_path, most_blocks=1)
    assert len(store.reads) < 4, "neither the lists nor the segments that were finished are made again"
    assert manifest == build_index(store, "demo", YEAR, tmp_path / "other", most_blocks=1)


@pytest.mark.slow
def test_segments_can_be_made_in_any_order_by_anyone(tmp_path: Path) -> None:
    store = landscape()
    home = home_of(tmp_path / "spread", YEAR)

    def elsewhere(_function: object, tasks: Sequence[SegmentTask]) -> Iterable[SegmentRecord]:
        made = {task.name: build_segment(store, task, home) for task in reversed(tasks)}
        return [made[task.name] for task in tasks]

    ticks: list[tuple[int, int]] = []
    manifest = build_index(
        store, "demo", YEAR, tmp_path / "spread", most_blocks=1, run=elsewhere, on_progress=lambda *at: ticks.append(at)
    )
    assert ticks[-1] == (8, 8)
    assert manifest == build_index(store, "demo", YEAR, tmp_path / "here", most_blocks=1)


@pytest.mark.slow
def test_lists_are_learnt_anew_once_an_index_has_outgrown_them(tmp_path: Path) -> None:
    store, few = landscape(), a_landscape(side=60)
    part = store.parts[0]
    store.parts = few.parts
    small = build_index(store, "demo", YEAR, tmp_path)
    store.parts = [part]
    assert build_index(store, "demo", YEAR, tmp_path).quantiser == small.quantiser, "its blocks were nearly empty"
    large = build_index(store, "demo", YEAR, tmp_path)
    assert large.quantiser.name != small.quantiser.name
    assert large.parameters.lists > small.parameters.lists
    anew = build_index(store, "demo", YEAR, tmp_path, rebuild=True)
    assert anew.quantiser.name != large.quantiser.name
    assert anew.tunings == large.tunings


def test_an_overview_has_an_index_of_its_own(tmp_path: Path) -> None:
    store = landscape(dims=16)
    store._levels = (1, 2)
    build_index(store, "demo", YEAR, tmp_path)
    manifest = build_index(store, "demo", YEAR, tmp_path, level=2)
    assert (tmp_path / "2024.x2" / "current").exists()
    index = opened(store, tmp_path, level=2)
    assert {block.level for block, _ in manifest.blocks} == {2}
    ids = index.ids(index.propose(directions(store)[:1], 20, 16)[0])
    assert set(levels_of(ids).tolist()) == {2}
    with pytest.raises(Conflict, match="level 2, asked is 1"):
        OpenedIndex.of(index.generation, store, "demo", YEAR)


@pytest.mark.slow
def test_lists_of_another_release_are_refused_and_made_anew(tmp_path: Path) -> None:
    store = a_landscape(side=60)
    manifest = build_index(store, "demo", YEAR, tmp_path)
    generation = current(tmp_path, YEAR)
    assert generation is not None
    write_durably(generation / "manifest.json", replace(manifest, engine="ivf-rabitq-fastscan faiss-0.1").to_json())
    with pytest.raises(Conflict, match=r"faiss-0\.1, asked is ivf-rabitq-fastscan faiss-"):
        opened(store, tmp_path)
    assert build_index(store, "demo", YEAR, tmp_path).engine == manifest.engine


RECORD = QuantiserRecord("q-x", 4_000_000, Parameters(128, 4096, 1, 0), ())


def test_small_segments_are_put_together_as_they_gather_and_large_ones_left_alone() -> None:
    """A thousand blocks that come one at a time: few segments at any time, each block written a few times in all."""
    segments: tuple[SegmentRecord, ...] = ()
    versions: dict[Block, str] = {}
    written = most = 0
    for n in range(1000):
        versions[Block("31N", n // 40, n % 40)] = "1"
        todo = growth.plan(RECORD, YEAR, 1, versions, segments)
        made = tuple(SegmentRecord(t.name, "31N", t.blocks, (1,) * len(t.blocks), ()) for t in todo.tasks)
        written += todo.blocks
        segments = (*todo.kept, *made)
        most = max(most, len(segments))
        assert dict(pair for segment in segments for pair in segment.blocks) == versions
    assert written / 1000 < 8
    assert most < 30
    assert all(len(segment.blocks) <= 128 for segment in segments)


def test_zones_never_share_a_segment_and_parts_are_of_one_size() -> None:
    versions = {Block(zone, row, 0): "1" for zone in ("31N", "32N") for row in range(130)}
    todo = growth.plan(RECORD, YEAR, 1, versions)
    assert [len(task.blocks) for task in todo.tasks] == [65, 65, 65, 65]
    assert all(len({block.zone for block, _ in task.blocks}) == 1 for task in todo.tasks)
    gone = growth.plan(RECORD, YEAR, 1, {}, [SegmentRecord("s-a", "31N", todo.tasks[0].blocks, (1,) * 65, ())])
    assert gone == growth.Plan((), ())
