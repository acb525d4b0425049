"""The map page when things come late, in the wrong order, or not at all; and links that nobody should have written."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser import EMPTY, Page, eventually, somewhere
from tests.conftest import program

pytestmark = pytest.mark.slow

RAPESEED, FOREST, TOWN = somewhere("rapeseed"), somewhere("broadleaf forest"), somewhere("town")


NEVER = "view=foo&bands=a,b&opacity=-40&threshold=9&swipe=900&k=-3&apart=x&use=z&like=abc"
MARKUP = "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E"


def test_a_link_says_what_the_page_could_have_written_or_nothing(page: Page) -> None:
    page.open(f"/?{NEVER}&window=1999")
    assert "holds no window 1999" in page.inner_text("#trouble")
    page.select_option("#window", "2023")
    assert page.is_hidden("#trouble")
    asked = page.url.partition("?")[2].partition("#")[0].split("&")
    assert asked == ["dataset=demo", "window=2023", "other=2024"]
    assert page.is_checked("#views input[value=pca]")
    assert page.input_value("#k") == "10"

    page.open("/?view=bands&bands=0,1,999")
    assert "red: number 0" in page.inner_text("#legend")
    page.open(f"/?dataset={MARKUP}")
    assert "There is no dataset <img" in page.inner_text("#trouble")


def test_an_example_without_a_vector_is_told_and_colours_nothing(page: Page) -> None:
    page.expected += ["status of 404"]
    page.open("/?view=similarity&like=9,51")  # comes to rest, though its tiles never come
    assert "holds no vector in 2024" in page.inner_text("#result")
    assert page.inner_text("#legend") == ""
    page.click_map(RAPESEED)
    page.wait_for_selector("#hits li")
    assert "cosine with the examples" in page.inner_text("#legend")
    page.settle()


LATE = """([part, wait]) => {
  const real = window.fetch;
  window.fetch = async (path, ...more) => {
    const first = String(path).includes(part);
    if (first) window.fetch = real;
    const answer = await real(path, ...more);
    if (first) await new Promise((resolve) => setTimeout(resolve, wait));
    return answer;
  };
}"""
"""Holds back the next answer whose address has a part."""


def look_at(page: Page) -> str:
    """The place that the page says it looks at, once it knows."""
    page.settle()
    return str(page.inner_text("#pixel h2"))


def test_answers_that_come_late_change_nothing(page: Page) -> None:
    page.open()
    # The plan for an empty pixel comes when another pixel is looked at.
    page.evaluate(LATE, ["/areas", 1200])
    page.mouse.click(*page.at(EMPTY))
    page.wait_for_selector("#pixel .badge.not-embedded")
    page.click_map(RAPESEED)
    page.wait_for_timeout(1500)
    assert page.locator("#pixel .badge.valid").count() == 1
    assert page.locator("#pixel .offer").count() == 0

    # The query that colours the map is saved when colours are shown again.
    page.evaluate(LATE, ["/queries", 1200])
    page.click_map(FOREST, "Shift")
    page.check("#views input[value=pca]")
    page.wait_for_timeout(1500)
    page.settle()
    assert "% of the variance" in page.inner_text("#legend")

    # Two quick clicks: the last one is the question. Two quick examples: both are.
    page.evaluate(LATE, ["/vectors", 800])
    page.mouse.click(*page.at(RAPESEED))
    page.mouse.click(*page.at(TOWN))
    page.settle()
    assert page.locator("#examples .chip").count() == 1
    assert look_at(page) == f"{TOWN[1]:.4f}° N, {TOWN[0]:.4f}° E"
    page.keyboard.down("Shift")
    page.mouse.click(*page.at(RAPESEED))
    page.mouse.click(*page.at(FOREST))
    page.keyboard.up("Shift")
    page.wait_for_timeout(1000)
    page.settle()
    assert page.locator("#examples .chip.like").count() == 3


def test_the_window_beside_follows_while_its_tiles_still_come(page: Page) -> None:
    page.open("/?swipe=60")
    page.wait_for_selector("#divider:not([hidden])")
    asked: list[str] = []
    page.page.on("request", lambda request: asked.append(request.url) if "/tiles/" in request.url else None)
    page.check("#views input[value=bands]")
    page.check("#views input[value=pca]")
    page.check("#views input[value=bands]")
    page.settle()
    other = [url for url in asked if "/2023/" in url]
    assert other
    assert "bands" in other[-1]
    page.click("#swipe")
    page.settle()
    asked.clear()
    page.click(".maplibregl-ctrl-zoom-out")
    page.settle()
    assert not [url for url in asked if "/2023/" in url], "what nobody sees is asked for"


@pytest.mark.parametrize("size", [(390, 800), (768, 1024), (1280, 800)])
def test_the_grip_of_the_divider_can_be_held(browser: Any, server: str, size: tuple[int, int]) -> None:
    page = Page(browser, server, size=size)
    page.open("/?swipe=4")
    held = page.locator("#divider > .icon").bounding_box()
    x, y = held["x"] + held["width"] / 2, held["y"] + held["height"] / 2
    met = page.evaluate("([x, y]) => document.elementFromPoint(x, y)?.closest('#divider') !== null", [max(x, 1), y])
    assert met, "the grip lies under the panel"
    page.close()


def test_two_files_at_once_are_too_many(page: Page) -> None:
    page.open()
    page.evaluate("""() => {
      const dataTransfer = new DataTransfer();
      for (const name of ["a.json", "b.json"]) dataTransfer.items.add(new File(["{}"], name));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    }""")
    eventually(lambda: "2 files" in page.inner_text("#uploading"), "nobody says that one file is dropped at a time")


def test_a_series_that_was_not_saved_is_told_so(page: Page) -> None:
    page.open("/?view=similarity&query=unsaved")
    assert "was not saved" in page.inner_text("#result")
    assert "Upload it again" in page.inner_text("#result")


def test_escape_cancels_a_drawing_from_its_button(page: Page) -> None:
    page.open()
    page.click("#draw")
    assert page.get_attribute("#draw", "aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.get_attribute("#draw", "aria-pressed") == "false"
    assert page.is_hidden("#guide")


def test_without_webgl_the_page_says_so(browser: Any, server: str) -> None:
    launch = browser.browser_type.launch
    plain = launch(executable_path=program("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-3d-apis"])
    page = plain.new_page()
    page.goto(server)
    page.wait_for_selector("#trouble:not([hidden])")
    assert "no WebGL" in page.inner_text("#trouble")
    assert not page.is_visible("#choices")
    plain.close()
