"""The older published layout: one store a year. Made here with zarr alone."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from service.errors import Corrupt, InvalidInput, NotFound
from service.grid import Zone
from service.store import open_store
from service.store.records import Records
from service.values import NOT_EMBEDDED, OUTSIDE, REJECTED, VALID, ModelIdentity, Window
from tests.slow_web import slow_web

MODEL = ModelIdentity("tessera", "1.0", "vultr")
DIMS, SIDE = 4, 64
LEFT, TOP = 500_000.0, 10_000_320.0
"""Of the earlier year in zone 33, in the southern CRS: 32 rows lie north of the equator."""
SHIFT = {2023: (0, 0), 2024: (64, -64)}
"""Where each year's grid begins, in pixels down and right of that: the years cover different boxes."""


def year_store(folder: Path, year: int) -> tuple[np.ndarray, np.ndarray]:
    """One `{year}.zarr`; its codes (row, column, d) and scales (row, column) in zone 33."""
    rng = np.random.default_rng(year)
    codes = rng.integers(-127, 128, (SIDE, SIDE, DIMS)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (SIDE, SIDE)).astype(np.float32)
    scales[:, 50:] = np.nan
    scales[7, 8], codes[7, 8] = 0.0, 0
    root = zarr.open_group(folder / f"{year}.zarr", mode="w", zarr_format=3)
    root.attrs.update({"tessera:dataset_version": "v1", "tessera:year": year})
    down, right = SHIFT[year]
    group = root.create_group("utm33")
    group.attrs.update(
        {
            "tessera:year": year,
            "tessera:utm_zone": 33,
            "tessera:n_bands": DIMS,
            "tessera:model_version": "1.0",
            "proj:code": "EPSG:32733",
            "spatial:transform": [10.0, 0.0, LEFT + 10 * right, 0.0, -10.0, TOP - 10 * down],
            "spatial:shape": [SIDE, SIDE],
            "spatial:dimensions": ["northing", "easting"],
        }
    )
    for name, values, fill in (("embeddings", codes, 0), ("scales", scales, np.nan)):
        tail = values.shape[2:]
        group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(4, 4, *tail),
            shards=(32, 32, *tail),
            compressors=(BloscCodec(cname="zstd", clevel=3),),
            fill_value=fill,
        )[:] = values
    group.create_array("easting", data=LEFT + 10 * (right + np.arange(SIDE) + 0.5))
    group.create_array("northing", data=TOP - 10 * (down + np.arange(SIDE) + 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(root.store)
    return codes, scales


@pytest.fixture(scope="module")
def years(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, tuple[np.ndarray, np.ndarray]]]:
    folder = tmp_path_factory.mktemp("years")
    return folder, {year: year_store(folder, year) for year in SHIFT}


@pytest.mark.parametrize("far", [False, True])
def test_a_folder_of_years_is_one_store(
    years: tuple[Path, dict[int, tuple[np.ndarray, np.ndarray]]], far: bool, tmp_path: Path
) -> None:
    folder, made = years
    with slow_web(folder, latency=0.0) as web:
        store = open_store(web.url if far else folder, identity=MODEL, records=Records(tmp_path, 10**9))
        assert (store.dims, store.depths, store.writable, store.levels()) == (DIMS, (DIMS,), False, (1,))
        assert store.windows() == (Window.year(2023), Window.year(2024))
        north, south = store.zones()
        assert (north.zone, north.epsg, north.height, north.width) == (Zone(33), 32733, 32, 128)
        assert (south.zone, south.y0, south.height, south.x0) == (Zone(33, True), 1e7, 96, LEFT - 640)
        assert {block.zone for block in store.blocks(Window.year(2023))} == {"33N", "33S"}
        assert {block.zone for block in store.blocks(Window.year(2024))} == {"33S"}
        for year, (codes, scales) in made.items():
            down, right = SHIFT[year]
            found = np.zeros((128, 128, DIMS), np.int8), np.full((128, 128), NOT_EMBEDDED, np.uint8)
            for grid, rows in ((north, slice(0, 32)), (south, slice(32, 128))):
                read = store.read(grid.zone, Window.year(year), slice(0, grid.height), slice(0, 128))
                found[0][rows], found[1][rows] = read.codes, read.status
            here = np.s_[down : down + SIDE, 64 + right : 64 + right + SIDE]
            status = np.where(np.isnan(scales), NOT_EMBEDDED, np.where(scales == 0, REJECTED, VALID))
            np.testing.assert_array_equal(found[1][here], status)
            np.testing.assert_array_equal(found[0][here], np.where((status == VALID)[..., None], codes, 0))
            found[1][here] = NOT_EMBEDDED
            assert (found[1] == NOT_EMBEDDED).all()
        lon, lat = south.to_lonlat(np.array([10.5]), np.array([80.5]))
        assert (south.cell(float(lon[0]), float(lat[0])), bool(lat[0] < 0)) == ((10, 80), True)
        point = store.sample(south.zone, Window.year(2023), np.array([10, 9999]), np.array([80, 0]))
        np.testing.assert_array_equal(point.codes[0], made[2023][0][42, 16])
        assert point.status.tolist() == [VALID, OUTSIDE]


def test_one_year_alone_and_a_new_one(
    years: tuple[Path, dict[int, tuple[np.ndarray, np.ndarray]]], tmp_path: Path
) -> None:
    shutil.copytree(years[0] / "2023.zarr", tmp_path / "2023.zarr")
    alone = open_store(tmp_path / "2023.zarr", identity=MODEL)
    assert alone.windows() == (Window.year(2023),)
    with pytest.raises(InvalidInput, match="which model"):
        open_store(tmp_path / "2023.zarr")
    with pytest.raises(NotFound, match="2024"):
        alone.read(Zone(33), Window.year(2024), slice(0, 9), slice(0, 9))
    store = open_store(tmp_path, identity=MODEL)
    before = store.revision()
    assert not before[1]
    shutil.copytree(years[0] / "2024.zarr", tmp_path / "2024.zarr")
    store.recheck_after = 0.0  # type: ignore[attr-defined]
    assert store.refresh()
    assert store.revision() != before
    assert store.windows()[-1] == Window.year(2024)


def test_years_that_do_not_belong_together_are_refused(
    years: tuple[Path, dict[int, tuple[np.ndarray, np.ndarray]]], tmp_path: Path
) -> None:
    shutil.copytree(years[0], tmp_path / "years")
    group = zarr.open_group(tmp_path / "years" / "2024.zarr", mode="r+", use_consolidated=False)["utm33"]
    group.attrs["tessera:model_version"] = "1.1"
    with pytest.raises(Corrupt, match="different models"):
        open_store(tmp_path / "years", identity=MODEL)
    group.attrs.update({"tessera:model_version": "1.0", "spatial:transform": [10.0, 0.0, LEFT + 3, 0.0, -10.0, TOP]})
    with pytest.raises(Corrupt, match="do not fit"):
        open_store(tmp_path / "years", identity=MODEL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="no store of embeddings"):
        open_store(tmp_path / "empty", identity=MODEL)
