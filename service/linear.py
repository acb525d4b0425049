"""Matrix products on the calling thread."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

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
