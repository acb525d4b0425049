"""Linear maps of stored vectors, without a dequantised copy of them."""

from __future__ import annotations

import numpy as np

from service.linear import code_products
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
    out = code_products(flat, matrix)
    scales, shift = vectors.scales.reshape(-1), (matrix @ mean).astype(np.float32)
    for band in range(len(matrix)):  # numpy takes three times as long over pairs of a long and a short axis
        out[:, band] *= scales
        out[:, band] -= shift[band]
    valid = vectors.valid.reshape(-1)
    if not valid.all():
        out[~valid] = np.nan
    return out.reshape(*vectors.status.shape, len(matrix))
