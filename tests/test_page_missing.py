"""What is missing, on the page: empty squares that ask to be filled, estimates, a job's squares, an empty dataset."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api import demo
from api.catalogue import open_or_make
from api.settings import Limits, Settings
from api.state import State
from service.grid import Block, Zone, archive_grid
from service.simulate import Landscape
from service.sources import Placement, Simulated
from service.values import BLOCK, Window
from tests.browser import EMPTY, GROUND, Page, eventually
from tests.conftest import running
from tests.services import worker

pytestmark = pytest.mark.slow

SCENE = demo.Scene.make()
BLOCKS = tuple(SCENE.placement.blocks())
SEASONS = "2023-07-01..2024-06-30"


def middle_of(block: Block) -> tuple[float, float]:
    """(lon, lat) in the middle of the demo's part of a block."""
    rows, cols = SCENE.placement.in_block(block)
    row, col = (side.start + span.start + 64 for side, span in ((block.rows, rows), (block.cols, cols)))
    lon, lat = archive_grid(SCENE.placement.zone).to_lonlat(np.array([row + 0.5]), np.array([col + 0.5]))
    return float(lon[0]), float(lat[0])


@pytest.fixture
def own_demo(demo_home: Settings, tmp_path: Path) -> Settings:
    """A copy of the demo that jobs may change."""
    shutil.copytree(demo_home.home, tmp_path / "home", ignore=shutil.ignore_patterns("jobs.sqlite*"))
    return demo_home.model_copy(update={"home": tmp_path / "home"})


@pytest.fixture
def own_page(browser: Any, own_demo: Settings) -> Iterator[Page]:
    """A page of it."""
    with running(own_demo) as address:
        page = Page(browser, address)
        yield page
        page.close()


@pytest.mark.parametrize("look", [{}, {"color_scheme": "dark"}, {"size": (390, 800)}])
def test_an_empty_square_says_what_it_is_and_offers_to_be_filled(
    browser: Any, server: str, look: dict[str, Any]
) -> None:
    page = Page(browser, server, **look)
    page.open()
    page.wait_for_selector(".vacant")
    assert "Embed this" in page.inner_text(".vacant")
    assert "nothing here yet" in page.inner_text("#squares")
    assert page.faults() == []
    page.shot("17-vacant-" + "-".join(str(part) for part in look.values()).replace(" ", ""))
    page.click(".vacant")
    page.wait_for_selector("#pixel .offer button")
    assert "1 block, 16,384 pixels, about" in page.inner_text("#pixel")
    assert "smalti worker" in page.inner_text("#pixel"), "nobody says that no worker runs"
    assert page.locator(".vacant").count() == 0, "the offer stands beside the map: the square need not repeat it"
    assert page.faults() == []
    page.close()


def test_a_new_window_is_embedded_square_by_square(own_page: Page, own_demo: Settings) -> None:
    page = own_page
    page.open()
    page.click("#make-window")
    page.fill("#make-from", "2023-07-01")
    page.fill("#make-to", "2024-06-30")
    page.click("#make-when button")
    page.settle()
    assert page.input_value("#window") == SEASONS
    assert page.is_visible("#untrained")
    assert "outside its training" in page.inner_text("#untrained-key")
    assert f"Nothing in {SEASONS} yet" in page.inner_text("#make")
    assert page.is_hidden("#find")
    eventually(lambda: page.locator(".vacant").count() == 4, "four squares are empty")

    page.click("#make-view")
    page.wait_for_selector("#plan .offer")
    assert "4 blocks, 65,536 pixels, about" in page.inner_text("#plan")
    assert "not trained on such windows" in page.inner_text("#plan")
    page.click("#plan .primary")
    page.wait_for_selector("#job progress")
    eventually(lambda: "No worker runs" in page.inner_text("#job"), "nobody says that the job waits for a worker")
    eventually(lambda: page.inner_text("#squares").strip() == "waiting", "the squares do not wait")
    page.shot("18-waiting")

    page.page.evaluate("sessionStorage.clear()")
    page.reload()
    page.wait_for_selector("#job progress")
    assert page.input_value("#window") == SEASONS

    tiles: list[str] = []
    page.page.on("request", lambda request: tiles.append(request.url) if "/tiles/" in request.url else None)
    with worker(own_demo) as working:
        working.tell(slow=2)
        eventually(lambda: "being embedded" in page.inner_text("#squares"), "no square is in hand")
        page.wait_for_selector("#job:has-text('1 of 4 blocks')", timeout=120_000)
        eventually(lambda: page.is_visible("#map") and tiles, "what is done does not show")
        page.wait_for_selector("#views", state="visible")
        page.wait_for_selector("#job:has-text('2 of 4 blocks')", timeout=120_000)
        some = [middle_of(block) for block in BLOCKS]
        ground = page.colour(GROUND)
        eventually(
            lambda: sum(bool(abs(page.colour(place) - ground).max() > 30) for place in some) >= 2,
            "what a window of its own gains shows only at the end",
        )
        page.shot("19-turning-real")
        page.wait_for_selector("#job button:has-text('Close')", timeout=120_000)
    page.settle()
    assert page.is_visible("#untrained")
    page.shot("20-seasons")
    seen = lambda: page.colour(EMPTY).tolist() != page.colour(GROUND).tolist()  # noqa: E731  # said once
    eventually(seen, "the last square does not show")


def test_only_tiles_with_new_squares_are_asked_for_again(page: Page) -> None:
    page.open()
    asked: list[str] = []
    page.page.on("request", lambda request: asked.append(request.url) if "/tiles/" in request.url else None)
    page.page.evaluate(
        """async ([west, south, east, north]) => {
          const { map } = await import('/web/assets/map.mjs');
          const { refreshWhere } = await import('/web/assets/layers.mjs');
          const ring = [[west, south], [east, south], [east, north], [west, north], [west, south]];
          refreshWhere(map, [{ geometry: { coordinates: [ring] } }]);
        }""",
        [2.3, 54.7, 2.3001, 54.7001],
    )
    page.settle()
    assert len(set(asked)) == 1, asked


def test_an_area_that_is_too_large_is_refused_with_the_limit(browser: Any, own_demo: Settings) -> None:
    with running(own_demo.model_copy(update={"limits": Limits(job_blocks=1)})) as address:
        page = Page(browser, address)
        page.expected += ["status of 413"]
        page.open()
        page.click("#make-view")
        page.wait_for_selector("#plan .notice")
        assert "job_blocks" in page.inner_text("#plan")
        page.shot("21-too-large")
        page.click("#plan >> text=Not now")
        assert page.is_hidden("#plan")
        page.click("#make-draw")
        for corner in ((2.318, 54.708), (2.326, 54.708), (2.322, 54.713)):
            page.mouse.click(*page.at(corner))
        page.keyboard.press("Enter")
        page.wait_for_selector("#plan .offer")
        assert "1 block" in page.inner_text("#plan")
        page.close()


def test_an_empty_dataset_says_how_it_begins(browser: Any, own_demo: Settings) -> None:
    state = State(own_demo)
    model = state.registry.get(demo.MODEL).manifest
    shutil.rmtree(own_demo.home / "datasets")
    open_or_make(state.storage, "mine", model.identity, model.dims, Window.year(2024))
    state.sources.put(demo.Scene.make().source(2024).to_document(), "mine")
    with running(own_demo) as address:
        page = Page(browser, address)
        page.open()
        assert "An empty dataset" in page.inner_text("#make")
        assert "holds nothing yet" in page.inner_text("#make-hint")
        assert page.is_hidden("#find")
        eventually(lambda: page.locator(".vacant").count() == 4, "the squares that can be filled do not show")
        assert page.faults() == []
        page.shot("22-empty-dataset")
        page.click_map(EMPTY)
        page.wait_for_selector("#pixel .offer button, #pixel .notice")
        page.shot("23-empty-dataset-asked")
        assert "1 block" in page.inner_text("#pixel")
        page.close()


def test_what_lies_beyond_the_antimeridian_is_planned_too(browser: Any, own_demo: Settings) -> None:
    state, zone = State(own_demo), Zone(1, True)
    model = state.registry.get(demo.MODEL).manifest
    shutil.rmtree(own_demo.home / "datasets")
    open_or_make(state.storage, "fiji", model.identity, model.dims, Window.year(2024))
    row, col = (int(at) // BLOCK * BLOCK for at in archive_grid(zone).cell(-179.97, -17.0))
    place = Placement(zone, row, col, 64, 64)
    state.sources.put(Simulated(place, Landscape(1, 64, 64), Window.year(2024)).to_document(), "fiji")
    with running(own_demo) as address:
        page = Page(browser, address)
        page.open("/#map=12/-17/179.99")
        page.click("#make-view")
        page.wait_for_selector("#plan .offer, #plan .notice")
        assert "1 block, 4,096 pixels" in page.inner_text("#plan")
        page.shot("24-beyond-the-antimeridian")
        page.click("#plan >> text=Not now")
        page.click("#make-draw")
        for corner in ((179.98, -17.02), (180.03, -17.02), (180.03, -16.98), (179.98, -16.98)):
            page.mouse.click(*page.at(corner))
        with page.expect_request("**/areas") as asked:
            page.keyboard.press("Enter")
        page.wait_for_selector("#plan .offer, #plan .notice")
        assert "1 block, 4,096 pixels" in page.inner_text("#plan")
        page.shot("25-drawn-over-the-antimeridian")
        geometry = asked.value.post_data_json["geometry"]
        assert geometry["type"] == "MultiPolygon"
        sides = [[lon for lon, _ in outline] for (outline,) in geometry["coordinates"]]
        assert [(min(side), max(side)) for side in sides] == [
            (pytest.approx(179.98, abs=1e-3), 180),
            (-180, pytest.approx(-179.97, abs=1e-3)),
        ]
        page.close()


RINGS = [
    ([[1, 0], [3, 0], [2, 2]], [[[1, 0], [3, 0], [2, 2]]]),
    ([[178, 0], [180, 0], [179, 2]], [[[178, 0], [180, 0], [179, 2]]]),
    ([[-180, 0], [-178, 0], [-179, 2]], [[[-180, 0], [-178, 0], [-179, 2]]]),
    ([[180, 0], [-178, 0], [-179, 2]], [[[-180, 0], [-178, 0], [-179, 2]]]),
    ([[179, 0], [-179, 0], [-179, 2]], [[[180, 1], [179, 0], [180, 0]], [[-180, 1], [-180, 0], [-179, 0], [-179, 2]]]),
    ([[-179, 0], [179, 0], [179, 2]], [[[-180, 1], [-179, 0], [-180, 0]], [[180, 1], [180, 0], [179, 0], [179, 2]]]),
]


def test_a_ring_over_the_antimeridian_is_cut_there(page: Page) -> None:
    page.open()
    cut = "async (ring) => (await import('/web/assets/ring.mjs')).geometry(ring)"
    for ring, parts in RINGS:
        told = page.page.evaluate(cut, ring)
        rings = [told["coordinates"]] if len(parts) == 1 else told["coordinates"]
        assert told["type"] == ("Polygon" if len(parts) == 1 else "MultiPolygon"), ring
        assert rings == [[[*part, part[0]]] for part in parts], ring


def test_a_pixel_that_is_being_embedded_is_looked_at_again(page: Page) -> None:
    page.open()

    def embedding(route: Any) -> None:
        answer = route.fetch()
        told = answer.json()
        told["results"][0] |= {"reason": "embedding", "job": "/jobs/0123456789abcdef0123"}
        route.fulfill(response=answer, json=told)

    page.page.route("**/vectors", embedding)
    page.click_map(EMPTY)
    page.wait_for_selector("#pixel .badge.embedding")
    page.page.unroute("**/vectors")
    page.wait_for_selector("#pixel .badge.not-embedded", timeout=20_000)


def test_a_window_with_too_few_clear_days_says_so_and_takes_fewer(own_page: Page, own_demo: Settings) -> None:
    page = own_page
    page.open()

    def look(least: str) -> None:
        page.click("#make-window")
        page.fill("#make-from", "2024-06-01")
        page.fill("#make-to", "2024-07-31")
        page.fill("#make-least", least)
        page.click("#make-when button")
        page.settle()

    look("")
    known = page.request.get(f"{page.server}/datasets").text()
    page.click_map(EMPTY)
    page.wait_for_selector("#pixel .offer button")
    assert "fewer than 15 usable Sentinel-2 dates in it are rejected" in page.inner_text("#pixel")
    # A slow server tells of the new window only seconds later: the page must not leave it for another meanwhile.
    page.page.route("**/datasets", lambda route: route.fulfill(body=known))
    with worker(own_demo):
        page.click("text=Embed here")
        page.wait_for_selector("#job h2:has-text('Nothing embedded')", timeout=60_000)
        page.wait_for_timeout(6000)
        assert page.input_value("#window") == "2024-06-01..2024-07-31"
        page.page.unroute("**/datasets")
        assert "16,384 pixels rejected" in page.inner_text("#job")
        assert "fewer than 15 usable Sentinel-2 dates in 2024-06-01..2024-07-31" in page.inner_text("#job")
        assert "on the map and in the search" not in page.inner_text("#toast")
        page.wait_for_selector("#pixel .badge.rejected", timeout=20_000)
        eventually(lambda: "rejected again" in page.inner_text("#pixel"), "nobody says what can be done about it")
        assert page.faults() == []
        page.shot("26-rejected")
        page.click("#job button:has-text('Close')")

        look("3")
        page.click("#make-view")
        page.wait_for_selector("#plan .primary")
        page.click("#plan .primary")
        page.wait_for_selector("#pixel .badge.valid", timeout=100_000)
        page.shot("27-with-fewer-dates")
