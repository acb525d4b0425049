"""The map page in a real browser: how often pixels were seen, how colours look, and colours fitted to a place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.settings import Settings
from tests import layouts
from tests.browser import GROUND, Page, eventually, somewhere
from tests.conftest import ROOT, running

pytestmark = pytest.mark.slow

FOREST = somewhere("broadleaf forest")


def test_how_often_each_pixel_was_seen(page: Page) -> None:
    page.open()
    colours = page.colour(FOREST)
    page.check("#views input[value=observations]")
    page.settle()
    page.shot("30-seen")
    assert page.texts("#legend .words span") == ["seldom seen", "often seen"]
    assert page.texts("#legend .ends:not(.words) span") == ["0", "25", "50", "75", "100 +"]
    assert "Valid Sentinel-2 dates" in page.inner_text("#legend")
    seen, ground = page.colour(FOREST), page.colour(GROUND)
    assert np.abs(seen - colours).max() > 10
    assert np.abs(seen - ground).max() > 30
    assert seen[2] > seen[0], "blue, as its legend"
    page.select_option("#sensor", "s1_desc")
    page.settle()
    assert "Sentinel-1 descending" in page.inner_text("#legend")
    assert page.texts("#legend .ends:not(.words) span")[-1] == "60 +"
    page.click("#looks summary")
    page.select_option("#colormap", "grey")
    page.settle()
    shown = page.colour(FOREST)
    assert shown.max() - shown.min() < 6
    page.reload()
    page.wait_for_selector("#choices:not([hidden])")
    page.settle()
    assert page.is_checked("#views input[value=observations]")
    assert (page.input_value("#sensor"), page.input_value("#colormap")) == ("s1_desc", "grey")
    assert np.abs(page.colour(FOREST) - shown).max() < 3
    page.check("#views input[value=pca]")
    assert page.is_hidden("#colormap")
    assert "colormap" not in page.url


def test_contrast_and_brightness_are_in_the_picture_the_legend_and_the_link(page: Page) -> None:
    page.open("/?view=bands&bands=5")
    assert page.is_checked("#alone")
    assert page.locator("#bands input[type=number]:visible").count() == 1
    before, ends = page.colour(FOREST), page.texts("#legend .ends:not(.words) span")
    page.click("#looks summary")
    assert page.is_disabled("#plain")
    page.locator("#contrast").fill("-2")
    page.settle()
    assert "contrast=-2" in page.url
    wide = [float(text) for text in page.texts("#legend .ends:not(.words) span")]
    plain = [float(text) for text in ends]
    assert wide[-1] - wide[0] == pytest.approx(4 * (plain[-1] - plain[0]), rel=0.1)
    page.click("#plain")
    page.settle()
    assert page.texts("#legend .ends:not(.words) span") == ends
    assert np.abs(page.colour(FOREST) - before).max() < 3
    page.locator("#gamma").fill("2")
    page.settle()
    assert page.colour(FOREST).sum() > before.sum()
    page.select_option("#colormap", "tide")
    page.settle()
    page.shot("31-one-number")
    page.uncheck("#alone")
    page.settle()
    assert page.locator("#bands input[type=number]:visible").count() == 3
    assert "bands=5,6,7" in page.url
    assert page.is_hidden("#colormap")
    assert "brightness" in page.inner_text("#legend")


def test_a_link_to_a_basis_that_is_gone_says_so_and_shows_what_there_is(page: Page) -> None:
    page.expected += ["status of 404"]
    page.open(f"/?dataset=demo&basis={'0' * 20}")
    eventually(lambda: "There is no basis 0000" in page.inner_text("#trouble"), "nobody says that the colours are gone")
    page.settle()
    assert page.input_value("#basis") == "default"
    assert "% of the variance" in page.inner_text("#legend")


def test_land_lies_on_one_world_and_seas_in_it_are_holes() -> None:
    land = json.loads((ROOT / "api" / "web" / "vendor" / "land.geojson").read_text())
    ends = [
        (np.min(ring, axis=0), np.max(ring, axis=0)) for outer, *holes in polygons(land) for ring in (outer, *holes)
    ]
    assert all(abs(low[0] + high[0]) <= 360 for low, high in ends)
    for outer, *holes in polygons(land):
        for hole in holes:
            assert (np.min(hole, axis=0) >= np.min(outer, axis=0)).all()
            assert (np.max(hole, axis=0) <= np.max(outer, axis=0)).all()


def polygons(land: dict[str, Any]) -> list[list[list[list[float]]]]:
    return [polygon for feature in land["features"] for polygon in feature["geometry"]["coordinates"]]


def test_colours_fitted_to_what_is_in_view_stay_with_the_link(page: Page) -> None:
    page.open("/#map=15.5/{1}/{0}".format(*FOREST))
    before = page.colour(FOREST)
    page.click("#looks summary")
    page.click("#fit-here")
    page.wait_for_url(re.compile("basis="))
    page.settle()
    page.shot("32-fitted")
    found = re.search(r"basis=([0-9a-f]{20})", page.url)
    assert found
    assert page.input_value("#basis") == found[1]
    assert page.locator("#basis option:checked").inner_text().startswith("in-view, fixed")
    after = page.colour(FOREST)
    assert np.abs(after - before).max() > 5
    page.reload()
    page.wait_for_selector("#choices:not([hidden])")
    page.settle()
    assert page.input_value("#basis") == found[1]
    assert np.abs(page.colour(FOREST) - after).max() < 3
    page.select_option("#basis", "default")
    page.settle()
    assert np.abs(page.colour(FOREST) - before).max() < 3


def test_a_dataset_on_both_sides_of_the_antimeridian_opens_on_its_ground(browser: Any, tmp_path: Path) -> None:
    sides = ((179.999999, 60), (-179.999999, 1))
    store = layouts.ours(tmp_path, [layouts.patch_at(lon, -17, number, True, size=120) for lon, number in sides])
    (tmp_path / "smalti.toml").write_text(f'[[datasets]]\nid = "fiji"\nlocation = "{store.location}"\n')
    with running(Settings(home=tmp_path / "home", catalogue=tmp_path / "smalti.toml")) as address:
        page = Page(browser, address)
        assert page.request.post(f"{address}/bases", data={"dataset": "fiji"}).status == 201
        page.open()
        zoom, lat, lon = (float(part) for part in page.url.partition("#map=")[2].split("/")[:3])
        assert zoom > 12
        assert (abs(lon), lat) == (pytest.approx(180, abs=0.05), pytest.approx(-17, abs=0.05))
        page.shot("32-both-sides")
        for side in (-1, 1):
            sea = page.colour((lon + side * 0.008, -17.003))
            ground = [page.colour((lon + side * 0.0005 * n, -17.003)) for n in range(1, 8)]
            assert sum(np.abs(colour - sea).max() > 20 for colour in ground) > 3, side
        page.close()
