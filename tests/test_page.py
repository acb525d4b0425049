"""The map page in a real browser: what a person sees and does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import ROOT, program

pytestmark = pytest.mark.slow

SHOTS = ROOT / ".screenshots"
ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip


@pytest.fixture
def page(server: str) -> Iterator[object]:
    """A fresh page; fails at the end if the console complained or a request left this machine."""
    playwright = pytest.importorskip("playwright.sync_api")
    executable = program("chromium")
    if not (ROOT / "api" / "web" / "vendor" / "maplibre-gl.mjs").exists():
        pytest.fail("the map library is missing: run `make setup`")
    complaints: list[str] = []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=executable, headless=True, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 1280, "height": 800})
        opened.on("console", lambda m: complaints.append(m.text) if m.type in {"error", "warning"} else None)
        opened.on("pageerror", lambda e: complaints.append(str(e)))
        opened.on(
            "request", lambda r: complaints.append(r.url) if not r.url.startswith((server, "blob:", "data:")) else None
        )
        yield opened
        browser.close()
    ours = [c for c in complaints if "GPU stall" not in c and "GL Driver Message" not in c]
    assert not ours, ours


def shot(page: object, name: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}.png"))  # type: ignore[attr-defined]


def test_a_newcomer_sees_the_map_clicks_and_finds_places_alike(page, server: str) -> None:
    page.goto(server)
    page.wait_for_selector("#choices:not([hidden])")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1000)
    shot(page, "1-colours")
    assert "smalti-mini@" in page.inner_text("#provenance")
    assert page.locator("#window option").all_inner_texts() == ["2023", "2024"]

    page.mouse.click(680, 560)
    page.wait_for_selector("#hits li")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1000)
    shot(page, "2-likeness")
    assert page.locator("#hits li").count() == 12
    assert page.locator("#hits li").first.inner_text().split()[-1] == "1.0000"
    assert page.locator(".marker").count() == 12
    assert "embedded" in page.inner_text("#inspector")
    assert page.input_value("#view") == "similarity"
    assert page.is_hidden("#trouble")
    assert "view=similarity" in page.url
    assert "query=" in page.url

    page.select_option("#window", "2023")
    page.wait_for_load_state("networkidle")
    shot(page, "3-other-year")
    page.reload()
    page.wait_for_selector("#choices:not([hidden])")
    assert page.input_value("#window") == "2023"
    assert page.input_value("#view") == "similarity"


def test_a_pixel_of_the_empty_quarter_says_that_it_is_not_embedded(page, server: str) -> None:
    page.goto(server)
    page.wait_for_selector("#choices:not([hidden])")
    page.wait_for_load_state("networkidle")
    page.mouse.click(980, 200)
    page.wait_for_selector("#inspector dl")
    assert "not embedded yet" in page.inner_text("#inspector")
    assert page.locator("#hits li").count() == 0
    shot(page, "4-empty-quarter")


def test_a_small_screen_keeps_the_map_usable(page, server: str) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(server)
    page.wait_for_selector("#choices:not([hidden])")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)
    shot(page, "5-small")
    box = page.locator(".panel").bounding_box()
    assert box["y"] > 350
