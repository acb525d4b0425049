"""Tiles and crops as numbers: every stored bit, cloud-optimised, saying where they come from, and bounded."""

from __future__ import annotations

import io
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import morecantile
import numpy as np
import pytest
import rasterio
from fastapi.testclient import TestClient
from rasterio.io import MemoryFile

from api.settings import Limits, Settings
from service.deadline import Deadline
from service.errors import Unavailable
from service.grid import Zone
from service.store.contract import Store
from service.strips import read_in_time
from service.values import BLOCK, NOT_EMBEDDED, OUTSIDE, VALID, WATER, ModelIdentity, Vectors, Window
from tests.conftest import client_of
from tests.stores import Tiny, random_vectors, tiny_archive

AT = "/datasets/tiny/2024"
DIMS = 16
TESSERA = ModelIdentity("tessera", "1.1", "dclimate")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestClient, Tiny]:
    home = tmp_path_factory.mktemp("home")
    vectors = random_vectors((300, 340), DIMS)
    vectors.status[40:60, 10:90] = WATER
    vectors.status[70:80] = NOT_EMBEDDED
    vectors.codes[vectors.status != VALID], vectors.scales[vectors.status != VALID] = 0, 0
    vectors.codes[0, 0] = 0  # a vector of zeros is a vector
    tiny = tiny_archive(home / "datasets", vectors, identity=TESSERA)
    return client_of(Settings(home=home, catalogue=home / "none.toml")), tiny


def bbox(tiny: Tiny, top: int, left: int, bottom: int, right: int) -> str:
    """A box of degrees whose native grid holds at least these pixels."""
    corners = [tiny.lonlat(i, j) for i in (top, bottom) for j in (left, right)]
    lon, lat = zip(*corners, strict=True)
    return f"{min(lon)},{min(lat)},{max(lon)},{max(lat)}"


def own_pixels(tiny: Tiny, transform: Any, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, col) in `tiny.vectors` of each pixel of a picture on the zone's grid."""
    row = round((tiny.grid.y0 - transform.f) / 10) - tiny.row + np.arange(height)
    col = round((transform.c - tiny.grid.x0) / 10) - tiny.col + np.arange(width)
    return np.meshgrid(row, col, indexing="ij")


def test_a_crop_is_a_cog_of_the_stored_pixels_and_says_where_it_comes_from(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    answer = client.get(f"{AT}/bbox/{bbox(tiny, 10, 10, 290, 330)}.tif")
    assert answer.status_code == 200, answer.text
    with MemoryFile(answer.content) as memory, memory.open() as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (file.crs.to_epsg(), file.res, file.dtypes[0]) == (32631, (10, 10), "float32")
        assert file.overviews(1) == [2, 4]
        assert np.isnan(file.nodata)
        assert file.descriptions == tuple(f"d{i}" for i in range(DIMS))
        row, col = own_pixels(tiny, file.transform, file.height, file.width)
        want = tiny.vectors.dequantised()[row, col]
        np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1), want)
        tags = file.tags()
    assert (tags["SMALTI_DATASET"], tags["SMALTI_WINDOW"]) == ("tiny", "2024")
    assert tags["SMALTI_MODEL"] == "tessera@1.1/dclimate"
    assert tags["SMALTI_REVISION"] == answer.headers["X-Smalti-Revision"]
    assert "Copernicus Sentinel data 2024" in tags["SMALTI_ATTRIBUTION"]
    assert tags["SMALTI_LICENCE"]
    assert (tags["TESSERA_DATASET_VERSION"], tags["TESSERA_DATASET_VERSION_PATH"]) == ("1.1", "v1.1")
    assert (tags["TESSERA_DATASET_VARIANT"], tags["TESSERA_YEAR"]) == ("dclimate", "2024")


def test_the_directories_of_a_cog_lie_before_its_data(made: tuple[TestClient, Tiny], tmp_path: Path) -> None:
    """As GDAL's own validator asks: the directory of the picture first, its overviews behind it, then their data."""
    client, tiny = made
    path = tmp_path / "crop.tif"
    path.write_bytes(client.get(f"{AT}/bbox/{bbox(tiny, 10, 10, 290, 330)}.tif").content)
    places = []
    for level in (None, 0, 1):
        with rasterio.open(path, **({} if level is None else {"overview_level": level})) as file:
            directory = int(file.get_tag_item("IFD_OFFSET", "TIFF", bidx=1))
            places.append((directory, int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))))
    directories, data = zip(*places, strict=True)
    assert list(directories) == sorted(directories)
    assert list(data) == sorted(data, reverse=True)
    assert max(directories) < min(data)


def test_stored_vectors_keep_every_bit(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    url = f"{AT}/bbox/{bbox(tiny, 0, 0, 299, 339)}"
    array = np.load(io.BytesIO(client.get(f"{url}.npy?quantize=true").content))
    tif = client.get(f"{url}.tif?quantize=true")
    with MemoryFile(tif.content) as memory:
        with memory.open() as file:
            codes, transform = file.read(), file.transform
            assert (file.dtypes[0], file.nodata, file.tags()["SMALTI_VIEW"]) == ("int8", -128, f"stored:{DIMS}")
        with rasterio.open(f"GTIFF_DIR:2:{memory.name}") as file:
            scales = file.read(1)
            assert np.isnan(file.nodata)
        with rasterio.open(f"GTIFF_DIR:3:{memory.name}") as file:
            status = file.read(1)
            assert file.descriptions == ("status",)
    row, col = own_pixels(tiny, transform, *array.shape)
    held = (row >= 0) & (row < 300) & (col >= 0) & (col < 340)
    at = row[held], col[held]
    assert held.sum() == 300 * 340
    np.testing.assert_array_equal(array["codes"][held], tiny.vectors.codes[at])
    np.testing.assert_array_equal(array["scale"][held], tiny.vectors.scales[at])
    np.testing.assert_array_equal(array["status"][held], tiny.vectors.status[at])
    np.testing.assert_array_equal(array["status"], status)
    assert not array["status"][~held].any()
    valid = array["status"] == VALID
    np.testing.assert_array_equal(np.moveaxis(codes, 0, -1)[valid], array["codes"][valid])
    np.testing.assert_array_equal(scales[valid], array["scale"][valid])
    assert (codes[:, ~valid] == -128).all()
    assert np.isnan(scales[~valid]).all()


def test_tiles_of_stored_vectors_are_those_of_the_float_tiles(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    tile = morecantile.tms.get("WebMercatorQuad").tile(*tiny.lonlat(75, 100), 15)
    url = f"{AT}/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}"
    stored = np.load(io.BytesIO(client.get(f"{url}.npy?quantize=true&tilesize=256").content))
    floats = np.load(io.BytesIO(client.get(f"{url}.npy?tilesize=256").content))
    assert set(np.unique(stored["status"])) >= {NOT_EMBEDDED, VALID}
    want = stored["codes"].astype(np.float32) * stored["scale"][..., None]
    want[stored["status"] != VALID] = np.nan
    np.testing.assert_array_equal(np.moveaxis(floats[:DIMS], 0, -1), want)
    with MemoryFile(client.get(f"{url}.tif?tilesize=256").content) as memory, memory.open() as file:
        np.testing.assert_array_equal(file.read(), floats[:DIMS])
        assert "SMALTI_REVISION" not in file.tags()  # its validator says nothing of other blocks


def test_beyond_every_grid_is_outside_and_so_is_what_a_feature_leaves_out(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    lon, lat = tiny.lonlat(290, 300)
    wide = client.get(f"{AT}/bbox/{lon},{lat - 0.001},{lon + 6},{lat}/64x8.npy?quantize=true")
    array = np.load(io.BytesIO(wide.content))
    assert array["status"][4, -1] == OUTSIDE
    corners = [tiny.lonlat(*at) for at in ((100, 100), (100, 160), (160, 160))]
    feature = {
        "type": "Feature", "properties": {},
        "geometry": {"type": "Polygon", "coordinates": [[*corners, corners[0]]]},
    }  # fmt: skip
    cut = np.load(io.BytesIO(client.post(f"{AT}/feature.npy?quantize=true", json=feature).content))
    assert set(np.unique(cut["status"])) == {VALID, OUTSIDE}
    assert 0.4 < (cut["status"] == VALID).mean() < 0.6
    assert not cut["codes"][cut["status"] == OUTSIDE].any()


def test_all_dimensions_of_half_the_world_are_refused_in_milliseconds(tmp_path: Path) -> None:
    """And before anything is read."""
    tiny_archive(tmp_path / "datasets", random_vectors((8, 8)))
    client = client_of(Settings(home=tmp_path, catalogue=tmp_path / "none.toml"))
    client.get("/datasets/tiny")
    with pytest.MonkeyPatch.context() as patched:
        read: list[Any] = []
        patched.setattr("service.plan.Source.read_sides", lambda *asked: read.append(asked))
        for path in (
            "/bbox/-90,-60,90,70.npy", "/bbox/-90,-60,90,70/4000x4000.npy", "/preview/2048x2048.npy",
            "/bbox/-90,-60,90,70/2048x2048.npy?quantize=true", "/tiles/WebMercatorQuad/0/0/0.npy?tilesize=1024",
        ):  # fmt: skip
            times = []
            for _ in range(3):
                began = time.perf_counter()
                answer = client.get(AT + path)
                times.append(time.perf_counter() - began)
                assert 400 <= answer.status_code < 500
            assert min(times) < 0.1, path
    assert not read


def test_codes_need_a_file_that_can_hold_them(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    lon, lat = tiny.lonlat(100, 100)
    box = bbox(tiny, 100, 100, 110, 110)
    for path in (f"/bbox/{box}.png", f"/point/{lon},{lat}", "/statistics", f"/bbox/{box}.npy"):
        other = {"view": "observations:s2"} if path.endswith(".npy") else {}
        answer = client.get(AT + path, params={"quantize": "true", **other})
        assert (answer.status_code, answer.json()["field"]) == (422, "quantize"), answer.text


def test_statistics_leave_out_what_has_no_vector(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    corners = [tiny.lonlat(*at) for at in ((30, 0), (30, 100), (100, 100), (100, 0))]
    feature = {
        "type": "Feature", "properties": {},
        "geometry": {"type": "Polygon", "coordinates": [[*corners, corners[0]]]},
    }  # fmt: skip
    found = client.post(f"{AT}/statistics", json=feature).json()["properties"]["statistics"]["d3"]
    values = tiny.vectors.dequantised()[30:101, 0:101, 3]
    assert found["valid_pixels"] == pytest.approx(np.isfinite(values).sum(), rel=0.03)
    assert found["mean"] == pytest.approx(np.nanmean(values), abs=0.05)
    assert found["std"] == pytest.approx(np.nanstd(values), rel=0.03)
    assert found["min"] >= np.nanmin(values)
    for query, field in (("max_size=2048", "cover_scale"), ("max_size=2048&cover_scale=1", "width")):
        refused = client.post(f"{AT}/statistics?{query}&width=2048", json=feature)
        assert (refused.status_code, refused.json()["field"]) == (413, field), refused.text
    tall = [tiny.lonlat(*at) for at in ((30, 0), (30, 50), (230, 50), (230, 0))]
    feature["geometry"] = {"type": "Polygon", "coordinates": [[*tall, tall[0]]]}
    refused = client.post(f"{AT}/statistics?view=observations:s2&width=500&cover_scale=10", json=feature)
    assert (refused.status_code, refused.json()["field"]) == (413, "cover_scale"), "the side that follows counts too"
    corners = [tiny.lonlat(*at) for at in ((72, 20), (72, 60), (77, 60), (77, 20))]
    feature["geometry"] = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}
    nothing = client.post(f"{AT}/statistics", json=feature)
    assert nothing.status_code == 200, nothing.text
    assert nothing.json()["properties"]["statistics"]["d3"]["valid_pixels"] == 0


def test_every_route_that_reads_ends_when_its_time_is_over(made: tuple[TestClient, Tiny], tmp_path: Path) -> None:
    _, tiny = made
    settings = Settings(home=Path(tiny.store.location).parents[1], catalogue=tmp_path / "none.toml")
    client = client_of(settings.model_copy(update={"limits": Limits().model_copy(update={"seconds": 0})}))
    tile = morecantile.tms.get("WebMercatorQuad").tile(*tiny.lonlat(150, 150), 15)
    for path in (
        f"/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy", "/statistics",
        f"/bbox/{bbox(tiny, 100, 100, 110, 110)}.tif", "/preview.tif",
    ):  # fmt: skip
        answer = client.get(AT + path)
        assert answer.status_code == 503, path
        assert "limit `seconds`" in answer.json()["detail"]
        assert "ETag" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"


def test_large_rectangles_are_read_in_strips_of_whole_blocks(
    made: tuple[TestClient, Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pixels; and nothing more is read once the time is over."""
    _, tiny = made
    rows, cols = slice(tiny.row - 30, tiny.row + 290), slice(tiny.col + 3, tiny.col + 330)
    ask = {"level": 1, "dims": DIMS}
    whole = tiny.store.read(tiny.grid.zone, tiny.window, rows, cols, **ask)
    monkeypatch.setattr("service.strips.STRIP_BYTES", 1)
    read: list[slice] = []

    class Watched:
        def read(self, zone: Zone, window: Window, rows: slice, cols: slice, **more: int) -> Vectors:
            read.append(rows)
            time.sleep(0.04)
            return tiny.store.read(zone, window, rows, cols, **more)

    store = cast(Store, Watched())
    found = read_in_time(store, tiny.window, tiny.grid.zone, rows, cols, deadline=Deadline.after(60), **ask)
    np.testing.assert_array_equal(found.codes, whole.codes)
    np.testing.assert_array_equal(found.scales, whole.scales)
    np.testing.assert_array_equal(found.status, whole.status)
    assert (read[0].start, read[-1].stop) == (rows.start, rows.stop)
    assert len(read) > 1
    assert all(one.stop == two.start and one.stop % BLOCK == 0 for one, two in pairwise(read))
    read.clear()
    with pytest.raises(Unavailable, match="limit `seconds`"):
        read_in_time(store, tiny.window, tiny.grid.zone, rows, cols, deadline=Deadline.after(0.03), **ask)
    assert len(read) == 1
