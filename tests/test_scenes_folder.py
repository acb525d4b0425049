"""D-pixel folders in the published layout: patches of two zones, padded or overlapping, with days of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from service.dpixels import DPixels
from service.errors import Corrupt, InvalidInput, NotFound
from service.grid import PIXEL, Block, Zone, archive_grid
from service.origins import places_of, source_in, sources_of
from service.scenes import folder as folders
from service.scenes.access import Access
from service.scenes.gdal import geotiff
from service.sources import Cost, Source
from service.values import Window

YEAR = Window.year(2024)
ROW, COL = 256 * 1395 + 250, 256 * 100 + 10
"""Of the first patch: over the edge between two rows of blocks."""


def patch(
    folder: Path, place: tuple[Zone, int, int], shape: tuple[int, int], frames: tuple[int, int, int], fill: int,
    region: Any = 1, first_day: int = 5,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Arrays that tell the patch (`fill`), the frame and the pixel."""
    zone, row, col = place
    folder.mkdir(parents=True)
    t, asc, desc = frames
    pixel = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)

    def values(count: int, channels: int, dtype: type) -> np.ndarray:
        frame = np.arange(count)[:, None, None, None] * 100
        return (fill + frame + pixel[None, :, :, None] + np.arange(channels)).astype(dtype)

    made = {
        "bands": values(t, 10, np.uint16), "masks": np.ones((t, *shape), np.uint8),
        "doys": np.arange(first_day, first_day + t, dtype=np.uint16),
        "sar_ascending": values(asc, 2, np.int16), "sar_ascending_doy": np.arange(9, 9 + asc, dtype=np.int32),
        "sar_descending": values(desc, 2, np.int16), "sar_descending_doy": np.arange(7, 7 + desc, dtype=np.int16),
    }  # fmt: skip
    for name, array in made.items():
        np.save(folder / f"{name}.npy", array)
    grid = archive_grid(zone)
    with rasterio.open(
        folder / "roi.tiff", "w", driver="GTiff", height=shape[0], width=shape[1], count=1, dtype="uint8",
        crs=grid.crs, transform=Affine(PIXEL, 0, grid.x0 + col * PIXEL, 0, -PIXEL, grid.y0 - row * PIXEL),
    ) as file:  # fmt: skip
        file.write(np.broadcast_to(np.asarray(region, np.uint8), shape), 1)
    return made


def of(folder: Path, window: Window = YEAR) -> dict[str, Any]:
    """The document of a folder."""
    return {"type": "dpixels", "folder": str(folder), "window": str(window)}


def source(folder: Path, zone: str = "30N", **more: Any) -> Source:
    return source_in({**of(folder), **more}, YEAR, None, Zone.parse(zone))


def at(d: DPixels, row: int, col: int) -> tuple[list[int], list[int], list[int]]:
    """Days, first bands and first ascending values of a pixel's valid observations."""
    i = row * d.shape[1] + col
    good, asc = d.s2_valid[i], d.s1_asc_valid[i]
    return d.s2_doy[i][good].tolist(), d.s2[i, good, 0].tolist(), d.s1_asc[i, asc, 0].tolist()


def test_patches_are_put_together_by_where_they_lie(tmp_path: Path) -> None:
    region = np.ones((12, 10), np.uint8)
    region[:, 8:] = 0  # padding, whatever the arrays hold there
    zone = Zone(30)
    patch(tmp_path / "0_0_10_12", (zone, ROW, COL), (12, 10), (4, 2, 1), 1000, region)
    patch(tmp_path / "deep" / "8_0_12_6", (zone, ROW, COL + 8), (6, 4), (2, 3, 0), 3000, first_day=50)
    patch(tmp_path / "other", (Zone(31), 357_120, 20_000), (5, 5), (3, 0, 0), 5000)
    found = sources_of(of(tmp_path), YEAR)
    assert [s.placement.zone.name for s in found] == ["30N", "31N"]
    whole = found[0].placement
    assert (whole.row, whole.col, whole.height, whole.width) == (ROW, COL, 12, 12)
    upper, lower = Block("30N", 1395, 100), Block("30N", 1396, 100)
    d = found[0].read(*whole.within(upper))
    assert d.shape == (6, 12)
    assert at(d, 1, 2) == ([5, 6, 7, 8], [1012, 1112, 1212, 1312], [1012, 1112])
    assert at(d, 1, 9) == ([50, 51], [3005, 3105], [3005, 3105, 3205])
    d = found[0].read(*whole.within(lower))
    assert at(d, 0, 2) == ([5, 6, 7, 8], [1062, 1162, 1262, 1362], [1062, 1162])
    assert at(d, 0, 8) == ([], [], [])  # outside the region, and below the second patch
    assert not d.s2[8].any()
    assert not d.s2_doy[8].any()
    assert found[0].cost_of([upper, lower]) == Cost(0, 0)
    assert found[0].provenance(lower)["patches"] == ["0_0_10_12"]


def test_where_patches_overlap_the_last_by_name_counts(tmp_path: Path) -> None:
    patch(tmp_path / "a", (Zone(30), ROW, COL), (4, 4), (3, 1, 1), 1000)
    patch(tmp_path / "b", (Zone(30), ROW, COL + 2), (4, 4), (1, 1, 1), 2000)
    d = source(tmp_path).read(slice(0, 4), slice(0, 6))
    assert at(d, 0, 1)[1] == [1001, 1101, 1201]
    assert at(d, 0, 2)[1] == [2000]
    assert at(d, 0, 5)[1] == [2003]


def test_a_digest_tells_of_the_files_of_its_block(tmp_path: Path) -> None:
    patch(tmp_path / "a", (Zone(30), ROW, COL), (12, 4), (3, 1, 1), 1000)
    patch(tmp_path / "b", (Zone(30), ROW + 6, COL + 4), (4, 4), (1, 1, 1), 2000)
    upper, lower = Block("30N", 1395, 100), Block("30N", 1396, 100)
    before = source(tmp_path).digest_of(upper), source(tmp_path).digest_of(lower)
    np.save(tmp_path / "b" / "masks.npy", np.zeros((1, 4, 4), np.uint8))
    after = source(tmp_path).digest_of(upper), source(tmp_path).digest_of(lower)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_what_is_no_d_pixel_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no d-pixels"):
        source(tmp_path)
    patch(tmp_path / "a", (Zone(30), ROW, COL), (4, 4), (3, 1, 1), 1000, first_day=100)
    with pytest.raises(NotFound, match="show 2023, not 2024"):
        source(tmp_path, window="2023")
    summer = Window.parse("2024-05-01..2024-09-30")
    season = source_in(of(tmp_path, summer), summer, None, Zone(30))
    with pytest.raises(InvalidInput, match="day 100 of the year lies outside"):
        season.read(slice(0, 4), slice(0, 4))
    (tmp_path / "a" / "masks.npy").write_bytes(b"nothing")
    with pytest.raises(Corrupt, match=r"masks\.npy cannot be read"):
        source(tmp_path).read(slice(0, 4), slice(0, 4))
    np.save(tmp_path / "a" / "masks.npy", np.ones((3, 4, 4), np.uint8))
    np.save(tmp_path / "a" / "bands.npy", np.ones((3, 5, 4, 10), np.uint16))
    with pytest.raises(InvalidInput, match="bands cover"):
        source(tmp_path).read(slice(0, 4), slice(0, 4))


def test_a_folder_that_does_not_say_which_window_it_shows_is_refused(tmp_path: Path) -> None:
    """Its arrays hold days of a year and not which: any year asked for would be made of the same observations."""
    patch(tmp_path / "a", (Zone(30), ROW, COL), (4, 4), (3, 1, 1), 1000)
    for year in (2018, 2024):
        with pytest.raises(Corrupt, match="'dpixels' cannot be made from its document: it lacks 'window'") as refused:
            sources_of({"type": "dpixels", "folder": str(tmp_path)}, Window.year(year))
        assert "docs/stores.md" in str(refused.value)
    shown = of(tmp_path, Window.year(2018))
    assert [place.zone.name for place in places_of(shown)] == ["30N"], "its place does not hang on a window asked for"
    assert len(sources_of(shown, Window.year(2018))) == 1
    with pytest.raises(NotFound, match=r"show 2018, not 2024\. Ask for 2018"):
        sources_of(shown, YEAR)


def test_a_patch_whose_arrays_cover_other_pixels_or_lack_one_is_named(tmp_path: Path) -> None:
    patch(tmp_path / "a", (Zone(30), ROW, COL), (4, 4), (3, 1, 1), 1000)
    np.save(tmp_path / "a" / "sar_ascending.npy", np.ones((1, 6, 4, 2), np.int16))
    with pytest.raises(InvalidInput, match=r"a: sar_ascending covers \(6, 4\) pixels"):
        source(tmp_path).read(slice(0, 4), slice(0, 4))
    np.save(tmp_path / "a" / "masks.npy", np.ones((3, 4), np.uint8))
    with pytest.raises(InvalidInput, match="a: masks covers"):
        source(tmp_path).read(slice(0, 4), slice(0, 4))
    (tmp_path / "a" / "doys.npy").unlink()
    with pytest.raises(Corrupt, match=r"a/doys\.npy cannot be read"):
        source(tmp_path).digest_of(Block("30N", 1395, 100))


def test_a_patch_is_opened_again_only_where_its_region_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch(tmp_path / "a", (Zone(30), ROW, COL), (4, 4), (3, 1, 1), 1000)
    patch(tmp_path / "b", (Zone(30), ROW + 4, COL), (4, 4), (3, 1, 1), 1000)
    opened: list[str] = []
    monkeypatch.setattr(folders, "geotiff", lambda path: opened.append(path.parent.name) or geotiff(path))
    assert (source(tmp_path).placement.height, source(tmp_path).placement.height) == (8, 8)
    assert opened == ["a", "b"]
    shutil.rmtree(tmp_path / "b")
    patch(tmp_path / "b", (Zone(30), ROW + 8, COL), (4, 4), (3, 1, 1), 1000)
    assert source(tmp_path).placement.height == 12
    assert opened == ["a", "b", "b"]


def test_only_folders_that_may_be_read_are(tmp_path: Path) -> None:
    patch(tmp_path / "a", (Zone(30), ROW, COL), (4, 4), (3, 1, 1), 1000)
    document = of(tmp_path / "a")
    assert len(sources_of(document, YEAR, Access(folders=(tmp_path,)))) == 1
    with pytest.raises(Corrupt, match="outside the folders that scenes may come from"):
        sources_of(document, YEAR, Access(folders=(tmp_path / "b",)))
