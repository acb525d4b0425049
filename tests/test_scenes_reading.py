"""What a raster shows on our grid: as odc-stac reads it where pixels line up or nest, by the map where zones differ."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine

from service.errors import InvalidInput
from service.grid import PIXEL, Zone, archive_grid, transformer
from service.scenes.reading import geobox, shown
from service.sources import Placement

ZONE = Zone(30)
GRID = archive_grid(ZONE)
ROW, COL = 357_120, 53_760
"""Of the rasters' corner on the grid: a corner of four pixels of 20 m and nine of 30 m too, nearly."""


def written(path: Path, values: np.ndarray, side: float, nodata: float | None, shift: float = 0.0) -> Path:
    """A raster whose corner is ours; `shift` metres away from there."""
    left, top = GRID.x0 + COL * PIXEL + shift, GRID.y0 - ROW * PIXEL - shift
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype=values.dtype,
        crs=GRID.crs, transform=Affine(side, 0, left, 0, -side, top), nodata=nodata,
    ) as file:  # fmt: skip
        file.write(values, 1)
    return path


def read(path: Path, place: Placement, resampling: Any) -> np.ndarray:
    with rasterio.open(path) as raster:
        return shown(raster, place, resampling)


def as_odc(path: Path, place: Placement, resampling: str, dtype: str) -> np.ndarray:
    import odc.stac

    box = [-3.0, 50.0, 0.5, 54.0]
    ring = [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]], [box[0], box[1]]]
    item = pystac.Item("one", {"type": "Polygon", "coordinates": [ring]}, box, dt.datetime(2024, 1, 1), {})
    item.add_asset("a", pystac.Asset(str(path), media_type=pystac.MediaType.COG, roles=["data"]))
    nodata = 0 if dtype == "uint16" else np.nan
    loaded = odc.stac.load([item], bands=["a"], geobox=geobox(place), resampling=resampling, dtype=dtype, nodata=nodata)
    return np.asarray(loaded["a"].values[0])


@pytest.mark.parametrize("side", [10, 20, 30])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_within_a_zone_it_is_what_odc_stac_reads(tmp_path: Path, side: int, dtype: str) -> None:
    rng = np.random.default_rng(side)
    values = rng.integers(1, 9000, (1800 // side, 1800 // side)).astype(dtype)
    gaps = np.where(rng.random(values.shape) < 0.2, 0, values).astype(dtype)
    shifts = [0.0] if side == 30 else [0.0, 10.0]  # 10 m further, a pixel of 20 m begins in the middle of two of ours
    for number, (held, shift) in enumerate((h, s) for h in (values, gaps) for s in shifts):
        path = written(tmp_path / f"{number}.tif", held, side, 0, shift)
        for down, across, height, width in ((40, 42, 64, 64), (41, 43, 50, 61), (-20, -30, 60, 70), (150, 160, 64, 64)):
            place = Placement(ZONE, ROW + down, COL + across, height, width)
            for resampling in ("nearest", "bilinear"):
                ours, theirs = read(path, place, resampling), as_odc(path, place, resampling, dtype)
                np.testing.assert_array_equal(ours, theirs, f"{held.shape} {shift} {place} {resampling}")


def test_what_the_file_calls_no_data_is_ours(tmp_path: Path) -> None:
    values = np.full((40, 40), 500, np.uint16)
    values[5, 7] = 65535
    power = values.astype(np.float32)
    power[5, 7] = -32768
    place = Placement(ZONE, ROW, COL, 40, 40)
    for resampling in ("nearest", "bilinear"):
        assert read(written(tmp_path / "a.tif", values, 10, 65535), place, resampling)[5, 7] == 0
        assert np.isnan(read(written(tmp_path / "b.tif", power, 10, -32768), place, resampling)[5, 7])
    half = read(written(tmp_path / "c.tif", values[:20, :20], 20, 65535), place, "bilinear")
    assert set(np.unique(half)) <= {0, 500}  # a gap among the four nearest has no weight
    apart = Placement(ZONE, ROW + 5000, COL, 8, 9)
    assert not read(tmp_path / "a.tif", apart, "nearest").any()


def test_a_scene_of_another_zone_is_shown_where_it_lies(tmp_path: Path) -> None:
    """A plane, which bilinear resampling keeps: each pixel tells the place it was read at."""
    other = archive_grid(Zone(31))
    x, y = transformer(GRID.crs, other.crs).transform(GRID.x0 + (COL + 60) * PIXEL, GRID.y0 - (ROW + 60) * PIXEL)
    left, top = round(x, -1) - 1500, round(y, -1) + 1500
    row, col = np.mgrid[0:300, 0:300]
    plane = (1000 + 20 * col + 3 * row).astype(np.uint16)
    path = tmp_path / "plane.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=300, width=300, count=1, dtype="uint16", nodata=0, crs=other.crs,
        transform=Affine(10, 0, left, 0, -10, top),
    ) as file:  # fmt: skip
        file.write(plane, 1)
    place = Placement(ZONE, ROW, COL, 120, 130)
    ours = np.mgrid[0:120, 0:130] + 0.5
    x, y = transformer(GRID.crs, other.crs).transform(
        GRID.x0 + (COL + ours[1]) * PIXEL, GRID.y0 - (ROW + ours[0]) * PIXEL
    )
    u, v = (top - y) / 10, (x - left) / 10
    truth = 1000 + 20 * (v - 0.5) + 3 * (u - 0.5)
    assert np.abs(read(path, place, "bilinear") - truth).max() < 0.5 + 23 / 8  # GDAL's map is true to 1/8 of a pixel
    there = plane[np.floor(u).astype(int), np.floor(v).astype(int)]
    assert (read(path, place, "nearest") == there).mean() > 0.9


def test_a_file_of_much_smaller_pixels_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "fine.tif", np.ones((700, 700), np.uint16), 1, 0)
    with pytest.raises(InvalidInput, match="pixels where 64 x 64 are due"):
        read(path, Placement(ZONE, ROW, COL, 64, 64), "bilinear")
