"""Overviews that are old or missing: never shown for the vectors they no longer, or never, stood for unmarked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import morecantile
import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.catalogue import Dataset
from api.settings import Settings
from service import plan as planning
from service.colour import VectorView
from service.errors import LimitExceeded
from service.grid import Zone, archive_grid
from service.paint import paint
from service.plan import Source, plan, touched
from service.store import open_store
from service.store.writable import WritableArchive
from service.tiles import TileReader, tile_target
from service.values import VALID, Counts, Vectors, Window
from tests.conftest import client_of
from tests.fakes import Datasets
from tests.stores import YEAR, Tiny, blocks_from, corner, tiny_archive

TMS = morecantile.tms.get("WebMercatorQuad")
SIDE, DIMS = 320, 4
NEXT = Window.year(2025)


def flat(value: int, side: int = SIDE) -> Vectors:
    codes = np.zeros((side, side, DIMS), np.int8)
    codes[..., 0] = 2 * value
    return Vectors(codes, np.full((side, side), 0.5, np.float32), np.full((side, side), VALID, np.uint8))


def write(tiny: Tiny, vectors: Vectors, window: Window = YEAR, zone: str = "31N") -> None:
    row, col = corner(zone)
    counts = Counts.zeros(vectors.status.shape)
    tiny.store.write(blocks_from(zone, row, col, vectors, window, counts), "again")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Pixels that hold 1, with overviews. Not to be written to."""
    made = tiny_archive(tmp_path_factory.mktemp("made") / "datasets", flat(1))
    made.store.write_overviews(YEAR)
    return made


@pytest.fixture
def tiny(made: Tiny, tmp_path: Path) -> Tiny:
    """A copy of them that a test may write to."""
    folder = Path(made.store.location).parent
    shutil.copytree(folder, tmp_path / "datasets")
    store = open_store(str(tmp_path / "datasets" / Path(made.store.location).name))
    return replace(made, store=cast(WritableArchive, store))


def source_of(tiny: Tiny, window: Window = YEAR) -> Source:
    return Source(tiny.store, window, VectorView(DIMS), DIMS, picture=False)


def low_tile(tiny: Tiny, z: int = 9) -> tuple[int, int, int]:
    tile = TMS.tile(*tiny.lonlat(SIDE // 2, SIDE // 2), z)
    return tile.x, tile.y, tile.z


def shown(tiny: Tiny, window: Window = YEAR, z: int = 9) -> set[float]:
    """The values of the first dimension that a low tile shows."""
    image = TileReader(source_of(tiny, window)).tile(*low_tile(tiny, z))
    return set(np.rint(image.array[0].compressed()).tolist())


def levels(tiny: Tiny, window: Window = YEAR, z: int = 9) -> list[int]:
    return [rectangle.level for rectangle in plan(source_of(tiny, window), tile_target(TMS, *low_tile(tiny, z)))]


def test_a_rewritten_block_is_shown_from_the_finest_level_that_is_current(tiny: Tiny) -> None:
    assert shown(tiny) == {1}
    assert levels(tiny) == [16]
    before = touched(source_of(tiny), tile_target(TMS, *low_tile(tiny)))
    write(tiny, flat(9))
    after = touched(source_of(tiny), tile_target(TMS, *low_tile(tiny)))
    assert shown(tiny) == {9}
    assert levels(tiny) == [1]
    assert before.blocks is not None
    assert after.blocks is not None
    assert {block.level for block in before.blocks} == {16}
    assert {block.level for block in after.blocks} == {1}
    assert not after.stale
    tiny.store.write_overviews(YEAR)
    assert levels(tiny) == [16]
    assert shown(tiny) == {9}


def budget(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    monkeypatch.setattr(planning, "MAX_SOURCE_BYTES", pixels * DIMS)


def test_a_stale_overview_is_marked_where_nothing_finer_may_be_read(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tiny, flat(9))
    budget(monkeypatch, SIDE * SIDE // 8)
    source, target = source_of(tiny), tile_target(TMS, *low_tile(tiny))
    assert [(r.level, r.stale) for r in plan(source, target)] == [(16, True)]
    assert touched(source, target).stale
    assert shown(tiny) == {1}
    paint(source, target)
    assert source.notes == {"stale"}
    tiny.store.write_overviews(YEAR)
    assert [(r.level, r.stale) for r in plan(source, target)] == [(16, False)]
    assert not touched(source, target).stale


def test_a_window_without_overviews_beside_one_that_has_them_is_shown(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tiny, flat(5), NEXT)
    assert shown(tiny, NEXT) == {5}
    assert shown(tiny, YEAR) == {1}
    budget(monkeypatch, SIDE * SIDE // 8)
    with pytest.raises(LimitExceeded, match="overviews"):
        shown(tiny, NEXT)
    monkeypatch.setattr("service.tiles.MAX_SOURCE_BYTES", SIDE * SIDE * DIMS)
    assert TileReader(source_of(tiny, NEXT)).minzoom > TileReader(source_of(tiny, YEAR)).minzoom


def test_a_zone_without_overviews_beside_one_that_has_them_is_shown(tiny: Tiny) -> None:
    lat = tiny.lonlat(0, 0)[1]
    row, col = archive_grid(Zone(32)).cell(6.5, lat)
    tiny.store.write(blocks_from("32N", row, col, flat(7), YEAR, Counts.zeros((SIDE, SIDE))), "next zone")
    target = tile_target(TMS, *TMS.tile(4.5, lat, 5))
    source = source_of(tiny)
    found = {rectangle.shown.grid.zone.name: rectangle.level for rectangle in plan(source, target)}
    assert found == {"31N": 32, "32N": 1}, "the world is stale"
    values = set(np.rint(paint(source, target)[0].compressed()).tolist())
    assert values == {1, 7}


def served(tiny: Tiny, home: Path) -> TestClient:
    client = client_of(Settings(home=home, catalogue=Path("none.toml")))
    state = client.app.state.smalti  # type: ignore[attr-defined]
    state.datasets = Datasets({"tiny": Dataset("tiny", tiny.store, "Tiny", "CC0")})
    assert client.post("/bases", json={"dataset": "tiny"}).status_code == 201
    return client


def test_answers_say_that_they_are_stale_and_their_validators_follow(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = served(tiny, tmp_path)
    x, y, z = low_tile(tiny)
    west, north = tiny.lonlat(-4, -4)
    east, south = tiny.lonlat(SIDE + 4, SIDE + 4)
    tile = f"/datasets/tiny/2024/tiles/WebMercatorQuad/{z}/{x}/{y}.npy"
    box = f"/datasets/tiny/2024/bbox/{west},{south},{east},{north}/20x20.npy"
    fresh = client.get(tile)
    assert fresh.status_code == 200, fresh.text
    assert "x-smalti-overview" not in fresh.headers
    write(tiny, flat(9))
    budget(monkeypatch, SIDE * SIDE // 8)
    old = client.get(tile)
    assert old.headers["x-smalti-overview"] == client.get(box).headers["x-smalti-overview"] == "stale"
    assert old.content == fresh.content
    assert old.headers["etag"] != fresh.headers["etag"]
    again = client.get(tile, headers={"If-None-Match": old.headers["etag"]})
    assert (again.status_code, again.headers["x-smalti-overview"]) == (304, "stale")
    tiny.store.write_overviews(YEAR)
    for path in (tile, box):
        renewed = client.get(path, headers={"If-None-Match": old.headers["etag"]})
        assert renewed.status_code == 200
        assert "x-smalti-overview" not in renewed.headers
        assert renewed.content != old.content
