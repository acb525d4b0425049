"""What a picture must show, worked out plainly: every pixel on its own, in float64, with pyproj; or by GDAL."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pyproj import Transformer
from rasterio.transform import from_bounds, from_origin
from rasterio.warp import Resampling, reproject


@dataclass(frozen=True, eq=False)
class Patch:
    """A rectangle of stored pixels in one zone."""

    zone: int
    south: bool
    epsg: int
    """CRS of `left` and `top`."""
    left: float
    top: float
    codes: np.ndarray
    """(h, w, d) int8."""
    scales: np.ndarray
    """(h, w) float32."""
    valid: np.ndarray
    """(h, w) bool."""
    pixel: float = 10.0
    """Metres along a side."""

    def vectors(self) -> np.ndarray:
        """(h, w, d) float64."""
        return self.codes.astype(np.float64) * self.scales[..., None].astype(np.float64)


@dataclass(frozen=True, eq=False)
class Expected:
    """What each of (h, w) picture pixels shows."""

    valid: np.ndarray
    """(h, w) bool."""
    vectors: np.ndarray
    """(h, w, d) float64; 0 where not valid."""
    edge: np.ndarray
    """(h, w) cells to the nearest edge of the stored pixel that holds the centre; 0 between zones."""
    zones: np.ndarray
    """(h, w) nominal zone numbers, negative in the south."""

    @property
    def sure(self) -> np.ndarray:
        """(h, w) where float64 can tell which pixel it is: 10 micrometres from its edges."""
        return np.asarray(self.edge > 1e-6)


@lru_cache
def transformer(source: str, target: str) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def centres(bounds: tuple[float, ...], width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (h, w): x and y of the middle of every pixel."""
    left, bottom, right, top = bounds
    x = left + (np.arange(width) + 0.5) * (right - left) / width
    y = top - (np.arange(height) + 0.5) * (top - bottom) / height
    return np.meshgrid(x, y)  # type: ignore[return-value]


def cells(patch: Patch, crs: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fractional rows and columns of a patch."""
    east, north = transformer(crs, f"EPSG:{patch.epsg}").transform(x, y)
    return (patch.top - north) / patch.pixel, (east - patch.left) / patch.pixel


def nominal(crs: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Zone of each place, negative in the south, and cells, roughly, to the next zone.

    Zones are six degrees wide everywhere, whatever Norway and Svalbard do.
    """
    lon, lat = transformer(crs, "EPSG:4326").transform(x, y)
    number = np.floor(((lon + 180) % 360) / 6).astype(int) + 1
    border = np.minimum(np.abs(lon - 6 * np.rint(lon / 6)), np.abs(lat)) * 11_000
    return np.where(lat < 0, -number, number), border


def expected(patches: list[Patch], crs: str, bounds: tuple[float, ...], width: int, height: int) -> Expected:
    """Nearest: every pixel shows the stored pixel of its own zone that holds its centre."""
    x, y = centres(bounds, width, height)
    zones, border = nominal(crs, x, y)
    out = Expected(np.zeros(x.shape, bool), np.zeros((*x.shape, patches[0].codes.shape[2])), border, zones)
    for patch in patches:
        u, v = cells(patch, crs, x, y)
        mine = zones == (-patch.zone if patch.south else patch.zone)
        near = np.minimum(np.abs(u - np.rint(u)), np.abs(v - np.rint(v)))
        out.edge[mine] = np.minimum(out.edge, near)[mine]
        row, col = np.floor(u).astype(int), np.floor(v).astype(int)
        h, w = patch.valid.shape
        held = mine & (row >= 0) & (row < h) & (col >= 0) & (col < w)
        held[held] = patch.valid[row[held], col[held]]
        out.valid[held] = True
        out.vectors[held] = patch.vectors()[row[held], col[held]]
    return out


def blended(patches: list[Patch], crs: str, bounds: tuple[float, ...], width: int, height: int) -> Expected:
    """Bilinear: the mean of the valid ones of the four stored pixels around, where the nearest is valid."""
    x, y = centres(bounds, width, height)
    near = expected(patches, crs, bounds, width, height)
    for patch in patches:
        u, v = cells(patch, crs, x, y)
        mine = near.valid & (near.zones == (-patch.zone if patch.south else patch.zone))
        h, w = patch.valid.shape
        for i, j in np.argwhere(mine & (u >= 0) & (u < h) & (v >= 0) & (v < w)):
            total, weights = np.zeros(patch.codes.shape[2]), 0.0
            for row in (int(np.floor(u[i, j] - 0.5)), int(np.floor(u[i, j] - 0.5)) + 1):
                for col in (int(np.floor(v[i, j] - 0.5)), int(np.floor(v[i, j] - 0.5)) + 1):
                    if 0 <= row < h and 0 <= col < w and patch.valid[row, col]:
                        weight = (1 - abs(u[i, j] - 0.5 - row)) * (1 - abs(v[i, j] - 0.5 - col))
                        total += weight * patch.codes[row, col].astype(float) * float(patch.scales[row, col])
                        weights += weight
            near.vectors[i, j] = total / weights
    return near


def by_gdal(
    patches: list[Patch], want: Expected, crs: str, bounds: tuple[float, ...], width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """((h, w, d) float32 vectors, (h, w) which are valid) as GDAL warps each zone, nearest; `want` tells the zones."""
    vectors, valid = np.zeros(want.vectors.shape, np.float32), np.zeros((height, width), bool)
    for patch in patches:
        index = np.where(patch.valid, np.arange(patch.valid.size).reshape(patch.valid.shape), -1).astype(np.int32)
        warped = np.full((height, width), -1, np.int32)
        reproject(
            index, warped, src_transform=from_origin(patch.left, patch.top, patch.pixel, patch.pixel),
            src_crs=f"EPSG:{patch.epsg}", dst_crs=crs, dst_nodata=-1, resampling=Resampling.nearest,
            dst_transform=from_bounds(*bounds, width, height),
        )  # fmt: skip
        mine = (want.zones == (-patch.zone if patch.south else patch.zone)) & (warped >= 0)
        valid |= mine
        vectors[mine] = patch.vectors().reshape(-1, vectors.shape[2])[warped[mine]]
    return vectors, valid


def colours(
    vectors: np.ndarray, mean: np.ndarray, components: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """(..., 3) float64 of whole numbers 0 to 255: projected, stretched, rounded."""
    along = (vectors - mean) @ components.T
    return np.asarray(np.rint(np.clip((along - low) / (high - low) * 255, 0, 255)))


def cosine(vectors: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """(...,) cosines; 0 for a zero vector."""
    norms = np.linalg.norm(vectors, axis=-1) * np.linalg.norm(direction)
    return np.asarray((vectors @ direction) / np.where(norms > 0, norms, 1))
