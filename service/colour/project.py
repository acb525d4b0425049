"""Linear maps of stored vectors, without a dequantised copy of them."""

from __future__ import annotations

import numpy as np

from service.linear import rows_at_once
from service.values import Float32Array, Float64Array, Vectors


def project(vectors: Vectors, matrix: Float64Array, mean: Float64Array) -> Float32Array:
    """The coordinates `matrix @ (scale * code - mean)` of every pixel.

    Computed as `scale * (matrix @ code) - matrix @ mean`, so that codes are multiplied as they are stored.

    Args:
        vectors: (...,) pixels of d dimensions.
        matrix: (n, d) one direction a row.
        mean: (d,) what counts as zero.

    Returns:
        (..., n) float32, NaN where status is not VALID.
    """
    flat = vectors.codes.reshape(-1, vectors.dims)
    scales = vectors.scales.reshape(-1, 1)
    weights = np.ascontiguousarray(matrix.T, np.float32)
    offset = (matrix @ mean).astype(np.float32)
    out = np.empty((len(flat), len(matrix)), np.float32)
    step = rows_at_once(weights)  # their float32 copy stays in the cache: five times faster than all at once
    for start in range(0, len(flat), step):
        rows = slice(start, start + step)
        np.multiply(flat[rows].astype(np.float32) @ weights, scales[rows], out=out[rows])
    out -= offset
    out[~vectors.valid.reshape(-1)] = np.nan
    return out.reshape(*vectors.status.shape, len(matrix))
