"""Pieces on their way: stages overlap, what lies between is bounded, errors are their own, an end is an end."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest

from service import embed
from service.embed import embed_source
from service.encoder import Encoder
from service.errors import Corrupt, Unavailable
from service.grid import Block, Zone
from service.pipeline import Pipeline, each
from service.registry import SHIPPED, Registry
from service.simulate import Landscape
from service.sources import Placement, Simulated
from service.store import create_store
from service.values import BLOCK, Window

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

        return pipeline.through(
            lambda: stage("read"), lambda _: stage("encode"), lambda _: stage("write") and next(numbers)
        )

    told = {task: str(error) for task, _, error in each(take, range(8), 3) if error}
    assert told == {1: "1 read", 2: "2 encode", 3: "3 write"}
    assert next(numbers) == 5


def test_a_closed_pipeline_finishes_what_was_begun_and_begins_nothing() -> None:
    pipeline, encoding, go_on, written = Pipeline(3), threading.Event(), threading.Event(), []

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

    def broken(store: object, window: object, block: Block, *what: object) -> None:
        if block == blocks[1]:
            raise Corrupt("the scenes contradict themselves.")
        write(store, window, block, *what)  # type: ignore[arg-type]

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


@pytest.mark.parametrize("engine", ["cpu", "openvino"])
def test_a_block_is_the_same_to_the_byte_whoever_makes_it(engine: str, tmp_path: Path) -> None:
    """One thread alone; two threads with all blocks in hand at once, while others use the encoder; block by block."""
    versions = []
    model = Registry((SHIPPED,)).get("smalti-mini")
    blocks = sorted(source(24).placement.blocks())
    for number, threads in enumerate((1, 2, 2)):
        own = Encoder.open(model, engine, threads=threads)
        store = create_store(tmp_path / f"{number}.icechunk", own.identity)
        if number == 1:
            busy = Encoder(model, replace(own.engine, calls=4))
            with ThreadPoolExecutor(1) as pool:
                beside = pool.submit(busy.encode, source(40).read(slice(0, 40), slice(0, 40)))
                embed_source(source(24), busy, store, pipeline=Pipeline(8))
                beside.result()
        else:
            for block in reversed(blocks) if number else blocks:
                embed.embed_block(source(24), own, store, block)
        versions.append(store.versions(YEAR, blocks))
    assert versions[0] == versions[1] == versions[2]
    assert all(versions[0].values())
