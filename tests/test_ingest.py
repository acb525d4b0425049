"""Ingest: what others made lands on the right pixel, whole, once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from service.errors import Corrupt, IdentityMismatch, InvalidInput, NotFound
from service.grid import Block, Zone, archive_grid
from service.ingest import _content_hash, ingest, plan_ingest
from service.quant import quantise
from service.store import create_store, open_store
from service.values import NOT_EMBEDDED, VALID, WATER, ModelIdentity, Window

MODEL = ModelIdentity("tessera", "1.0", "vultr")
YEAR = Window.year(2024)
GRID = archive_grid(Zone(31))
ROW, COL = 1400 * 256 + 200, 120 * 256 + 230  # 56 rows and 26 columns before a corner of four blocks


def tiff(path: Path, planes: np.ndarray, left: float, top: float, epsg: int = 32631, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(planes),
        height=planes.shape[1],
        width=planes.shape[2],
        dtype=planes.dtype,
        crs=f"EPSG:{epsg}",
        transform=Affine(10, 0, left, 0, -10, top),
        **more,
    ) as raster:
        raster.write(planes)
    return path


def npy_tile(
    folder: Path, name: str, row: int, col: int, shape: tuple[int, int] = (100, 80), seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A GeoTessera tile whose corner is not snapped: it lies inside its pixel, as published ones do."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (*shape, 16)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, shape).astype(np.float32)
    land = np.ones(shape, np.uint8)
    land[:5] = 0
    scales[6, 0], scales[6, 1], scales[6, 2], scales[6, 3] = np.nan, 0, 3e38, np.inf
    place = folder / "2024" / name
    place.mkdir(parents=True)
    np.save(place / f"{name}.npy", codes)
    np.save(place / f"{name}_scales.npy", scales)
    tiff(folder / "landmasks" / f"{name}.tiff", land[None], GRID.x0 + 10 * col + 6.3, GRID.y0 - 10 * row - 8.9)
    return codes, scales, land


def test_geotessera_tiles_share_a_block(tmp_path: Path) -> None:
    store = create_store(tmp_path / "a.icechunk", MODEL, dims=16)
    first = npy_tile(tmp_path / "in", "grid_0.15_52.05", ROW, COL, seed=1)
    second = npy_tile(tmp_path / "in", "grid_0.25_52.05", ROW, COL + 80, seed=2)
    plan = plan_ingest(tmp_path / "in")
    assert [(p.row, p.col) for p in plan.tiles] == [(ROW, COL), (ROW, COL + 80)]
    assert plan.years() == (2024,)
    assert "2 tiles" in str(plan)
    assert "31N" in str(plan)
    seen: list[tuple[int, int]] = []
    result = ingest(plan, store, YEAR, lambda done, total: seen.append((done, total)))
    assert (result.written, result.skipped) == (4, 0)
    assert seen[0] == (0, 4)
    assert seen[-1] == (4, 4)
    found = store.read(Zone(31), YEAR, slice(ROW - 1, ROW + 101), slice(COL - 1, COL + 161))
    for n, (codes, scales, land) in enumerate((first, second)):
        got = np.s_[1:101, 1 + 80 * n : 81 + 80 * n]
        want = np.where(
            land == 0, WATER, np.where(np.isfinite(scales) & (scales > 0) & (scales < 1), VALID, NOT_EMBEDDED)
        )
        np.testing.assert_array_equal(found.status[got], want)
        np.testing.assert_array_equal(found.codes[got], np.where(want[..., None] == VALID, codes, 0))
        np.testing.assert_array_equal(found.scales[got], np.where(want == VALID, scales, np.float32(0)))
    assert (found.status[0] == NOT_EMBEDDED).all()
    assert result.valid == found.valid.sum() == 2 * (95 * 80 - 4)


def test_an_older_tile_with_a_scale_to_a_number(tmp_path: Path) -> None:
    """What stands for no data is the same as where there is one scale to a pixel, in any one of them."""
    codes, _, _ = npy_tile(tmp_path / "in", "grid_0.15_52.05", ROW, COL, (20, 20))
    scales = np.random.default_rng(1).uniform(0.01, 0.1, codes.shape).astype(np.float32)
    for col, sentinel in enumerate((np.nan, 0, 3e38, np.inf, 1.0)):
        scales[10, col, 3] = sentinel
    np.save(tmp_path / "in/2024/grid_0.15_52.05/grid_0.15_52.05_scales.npy", scales)
    store = create_store(tmp_path / "a.icechunk", MODEL, dims=16)
    assert ingest(plan_ingest(tmp_path / "in"), store, YEAR).valid == 15 * 20 - 5
    found = store.read(Zone(31), YEAR, slice(ROW, ROW + 20), slice(COL, COL + 20))
    assert (found.status[10, :5] == NOT_EMBEDDED).all()
    np.testing.assert_allclose(
        found.codes[12] * found.scales[12, :, None], codes[12] * scales[12], atol=found.scales[12].max() / 2 * 1.001
    )


def test_a_rerun_skips_what_stands_and_a_new_tile_completes_it(tmp_path: Path) -> None:
    store = create_store(tmp_path / "a.icechunk", MODEL, dims=16)
    npy_tile(tmp_path / "one", "grid_0.15_52.05", ROW, COL, seed=1)
    before = ingest(plan_ingest(tmp_path / "one"), store, YEAR)
    again = ingest(plan_ingest(tmp_path / "one"), store, YEAR)
    assert (again.written, again.skipped, again.revision) == (0, 4, before.revision)
    alone = store.read(Zone(31), YEAR, slice(ROW, ROW + 100), slice(COL, COL + 80))
    npy_tile(tmp_path / "two", "grid_0.25_52.05", ROW, COL + 80, seed=2)
    ingest(plan_ingest(tmp_path / "two"), store, YEAR)
    beside = store.read(Zone(31), YEAR, slice(ROW, ROW + 100), slice(COL, COL + 80))
    np.testing.assert_array_equal(alone.codes, beside.codes)
    np.testing.assert_array_equal(alone.status, beside.status)
    assert store.read(Zone(31), YEAR, slice(ROW, ROW + 100), slice(COL + 80, COL + 160)).valid.any()


def test_a_changed_file_is_taken_in_again(tmp_path: Path) -> None:
    store = create_store(tmp_path / "a.icechunk", MODEL, dims=16)
    codes, _, _ = npy_tile(tmp_path / "in", "grid_0.15_52.05", ROW, COL)
    ingest(plan_ingest(tmp_path / "in"), store, YEAR)
    codes[50, 40] = 77
    np.save(tmp_path / "in/2024/grid_0.15_52.05/grid_0.15_52.05.npy", codes)
    assert ingest(plan_ingest(tmp_path / "in"), store, YEAR).written == 4
    assert (store.sample(Zone(31), YEAR, np.array([ROW + 50]), np.array([COL + 40])).codes == 77).all()


def test_a_pixel_taken_back_goes(tmp_path: Path) -> None:
    """A corrected tile replaces its earlier state, but nothing that another source put into the block."""
    store = create_store(tmp_path / "a.icechunk", MODEL, dims=16)
    _, scales, land = npy_tile(tmp_path / "in", "grid_0.15_52.05", ROW, COL)
    ingest(plan_ingest(tmp_path / "in"), store, YEAR)

    def take_back(row: int) -> None:
        scales[row, 40] = np.nan
        np.save(tmp_path / "in/2024/grid_0.15_52.05/grid_0.15_52.05_scales.npy", scales)
        land[row, 41] = 0
        tiff(
            tmp_path / "in/landmasks/grid_0.15_52.05.tiff",
            land[None],
            GRID.x0 + 10 * COL + 6.3,
            GRID.y0 - 10 * ROW - 8.9,
        )

    def status(row: int) -> list[int]:
        return store.read(Zone(31), YEAR, slice(ROW + row, ROW + row + 1), slice(COL + 39, COL + 43)).status[0].tolist()

    take_back(50)
    assert ingest(plan_ingest(tmp_path / "in"), store, YEAR).valid == 95 * 80 - 4 - 2
    assert status(50) == [VALID, NOT_EMBEDDED, WATER, VALID]
    npy_tile(tmp_path / "over", "grid_0.25_52.05", ROW, COL, seed=2)
    ingest(plan_ingest(tmp_path / "over"), store, YEAR)
    take_back(52)
    ingest(plan_ingest(tmp_path / "in"), store, YEAR)
    assert status(50) == status(52) == [VALID] * 4


def test_sources_that_take_turns_write_nothing_anew(tmp_path: Path) -> None:
    store = create_store(tmp_path / "a.icechunk", MODEL, dims=16)
    for n, name in enumerate(("grid_0.15_52.05", "grid_0.25_52.05", "grid_0.35_52.05")):
        npy_tile(tmp_path / name, name, ROW, COL + 80 * n, seed=n)
    plans = [plan_ingest(tmp_path / name) for name in ("grid_0.15_52.05", "grid_0.25_52.05", "grid_0.35_52.05")]
    last = [ingest(plan, store, YEAR) for plan in plans][-1]
    for plan in (*plans, plans[0]):
        again = ingest(plan, store, YEAR)
        assert (again.written, again.skipped, again.revision) == (0, len(plan.blocks(YEAR)), last.revision)


def test_progress_comes_while_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for what changed reads every file, which may take long even if nothing is left to do."""
    monkeypatch.setattr("service.ingest.COMMIT_BLOCKS", 1)
    store = create_store(tmp_path / "a.icechunk", MODEL, dims=16)
    for n, name in enumerate(("grid_0.15_52.05", "grid_0.95_52.05")):
        npy_tile(tmp_path / "in", name, ROW, COL + 1024 * n, seed=n)
    plan = plan_ingest(tmp_path / "in")
    ingest(plan, store, YEAR)
    read: list[str] = []
    monkeypatch.setattr("service.ingest._content_hash", lambda tile: read.append(tile.name) or _content_hash(tile))
    seen: list[tuple[int, int]] = []
    ingest(plan, store, YEAR, lambda done, total: seen.append((done, len(read))))
    assert seen == [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2), (7, 2), (8, 2)]
    assert len(read) == 2


def test_alphaearth_through_a_geotiff(tmp_path: Path, real_data: Path) -> None:
    raw = np.load(real_data / "alphaearth" / "aef_utm16n_10m_int8.npy")
    about = json.loads((real_data / "alphaearth" / "aef_utm16n_10m_int8.json").read_text())
    vectors = (np.sign(raw) * (raw / 127.5) ** 2).astype(np.float32)
    gap = vectors.copy()
    gap[20:30, 40:60] = -9999
    _, _, left, _, _, top = about["transform"]
    source = tiff(
        tmp_path / "aef_2024.tif", np.moveaxis(gap, -1, 0), left, top, 32616, nodata=-9999, compress="deflate"
    )
    store = create_store(tmp_path / "aef.icechunk", ModelIdentity("alphaearth", "1"), dims=64)
    result = ingest(plan_ingest(source), store, YEAR)
    zone = Zone(16)
    grid = archive_grid(zone)
    row, col = round((grid.y0 - top) / 10), round((left - grid.x0) / 10)
    found = store.read(zone, YEAR, slice(row, row + 97), slice(col, col + 97))
    codes, scales = quantise(vectors)
    there = (gap != -9999).all(axis=-1)
    assert result.valid == there.sum() == 97 * 97 - 200
    np.testing.assert_array_equal(found.valid, there)
    np.testing.assert_array_equal(found.codes[there], codes[there])
    np.testing.assert_array_equal(found.scales[there], scales[there])
    lon, lat = grid.to_lonlat(np.array([row + 48.5]), np.array([col + 48.5]))
    assert (lon[0], lat[0]) == pytest.approx((-88.7688, 44.2946), abs=2e-3)


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("float32", -99), ("float32", 0.1), ("float64", 0.1), ("float32", np.nan)]
)
def test_a_gap_in_one_band_is_a_gap(tmp_path: Path, dtype: str, nodata: float) -> None:
    """No data is compared as the file holds it: 0.1 in float32 is not 0.1 in float64."""
    planes = np.full((4, 3, 3), 0.5, dtype)
    planes[2, 1, 1] = nodata
    planes[0, 2, 2] = 0  # a 0 in one band is a value
    source = tiff(tmp_path / "gap.tif", planes, GRID.x0 + 10 * COL, GRID.y0 - 10 * ROW, nodata=nodata)
    status = plan_ingest(source).tiles[0].tile.read(slice(0, 3), slice(0, 3)).status
    assert status[1, 1] == NOT_EMBEDDED
    assert (status == VALID).sum() == 8


def test_zero_as_no_data_means_all_bands(tmp_path: Path) -> None:
    planes = np.full((4, 3, 3), 0.5, np.float32)
    planes[:, 1, 1] = 0
    planes[0, 2, 2] = 0
    source = tiff(tmp_path / "gap.tif", planes, GRID.x0 + 10 * COL, GRID.y0 - 10 * ROW, nodata=0)
    status = plan_ingest(source).tiles[0].tile.read(slice(0, 3), slice(0, 3)).status
    assert status[1, 1] == NOT_EMBEDDED
    assert (status == VALID).sum() == 8


@pytest.mark.parametrize("value", [127.0, -9999.0, 1e300])
def test_numbers_that_no_embedding_has_name_their_file(tmp_path: Path, value: float) -> None:
    planes = np.full((4, 3, 3), 126.9)
    source = tiff(tmp_path / "wild.tif", planes, GRID.x0 + 10 * COL, GRID.y0 - 10 * ROW)
    store = create_store(tmp_path / "a.icechunk", MODEL, dims=4)
    assert ingest(plan_ingest(source), store, YEAR).valid == 9
    planes[2, 1, 1] = value
    source = tiff(tmp_path / "wild.tif", planes, GRID.x0 + 10 * COL, GRID.y0 - 10 * ROW)
    with pytest.raises(InvalidInput, match=r"wild\.tif holds .* between -127 and 127"):
        ingest(plan_ingest(source), store, YEAR)


def test_codes_with_scales_and_a_southern_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(-127, 128, (8, 40, 50)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (1, 40, 50)).astype(np.float32)
    scales[0, 0, 0] = np.nan
    left, top = 500_000.0, -3_000_000.0  # northern CRS, southern hemisphere
    tiff(tmp_path / "south.tif", codes, left, top, 32656)
    tiff(tmp_path / "south_scales.tif", scales, left, top, 32656)
    store = create_store(tmp_path / "s.icechunk", MODEL, dims=8)
    ingest(plan_ingest(tmp_path), store, YEAR)
    grid = archive_grid(Zone(56, south=True))
    row, col = round((grid.y0 - top - 10_000_000) / 10), round((left - grid.x0) / 10)
    found = store.read(grid.zone, YEAR, slice(row, row + 40), slice(col, col + 50))
    assert found.status[0, 0] == NOT_EMBEDDED
    assert found.valid.sum() == 40 * 50 - 1
    np.testing.assert_array_equal(found.codes[1:], np.moveaxis(codes, 0, -1)[1:])


def test_what_is_refused(tmp_path: Path) -> None:
    planes = np.ones((4, 10, 10), np.float32)
    on = (GRID.x0 + 10 * COL, GRID.y0 - 10 * ROW)
    cases = {
        "off grid": tiff(tmp_path / "off.tif", planes, on[0] + 5, on[1]),
        "not UTM": tiff(tmp_path / "webmercator.tif", planes, *on, epsg=3857),
        "bytes": tiff(tmp_path / "bytes.tif", planes.astype(np.uint8), *on),
        "one band": tiff(tmp_path / "one.tif", planes[:1], *on),
        "beyond the zone": tiff(tmp_path / "far.tif", planes, 0.0, on[1]),
    }
    for path in cases.values():
        with pytest.raises(InvalidInput) as refusal:
            plan_ingest(path)
        assert path.name.removesuffix(".tif") in str(refusal.value)
    with pytest.raises(NotFound, match="_scales"):
        plan_ingest(tiff(tmp_path / "codes.tif", planes.astype(np.int8), *on))
    with pytest.raises(NotFound):
        plan_ingest(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="no embeddings"):
        plan_ingest(tmp_path / "empty")
    (tmp_path / "broken.tif").write_bytes(b"II*\0broken")
    with pytest.raises(Corrupt, match=r"broken\.tif"):
        plan_ingest(tmp_path / "broken.tif")


def test_a_store_that_does_not_fit(tmp_path: Path) -> None:
    npy_tile(tmp_path / "in", "grid_0.15_52.05", ROW, COL)
    plan = plan_ingest(tmp_path / "in")
    with pytest.raises(InvalidInput, match="16 dimensions"):
        ingest(plan, create_store(tmp_path / "wide.icechunk", MODEL, dims=128), YEAR)
    store = create_store(tmp_path / "fit.icechunk", MODEL, dims=16)
    with pytest.raises(NotFound, match="2024"):
        ingest(plan, store, Window.year(2019))
    (tmp_path / "in" / "tessera_metadata.json").write_text('{"dataset_version": "1.1", "dataset_variant": "dclimate"}')
    with pytest.raises(IdentityMismatch, match=r"tessera@1\.1/dclimate"):
        ingest(plan_ingest(tmp_path / "in"), store, YEAR)


def test_a_tile_cut_short(tmp_path: Path) -> None:
    npy_tile(tmp_path / "in", "grid_0.15_52.05", ROW, COL)
    path = tmp_path / "in/2024/grid_0.15_52.05/grid_0.15_52.05.npy"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(Corrupt, match=r"grid_0\.15_52\.05\.npy"):
        plan_ingest(tmp_path / "in")
    landmask = tmp_path / "in/landmasks/grid_0.15_52.05.tiff"
    landmask.unlink()
    with pytest.raises(NotFound, match="landmask"):
        plan_ingest(tmp_path / "in")


def test_a_stopped_ingest_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of an unfinished block shows, and finished ones are not done again."""
    monkeypatch.setattr("service.ingest.COMMIT_BLOCKS", 1)
    store = create_store(tmp_path / "a.icechunk", MODEL, dims=16)
    npy_tile(tmp_path / "in", "grid_0.15_52.05", ROW, COL)
    plan = plan_ingest(tmp_path / "in")

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(plan, store, YEAR, stop)
    half = open_store(tmp_path / "a.icechunk")
    assert half.blocks(YEAR) == (Block("31N", 1400, 120), Block("31N", 1400, 121))
    assert not half.read(Zone(31), YEAR, slice(1401 * 256, 1401 * 256 + 50), slice(COL, COL + 80)).valid.any()
    result = ingest(plan, store, YEAR)
    assert (result.written, result.skipped) == (2, 2)
    assert len(store.blocks(YEAR)) == 4
