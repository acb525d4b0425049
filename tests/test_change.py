"""Change between two windows: right to the pixel at every zoom, and never older than either window."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import morecantile
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.io import MemoryFile

from api.settings import Settings
from service import plan as planning
from service.colour import ChangeView, PcaView, Scale, VectorView, fit_basis, side_by_side
from service.colour.ramp import palette
from service.errors import Conflict, IdentityMismatch, InvalidInput
from service.footprint import Side
from service.globe import LEVELS
from service.grid import Zone, ZoneGrid, archive_grid
from service.paint import paint
from service.plan import Source, plan, touched
from service.store import open_store, repository_name
from service.store.writable import WritableArchive
from service.tiles import TileReader, tile_target
from service.values import BLOCK, NOT_EMBEDDED, OUTSIDE, VALID, WATER, Counts, ModelIdentity, Vectors, Window
from tests.conftest import client_of
from tests.fakes import MemoryStore
from tests.stores import YEAR, Tiny, blocks_from, corner, random_vectors, tiny_archive

TMS = morecantile.tms.get("WebMercatorQuad")
LAST = Window.year(2023)
SUMMER = Window.parse("2024-05-01..2024-09-30")
SIDE, DIMS = 320, 16
VIEW = ChangeView(YEAR, LAST)


def scene(seed: int, side: int = SIDE) -> Vectors:
    """Fields of 20 pixels with a little noise, with a pond."""
    rng = np.random.default_rng(seed)
    fields = np.kron(rng.integers(-100, 100, (side // 20, side // 20, DIMS)), np.ones((20, 20, 1), int))
    codes = (fields + rng.integers(-9, 10, fields.shape)).astype(np.int8)
    status = np.full((side, side), VALID, np.uint8)
    status[30:60, 30 + 10 * seed : 90] = WATER
    scales = np.where(status == VALID, rng.uniform(0.01, 0.1, status.shape), 0).astype(np.float32)
    codes[status != VALID] = 0
    return Vectors(codes, scales, status)


def exact_change(first: Vectors, second: Vectors) -> np.ndarray:
    """From the definition, of the dequantised vectors, in float64."""
    a, b = (v.codes.astype(np.float64) * v.scales[..., None].astype(np.float64) for v in (first, second))
    with np.errstate(invalid="ignore"):
        cosine = (a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.where(first.valid & second.valid, 1 - cosine, np.nan)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 130))
def test_it_is_one_minus_the_cosine_of_the_dequantised_vectors(seed: int, n: int, d: int) -> None:
    first, second = random_vectors((n, 3), d, seed), random_vectors((n, 3), d, seed + 1)
    first.codes[..., 0], second.codes[..., 0] = 1, -2
    first.status[0, 0], second.status[0, 2] = WATER, NOT_EMBEDDED
    pair = side_by_side(first, second)
    found = VIEW.values(pair)
    assert (found.dtype, found.shape) == (np.float32, (n, 3, 1))
    truth = exact_change(first, second)
    assert (np.isnan(found[..., 0]) == np.isnan(truth)).all()
    held = ~np.isnan(truth)
    assert np.abs(found[..., 0] - truth)[held].max(initial=0) < 1e-5
    assert pair.status[0].tolist() == [WATER, VALID, NOT_EMBEDDED]
    assert np.nanmin(VIEW.values(side_by_side(second, second)), initial=0) >= 0


def test_opposite_and_empty_codes_are_told_apart() -> None:
    first = Vectors(np.array([[1, 2], [1, 2], [0, 0]], np.int8), np.ones(3, np.float32), np.ones(3, np.uint8))
    second = Vectors(np.array([[-1, -2], [2, 4], [1, 1]], np.int8), np.ones(3, np.float32), np.ones(3, np.uint8))
    values = VIEW.values(side_by_side(first, second))[:, 0]
    assert values[:2] == pytest.approx([2, 0], abs=1e-6)
    assert np.isnan(values[2])
    for scale in (Scale(), Scale(-0.5, clip=True)):
        picture = ChangeView(YEAR, LAST, scale).picture(side_by_side(first, second))
        assert (picture[:, 0] > 0).tolist() == [True, True, False], "no direction, no colour"


def test_the_ramp_runs_from_the_threshold_to_the_top_and_clips_below() -> None:
    first = random_vectors((40, 40), 8)
    codes = first.codes.copy()
    codes[:20] = np.clip(codes[:20] + np.random.default_rng(0).integers(-60, 61, codes[:20].shape), -127, 127)
    pair = side_by_side(first, Vectors(codes, first.scales, first.status))
    change = VIEW.values(pair)[..., 0]
    view = ChangeView(YEAR, LAST, Scale(0.01, clip=True, top=0.2))
    picture = view.picture(pair)
    assert picture.shape == (40, 40, 1)
    seen = picture[..., 0] > 0
    assert (seen == (change >= np.float32(0.01))).all()
    assert {False, True} == set(seen.ravel().tolist())
    assert (view.palette[picture[..., 0]][change >= 0.2] == palette("ember")[255]).all()
    place = 1 + np.clip((change - 0.01) / (0.2 - 0.01) * 254, 0, 254)
    assert np.abs(picture[..., 0] - place)[seen].max() <= 0.51
    assert (ChangeView(YEAR, LAST, Scale(0.01)).picture(pair) > 0).all()


def two(levels: tuple[int, ...] = (1, 2, 4, 8, 16, 32)) -> MemoryStore:
    """Both years in one store, the second one shorter by 40 rows."""
    first, second = scene(1), scene(2)
    row, col = corner("31N")
    store = MemoryStore(first.codes, first.scales, Zone(31), YEAR, row, col, status=first.status, levels=levels)
    cut = Vectors(second.codes[40:], second.scales[40:], second.status[40:])
    store.add(cut.codes, cut.scales, Zone(31), LAST, row + 40, col, status=cut.status)
    return store


def place_of(store: MemoryStore, at: float) -> tuple[float, float]:
    """(lon, lat) of a pixel on the diagonal."""
    part = store.parts[0]
    lon, lat = part.grid.to_lonlat(np.array([part.row0 + at]), np.array([part.col0 + at]))
    return float(lon[0]), float(lat[0])


def source_of(store: MemoryStore, other: MemoryStore | None = None, *, picture: bool = False) -> Source:
    return Source(store, YEAR, VIEW, DIMS, picture, other=Side(other or store, LAST))


@pytest.mark.parametrize("z", [9, 11, 13, 15])
def test_each_picture_pixel_shows_the_change_of_one_stored_pixel(z: int) -> None:
    """In one store or in two, at the level that fits the zoom; transparent unless valid in both."""
    store = two()
    apart = MemoryStore(store.parts[1].vectors.codes, store.parts[1].vectors.scales, Zone(31), LAST,
                        store.parts[1].row0, store.parts[1].col0, status=store.parts[1].vectors.status,
                        levels=(1, 2, 4, 8, 16, 32))  # fmt: skip
    lon, lat = place_of(store, 80)
    target = tile_target(TMS, *TMS.tile(lon, lat, z))
    source = source_of(store)
    (rectangle,) = plan(source, target)
    found = paint(source, target)
    sides = [store._read(Zone(31), window, rectangle.rows, rectangle.cols, rectangle.level) for window in (YEAR, LAST)]
    change = exact_change(*sides)
    rows, cols = rectangle.shown.rows // rectangle.level, rectangle.shown.cols // rectangle.level
    rows, cols = rows - rectangle.rows.start, cols - rectangle.cols.start
    held = (rows >= 0) & (rows < change.shape[0]) & (cols >= 0) & (cols < change.shape[1])
    truth = np.full(256 * 256, np.nan)
    truth[rectangle.shown.pixels[held]] = change[rows[held], cols[held]]
    assert (found.mask[0].ravel() == np.isnan(truth)).all()
    held = ~np.isnan(truth)
    assert held.sum() > 2
    assert np.abs(found.data[0].ravel() - truth)[held].max() < 1e-5
    np.testing.assert_array_equal(paint(source_of(store, apart), target).data, found.data)


def test_zones_that_only_one_window_has_show_nothing() -> None:
    store, other = two(), two()
    other.parts = [part for part in other.parts if part.window == LAST]
    north = scene(3, 40)
    store.add(north.codes, north.scales, Zone(32), YEAR, *corner("32N"), status=north.status)
    lon, lat = archive_grid(Zone(32)).to_lonlat(*(np.array([axis + 9.0]) for axis in corner("32N")))
    tile = TMS.tile(float(lon[0]), float(lat[0]), 13)
    source = source_of(store, other)
    assert plan(source, tile_target(TMS, *tile)) == ()
    assert paint(source, tile_target(TMS, *tile)).mask.all()
    assert source.at(float(lon[0]), float(lat[0])).status.tolist() == [OUTSIDE]
    assert Source(store, YEAR, VectorView(DIMS), DIMS).at(float(lon[0]), float(lat[0])).valid.all()


def test_windows_that_cannot_be_compared_are_refused() -> None:
    store, other = two(), two()
    other.identity = ModelIdentity("other", "7")
    with pytest.raises(IdentityMismatch, match=r"other@7.*fake@1|fake@1.*other@7"):
        source_of(store, other)
    vectors = scene(2)
    grid = archive_grid(Zone(31))
    moved = ZoneGrid(grid.zone, grid.x0 + 5, grid.y0, grid.width, grid.height)
    shifted = MemoryStore(vectors.codes, vectors.scales, moved, LAST, *corner("31N"))
    with pytest.raises(Conflict, match="different grids in zone 31N"):
        source_of(store, shifted)
    with pytest.raises(InvalidInput, match="two windows"):
        Source(store, YEAR, VIEW, DIMS)
    with pytest.raises(InvalidInput, match="two windows"):
        Source(store, YEAR, PcaView(fit_basis(store, [YEAR])), DIMS, other=Side(store, LAST))


# Over HTTP, on repositories on disk


def write(tiny: Tiny, vectors: Vectors, window: Window) -> None:
    row, col = tiny.row, tiny.col
    tiny.store.write(blocks_from("31N", row, col, vectors, window, Counts.zeros(vectors.status.shape)), "again")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tiny]:
    """2024 and 2023 in one repository, a summer in another; with overviews of those that tests look at from afar."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "datasets"
    folder.mkdir()
    tiny = tiny_archive(folder, scene(1))
    write(tiny, scene(2), LAST)
    for window in (YEAR, LAST):
        tiny.store.write_overviews(window)
    name = repository_name("tiny", SUMMER).removesuffix(".icechunk")
    tiny_archive(folder, scene(3), window=SUMMER, name=name).store.write_overviews(SUMMER)
    with client_of(Settings(home=home, catalogue=Path("none.toml"))) as client:
        assert client.post("/bases", json={"dataset": "tiny", "windows": ["2024"]}).status_code == 201
    return home, tiny


@pytest.fixture(scope="module")
def made(world: tuple[Path, Tiny]) -> tuple[TestClient, Tiny]:
    """A client of it. Not to be written to."""
    return client_of(Settings(home=world[0], catalogue=Path("none.toml"))), world[1]


@pytest.fixture
def own(world: tuple[Path, Tiny], tmp_path: Path) -> tuple[TestClient, Tiny]:
    """A client of a copy that a test may write to."""
    home, tiny = world
    shutil.copytree(home, tmp_path / "home")
    store = cast(WritableArchive, open_store(str(tmp_path / "home" / "datasets" / "tiny.icechunk")))
    client = client_of(Settings(home=tmp_path / "home", catalogue=Path("none.toml")))
    return client, replace(tiny, store=store)


def tile_path(tiny: Tiny, z: int, view: str, window: str = "2024", suffix: str = ".npy", at: int = 160) -> str:
    tile = TMS.tile(*tiny.lonlat(at, at), z)
    return f"/datasets/tiny/{window}/tiles/WebMercatorQuad/{z}/{tile.x}/{tile.y}{suffix}?view={view}"


def array(client: TestClient, path: str) -> np.ndarray:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return np.asarray(np.load(io.BytesIO(answer.content)))


@pytest.mark.parametrize("z", [9, 14])
def test_it_is_the_same_seen_from_either_window_and_from_another_repository(
    made: tuple[TestClient, Tiny], z: int
) -> None:
    client, tiny = made
    for first, second in (("2024", "2023"), ("2024", str(SUMMER))):
        one, other = (
            array(client, tile_path(tiny, z, f"change:{b}", a)) for a, b in ((first, second), (second, first))
        )
        assert one.shape == (1, 256, 256)
        assert np.isfinite(one).any()
        np.testing.assert_allclose(one, other, atol=5e-7)
    same = array(client, tile_path(tiny, z, "change:2024"))
    assert np.nanmax(same) < 1e-5


def test_point_statistics_and_geotiff_give_the_number(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    truth = exact_change(scene(1), scene(2))
    lon, lat = tiny.lonlat(100, 120)
    point = client.get(f"/datasets/tiny/2024/point/{lon},{lat}?view=change:2023").json()
    assert (point["status"], point["band_names"]) == ("valid", ["change"])
    assert point["values"] == [pytest.approx(truth[100, 120], abs=1e-5)]
    wet = client.get("/datasets/tiny/2024/point/{},{}?view=change:2023".format(*tiny.lonlat(40, 45))).json()
    assert (wet["status"], wet["values"]) == ("water", [None])
    numbers = client.get("/datasets/tiny/2024/statistics?view=change:2023&max_size=1024").json()["change"]
    assert numbers["mean"] == pytest.approx(np.nanmean(truth), rel=0.02)
    tif = client.get(tile_path(tiny, 14, "change:2023", suffix=".tif")).content
    with MemoryFile(tif) as memory, memory.open() as file:
        assert file.descriptions == ("change",)
        np.testing.assert_array_equal(file.read(), array(client, tile_path(tiny, 14, "change:2023")))


def test_pictures_are_clipped_numbers_are_not(made: tuple[TestClient, Tiny]) -> None:
    client, tiny = made
    change = array(client, tile_path(tiny, 14, "change:2023") + "&clip=true&threshold=0.9")[0]
    with MemoryFile(
        client.get(tile_path(tiny, 14, "change:2023", suffix=".png") + "&clip=true&threshold=0.9").content
    ) as png:
        alpha = png.open().dataset_mask()
    assert (np.nanmin(change) < 0.9) & (np.nanmax(change) > 0.9)
    assert ((alpha == 255) == (change >= 0.9)).all()


def test_a_tag_covers_the_blocks_of_both_windows_and_no_others(own: tuple[TestClient, Tiny]) -> None:
    client, tiny = own
    near, far = (tile_path(tiny, 15, "change:2023", suffix=".png", at=at) for at in (20, 300))
    before = {path: client.get(path).headers["etag"] for path in (near, far)}

    def status(path: str) -> int:
        client.app.state.smalti.datasets.look_now()  # type: ignore[attr-defined]
        return client.get(path, headers={"If-None-Match": before[path]}).status_code

    assert (status(near), status(far)) == (304, 304)
    for window in (LAST, YEAR):
        (data,) = [
            data
            for data in blocks_from("31N", *corner("31N"), scene(7), window, Counts.zeros((SIDE, SIDE)))
            if data.block.rows.start <= tiny.row < data.block.rows.stop
            and data.block.cols.start <= tiny.col < data.block.cols.stop
        ]
        tiny.store.write([data], "one block of one window")
        assert (status(near), status(far)) == (200, 304), window
        before = {path: client.get(path).headers["etag"] for path in (near, far)}
    headers = client.get(near).headers
    assert (headers["x-smalti-window"], headers["x-smalti-other-window"]) == ("2024", "2023")
    assert headers["x-smalti-other-revision"] == tiny.store.revision()[0]


@pytest.mark.parametrize("rewritten", [YEAR, LAST])
def test_an_overview_that_is_stale_in_either_window_is_passed_over_or_marked(
    own: tuple[TestClient, Tiny], rewritten: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, tiny = own
    path = tile_path(tiny, 9, "change:2023")
    fresh = client.get(path)
    assert "x-smalti-overview" not in fresh.headers
    write(tiny, scene(8), rewritten)
    client.app.state.smalti.datasets.look_now()  # type: ignore[attr-defined]
    source = Source(tiny.store, YEAR, VIEW, DIMS, False, other=Side(tiny.store, LAST))
    target = tile_target(TMS, *TMS.tile(*tiny.lonlat(160, 160), 9))
    assert [(r.level, r.stale) for r in plan(source, target)] == [(1, False)]
    monkeypatch.setattr(planning, "MAX_SOURCE_BYTES", SIDE * SIDE * DIMS // 4)
    assert [r.stale for r in plan(source, target)] == [True]
    assert touched(source, target).stale
    old = client.get(path)
    assert old.headers["x-smalti-overview"] == "stale"
    assert old.content == fresh.content
    assert old.headers["etag"] != fresh.headers["etag"]


def test_both_windows_count_towards_what_one_request_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store = two((1,))
    target = tile_target(TMS, *TMS.tile(*place_of(store, 160), 10))
    (rectangle,) = plan(source_of(store), target)
    monkeypatch.setattr(planning, "MAX_SOURCE_BYTES", rectangle.count * DIMS * 3 // 2)
    with pytest.raises(InvalidInput, match="would read"):
        plan(source_of(store), target)
    assert plan(Source(store, LAST, VectorView(DIMS), DIMS, False), target)


def test_what_a_dataset_offers_and_what_the_legend_says(made: tuple[TestClient, Tiny], tmp_path: Path) -> None:
    client, _ = made
    info: dict[str, Any] = client.get("/datasets/tiny").json()
    assert info["windows"] == ["2023", "2024", str(SUMMER)]
    assert "change" in info["views"]
    legend = client.get(f"/datasets/tiny/2024/legend?view=change:{SUMMER}&threshold=0.1&top=0.5&clip=true").json()
    assert legend["windows"] == ["2024", str(SUMMER)]
    assert (legend["range"], legend["unit"], legend["clip"]) == ([0.1, 0.5], "1 - cosine", True)
    assert legend["colours"][0] == "#" + bytes(palette("ember")[1, :3]).hex()
    assert "channels" not in legend
    document = client.get(f"/datasets/tiny/2024/WebMercatorQuad/tilejson.json?view=change:{SUMMER}&clip=true").json()
    assert "change" in document["tiles"][0]
    assert "clip=true" in document["tiles"][0]
    for view, status in (("change:1999", 404), ("change:later", 422), ("change:", 422), ("change", 422)):
        refused = client.get(f"/datasets/tiny/2024/legend?view={view}")
        assert (refused.status_code, refused.json()["field"]) == (status, "view"), view
    alone = tmp_path / "alone" / "datasets"
    alone.mkdir(parents=True)
    tiny_archive(alone, scene(1))
    lonely = client_of(Settings(home=tmp_path / "alone", catalogue=Path("none.toml")))
    assert "change" not in json.loads(lonely.get("/datasets/tiny").text)["views"]


def test_zoom_levels_reach_as_low_as_the_overviews_of_both(made: tuple[TestClient, Tiny]) -> None:
    _, tiny = made
    pair = TileReader(Source(tiny.store, YEAR, VIEW, DIMS, other=Side(tiny.store, LAST)))
    alone = TileReader(Source(tiny.store, YEAR, VectorView(DIMS), DIMS))
    assert (pair.minzoom, pair.maxzoom) == (alone.minzoom, alone.maxzoom)
    assert pair._levels == [1, *LEVELS]
    assert BLOCK < SIDE, "the scene spans several blocks"
