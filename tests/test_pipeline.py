"""Pieces on their way: stages overlap, what lies between is bounded, errors are their own, an end is an end."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest

from service import embed
from service.dpixels import DPixels
from service.embed import embed_block, embed_source, missing_blocks
from service.encoder import Encoder
from service.errors import Corrupt, Unavailable
from service.grid import Block, Zone
from service.pipeline import Pipeline, each
from service.registry import SHIPPED, Registry
from service.simulate import Landscape
from service.sources import Placement, Simulated
from service.store import create_store
from service.values import BLOCK, Counts, Vectors, Window

YEAR = Window.year(2024)


@dataclass(frozen=True)
class Series:
    nbytes: int


class Stages:
    """Three stages that take a while, and note how many pieces are at each, and how many bytes lie there."""

    def __init__(self, size: int = 1, seconds: tuple[float, float, float] = (0.02, 0.02, 0.02)) -> None:
        self.size, self.seconds = size, dict(zip(("read", "encode", "write"), seconds, strict=True))
        self.lock = threading.Lock()
        self.now = dict.fromkeys(self.seconds, 0)
        self.most = dict(self.now)
        self.held = self.most_held = 0
        self.together: set[frozenset[str]] = set()

    def at(self, stage: str, before: int = 0, after: int = 0) -> None:
        with self.lock:
            self.held += before
            self.most_held = max(self.most_held, self.held)
            self.now[stage] += 1
            self.most[stage] = max(self.most[stage], self.now[stage])
            self.together.add(frozenset(name for name, number in self.now.items() if number))
        time.sleep(self.seconds[stage])
        with self.lock:
            self.now[stage] -= 1
            self.held += after

    def take(self, pipeline: Pipeline, at_once: int = 1) -> None:
        def read() -> Series:
            self.at("read", before=self.size)
            return Series(self.size)

        pipeline.through(
            read, lambda _: self.at("encode", after=-self.size) or 1, lambda _: self.at("write"), at_once=at_once
        )


def test_all_stages_go_on_at_once_and_one_piece_is_at_each() -> None:
    stages, pipeline = Stages(), Pipeline()
    start = time.monotonic()
    assert len(list(each(lambda _: stages.take(pipeline), range(12), 8))) == 12
    assert frozenset(stages.now) in stages.together
    assert (stages.most["encode"], stages.most["write"]) == (1, 1)
    assert stages.most_held <= pipeline.pieces
    assert time.monotonic() - start < 12 * 0.06, "faster than one after the other"


def test_what_is_read_ahead_is_bounded_in_bytes_and_a_giant_goes_alone() -> None:
    stages, pipeline = Stages(size=400, seconds=(0.005, 0.02, 0.001)), Pipeline(6, 1000)
    list(each(lambda _: stages.take(pipeline), range(8), 8))
    assert stages.most_held == 800, "two at a time, though six might be in hand"
    giant, narrow = Stages(size=5000, seconds=(0.005, 0.005, 0.001)), Pipeline(6, 1000)
    list(each(lambda _: giant.take(narrow), range(4), 4))
    assert giant.most_held == 5000


def test_a_fast_engine_is_fed_by_more_than_one() -> None:
    stages, pipeline = Stages(), Pipeline(6)
    list(each(lambda _: stages.take(pipeline, at_once=3), range(12), 6))
    assert stages.most["encode"] == 3


def test_an_error_is_of_its_own_piece_and_gives_its_room_back() -> None:
    pipeline, numbers = Pipeline(2, 10), count()

    def take(number: int) -> int | None:
        def stage(name: str) -> Series:
            if (number, name) in {(1, "read"), (2, "encode"), (3, "write")}:
                raise Corrupt(f"{number} {name}")
            return Series(7)

        def write(_: Series) -> int:
            stage("write")
            return next(numbers)

        return pipeline.through(lambda: stage("read"), lambda _: stage("encode"), write)

    told = {task: str(error) for task, _, error in each(take, range(8), 3) if error}
    assert told == {1: "1 read", 2: "2 encode", 3: "3 write"}
    assert next(numbers) == 5


def test_a_closed_pipeline_finishes_what_was_begun_and_begins_nothing() -> None:
    pipeline, encoding, go_on, written = Pipeline(3), threading.Event(), threading.Event(), list[Series]()

    def encode(series: Series) -> Series:
        encoding.set()
        go_on.wait(10)
        return series

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(pipeline.through, lambda: Series(1), encode, written.append)
        assert encoding.wait(10)
        others = [pool.submit(pipeline.through, lambda: Series(1), lambda one: one, written.append) for _ in range(3)]
        assert not pipeline.close(0.05)
        go_on.set()
        assert pipeline.close()
        first.result()
        for other in others:
            with pytest.raises(Unavailable):
                other.result()
    assert written == [Series(1)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.open(Registry((SHIPPED,)).get("smalti-mini"), engine="cpu", threads=2)


def source(side: int = 16) -> Simulated:
    """A few pixels where four blocks meet."""
    corner = 1280 * BLOCK - side // 2, 114 * BLOCK - side // 2
    return Simulated(Placement(Zone.parse("31N"), *corner, side, side), Landscape(3, side, side), YEAR)


def test_a_block_that_fails_does_not_lose_the_others(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, blocks = create_store(tmp_path / "s.icechunk", encoder.identity), list(source().placement.blocks())
    write, told = embed.write_piece, list[tuple[int, int]]()

    def broken(store: object, window: object, block: Block, *what: object, **how: bool) -> None:
        if block == blocks[1]:
            raise Corrupt("the scenes contradict themselves.")
        write(store, window, block, *what, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(embed, "write_piece", broken)
    with pytest.raises(Corrupt, match="contradict"):
        embed_source(source(), encoder, store, on_progress=lambda *at: told.append(at))
    assert store.blocks(YEAR) == tuple(block for block in sorted(blocks) if block != blocks[1])
    assert told[-1] == (256, 256)
    assert store.blocks(YEAR, level=2)


def test_who_is_stopped_begins_nothing_more(encoder: Encoder, tmp_path: Path) -> None:
    store = create_store(tmp_path / "s.icechunk", encoder.identity)

    def stop(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_source(source(), encoder, store, on_progress=stop, pipeline=Pipeline(1))
    assert 1 <= len(store.blocks(YEAR)) < 4
    assert len(embed_source(source(), encoder, store).written) < 4
    assert len(store.blocks(YEAR)) == 4


@dataclass(frozen=True)
class Rewritten(Simulated):
    """As of files that somebody writes anew while they are read."""

    reads: list[str] = field(default_factory=list)

    def digest_of(self, block: Block) -> str:
        return hashlib.sha256(str(self.reads).encode()).hexdigest()

    def read(self, rows: slice, cols: slice) -> DPixels:
        found = super().read(rows, cols)
        self.reads.append("anew")
        return found


@dataclass(frozen=True)
class Slow(Simulated):
    """As of scenes that come over a network."""

    def read(self, rows: slice, cols: slice) -> DPixels:
        time.sleep(0.5)
        return super().read(rows, cols)


def test_how_long_a_block_took_counts_what_reading_it_took(encoder: Encoder, tmp_path: Path) -> None:
    store, quick = create_store(tmp_path / "s.icechunk", encoder.identity), source(2)
    slow = Slow(quick.placement, quick.landscape, YEAR)
    made = embed_block(slow, encoder, store, next(iter(quick.placement.blocks())))
    assert made is not None
    assert made.seconds > 0.5


def test_what_was_read_of_a_source_that_changed_meanwhile_does_not_pass_for_what_it_holds(
    encoder: Encoder, tmp_path: Path
) -> None:
    store, steady = create_store(tmp_path / "s.icechunk", encoder.identity), source(2)
    block = next(steady.placement.blocks())
    changing = Rewritten(steady.placement, steady.landscape, YEAR)
    embed_block(changing, encoder, store, block)
    assert store.blocks(YEAR) == (block,)
    assert missing_blocks(changing, encoder, store, [block]) == (block,)
    embed_block(steady, encoder, store, block)
    assert missing_blocks(steady, encoder, store, [block]) == ()


@pytest.mark.parametrize("engine", ["cpu", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_block_is_the_same_to_the_byte_whoever_makes_it(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread alone; two, with all blocks in hand and others at the encoder; two, in the other order."""
    model, blocks = Registry((SHIPPED,)).get("smalti-mini"), sorted(source(24).placement.blocks())
    made: dict[Block, bytes] = {}

    def written(
        store: Any, window: Any, block: Block, vectors: Vectors, counts: Counts, piece: str, *_: Any, **__: Any
    ) -> None:
        held = [vectors.codes, vectors.scales, vectors.status, *counts.each]
        made[block] = piece.encode() + b"".join(array.tobytes() for array in held)

    monkeypatch.setattr(embed, "write_piece", written)
    found = []
    for threads, pieces in ((1, 1), (2, 4), (2, 1)):
        own = Encoder.open(model, engine, threads=threads)
        own.engine = replace(own.engine, calls=pieces)
        with ThreadPoolExecutor(1) as pool:
            beside = pool.submit(own.encode, source(40).read(slice(0, 40), slice(0, 40))) if pieces > 1 else None
            one = partial(embed.embed_block, source(24), own, cast(Any, None), pipeline=Pipeline(pieces))
            assert len(list(each(one, blocks[:: (-1) ** threads], pieces))) == 4
            if beside:
                beside.result()
        found.append(dict(sorted(made.items())))
        made.clear()
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 4
