"""GDAL's table of file systems has no lock of its own: who changes it is alone, who looks waits, who reads does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from service.grid import Zone, archive_grid
from service.scenes.gdal import TABLE, geotiff, looking
from service.scenes.reading import shown
from service.sources import Placement

A_WHILE_S = 0.3
ZONE = Zone(31)
PLACE = Placement(ZONE, 256 * 2000, 256 * 100, 64, 64)


@pytest.fixture
def tiff(tmp_path: Path) -> str:
    """A file whose pixels lie between ours, so that it is warped."""
    grid, path = archive_grid(ZONE), str(tmp_path / "x.tif")
    corner = Affine(10, 0, grid.x0 + 10 * PLACE.col - 503, 0, -10, grid.y0 - 10 * PLACE.row + 497)
    how: dict[str, Any] = {"driver": "GTiff", "count": 1, "dtype": "uint16", "crs": f"EPSG:{ZONE.epsg}"}
    with rasterio.open(path, "w", width=200, height=200, transform=corner, **how) as out:
        out.write(np.full((1, 200, 200), 7, np.uint16))
    return path


@pytest.fixture
def beside() -> Iterator[Callable[..., Future[Any]]]:
    """Runs something in another thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


def waits(future: Future[Any]) -> bool:
    with pytest.raises(TimeoutError):
        future.result(A_WHILE_S)
    return True


def opened(path: str, opener: Any = None) -> int:
    with geotiff(path, opener) as raster:
        return int(raster.read(1)[0, 0])


def test_a_file_with_a_file_system_of_its_own_is_opened_while_nobody_looks(tiff: str, beside: Any) -> None:
    with looking():
        assert beside(opened, tiff).result(10) == 7, "an ordinary file changes nothing"
        far = beside(opened, tiff, open)
        assert waits(far)
    assert far.result(10) == 7


def test_it_is_closed_while_nobody_looks(tiff: str, beside: Any) -> None:
    def close() -> None:
        file.__exit__(None, None, None)

    file = geotiff(tiff, open)
    beside(file.__enter__).result(10)
    with looking():
        closing = beside(close)
        assert waits(closing)
    closing.result(10)
    assert TABLE.owner is None


def test_a_warp_looks_and_reading_does_not(tiff: str, beside: Any) -> None:
    with geotiff(tiff) as raster:
        with TABLE.write_lock():
            assert beside(raster.read, 1).result(10).mean() == 7
            warp = beside(shown, raster, PLACE, "bilinear")
            assert waits(warp)
        assert (warp.result(10) == 7).all()


def test_what_cannot_be_opened_leaves_the_table_to_others(tiff: str, tmp_path: Path) -> None:
    (tmp_path / "none.tif").write_bytes(b"no picture")
    for opener in (None, open):
        with pytest.raises(rasterio.errors.RasterioError), geotiff(str(tmp_path / "none.tif"), opener):
            pass
    assert TABLE.owner is None
    assert opened(tiff, open) == 7
