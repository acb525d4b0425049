"""Products of int8 codes: as exact as float32, whatever the shape."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.linear import code_norms, code_products, paired_angles


@settings(max_examples=60, deadline=None)
@given(
    n=st.sampled_from([0, 1, 7, 300, 20_000]),
    m=st.integers(1, 5),
    d=st.sampled_from([2, 3, 16, 64, 127, 128, 200]),
    spread=st.integers(-8, 4),
    seed=st.integers(0, 2**31),
)
def test_products_are_no_further_from_the_truth_than_float32_is(n: int, m: int, d: int, spread: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (n, d)).astype(np.int8)
    weights = rng.normal(size=(d, m)).T * 10.0**spread * 10.0 ** rng.integers(-3, 3, (m, 1))
    truth = codes.astype(np.float64) @ weights.T
    bound = 127 * (d + 8) * np.abs(weights).max(axis=1) * 2.0**-23
    assert (np.abs(code_products(codes, weights) - truth) <= bound).all()


def test_a_direction_of_zeros_gives_zeros() -> None:
    assert not code_products(np.full((5, 8), 127, np.int8), np.zeros((2, 8))).any()


def test_norms_are_those_of_float64_also_where_rows_lie_strided() -> None:
    both = np.random.default_rng(0).integers(-127, 128, (50, 256)).astype(np.int8)
    second = both[:, 128:]
    np.testing.assert_allclose(code_norms(second), np.linalg.norm(second.astype(np.int64), axis=1), rtol=1e-7)
    assert code_norms(second[:0]).shape == (0,)


def test_angles_are_those_of_float64_and_zeros_have_none() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(-127, 128, (3000, 128)).astype(np.int8)
    second = np.clip(first + rng.integers(-3, 4, first.shape), -127, 127).astype(np.int8)
    second[0], first[1], second[2], first[3] = first[0], 0, 0, -second[3]
    first[4], second[4] = 0, 0
    wide, other = first.astype(np.float64), second.astype(np.float64)
    with np.errstate(invalid="ignore"):
        truth = 1 - (wide * other).sum(axis=1) / np.linalg.norm(wide, axis=1) / np.linalg.norm(other, axis=1)
    found = paired_angles(first, second)
    assert np.flatnonzero(np.isnan(found)).tolist() == [1, 2, 4]
    np.testing.assert_allclose(found, truth, atol=5e-7)
    assert paired_angles(first[:0], second[:0]).shape == (0,)
