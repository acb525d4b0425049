"""The search panel in a real browser: how much of an area is alike, how pixels are compared, and what was done."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest

from api import demo
from service.grid import archive_grid
from tests.browser import EMPTY, Page, eventually, kind_at, somewhere

pytestmark = pytest.mark.slow

RAPESEED, TOWN = somewhere("rapeseed"), somewhere("town")


def draw(page: Page, place: tuple[float, float], side: float = 70) -> None:
    """A square around a place, `side` screen pixels to each side."""
    x, y = page.at(place)
    corners = [(x - side, y - side), (x + side, y - side), (x + side, y + side), (x - side, y + side)]
    page.click("#draw")
    for corner in corners:
        page.mouse.click(*corner)
    page.mouse.dblclick(*corners[-1])
    page.wait_for_selector("#examples .chip.area")
    page.settle()


def told(page: Page) -> tuple[float, int, int]:
    """(hectares, percent, pixels) that the panel says of the area."""
    text = eventually(lambda: page.inner_text("#measured"), "nothing is said of the area")
    found = re.fullmatch(
        r"In the area ([\d.,]+) ha \((\d+) %\) score [\d.]+ or more: each of its ([\d,]+) pixels .*", text
    )
    assert found, text
    return float(found[1].replace(",", "")), int(found[2]), int(found[3].replace(",", ""))


def test_how_much_of_an_area_is_alike_follows_the_threshold(page: Page) -> None:
    page.open()
    page.click_map(RAPESEED)
    page.wait_for_selector("#hits li")
    assert page.is_hidden("#measured")
    draw(page, RAPESEED, 40)
    hectares, percent, pixels = told(page)
    page.shot("20-area-measured")
    assert hectares == pytest.approx(pixels / 100 * percent / 100, rel=0.03)
    page.locator("#threshold").fill("0.95")
    eventually(lambda: "0.95" in page.inner_text("#measured"), "the count stays at the old threshold")
    closer, share, same = told(page)
    assert same == pixels
    assert 0 < closer < hectares
    assert share < percent
    page.click("#examples .chip.area .chip-close")
    eventually(lambda: page.is_hidden("#measured"), "something is still said of an area that is gone")


def test_an_area_where_nothing_is_embedded_is_told_so(page: Page) -> None:
    page.open()
    page.click_map(RAPESEED)
    page.wait_for_selector("#hits li")
    draw(page, EMPTY, 15)
    eventually(lambda: "Nothing embedded lies in this area" in page.inner_text("#measured"), "the area is not told")
    assert page.locator("#hits li").count() == 0
    page.shot("21-area-empty")


def test_an_area_may_be_what_is_not_wanted(page: Page) -> None:
    page.open()
    page.click_map(RAPESEED)
    page.wait_for_selector("#hits li")
    draw(page, TOWN, 30)
    _, before, _ = told(page)
    page.check("#examples input[value=counter]")
    page.settle()
    page.wait_for_selector("#hits li")
    found = page.download("#download")["features"]
    assert {kind_at(*f["geometry"]["coordinates"]) for f in found} == {"rapeseed"}
    eventually(lambda: told(page)[1] < before, "what is not wanted scores as before")
    assert "use=counter" in page.url
    page.shot("22-area-against")


def test_hits_lie_as_far_apart_as_asked(page: Page) -> None:
    page.open()
    page.click_map(RAPESEED)
    page.wait_for_selector("#hits li")
    page.select_option("#apart", "250")
    page.select_option("#k", "5")
    eventually(lambda: page.locator("#hits li").count() == 5, "five hits were asked for")
    page.settle()
    places = [f["geometry"]["coordinates"] for f in page.download("#download")["features"]]
    grid = archive_grid(demo.Scene.make().placement.zone)
    cells = [tuple(float(one) for one in grid.from_lonlat(*place)) for place in places]
    for (row, col), (other_row, other_col) in combinations(cells, 2):
        assert ((row - other_row) ** 2 + (col - other_col) ** 2) ** 0.5 * 10 >= 249


def test_the_panel_tells_how_it_was_searched(page: Page) -> None:
    page.open()
    page.click_map(RAPESEED)
    page.wait_for_selector("#hits li")
    assert re.search(r"10 places in 2024: each of [\d,]+ pixels compared", page.inner_text("#result"))
    page.click("#how summary")
    page.check("#exact")
    scores: Any = page.texts("#hits .score")
    page.select_option("#metric", "euclidean")
    eventually(lambda: page.texts("#hits .score") not in ([], scores), "the metric changes nothing")
    page.settle()
    eventually(lambda: "cosine" not in page.inner_text("#legend"), "the legend still tells of cosines")
    page.shot("23-euclidean")
    link, shown = page.url.removeprefix(page.server), page.texts("#hits li")
    assert "metric=euclidean" in link
    page.open(link)
    eventually(lambda: page.texts("#hits li") == shown, "a shared link shows other hits")
    assert page.input_value("#metric") == "euclidean"
    assert page.is_checked("#exact")
    assert page.faults() == []


def test_a_link_to_a_saved_query_asks_what_was_saved(page: Page) -> None:
    page.open()
    body = {
        "dataset": "demo", "window": "2024", "metric": "euclidean", "points": [RAPESEED], "against": [TOWN],
    }  # fmt: skip
    saved = page.request.post(f"{page.server}/queries", data=body).json()
    asked = page.request.post(f"{page.server}/datasets/demo/2024/search", data={"query": saved["id"], "k": 10}).json()
    page.open(f"/?view=similarity&apart=0&query={saved['id']}")
    page.wait_for_selector("#hits li")
    eventually(lambda: page.input_value("#metric") == "euclidean", "it is asked by another metric")
    page.settle()
    assert "a saved query" in page.inner_text("#examples")
    shown = [float(text) for text in page.texts("#hits .score")]
    assert shown == pytest.approx([hit["properties"]["score"] for hit in asked["features"]], abs=0.0006)
    assert page.faults() == []


WORDS = {
    "by an index that finds 98.7 % of the best ten, scored exactly": ("index", 0.987),
    "by the index, and some pixel by pixel; scored exactly": ("index+exact", None),
    "each of 12 pixels compared": ("exact", 1),
}


def test_what_an_index_found_is_not_told_as_everything(page: Page) -> None:
    """The demo is too small for an index to be asked: here the page is given the answers of larger ones."""
    page.open()
    for words, (engine, recall) in WORDS.items():
        answer = {"engine": engine, "recall": recall, "searched": [{"scanned": 7}, {"scanned": 5}]}
        said = page.evaluate("async (answer) => (await import('/web/assets/hits.mjs')).how(answer)", answer)
        assert said == words
