"""The writable store against a plain dictionary: whatever is done to both, they agree."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.grid import Block, Zone, archive_grid
from service.store import BlockData, create_store, open_store
from service.values import BLOCK, NOT_EMBEDDED, OUTSIDE, REJECTED, VALID, WATER, Counts, Vectors, Window
from tests.stores import TINY

DIMS = 4
BLOCKS = (Block("31N", 1400, 130), Block("31N", 1400, 131), Block("31N", 1401, 130), Block("31S", 0, 0))
YEARS = (Window.year(2023), Window.year(2024))
Model = dict[tuple[Window, Block], BlockData]


def some_block(block: Block, window: Window, seed: int) -> BlockData:
    """Noise with every status; seed 0 is a block of nothing."""
    rng = np.random.default_rng(seed)
    shape = (BLOCK, BLOCK)
    status = (
        rng.choice([NOT_EMBEDDED, VALID, WATER, REJECTED], shape).astype(np.uint8)
        if seed
        else np.zeros(shape, np.uint8)
    )
    valid = status == VALID
    codes = np.where(valid[..., None], rng.integers(-127, 128, (*shape, DIMS)), 0).astype(np.int8)
    scales = np.where(valid, rng.uniform(0.01, 0.1, shape), 0).astype(np.float32)
    counts = Counts(*(rng.integers(0, 99, shape).astype(np.uint16) * bool(seed) for _ in range(3)))
    return BlockData(block, window, Vectors(codes, scales, status), counts, f"{seed + 1:064x}")


def same(a: Vectors, b: Vectors) -> None:
    np.testing.assert_array_equal(a.status, b.status)
    np.testing.assert_array_equal(a.codes, b.codes)
    np.testing.assert_array_equal(a.scales, b.scales)


def expected(model: Model, zone: str, window: Window, rows: slice, cols: slice) -> Vectors:
    """The rectangle as the dictionary has it, pixel blocks pasted one by one."""
    grid = archive_grid(Zone.parse(zone))
    out = Vectors.empty((rows.stop - rows.start, cols.stop - cols.start), DIMS)
    inside = np.s_[max(-rows.start, 0) : grid.height - rows.start, max(-cols.start, 0) : grid.width - cols.start]
    out.status[:] = OUTSIDE
    out.status[inside] = NOT_EMBEDDED
    for (when, block), data in model.items():
        if when != window or block.zone != zone:
            continue
        r, c = np.arange(rows.start, rows.stop), np.arange(cols.start, cols.stop)
        here = np.ix_((r >= block.rows.start) & (r < block.rows.stop), (c >= block.cols.start) & (c < block.cols.stop))
        r, c = r[here[0].ravel()] - block.rows.start, c[here[1].ravel()] - block.cols.start
        for target, source in zip(
            (out.codes, out.scales, out.status),
            (data.vectors.codes, data.vectors.scales, data.vectors.status),
            strict=True,
        ):
            target[here] = source[np.ix_(r, c)]
    return out


class StoreMachine(RuleBasedStateMachine):
    """`store` writes; `other` reads the same repository and sees only what stood when it was refreshed."""

    @initialize()
    def make(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = create_store(self.folder / "m.icechunk", TINY, dims=DIMS, zones=[Zone(31), Zone(31, south=True)])
        self.other = open_store(self.folder / "m.icechunk")
        self.model: Model = {}
        self.seen: Model = {}
        self.versions: dict[tuple[Window, Block], str] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(
        which=st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=2, unique=True),
        window=st.sampled_from(YEARS),
        seed=st.integers(0, 3),
    )
    def write(self, which: list[Block], window: Window, seed: int) -> None:
        data = [some_block(block, window, seed) for block in which]
        assert self.store.write(data, "w") == self.store.revision()[0]
        for one in data:
            old, new = self.versions.get((window, one.block), ""), self.store.versions(window, [one.block])[one.block]
            before = self.model.get((window, one.block))
            unchanged = before is not None and np.array_equal(before.vectors.codes, one.vectors.codes) and seed
            assert (old == new) == bool(unchanged or (seed == 0 and old == "")), (old, new)
            self.model[window, one.block], self.versions[window, one.block] = one, new

    @rule(
        zone=st.sampled_from(["31N", "31S"]),
        window=st.sampled_from(YEARS),
        corner=st.tuples(st.integers(-40, 300), st.integers(-40, 300)),
        shape=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    )
    def read(self, zone: str, window: Window, corner: tuple[int, int], shape: tuple[int, int]) -> None:
        first = next(block for block in BLOCKS if block.zone == zone)
        rows = slice(first.rows.start + corner[0], first.rows.start + corner[0] + shape[0])
        cols = slice(first.cols.start + corner[1], first.cols.start + corner[1] + shape[1])
        same(self.store.read(Zone.parse(zone), window, rows, cols), expected(self.model, zone, window, rows, cols))
        same(self.other.read(Zone.parse(zone), window, rows, cols), expected(self.seen, zone, window, rows, cols))

    @rule(window=st.sampled_from(YEARS), seed=st.integers(0, 9))
    def sample(self, window: Window, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.integers(BLOCKS[0].rows.start - 30, BLOCKS[2].rows.stop + 30, 20)
        cols = rng.integers(BLOCKS[0].cols.start - 30, BLOCKS[1].cols.stop + 30, 20)
        found, counts = (f(Zone(31), window, rows, cols) for f in (self.store.sample, self.store.counts))
        for i, (row, col) in enumerate(zip(rows, cols, strict=True)):
            data = self.model.get((window, Block("31N", int(row) // BLOCK, int(col) // BLOCK)))
            want = expected(self.model, "31N", window, slice(row, row + 1), slice(col, col + 1))
            assert found.status[i] == want.status[0, 0]
            np.testing.assert_array_equal(found.codes[i], want.codes[0, 0])
            assert counts.s2[i] == (data.counts.s2[row % BLOCK, col % BLOCK] if data else 0)

    @rule(block=st.sampled_from(BLOCKS), window=st.sampled_from(YEARS))
    def read_block(self, block: Block, window: Window) -> None:
        found, want = self.store.read_block(block, window), self.model.get((window, block))
        want = want or BlockData(
            block, window, Vectors.empty((BLOCK, BLOCK), DIMS), Counts.zeros((BLOCK, BLOCK)), "0" * 64
        )
        same(found.vectors, want.vectors)
        np.testing.assert_array_equal(found.counts.s1_desc, want.counts.s1_desc)
        assert found.fingerprint == want.fingerprint

    @rule()
    def refresh(self) -> None:
        changed = self.other.revision() != self.store.revision()
        assert self.other.refresh() == changed
        assert self.other.revision() == self.store.revision()
        self.seen = dict(self.model)

    @rule()
    def reopen(self) -> None:
        self.store = open_store(self.folder / "m.icechunk")  # type: ignore[assignment]

    @invariant()
    def lists_what_it_holds(self) -> None:
        if not hasattr(self, "model"):
            return
        for store, model in ((self.store, self.model), (self.other, self.seen)):
            held = {key for key, data in model.items() if (data.vectors.status != NOT_EMBEDDED).any()}
            assert store.windows() == tuple(sorted({window for window, _ in held}))
            for window in YEARS:
                blocks = tuple(sorted(block for when, block in held if when == window))
                assert store.blocks(window) == blocks
                assert {b for b, v in store.versions(window, BLOCKS).items() if v} == set(blocks)


StoreMachine.TestCase.settings = settings(
    max_examples=8, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
test_store_agrees_with_a_dictionary = StoreMachine.TestCase
