"""Pixel ids, exact search, the door to FAISS, and how an index is built and kept."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexing.exact import Top, scan
from indexing.ids import cols_of, first_id, ids_at, levels_of, pixel_ids, rows_of, zones_of
from indexing.index import packed
from indexing.index.ann import Filling, MappedLists, Parameters, Quantiser, unit
from indexing.index.build import build_index
from indexing.index.manifest import IndexManifest, current, home_of, load
from indexing.index.segment import SegmentTask, build_segment
from indexing.index.tuning import TARGET
from indexing.pixels import Pixels, block_of
from service.errors import Conflict, Corrupt, IdentityMismatch, InvalidInput, NotFound
from service.grid import Block, Zone
from service.queries import Query
from service.values import VALID, WATER, Float64Array, Int8Array, ModelIdentity, Vectors, Window
from tests.fakes import IDENTITY, MemoryStore, alphaearth
from tests.landscapes import landscape

YEAR = Window.year(2024)
BLOCK0 = Block("31N", 1400, 120)


@pytest.fixture(autouse=True)
def few_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring takes most of the time of so small an index."""
    monkeypatch.setattr("indexing.index.learn.HELD_OUT", 40)


def brute_force(query: Query, codes: Int8Array, valid: np.ndarray, k: int) -> Float64Array:
    """The k best scores, by the definition of cosine and nothing else, in float64."""
    wide = codes[valid].astype(np.float64)
    wide = wide[np.abs(wide).max(axis=1, initial=0) > 0]
    scores = (wide @ query.direction) / np.linalg.norm(wide, axis=1)
    return np.sort(scores)[::-1][:k]


def test_ids_come_back_as_the_pixels_they_were_made_from_and_sort_like_them() -> None:
    rng = np.random.default_rng(0)
    everything = []
    for zone in (Zone(1), Zone(1, south=True), Zone(60, south=True)):
        rows = np.append(rng.integers(0, 2**24, 100), [0, 2**24 - 1])
        cols = np.append(rng.integers(0, 2**24, 100), [2**24 - 1, 0])
        ids = pixel_ids(zone, rows, cols)
        assert ids.dtype == np.int64
        assert (ids >= 0).all()
        assert np.array_equal(rows_of(ids), rows)
        assert np.array_equal(cols_of(ids), cols)
        assert set(zones_of(ids)) == {zone}
        everything += [(zone, r, c, i) for r, c, i in zip(rows.tolist(), cols.tolist(), ids.tolist(), strict=True)]
    assert [i for *_, i in sorted(everything)] == sorted(i for *_, i in everything)
    with pytest.raises(InvalidInput, match="rows"):
        pixel_ids(Zone(31), np.array([-1]), np.array([0]))
    with pytest.raises(InvalidInput, match="cols"):
        pixel_ids(Zone(31), np.array([0]), np.array([2**24]))


def test_ids_of_a_level_are_those_of_its_own_grid() -> None:
    block = Block("60S", 3, 4, 32)
    ids = pixel_ids(Zone(60, south=True), np.array([3 * 256]), np.array([4 * 256 + 7]), 32)
    assert levels_of(ids).tolist() == [32]
    assert (block_of(ids[0]), first_id(block) + 7) == (block, ids[0])
    assert levels_of(np.array([first_id(BLOCK0)])).tolist() == [1]
    for level in (3, 64):
        with pytest.raises(InvalidInput, match="level"):
            pixel_ids(Zone(31), np.array([1]), np.array([1]), level)


def test_a_position_in_a_block_is_the_pixel_it_stands_for() -> None:
    offsets = np.array([0, 255, 256, 65535])
    ids = ids_at(np.full(4, first_id(BLOCK0)), offsets)
    rows, cols = np.divmod(offsets, 256)
    assert np.array_equal(ids, pixel_ids(Zone(31), 256 * 1400 + rows, 256 * 120 + cols))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dims=st.sampled_from([1, 3, 16, 64, 128, 192]),
    span=st.sampled_from([1, 2, 127]),
    k=st.sampled_from([1, 2, 10, 100, 500]),
    length=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
)
def test_exact_search_is_brute_force_in_float64(seed: int, dims: int, span: int, k: int, length: float) -> None:
    """Few code values make ties, also between blocks; the length of a query must not matter."""
    rng = np.random.default_rng(seed)
    blocks = [Block("31N", 1, 1), Block("31N", 1, 2), Block("32S", 0, 0)]
    shape = (12, 11)
    stored = {
        block: Vectors(
            rng.integers(-span, span + 1, (*shape, dims)).astype(np.int8),
            rng.uniform(1e-8, 0.9, shape).astype(np.float32),
            rng.choice([VALID, VALID, VALID, WATER, 0], shape).astype(np.uint8),
        )
        for block in blocks
    }
    signs = rng.choice([-1.0, 1.0], dims)  # both examples on one side, so that they never cancel out
    wanted = (signs * rng.choice([0.25, 0.5, 1.0], (2, dims)) * length).astype(np.float32)
    query = Query.of(IDENTITY, wanted)
    top, scanned = scan(query, blocks, lambda block: Pixels.of(stored[block]), k)

    codes = np.concatenate([v.codes.reshape(-1, dims) for v in stored.values()])
    valid = np.concatenate([v.valid.ravel() for v in stored.values()])
    truth = brute_force(query, codes, valid, k)
    assert scanned == (valid & codes.any(axis=1)).sum()
    assert np.allclose(top.scores, truth, rtol=0, atol=2e-12)
    assert len(top.scores) == len(truth)
    assert len(set(top.ids.tolist())) == len(top.ids)
    assert np.array_equal(np.lexsort((top.ids, -top.scores)), np.arange(len(top.ids)))
    # Ties are broken by id: no pixel left out has the last score and a lower id.
    row, col = np.mgrid[0 : shape[0], 0 : shape[1]]
    ids = np.concatenate(
        [pixel_ids(Zone.parse(b.zone), (b.rows.start + row).ravel(), (b.cols.start + col).ravel()) for b in blocks]
    )
    if len(truth) == k:
        wide = codes.astype(np.float64)
        with np.errstate(invalid="ignore"):
            scores = np.round((wide @ query.direction) / np.linalg.norm(wide, axis=1), 12)
        better = valid & (scores > top.scores[-1] + 2e-12)
        assert set(ids[better].tolist()) <= set(top.ids.tolist())


def test_of_equal_pixels_those_with_the_lowest_ids_are_hits() -> None:
    codes = np.full((256, 256, 8), 5, np.int8)
    codes[::2] = 10  # the same direction, another length
    vectors = Vectors(codes, np.ones((256, 256), np.float32), np.full((256, 256), VALID, np.uint8))
    blocks = [Block("31N", 2, 0), Block("31N", 1, 0)]
    top, _ = scan(Query.of(IDENTITY, np.ones((1, 8), np.float32)), blocks, lambda _: Pixels.of(vectors), 300)
    expected = np.arange(300)
    assert np.array_equal(top.ids, pixel_ids(Zone(31), 256 + expected // 256, expected % 256))
    assert (top.scores == 1).all()


def test_exact_search_on_the_real_raster_is_brute_force(real_data: Path) -> None:
    codes, scales, zone, window, row0, col0 = alphaearth(real_data)
    store = MemoryStore(codes, scales, zone, window, row0, col0)
    rng = np.random.default_rng(3)
    for _ in range(5):
        i, j = rng.integers(0, 97, 2)
        query = Query.of(store.identity, codes[i, j] * scales[i, j])
        top, scanned = scan(
            query, store.blocks(window), lambda b: Pixels.of(store.read(zone, window, b.rows, b.cols)), 100
        )
        wide = codes.reshape(-1, 64).astype(np.float64)
        scores = (wide @ query.direction) / np.linalg.norm(wide, axis=1)
        order = np.argsort(-scores, kind="stable")[:100]
        assert scanned == 97 * 97
        assert np.array_equal(top.ids, pixel_ids(zone, row0 + order // 97, col0 + order % 97))
        assert np.allclose(top.scores, scores[order], rtol=0, atol=1e-12)
        assert top.ids[0] == pixel_ids(zone, np.array([row0 + i]), np.array([col0 + j]))[0]


def test_a_pixel_found_twice_counts_once() -> None:
    one = Top(np.array([3, 1]), np.array([0.9, 0.5]))
    assert one.merged(Top(np.array([1, 2]), np.array([0.5, 0.5])), 5).ids.tolist() == [3, 1, 2]


def some_vectors(count: int, dims: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kinds = rng.standard_normal((50, dims))
    vectors = kinds[rng.integers(0, 50, count)] + 0.4 * rng.standard_normal((count, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def filled(folder: Path, vectors: np.ndarray, lists: int, bits: int = 1) -> tuple[Quantiser, MappedLists, Filling]:
    """Vectors in lists that are mapped from a file, beside the same in memory."""
    codes = np.rint(127 * vectors / np.abs(vectors).max(axis=1, keepdims=True)).astype(np.int8)
    quantiser = Quantiser.trained(Parameters(vectors.shape[1], lists, bits, seed=1), codes[:8000])
    filling = Filling(quantiser, bits)
    for start in range(0, len(vectors), 3_001):  # not in step with the blocks of 32 that codes are packed in
        part = vectors[start : start + 3_001]
        filling.add(np.arange(start, start + len(part)), part)
    folder.mkdir(exist_ok=True)
    packed.write(folder / "lists.bin", filling.lists())
    np.save(folder / "lists.npy", filling.layout().sizes)
    layout = packed.read_sizes(folder / "lists.npy", quantiser.block_bytes(bits), folder / "lists.bin")
    return quantiser, MappedLists(quantiser, folder / "lists.bin", layout, bits), filling


@pytest.mark.parametrize(("dims", "bits"), [(16, 2), (64, 2), (128, 1), (192, 1)])
def test_lists_mapped_from_a_file_answer_as_those_in_memory_and_as_codes_that_are_not_packed(
    tmp_path: Path, dims: int, bits: int
) -> None:
    vectors = some_vectors(20_000, dims)
    quantiser, mapped, filling = filled(tmp_path, vectors, 32, bits)
    assert mapped.count == 20_000
    nearest = quantiser.nearest(vectors[:64], 8)
    estimates, positions = mapped.search(vectors[:64], nearest, 100)
    filling._index.nprobe = 8
    in_memory = filling._index.search(vectors[:64], 100)
    assert np.array_equal(estimates, in_memory[0])
    assert np.array_equal(positions, in_memory[1])

    plain = faiss.IndexIVFRaBitQ(quantiser._index, dims, 32, faiss.METRIC_L2, True, bits)
    plain.is_trained, plain.qb, plain.nprobe = True, 8, 8
    plain.add_with_ids(vectors, np.arange(20_000))
    _, others = plain.search(vectors[:64], 100)
    shared = [len(np.intersect1d(ours, theirs)) / 100 for ours, theirs in zip(positions, others, strict=True)]
    assert np.mean(shared) > 0.97, "the same codes, looked up in tables of rounded numbers"


def test_a_graph_finds_the_lists_that_trying_them_all_would_find(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.rint(300 * some_vectors(20_000, 128)).clip(-127, 127).astype(np.int8)
    monkeypatch.setattr("indexing.index.ann._TWO_LEVELS_FROM", 16)
    answers = []
    for lists_for_a_graph in (10**9, 16):
        monkeypatch.setattr("indexing.index.ann._HNSW_FROM", lists_for_a_graph)
        quantiser = Quantiser.trained(Parameters(128, 256, 1, seed=1), codes[:8000])
        assert quantiser.lists == 256
        answers.append(quantiser.nearest(unit(codes[:100]), 16)[1])
    same = [len(np.intersect1d(all_lists, graph)) / 16 for all_lists, graph in zip(*answers, strict=True)]
    assert np.mean(same) > 0.97


def test_only_allowed_positions_are_proposed(tmp_path: Path) -> None:
    vectors = some_vectors(8_000, 128)
    quantiser, mapped, _ = filled(tmp_path, vectors, 16)
    allowed = np.zeros(8_000, bool)
    allowed[100:140] = True
    bits = np.packbits(allowed, bitorder="little")
    _, found = mapped.search(vectors[5:6], quantiser.nearest(vectors[5:6], 16), 500, bits)
    assert sorted(found[found >= 0].tolist()) == list(range(100, 140))


def test_opened_lists_can_only_be_searched_and_searching_changes_no_file(tmp_path: Path) -> None:
    """Adding to mapped lists would end the process inside FAISS."""
    vectors = some_vectors(3_000, 128)
    quantiser, mapped, _ = filled(tmp_path, vectors, 16)
    path = tmp_path / "lists.bin"
    before = path.read_bytes()
    assert {name for name in dir(mapped) if not name.startswith("_")} == {"search", "count"}
    lists = faiss.downcast_InvertedLists(mapped._index.invlists)
    assert isinstance(lists, faiss.OnDiskInvertedLists), "the lists are mapped, not in memory"
    assert lists.prefetch_nthread == 0
    mapped.search(vectors[:1], quantiser.nearest(vectors[:1], 4), 10)
    assert path.read_bytes() == before
    os.truncate(path, len(before) - 64)
    with pytest.raises(Corrupt, match=r"lists\.bin has"):
        packed.read_sizes(tmp_path / "lists.npy", quantiser.block_bytes(1), path)


def test_of_a_file_on_a_slow_disk_only_the_lists_looked_into_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = some_vectors(4_000, 128)
    quantiser, _, _ = filled(tmp_path / "all", vectors, 32)
    held = np.flatnonzero(np.arange(32) % 2)  # every other list of this segment is empty
    chosen = np.flatnonzero(np.isin(quantiser.nearest(vectors, 1)[1][:, 0], held))
    filling = Filling(quantiser, 1)
    filling.add(chosen, vectors[chosen])
    packed.write(tmp_path / "lists.bin", filling.lists())
    layout = filling.layout()
    mapped, asked = MappedLists(quantiser, tmp_path / "lists.bin", layout, 1), []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, start, size, __: asked.append((start, size)))
    mapped.search(vectors[:1], quantiser.nearest(vectors[:1], 32), 10)  # a file not searched before may be cold
    assert sorted(asked) == [(int(layout.offsets[n]), int(layout.list_bytes[n])) for n in held]
    assert all(size for _, size in asked), "of no bytes the system reads on to the end of the file"


def test_many_threads_get_the_answers_of_one(tmp_path: Path) -> None:
    vectors = some_vectors(20_000, 128)
    quantiser, mapped, _ = filled(tmp_path, vectors, 32)

    def ask(n: int) -> list[int]:
        return mapped.search(vectors[n : n + 1], quantiser.nearest(vectors[n : n + 1], 8), 50)[1].ravel().tolist()

    alone = [ask(n) for n in range(64)]
    wrong: list[int] = []
    threads = [
        threading.Thread(target=lambda k=k: wrong.extend(n for n in range(k, 64, 4) if ask(n) != alone[n]))
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_manifest_tells_what_was_indexed_and_comes_back_the_same(tmp_path: Path) -> None:
    store, ticks = landscape(side=200), []
    manifest = build_index(store, "demo", YEAR, tmp_path, on_progress=lambda done, total: ticks.append((done, total)))
    generation = current(tmp_path, YEAR)
    assert generation is not None
    assert load(generation) == manifest == IndexManifest.from_json(manifest.to_json())
    assert manifest.count == 200 * 200 - 30 * 40
    assert dict(manifest.blocks) == dict(store.versions(YEAR, store.blocks(YEAR)))
    assert manifest.tuning.recall >= TARGET
    assert manifest.revision == store.revision()[0]
    assert ticks == [(n, 8) for n in range(1, 9)]
    for part in (manifest.quantiser, *manifest.segments):
        for record in part.files:
            assert record.check(generation.parent / part.name, whole=True).stat().st_size == record.bytes


def test_the_same_seed_builds_the_same_index(tmp_path: Path) -> None:
    store = landscape(side=120, dims=32)
    one, two = (build_index(store, "demo", YEAR, tmp_path / name, seed=4) for name in "ab")
    assert one == two


def test_memory_holds_one_block_at_a_time(tmp_path: Path) -> None:
    store = landscape(side=170, dims=16)
    build_index(store, "demo", YEAR, tmp_path)
    assert all((rows.stop - rows.start, cols.stop - cols.start) == (256, 256) for _, _, rows, cols in store.reads)
    assert len(store.reads) == 2 * len(store.blocks(YEAR))


@pytest.mark.parametrize("pixels", [1, 2, 3, 40])
def test_a_handful_of_pixels_can_be_indexed(tmp_path: Path, pixels: int) -> None:
    codes = np.random.default_rng(0).integers(-99, 99, (1, pixels, 16)).astype(np.int8)
    store = MemoryStore(codes, np.ones((1, pixels), np.float32), Zone(31), YEAR, 9, 9)
    assert build_index(store, "few", YEAR, tmp_path).count == pixels


def test_nothing_to_index_is_told(tmp_path: Path) -> None:
    store = MemoryStore(np.zeros((3, 3, 8), np.int8), np.zeros((3, 3), np.float32), Zone(31), YEAR, 9, 9)
    with pytest.raises(NotFound, match="no pixel"):
        build_index(store, "none", YEAR, tmp_path)
    assert current(tmp_path, YEAR) is None
    assert not list(tmp_path.glob("*/.part-*"))


def test_a_block_that_changes_while_it_is_read_does_not_count_as_held(tmp_path: Path) -> None:
    store = landscape(side=200, dims=16)
    (first, *_) = store.blocks(YEAR)

    def meddle(done: int, total: int) -> None:
        if done == total:
            store.parts[0].vectors.codes[0, 60] ^= 1

    manifest = build_index(store, "demo", YEAR, tmp_path, on_progress=meddle)
    assert first not in dict(manifest.blocks)
    assert [version == "" for _, version in manifest.segments[0].blocks] == [True, False, False, False]


def test_an_index_of_something_else_is_refused_naming_both(tmp_path: Path) -> None:
    store = landscape(side=120)
    manifest = build_index(store, "demo", YEAR, tmp_path)
    other = landscape(side=120)
    other.identity = ModelIdentity("other", "2", "x")
    with pytest.raises(IdentityMismatch, match=r"fake@1/test.*other@2/x"):
        manifest.require_serves(other, "demo", YEAR)
    with pytest.raises(Conflict, match=r"window 2024.*2023"):
        manifest.require_serves(store, "demo", Window.year(2023))
    with pytest.raises(Conflict, match=r"dataset demo.*sea"):
        manifest.require_serves(store, "sea", YEAR)
    moved = landscape(side=120)
    part = moved.parts[0]
    part.grid = type(part.grid)(part.grid.zone, part.grid.x0 + 10, part.grid.y0, part.grid.width, part.grid.height)
    with pytest.raises(Conflict, match="grid of zone 31N"):
        manifest.require_serves(moved, "demo", YEAR)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 1}', '{"format": 99}', "null", '{"format": 1, "identity": 3}'],
)
def test_a_damaged_manifest_is_corrupt(text: str) -> None:
    with pytest.raises(Corrupt):
        IndexManifest.from_json(text)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_centres_that_find_no_room_are_an_error_however_few_they_are() -> None:
    sample = np.arange(1, 129, dtype=np.int8).reshape(16, 8)
    quantiser = Quantiser.trained(Parameters(8, 16, 2, 0), sample)
    with pytest.raises(OSError, match="No space left"):
        quantiser.write(Path("/dev/full"))


def test_a_segment_that_another_finished_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    store = landscape(side=60)
    manifest = build_index(store, "demo", YEAR, tmp_path)
    (record,) = manifest.segments
    home = home_of(tmp_path, YEAR)
    task = SegmentTask(YEAR, 1, manifest.quantiser, record.blocks)
    (home / record.name).rename(home / "aside")

    def other() -> None:  # taken for dead, and yet it was not
        (home / "aside").rename(home / record.name)

    held = (home / "aside").stat().st_ino
    assert build_segment(store, task, home, other) == record
    assert (home / record.name).stat().st_ino == held, "it may be in use"
    assert not list(home.glob(".part-*"))


def test_a_file_faiss_cannot_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "centres.faiss"
    for body in (b"", b"nonsense" * 100):
        path.write_bytes(body)
        with pytest.raises(Corrupt, match=r"centres\.faiss"):
            Quantiser.read(path, 128)
    faiss.write_index(faiss.IndexLSH(128, 64), str(path))
    with pytest.raises(Corrupt, match="another kind"):
        Quantiser.read(path, 128)


def test_a_second_builder_is_refused_and_leftovers_are_cleared(tmp_path: Path) -> None:
    store = landscape(side=120)
    first = build_index(store, "demo", YEAR, tmp_path)
    generation = current(tmp_path, YEAR)
    leftover = tmp_path / "2024" / ".part-killed"
    leftover.mkdir()
    (leftover / "lists.bin").write_bytes(b"half")
    assert current(tmp_path, YEAR) == generation
    refused: list[Exception] = []

    def again(done: int, total: int) -> None:
        if done == 1:
            try:
                build_index(store, "demo", YEAR, tmp_path)
            except Conflict as error:
                refused.append(error)

    second = build_index(store, "demo", YEAR, tmp_path, rebuild=True, on_progress=again)
    assert len(refused) == 1
    assert second.count == first.count
    assert not leftover.exists()
    build_index(store, "demo", YEAR, tmp_path, rebuild=True)
    assert len(list((tmp_path / "2024").glob("g-*"))) == 2, "the one before stays for readers that are about to open it"
    assert not generation.exists()


def test_a_build_that_fails_leaves_the_index_before_it(tmp_path: Path) -> None:
    store = landscape(side=120)
    build_index(store, "demo", YEAR, tmp_path)
    before = current(tmp_path, YEAR)

    def fail(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(store, "demo", YEAR, tmp_path, rebuild=True, on_progress=fail)
    assert current(tmp_path, YEAR) == before
    manifest = load(before)
    assert all(f.check(before.parent / s.name, whole=True) for s in manifest.segments for f in s.files)
    assert not list(tmp_path.glob("*/.part-*"))


def test_unit_vectors_forget_the_scale() -> None:
    codes = np.array([[3, 4], [-1, 0]], np.int8)
    assert np.allclose(unit(codes), [[0.6, 0.8], [-1, 0]])


def test_the_manifest_is_readable_json(tmp_path: Path) -> None:
    build_index(landscape(side=60), "demo", YEAR, tmp_path)
    document = json.loads((current(tmp_path, YEAR) / "manifest.json").read_text())
    assert document["format"] == 3
    assert document["identity"] == "fake@1/test"
    assert document["window"] == "2024"
    assert document["engine"].startswith("ivf-rabitq-fastscan faiss-")
