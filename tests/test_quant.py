"""Quantisation: the published formulas, there and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.errors import InvalidInput
from service.quant import dequantise, is_data, quantise

vectors = arrays(np.float32, (3, 8), elements=st.floats(-100, 100, width=32, allow_subnormal=False))


@pytest.mark.parametrize("variant", ["v1", "v2"])
@given(v=vectors)
def test_the_error_is_at_most_half_a_step(variant: str, v: np.ndarray) -> None:
    codes, scales = quantise(v, variant)  # type: ignore[arg-type]
    assert (np.abs(dequantise(codes, scales) - v) <= scales[:, None] * 0.5001).all()
    assert codes.min() >= -127


@given(v=vectors)
def test_quantising_what_was_dequantised_gives_the_same_codes(v: np.ndarray) -> None:
    codes, scales = quantise(v)
    again, _ = quantise(dequantise(codes, scales))
    whole = np.abs(codes).max(axis=1) == 127  # a vector of zeros has no peak
    assert (again[whole] == codes[whole]).all()


def test_halves_round_to_even() -> None:
    codes, _ = quantise(np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32))
    assert codes[0].tolist() == [127, 0, 2, 2, 0, -2]


def test_a_vector_of_zeros_has_the_published_floor_as_its_scale() -> None:
    zeros = np.zeros((1, 4), np.float32)
    assert quantise(zeros, "v1")[1][0] == np.float32(1e-8)
    assert quantise(zeros, "v2")[1][0] == np.float32(np.float32(1e-12) / np.float32(127))
    assert not quantise(zeros, "v1")[0].any()


def test_the_published_pixel_round_trips_bit_for_bit(real_data: Path) -> None:
    pixel = json.loads((real_data / "tessera-pixel" / "dpixel.json").read_text())
    codes, scale = np.array(pixel["emb"], np.int8), pixel["scale"]
    assert len(codes) == 128
    again, scales = quantise(dequantise(codes[None], np.array([scale], np.float32)), "v1")
    assert (again[0] == codes).all()
    assert scales[0] == np.float32(scale)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(InvalidInput):
        quantise(np.array([[np.nan, 1.0]], np.float32))


def test_sentinel_scales_are_not_data() -> None:
    scales = np.array([0.064, 0.0, -1.0, np.nan, np.inf, 1.0, 3e38], np.float32)
    assert is_data(scales).tolist() == [True] + [False] * 6
