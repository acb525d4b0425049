"""The map page in a real browser: what a person does and sees, journey by journey."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.browser import EMPTY, GROUND, Page, eventually, kind_at, somewhere

pytestmark = pytest.mark.slow

RAPESEED, FOREST, TOWN = somewhere("rapeseed"), somewhere("broadleaf forest"), somewhere("town")


def is_grey(colour: np.ndarray[Any, Any]) -> bool:
    return int(colour.max() - colour.min()) < 14


def far(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(np.abs(a - b).max())


def test_colours_and_what_they_mean(page: Page) -> None:
    page.open()
    page.shot("1-colours")
    assert "smalti-mini@" in page.inner_text("#provenance")
    assert page.locator("#window option").all_inner_texts() == ["2023", "2024"]
    assert page.input_value("#window") == "2024"
    legend = page.inner_text("#legend")
    assert "% of the variance" in legend
    assert "blank: water, not embedded or rejected" in legend
    assert far(page.colour(RAPESEED), page.colour(FOREST)) > 40
    assert page.locator(".maplibregl-ctrl-scale").inner_text().endswith("m")

    x, y = page.at(FOREST)
    page.mouse.move(x, y)
    said = [float(part.split("°")[0]) for part in page.inner_text("#coordinates").split(", ")]
    assert said == pytest.approx([FOREST[1], FOREST[0]], abs=1e-4)
    assert page.inner_text("#zoom").startswith("zoom 13.")
    labels = page.texts("#grid-labels span")
    assert any("E" in text for text in labels)
    assert any("N" in text for text in labels)
    page.click(".maplibregl-ctrl-zoom-out")
    page.click(".maplibregl-ctrl-zoom-out")
    page.settle()
    eventually(lambda: page.texts("#grid-labels span") != labels, "the graticule does not follow the zoom")
    page.keyboard.press("f")
    page.settle()
    assert page.inner_text("#zoom").startswith("zoom 13.")


def test_from_far_away_a_dataset_is_a_stone_that_leads_to_it(page: Page) -> None:
    page.open("/#map=1.3/40/10")
    land = eventually(lambda: page.colour((20.0, 48.0)).tolist() != page.colour((-30.0, 30.0)).tolist(), "no land")
    assert land
    page.shot("0-world")
    assert page.locator(".stone").count() == 1
    page.click(".stone")
    eventually(lambda: page.inner_text("#zoom").startswith("zoom 13."), "the stone leads nowhere")
    page.settle()
    assert page.locator(".stone").count() == 0
    assert far(page.colour(RAPESEED), page.colour(FOREST)) > 40


def test_bands_basis_and_opacity(page: Page) -> None:
    page.open()
    colours = page.colour(FOREST)
    assert page.texts("#basis option")[0].startswith("default (")
    page.check("#views input[value=bands]")
    page.settle()
    assert far(page.colour(FOREST), colours) > 10
    page.locator("#bands input").nth(0).fill("5")
    page.keyboard.press("Tab")
    page.settle()
    assert "red: number 5" in page.inner_text("#legend")
    assert "bands=5,1,2" in page.url
    page.locator("#bands input").nth(1).fill("999")
    page.keyboard.press("Tab")
    assert page.locator("#bands input").nth(1).input_value() == "127"
    page.settle()
    page.shot("2-bands")
    ground = page.colour(GROUND)
    page.locator("#opacity").fill("0")
    page.settle()
    assert far(page.colour(FOREST), ground) < 3
    page.reload()
    page.wait_for_selector("#choices:not([hidden])")
    page.settle()
    assert page.locator("#bands input").nth(0).input_value() == "5"
    assert page.inner_text("#opacity-value") == "0 %"


def test_a_click_finds_places_alike(page: Page) -> None:
    page.open()
    page.click_map(RAPESEED)
    page.wait_for_selector("#hits li")
    page.settle()
    page.shot("3-likeness")
    assert page.locator("#hits li").count() == page.locator(".hit").count() == 10
    assert page.is_checked("#views input[value=similarity]")
    assert "10 places in 2024" in page.inner_text("#result")
    scores = [float(text) for text in page.texts("#hits .score")]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0.95
    assert all(text.endswith("m") for text in page.texts("#hits .far"))
    ends = page.texts("#legend .ends:not(.words) span")
    assert (ends[0], ends[-1]) == ("0.60", "1.00")
    assert "cosine" in page.inner_text("#legend")

    # The brightest places are the likest: yellow at the example, not so in the forest.
    bright, dim = page.colour(somewhere("rapeseed", 3)), page.colour(FOREST)
    assert bright[:2].sum() > dim[:2].sum() + 60

    collection = page.download("#download")
    assert [f["properties"]["rank"] for f in collection["features"]] == list(range(1, 11))
    assert {kind_at(*f["geometry"]["coordinates"]) for f in collection["features"]} == {"rapeseed"}
    assert collection["features"][0]["properties"]["score"] == pytest.approx(scores[0], abs=1e-4)
    told = collection["features"][3]["properties"]["distance_km"]
    text = page.texts("#hits .far")[3]
    assert told == pytest.approx(float(text.split()[0]) / (1000 if text.endswith(" m") else 1), abs=0.006)

    # Pointing at one lights up the other.
    page.hover("#hits li:nth-child(2) .go")
    assert page.locator(".hit.lit").all_inner_texts() == ["2"]
    page.mouse.move(640, 790)
    assert page.locator(".hit.lit").count() == 0
    free = page.locator(".hit:not(.dot)").first
    rank = free.inner_text()
    free.hover()
    assert page.locator("#hits li.lit .rank").all_inner_texts() == [rank]

    page.select_option("#k", "25")
    page.select_option("#apart", "0")
    eventually(lambda: page.locator("#hits li").count() == 25, "25 hits were asked for")
    assert page.locator(".hit").count() == 25


def test_the_threshold_hides_what_is_less_alike(page: Page) -> None:
    page.open()
    page.click_map(RAPESEED)
    page.wait_for_selector("#hits li")
    page.settle()
    assert not is_grey(page.colour(TOWN))
    page.locator("#threshold").fill("0.95")
    page.wait_for_timeout(300)
    page.settle()
    assert page.inner_text("#threshold-value") == "0.95"
    assert page.texts("#legend .ends:not(.words) span")[0] == "0.95"
    assert is_grey(page.colour(TOWN))
    assert not is_grey(page.colour(somewhere("rapeseed", 3)))
    page.shot("4-threshold")


def test_a_link_restores_the_whole_picture(page: Page) -> None:
    page.open()
    page.click_map(RAPESEED)
    page.click_map(somewhere("maize", 1), "Shift")
    page.click_map(TOWN, "Alt")
    page.locator("#threshold").fill("0.7")
    page.select_option("#k", "5")
    page.wait_for_timeout(300)
    page.settle()
    hits, chips = page.texts("#hits li"), page.texts("#examples .chip")
    assert len(hits) == 5
    assert len(chips) == 3
    shown = [page.colour(place) for place in (RAPESEED, FOREST, EMPTY)]
    page.click("#copy")
    eventually(lambda: "Link copied" in page.inner_text("#toast"), "nothing says that the link was copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    page.open(link.removeprefix(page.server))
    eventually(lambda: page.texts("#hits li") == hits, "a shared link shows other hits")
    page.settle()
    assert page.texts("#examples .chip") == chips
    assert page.inner_text("#threshold-value") == "0.70"
    assert "embedded" in page.inner_text("#pixel")
    for before, place in zip(shown, (RAPESEED, FOREST, EMPTY), strict=True):
        assert far(page.colour(place), before) < 3


def test_examples_for_and_against(page: Page) -> None:
    page.open()
    page.click_map(RAPESEED)
    page.wait_for_selector("#hits li")
    alone = page.texts("#hits .score")
    assert page.locator(".example.like").count() == 1

    page.check("#modes input[value=unlike]")
    assert "not like it" in page.inner_text("#guide")
    page.click_map(FOREST)
    eventually(lambda: page.texts("#hits .score") not in ([], alone), "a counterexample changes nothing")
    assert page.locator(".example.unlike").count() == 1
    assert page.locator("#examples .chip.unlike").count() == 1
    page.click("#guide button")
    assert page.is_hidden("#guide")

    # A hit that is right becomes an example, by the button beside it.
    page.locator("#hits li").nth(2).locator("button[aria-label^='More like this']").click()
    eventually(lambda: page.locator("#examples .chip.like").count() == 2, "no second example")
    page.settle()
    page.shot("5-examples")

    before = page.texts("#hits .score")
    page.locator("#examples .chip.unlike .chip-close").click()
    eventually(lambda: page.locator("#examples .chip").count() == 2, "the chip stays")
    eventually(lambda: page.texts("#hits .score") not in ([], before), "taking it away changes nothing")
    page.click("#clear")
    eventually(lambda: page.locator("#hits li").count() == 0, "the hits stay")
    assert page.locator(".hit, .example").count() == 0
    assert page.is_checked("#views input[value=pca]")


FOCUSED = """(() => {
  const element = document.activeElement;
  const ringed = element.matches(".segments input") ? element.nextElementSibling : element;
  return [element.id || element.name || element.className, getComputedStyle(ringed).outlineStyle];
})()"""


def box(page: Page, place: tuple[float, float], side: float = 70) -> list[tuple[float, float]]:
    x, y = page.at(place)
    return [(x - side, y - side), (x + side, y - side), (x + side, y + side), (x - side, y + side)]


def test_a_drawn_area_is_searched_in_or_averaged(page: Page) -> None:
    page.open()
    page.click_map(RAPESEED)
    page.wait_for_selector("#hits li")
    page.click("#draw")
    assert "corners" in page.inner_text("#guide")
    corners = box(page, TOWN)
    for corner in corners:
        page.mouse.click(*corner)
    page.mouse.dblclick(*corners[-1])
    page.wait_for_selector("#examples .chip.area")
    page.settle()
    page.shot("6-area")
    assert page.inner_text("#examples .chip.area").strip().endswith("ha")
    eventually(lambda: page.texts("#hits li") != [], "no hits in the area")

    def inside() -> bool:
        features = page.download("#download")["features"]
        spots = [page.at(tuple(f["geometry"]["coordinates"])) for f in features]
        (left, top), _, (right, bottom), _ = corners
        return bool(spots) and all(left - 2 <= x <= right + 2 and top - 2 <= y <= bottom + 2 for x, y in spots)

    assert inside()
    page.check("#examples input[value=example]")
    page.click("#examples .chip.like .chip-close")
    page.settle()
    eventually(lambda: page.locator("#examples .chip").count() == 1, "the area alone is the example")
    eventually(lambda: page.texts("#hits li"), "the average finds nothing")
    page.settle()
    found = page.download("#download")["features"]
    kinds = [kind_at(*f["geometry"]["coordinates"]) for f in found]
    assert kinds.count("town") == len(kinds)
    page.shot("7-area-average")


def test_drawing_can_be_undone_and_done_by_keyboard(page: Page) -> None:
    page.open()
    page.keyboard.press("d")
    for x, y in ((700, 300), (800, 300)):
        page.mouse.click(x, y)
    page.click("text=Undo")
    page.keyboard.press("Escape")
    assert page.is_hidden("#guide")
    assert page.locator("#examples .chip").count() == 0
    assert page.get_attribute("#draw", "aria-pressed") == "false"

    page.focus("#map canvas")
    page.keyboard.press("d")
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        page.keyboard.press("Space")
        page.keyboard.press(key)
        page.settle()
    assert "Enter" in page.inner_text("#guide")
    page.keyboard.press("Enter")
    page.wait_for_selector("#examples .chip.area")
    assert "Now click a place" in page.inner_text("#find-hint")


def test_two_windows_side_by_side_and_as_change(page: Page) -> None:
    clearing = next(
        p
        for p in (somewhere("maize", n) for n in range(200))
        if kind_at(*p, 2023) == "broadleaf forest" or kind_at(*p, 2023) == "conifer forest"
    )
    page.open()
    now = page.colour(clearing)
    page.click("#swipe")
    page.wait_for_selector("#divider:not([hidden])")
    page.settle()
    divider = page.locator("#divider")
    assert (page.inner_text("#left-window"), page.inner_text("#right-window")) == ("2024", "2023")
    x, _ = page.at(clearing)

    def drag(to: float) -> None:
        held = divider.bounding_box()
        page.mouse.move(held["x"] + held["width"] / 2, 400)
        page.mouse.down()
        page.mouse.move(to, 420, steps=4)
        page.mouse.up()
        page.settle()

    drag(x - 60)
    eventually(lambda: far(page.colour(clearing), now) > 30, "right of the divider the other year does not show")
    before = page.colour(clearing)
    page.shot("8-swipe")
    divider.focus()
    page.keyboard.press("End")
    page.settle()
    assert far(page.colour(clearing), now) < 3
    page.keyboard.press("ArrowLeft")
    assert int(divider.get_attribute("aria-valuenow")) == 96
    drag(x - 60)
    page.reload()
    page.wait_for_selector("#divider:not([hidden])")
    page.settle()
    eventually(lambda: far(page.colour(clearing), before) < 3, "a reload forgets the swipe")
    page.click("#swipe")
    assert page.is_hidden("#divider")

    page.check("#views input[value=change]")
    page.settle()
    page.shot("9-change")
    assert "1 − cosine of 2023 and 2024" in page.inner_text("#legend")
    assert not is_grey(page.colour(clearing))
    assert is_grey(page.colour(TOWN))
    assert "view=change" in page.url


def test_the_inspector_tells_what_a_pixel_is(page: Page) -> None:
    page.open()
    page.click_map(FOREST)
    told = page.inner_text("#pixel")
    assert f"{FOREST[1]:.4f}° N, {FOREST[0]:.4f}° E" in told
    for part in ("embedded", "optical", "ascending", "descending", "2024", "smalti-mini@", "rev"):
        assert part in told
    revision = page.inner_text("#provenance").split("revision ")[1][:8]
    assert revision in told
    page.keyboard.press("[")
    page.settle()
    eventually(lambda: "2023 ·" in page.inner_text("#pixel"), "the inspector stays in the other window")
    assert page.input_value("#window") == "2023"

    page.click_map(EMPTY)
    told = page.inner_text("#pixel")
    assert "not embedded" in told
    page.shot("10-not-embedded")
    page.click("#pixel button[aria-label=Close]")
    assert page.is_hidden("#pixel")
    page.mouse.move(700, 400)
    for _ in range(6):
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(200)
    page.settle()
    page.mouse.click(1000, 700)
    page.settle()
    eventually(lambda: page.is_visible("#pixel .badge"), "nothing is said of a place outside")
    assert page.inner_text("#pixel .badge") == "outside this dataset"
    assert page.query_selector("#pixel .offer") is None, "what lies outside cannot be embedded"
    page.shot("11-outside")


def test_the_keyboard_does_what_the_mouse_does(page: Page) -> None:
    page.open()
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.shot("12-help")
    page.keyboard.press("Escape")
    assert page.is_hidden("#help")
    page.focus("#map canvas")
    page.keyboard.press("Enter")
    page.wait_for_selector("#hits li")
    assert page.locator(".example.like").count() == 1
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(500)
    page.settle()
    page.keyboard.press("n")
    eventually(lambda: page.locator(".example.unlike").count() == 1, "N adds no counterexample")
    for key, view in (("1", "pca"), ("4", "change"), ("2", "bands")):
        page.keyboard.press(key)
        assert page.is_checked(f"#views input[value={view}]")
    page.settle()
    # Everything that can be pressed is reached by Tab, and shows where it is.
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        element = page.evaluate(FOCUSED)
        reached.add(element[0])
        assert element[1] != "none" or element[0] in {"", "sheet"}, f"no focus ring on {element}"
    for name in ("dataset", "window", "view", "other", "swipe", "opacity", "mode", "draw", "k", "apart", "choose-file"):
        assert name in reached, f"{name} is not reached by Tab: {reached}"
