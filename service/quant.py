"""float32 <-> int8 with one float32 scale per pixel, in each published variant.

Sources: the TESSERA inference code of each release, as restated in the project's format notes. Variants differ
in the floor of the scale and, for v2, in rounding the scale to float32 before dividing.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from service.errors import InvalidInput
from service.values import Float32Array, Int8Array

Variant = Literal["v1", "v2"]

MAX_SCALE: Final = 1.0
"""Published stores hold huge finite sentinels; a scale of 1 or more is never data (largest real one: 0.137)."""


def quantise(vectors: Float32Array, variant: Variant = "v2") -> tuple[Int8Array, Float32Array]:
    """Symmetric max-abs quantisation, half to even.

    `v1` (v1.0 QAT and v1.1): s = max(max|v| / 127, 1e-8). `v2`: s = float32(max(max|v|, 1e-12) / 127).
    Both: q = clip(round(v / s), -127, 127). A prefix of a Matryoshka vector is cut before it is quantised.

    Args:
        vectors: (..., d) float32, finite.
        variant: Which release's formula.

    Returns:
        codes (..., d) int8 and scales (...) float32.

    Raises:
        InvalidInput: If a value is not finite.
    """
    v = np.asarray(vectors, np.float32)
    if not np.isfinite(v).all():
        raise InvalidInput("holds a value that is not finite.", field="vectors")
    peak = np.abs(v).max(axis=-1)
    if variant == "v2":
        scales = (np.maximum(peak, np.float32(1e-12)) / np.float32(127)).astype(np.float32)
    else:
        scales = np.maximum(peak / np.float32(127), np.float32(1e-8)).astype(np.float32)
    codes = np.clip(np.rint(v / scales[..., None]), -127, 127).astype(np.int8)
    return codes, scales


def dequantise(codes: Int8Array, scales: Float32Array) -> Float32Array:
    """(..., d) float32 = float32(codes) * scales, in every variant."""
    return np.asarray(codes.astype(np.float32) * scales[..., None], np.float32)


def is_data(scales: Float32Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """(...) bool: where a published scale stands for data: finite, above 0 and below 1."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.isfinite(scales) & (scales > 0) & (scales < MAX_SCALE))
