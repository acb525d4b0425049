"""The landscape as scenes: read again without any of our reading code, they are its d-pixels; and their catalogue."""

from __future__ import annotations

import datetime as dt
import json
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from pystac_client import Client

from service.dpixels import BANDS
from service.errors import InvalidInput
from service.grid import PIXEL, Zone, archive_grid
from service.simulate import Landscape
from service.simulate.scenes import linear, publish
from service.simulate.stac import STYLES
from service.simulate.terrain import Terrain
from service.sources import Placement
from service.values import Window
from tests.scenery import SMALL, publish_terrain, serving, terrain_at

AWS = dict(zip(BANDS, ("red", "blue", "green", "nir", "nir08", "rededge1", "rededge2", "rededge3", "swir16", "swir22"),
               strict=True)) | {"SCL": "scl"}  # fmt: skip
_JSON = "application/json"
WINDOW = Window(dt.date(2022, 1, 19), dt.date(2022, 2, 1))
"""Over the day from which values are lifted by 1000."""


class Reader:
    """Scenes of one folder on the grid of one zone, by rasterio and numpy alone."""

    def __init__(self, folder: Path, mode: str, zone: Zone, rows: slice, cols: slice) -> None:
        self.folder, self.mode, self.zone, self.rows, self.cols = folder, mode, zone, rows, cols
        self.shape = rows.stop - rows.start, cols.stop - cols.start

    def days(self, collection: str) -> dict[tuple[str, str | None], list[Path]]:
        found = defaultdict(list)
        for path in sorted((self.folder / collection).glob("*/*.json")):
            item = json.loads(path.read_text())
            if item["properties"]["proj:code"] == f"EPSG:{self.zone.epsg}":
                orbit = item["properties"].get("sat:orbit_state")
                if collection.startswith("OPERA"):
                    with rasterio.open(next(path.parent.glob("*_VV.tif"))) as file:
                        orbit = file.tags()["ORBIT_PASS_DIRECTION"]
                found[item["properties"]["datetime"][:10], orbit].append(path.parent)
        return dict(sorted(found.items()))

    def read(self, path: Path, outside: float) -> np.ndarray:
        """A file's values at their place in the rectangle."""
        with rasterio.open(path) as file:
            data, (a, b, x, d, e, y) = file.read(1), file.transform[:6]
            assert file.crs.to_epsg() == self.zone.epsg
        assert (a, b, d, e) == (10, 0, 0, -10)
        grid = archive_grid(self.zone)
        down, across = round((grid.y0 - y) / PIXEL) - self.rows.start, round((x - grid.x0) / PIXEL) - self.cols.start
        assert down >= 0
        assert across >= 0
        out = np.full(self.shape, outside, data.dtype)
        out[down : down + data.shape[0], across : across + data.shape[1]] = data
        return out

    def optical(self, date: str, scenes: list[Path]) -> tuple[np.ndarray, np.ndarray]:
        """(h, w, 10) values of the first scene whose class is valid, without offset; (h, w) where there is one."""
        name = (lambda band: AWS[band]) if self.mode == "aws" else str
        values, valid = np.zeros((*self.shape, 10), np.int64), np.zeros(self.shape, bool)
        for scene in scenes:
            usable = ~np.isin(self.read(scene / f"{name('SCL')}.tif", 0), (0, 1, 2, 3, 8, 9)) & ~valid
            bands = np.stack([self.read(scene / f"{name(band)}.tif", 0) for band in BANDS], axis=-1)
            values[usable] = bands[usable]
            valid |= usable
        lifted = 1000 if self.mode == "mpc" and date > "2022-01-25" else 0
        assert (values[valid] > lifted).all()
        return np.where(valid[..., None], values - lifted, 0), valid

    def radar(self, scenes: list[Path]) -> np.ndarray:
        """(h, w, 2) scaled values of the first scene that has any."""
        out = np.zeros((*self.shape, 2), np.int16)
        for scene in scenes:
            files = (scene / f"{'' if self.mode == 'mpc' else scene.name + '_'}{p}.tif" for p in self.polarised)
            power = np.stack([self.read(file, np.nan) for file in files], axis=-1)
            good = np.isfinite(power) & (power > 0) & (out == 0)
            with np.errstate(all="ignore"):
                scaled = np.clip((20 * np.log10(power) + 50) * 200, 0, 32767)
            out[good] = scaled[good].astype(np.int16)
        return out

    @property
    def polarised(self) -> tuple[str, str]:
        return ("vv", "vh") if self.mode == "mpc" else ("VV", "VH")


def require_truth(terrain: Terrain, reader: Reader, window: Window) -> None:
    """Scenes hold what the landscape holds, wherever a pixel is usable."""
    truth = terrain.dpixels(window, reader.zone, reader.rows, reader.cols)
    style, year = STYLES[reader.mode], window.start.year
    days = {date: scenes for (date, _), scenes in reader.days(style.s2).items()}
    assert [dt.date.fromisoformat(date).timetuple().tm_yday for date in days] == truth["doys"].tolist()
    assert len(days) == 3
    assert max(map(len, days.values())) > 1, "no day has several scenes"
    for i, (date, scenes) in enumerate(days.items()):
        for order in (scenes, scenes[::-1]):
            values, valid = reader.optical(date, order)
            assert np.array_equal(valid, truth["masks"][i] == 1), date
            assert np.array_equal(values[valid], truth["bands"][i][valid]), date
    for orbit in ("ascending", "descending"):
        passes = {date: scenes for (date, o), scenes in reader.days(style.s1).items() if o == orbit}
        expected = [str(dt.date(year, 1, 1) + dt.timedelta(int(day) - 1)) for day in truth[f"sar_{orbit}_doy"]]
        assert list(passes) == expected
        for i, scenes in enumerate(passes.values()):
            assert np.array_equal(reader.radar(scenes), truth[f"sar_{orbit}"][i])


@pytest.mark.parametrize(
    ("mode", "lon", "lat"),
    [
        ("mpc", 6.0, 47.0),
        ("aws", -63.0, -12.0),
        pytest.param("mpc", 179.9998, -17.0, marks=pytest.mark.slow),
        pytest.param("aws", 25.0, 0.0, marks=pytest.mark.slow),
    ],
)
def test_scenes_are_the_landscape(mode: str, lon: float, lat: float, tmp_path: Path) -> None:
    terrain = terrain_at(lon, lat, side=40)
    publish_terrain(terrain, tmp_path, mode, WINDOW)
    zones = terrain.zones()
    assert len(zones) == (1 if lat == -12.0 else 2)
    seen = 0
    for zone in zones:
        rows, cols = terrain.seen_in(zone)
        reader = Reader(tmp_path, mode, zone, rows, cols)
        require_truth(terrain, reader, WINDOW)
        seen += int(terrain.cells(zone, rows, cols)[2].sum())
    assert abs(seen / 40**2 - 1) < 0.04, "each place is seen in one zone"  # whose pixels differ a little in size
    for path in tmp_path.glob("*/*/*.json"):
        west, _, east, _ = json.loads(path.read_text())["bbox"]
        assert 0 < east - west < 0.02, "scenes are looked for where they are, at the antimeridian too"


def test_the_home_zone_sees_the_landscapes_own_dpixels() -> None:
    terrain = terrain_at(2.3, 54.7, side=40)
    place = terrain.placement
    truth = terrain.dpixels(Window.year(2023), place.zone, place.rows, place.cols)
    own = Landscape(7, 40, 40).dpixels(2023)
    assert truth.keys() == own.keys()
    assert all(np.array_equal(truth[name], own[name]) for name in own)


def test_all_that_is_stored_of_radar_comes_back_in_both_precisions() -> None:
    stored = np.arange(1, 32767, dtype=np.int16)
    held = linear(stored)
    assert held.dtype == np.float32
    for kind in (np.float32, np.float64):
        back = np.clip((20 * np.log10(held.astype(kind)) + 50) * 200, 0, 32767).astype(np.int16)
        assert np.array_equal(back, stored)


def test_scenes_of_one_day_differ_where_both_look(tmp_path: Path) -> None:
    terrain = terrain_at(2.3, 54.7, side=48)
    publish_terrain(terrain, tmp_path, "mpc", Window(dt.date(2023, 6, 1), dt.date(2023, 6, 12)))
    reader = Reader(tmp_path, "mpc", terrain.placement.zone, terrain.placement.rows, terrain.placement.cols)
    differ, missing = 0, 0
    for scenes in reader.days("sentinel-2-l2a").values():
        classes = np.stack([reader.read(scene / "SCL.tif", 0) for scene in scenes])
        both = (classes > 0).sum(axis=0) > 1
        least, most = classes.min(axis=0, where=classes > 0, initial=99), classes.max(axis=0)
        differ += int((least < most)[both].sum())
        missing += int((classes == 0).any(axis=0).sum())
        assert ((classes > 0).any(axis=0)).all(), "together they see all"
    assert differ > 100
    assert missing > 500


def test_what_is_there_is_not_written_again_and_other_days_are_added(tmp_path: Path) -> None:
    terrain = terrain_at(2.3, 54.7, side=16)
    first, second = (Window(dt.date(2024, m, 1), dt.date(2024, m, 14)) for m in (5, 6))
    ticks: list[tuple[int, int]] = []
    written = publish(terrain.landscape, terrain.placement, tmp_path, "aws", first, tiling=SMALL,
                      on_progress=lambda *tick: ticks.append(tick))  # fmt: skip
    assert ticks[-1][0] == ticks[-1][1] >= written > 0
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tif")}
    assert publish_terrain(terrain, tmp_path, "aws", first) == 0
    more = publish_terrain(terrain, tmp_path, "aws", second)
    assert more > 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    held = list(pystac.Catalog.from_file(str(tmp_path / "catalog.json")).get_items(recursive=True))
    assert len(held) == written + more
    for item in held:
        assert all(Path(str(asset.get_absolute_href())).exists() for asset in item.assets.values())


def test_who_is_stopped_while_the_catalogue_is_written_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terrain, window = terrain_at(2.3, 54.7, side=16), Window(dt.date(2024, 5, 1), dt.date(2024, 5, 14))
    write, files = Path.write_text, count()

    def stopped(path: Path, text: str) -> int:
        write(path, text[: len(text) // 2])
        if next(files) == 1:
            raise KeyboardInterrupt
        return write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", stopped)
        with pytest.raises(KeyboardInterrupt):
            publish_terrain(terrain, tmp_path, "mpc", window)
    assert publish_terrain(terrain, tmp_path, "mpc", window) > 0
    held = list(pystac.Catalog.from_file(str(tmp_path / "catalog.json")).get_items(recursive=True))
    assert {item.id for item in held} == {path.stem for path in tmp_path.glob("*/*/*.json")}


def test_no_other_mode_size_or_zone(tmp_path: Path) -> None:
    terrain = terrain_at(2.3, 54.7, side=8)
    for landscape, mode, ground in (
        (terrain.landscape, "gee", None), (Landscape(1, 9, 8), "mpc", None),
        (terrain.landscape, "mpc", Placement(Zone(32), 100, 100, 8, 8)),
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            publish(landscape, terrain.placement, tmp_path, mode, WINDOW, ground=ground)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scenes")
    publish_terrain(terrain_at(6.0, 47.0, side=32), made, "mpc", WINDOW)
    return made


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving(folder) as at:
        yield at


def test_pystac_client_finds_scenes_page_by_page(folder: Path, address: str) -> None:
    client = Client.open(address)
    assert {c.id for c in client.get_collections()} == {"sentinel-2-l2a", "sentinel-1-rtc"}
    asked = {"collections": ["sentinel-2-l2a"], "bbox": [5.99, 46.9, 6.01, 47.1], "datetime": "2022-01-20/2022-01-30"}
    expected = {
        path.stem for path in (folder / "sentinel-2-l2a").glob("*/*.json")
        if "20220120" <= path.stem[11:19] <= "20220130"
    }  # fmt: skip
    assert len(expected) > 10
    for method in ("GET", "POST"):
        search = client.search(method=method, limit=4, **asked)
        pages = list(search.pages_as_dicts())
        assert [len(page["features"]) for page in pages[:-1]] == [4] * (len(pages) - 1)
        found = [item["id"] for page in pages for item in page["features"]]
        assert set(found) == expected
        assert len(found) == len(expected)
        dates = [item["properties"]["datetime"][:10] for page in pages for item in page["features"]]
        assert dates == sorted(dates, reverse=True)
    clear = list(client.search(query={"eo:cloud_cover": {"lt": 60}}, **asked).items())
    assert 0 < len(clear) < len(expected)
    assert all(item.properties["eo:cloud_cover"] < 60 for item in clear)
    west = {
        "type": "Polygon",
        "coordinates": [[[5.99, 46.9], [5.999, 46.9], [5.999, 47.1], [5.99, 47.1], [5.99, 46.9]]],
    }
    assert {i.properties["proj:code"] for i in client.search(intersects=west, limit=100).items()} == {"EPSG:32631"}
    assert not list(client.search(bbox=[10, 40, 11, 41]).items())
    one = client.get_collection("sentinel-2-l2a").get_item(found[0])
    assert one is not None
    assert one.assets["B04"].href.startswith(address)


def test_files_are_answered_by_ranges(folder: Path, address: str) -> None:
    path = next((folder / "sentinel-2-l2a").glob("*/B04.tif"))
    at, whole = f"{address}/{path.relative_to(folder)}", path.read_bytes()
    for asked, expected in (("bytes=0-15", whole[:16]), ("bytes=100-199", whole[100:200]), ("bytes=-20", whole[-20:])):
        with urllib.request.urlopen(urllib.request.Request(at, headers={"Range": asked})) as answer:
            assert answer.status == 206
            assert answer.read() == expected
    with urllib.request.urlopen(at) as answer:
        assert (answer.status, answer.headers["accept-ranges"], answer.read()) == (200, "bytes", whole)
    for bad in ("/sentinel-2-l2a/nothing.tif", "/../../etc/passwd", "/collections/none", "/%2e%2e/%2e%2e/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address + bad)


@pytest.mark.parametrize(
    "body", [{"bbox": [1, 2]}, {"datetime": "yesterday"}, {"limit": 0}, {"query": {"a": {"like": 1}}}, {"token": "x"},
             {"bbox": ["a"] * 4}, {"intersects": {"type": "None"}}, [], {"datetime": 5}],
)  # fmt: skip
def test_what_is_no_search_is_told_so(address: str, body: object) -> None:
    request = urllib.request.Request(f"{address}/search", json.dumps(body).encode(), {"Content-Type": _JSON})
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request)
    assert raised.value.code == 400
    assert json.load(raised.value)["code"] == "invalid-input"


def test_the_static_catalogue_opens_from_disk_and_over_http(folder: Path, address: str) -> None:
    for root in (str(folder / "catalog.json"), f"{address}/catalog.json"):
        catalogue = pystac.Catalog.from_file(root)
        held = {c.id: list(c.get_items()) for c in catalogue.get_children()}
        assert set(held) == {"sentinel-2-l2a", "sentinel-1-rtc"}
        scene = held["sentinel-2-l2a"][0]
        assert set(scene.assets) == {*BANDS, "SCL"}
        assert str(scene.assets["B04"].get_absolute_href()).startswith(root.removesuffix("/catalog.json"))
    platforms = {item.properties["platform"] for item in held["sentinel-2-l2a"]}
    assert platforms == {"Sentinel-2A", "Sentinel-2B"}
    baselines = {i.properties["datetime"][:10]: i.properties["s2:processing_baseline"] for i in held["sentinel-2-l2a"]}
    assert {date > "2022-01-25": name for date, name in baselines.items()} == {False: "03.01", True: "04.00"}
    for item in held["sentinel-2-l2a"] + held["sentinel-1-rtc"]:
        with rasterio.open(folder / item.collection_id / item.id / next(iter(item.assets.values())).href[2:]) as file:
            assert item.properties["proj:shape"] == [file.height, file.width]
            assert item.properties["proj:transform"] == list(file.transform[:6])
            assert item.properties["proj:code"] == f"EPSG:{file.crs.to_epsg()}"
            assert file.driver == "GTiff"
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
