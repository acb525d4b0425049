"""Matrix products on the calling thread; those of int8 codes by the processor's own int8 instructions."""

from __future__ import annotations

from typing import Any, Final

import numkong
import numpy as np
import numpy.typing as npt

from service.values import Float32Array, Float64Array, Int8Array, Int64Array

PRODUCTS: Final = 1 << 18
"""Multiplications at once. OpenBLAS keeps products up to this size on the calling thread. Larger ones wake helper
threads, for which a server that answers several requests has no cores: a millisecond was seen to become half a
second. The pieces also stay in a core's cache."""


def rows_at_once(weights: npt.NDArray[Any]) -> int:
    """How many rows of another matrix to multiply by `weights` at once."""
    return max(1, PRODUCTS // max(1, weights.size))


def product(rows: npt.NDArray[Any], weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(n, m) `rows @ weights` of (n, d) and (d, m) of one type, piece by piece."""
    out = np.empty((len(rows), weights.shape[1]), np.result_type(rows, weights))
    weights = np.ascontiguousarray(weights)
    step = rows_at_once(weights)
    for start in range(0, len(rows), step):
        np.matmul(rows[start : start + step], weights, out=out[start : start + step])
    return out


_LIMBS: Final = 3
"""int8 numbers that stand for one weight: 24 bits, as many as a float32 has."""
_BASE: Final = 254
"""A limb counts steps from -127 to 127; the next one counts 254ths of a step."""
_ROWS: Final = 1 << 14
"""Codes multiplied at once: their int32 products stay in a core's cache."""
_ROUNDING: Final = 1e-6
"""More than three float32 operations can be wrong by, of numbers up to 1."""


class Weights:
    """Weights made ready to be multiplied with codes many times. Safe to use from many threads.

    Each weight is written as three int8 limbs, w = step (a + b / 254 + c / 254^2), so that the products are sums of
    int8 times int8, which are exact. Four times as fast as in float32, and closer to the float64 result.

    Args:
        weights: (m, d), finite.
    """

    def __init__(self, weights: Float64Array) -> None:
        limbs, self._steps = _limbs(np.asarray(weights, np.float64))
        self._packed = numkong.dots_pack(limbs)
        self._at_once = min(_ROWS, rows_at_once(self._steps))

    def products(self, codes: Int8Array) -> Float32Array:
        """(n, m) float32 `codes @ weights.T` of (n, d) int8, as exact as float32 is; rows may be strided, d may not."""
        out = np.empty((len(codes), self._steps.shape[1]), np.float32)
        for start in range(0, len(codes), self._at_once):
            part = np.asarray(numkong.dots_packed(codes[start : start + self._at_once], self._packed))
            np.matmul(part.astype(np.float32), self._steps, out=out[start : start + self._at_once])
        return out


def code_products(codes: Int8Array, weights: Float64Array) -> Float32Array:
    """(n, m) float32 `codes @ weights.T` of (n, d) int8 codes and (m, d) weights; see `Weights`."""
    return Weights(weights).products(codes)


class CoarseDirection:
    """A direction in one limb: products with it are a first look, as fast as memory is. Safe to use from many threads.

    Args:
        direction: (d,) of length 1.
    """

    def __init__(self, direction: Float64Array) -> None:
        self._step = float(max(np.abs(direction).max(), np.finfo(np.float32).tiny)) / 127
        limb = np.rint(direction / self._step)
        self._packed = numkong.dots_pack(np.ascontiguousarray(limb[None].astype(np.int8)))
        left_out = direction - limb * self._step
        self.error = float(np.linalg.norm(left_out)) + _ROUNDING
        """How far a cosine may be from the true one: |(q - q') . c| / |c| is at most |q - q'|."""
        self._along = float(left_out @ direction)
        self._across = float(np.linalg.norm(left_out - self._along * direction))

    def cosines(self, codes: Int8Array, norms: Float32Array) -> Float32Array:
        """(n,) float32 cosines of (n, d) codes whose norms are known; no number (NaN) where both are 0."""
        out = self._products(codes)
        with np.errstate(invalid="ignore", divide="ignore"):
            out /= norms
        out *= np.float32(self._step)
        return out

    def above(self, codes: Int8Array, norms: Float32Array, least: float) -> Int64Array:
        """Which of (n, d) codes may have a cosine of `least` or more; none whose codes are all 0."""
        bound = norms * np.float32(self._seen_at(least) / self._step)
        return np.flatnonzero(self._products(codes) > bound)  # 0 is not above 0

    def _seen_at(self, cosine: float) -> float:
        """The least that a cosine of so much, or of more, may look like here.

        A unit vector of cosine s is s q + sqrt(1 - s^2) u with some unit vector u across q; so of what q' leaves out,
        the part across q counts for sqrt(1 - s^2) only. That grows with s while s is not negative.
        """
        if not 0 <= cosine <= 1:
            return cosine - self.error
        return cosine * (1 - self._along) - self._across * float(np.sqrt(1 - cosine * cosine)) - _ROUNDING

    def _products(self, codes: Int8Array) -> Float32Array:
        return np.asarray(numkong.dots_packed(codes, self._packed)).ravel().astype(np.float32)


def _limbs(weights: Float64Array) -> tuple[Int8Array, Float32Array]:
    """(3m, d) int8 limbs of (m, d) weights, and the (3m, m) matrix that adds their products up again."""
    step = np.maximum(np.abs(weights).max(axis=1), np.finfo(np.float32).tiny) / 127
    limbs, steps = [], []
    for power in range(_LIMBS):
        unit = step / float(_BASE) ** power
        limb = np.clip(np.rint(weights / unit[:, None]), -127, 127)
        weights = weights - limb * unit[:, None]
        limbs.append(limb.astype(np.int8))
        steps.append(np.diag(unit.astype(np.float32)))
    return np.ascontiguousarray(np.concatenate(limbs)), np.concatenate(steps)


def code_norms(codes: Int8Array) -> Float32Array:
    """(n,) float32 Euclidean norm of each row of (n, d) codes, which may be strided."""
    if not len(codes):
        return np.empty(0, np.float32)
    return np.asarray(np.sqrt(np.asarray(numkong.dot(codes, codes))), np.float32)


def paired_angles(first: Int8Array, second: Int8Array) -> Float32Array:
    """(n,) float32 1 - cosine of each row of (n, d) codes with the same row of others; NaN where one is all zeros.

    In one pass over both; within 3e-7 of the float64 result.
    """
    if not len(first):
        return np.empty(0, np.float32)
    out = np.asarray(numkong.angular(first, second)).astype(np.float32)
    doubtful = np.flatnonzero((out == 0) | (out == 1))  # what zeros give, and few others
    for codes in (first, second):
        out[doubtful[~codes[doubtful].any(axis=1)]] = np.nan
    return out


def pack_codes(codes: Int8Array) -> Any:
    """(m, d) codes made ready to be multiplied with many others by `packed_products`."""
    return numkong.dots_pack(np.ascontiguousarray(codes))


def packed_products(codes: Int8Array, packed: Any) -> npt.NDArray[np.int32]:
    """(n, m) int32 products of (n, d) codes with those that were packed: exact."""
    return np.asarray(numkong.dots_packed(codes, packed))


def paired_products(first: Int8Array, second: Int8Array) -> Float32Array:
    """(n,) float32 product of each row of (n, d) codes with the same row of others."""
    return np.asarray(numkong.dot(first, second)).astype(np.float32)
