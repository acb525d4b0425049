"""Patches of a block: whatever they pass over holds no pixel that is near enough."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from indexing.patches import SIDE, Patches, cells_of_patches
from indexing.pixels import BlockCache, PixelReader, Pixels
from indexing.screens import CosineScreen
from service.queries import Query
from service.values import BLOCK, Float64Array, Vectors
from tests.bench.scenes import MODEL, YEAR, Scene

DIMS = 16


def block_of(seed: int, spread: float, holes: float) -> Pixels:
    """Fields of 24 pixels that point anywhere, pixels that stray from theirs, and pixels that hold nothing."""
    rng = np.random.default_rng(seed)
    fields = rng.normal(size=(11, 11, DIMS))
    at = np.arange(BLOCK) // 24
    vectors = fields[at[:, None], at[None, :]] + spread * rng.normal(size=(BLOCK, BLOCK, DIMS))
    codes = np.rint(vectors / np.abs(vectors).max(axis=-1, keepdims=True) * 127).astype(np.int8)
    status = (rng.random((BLOCK, BLOCK)) >= holes).astype(np.uint8)
    return Pixels.of(Vectors(codes, np.full((BLOCK, BLOCK), 0.01, np.float32), status))


def cosines(held: Pixels, direction: Float64Array) -> Float64Array:
    codes = held.codes.reshape(-1, DIMS).astype(np.float64)
    with np.errstate(invalid="ignore"):
        found = codes @ direction / np.linalg.norm(codes, axis=1)
    return np.where(held.norms.ravel() > 0, found, -np.inf)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.0, 0.05, 0.5]),
    holes=st.sampled_from([0.0, 0.3, 1.0]),
    least=st.floats(-1, 1),
)
def test_no_pixel_that_is_near_enough_is_passed_over(seed: int, spread: float, holes: float, least: float) -> None:
    held = block_of(seed, spread, holes)
    patches = Patches.of(held.codes, held.norms)
    direction = np.random.default_rng(seed + 1).normal(size=DIMS)
    direction /= np.linalg.norm(direction)
    alike = np.flatnonzero(cosines(held, direction) >= least)
    assert np.isin(alike, cells_of_patches(patches.near(direction, least))).all()


def test_fields_that_lie_elsewhere_are_passed_over_and_nothing_is_lost() -> None:
    held = block_of(3, 0.02, 0.1)
    query = Query(MODEL, held.codes[5, 5][None].astype(np.float32), np.empty((0, DIMS), np.float32))
    patches = Patches.of(held.codes, held.norms)
    assert np.count_nonzero(patches.near(query.direction, 0.95)) < 100
    screen = CosineScreen(query)
    whole = screen.above(held, 0.95)
    few = screen.above(Pixels(held.codes, held.norms, held.status, None, patches), 0.95)
    assert np.isin(np.flatnonzero(cosines(held, query.direction) >= 0.95), few).all()
    assert SIDE * SIDE < len(few) < len(whole)


def test_a_block_gets_its_patches_when_it_is_looked_at_again_and_takes_a_byte_more_a_pixel_at_most() -> None:
    scene, cache = Scene(1), BlockCache()
    reader = PixelReader(scene, cache)
    at = reader.snapshot(YEAR)
    first, second, third = (reader.block(at, scene.every[0]) for _ in range(3))
    assert first.patches is None
    assert second.patches is third.patches is not None
    assert first.nbytes < second.nbytes <= first.nbytes + BLOCK * BLOCK
    assert cache.bytes_of((scene.location, MODEL, scene.dims)) == second.nbytes
