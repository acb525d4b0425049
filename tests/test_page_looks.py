"""The map page on other screens, in other lights, with nothing to show, and when things go wrong."""

from __future__ import annotations

import re
import shutil
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from api.routes.page import policy
from api.settings import ApiKey, Settings
from tests.browser import EMPTY, GROUND, Page, eventually, somewhere
from tests.conftest import ROOT, client_of, running

RAPESEED, FOREST, TOWN = somewhere("rapeseed"), somewhere("broadleaf forest"), somewhere("town")
SMALL = {"size": (390, 800), "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def test_every_module_is_asked_for_at_once() -> None:
    page = (ROOT / "api" / "web" / "index.html").read_text()
    modules = {path.name for path in (ROOT / "api" / "web" / "assets").glob("*.mjs")}
    assert {name for name in modules if f'href="/web/assets/{name}"' in page} == modules - {"main.mjs"}


def test_modules_are_short_and_import_no_circles() -> None:
    texts = {path.name: path.read_text() for path in (ROOT / "api" / "web" / "assets").glob("*.mjs")}
    assert not {name for name, text in texts.items() if len(text.splitlines()) > 200}
    graph = {name: set(re.findall(r'from "\./([a-z]+\.mjs)"', text)) for name, text in texts.items()}
    assert not {seen for names in graph.values() for seen in names} - graph.keys()
    while leaves := {name for name, names in graph.items() if not names & graph.keys()}:
        graph = {name: names for name, names in graph.items() if name not in leaves}
    assert not graph, f"modules import each other: {sorted(graph)}"


def test_the_policy_lets_in_the_base_map_and_nothing_else() -> None:
    plain, with_map = policy(), policy("https://maps.example.org/{z}/{x}/{y}.png")
    assert "https:" not in plain
    assert "default-src 'self'" in plain
    assert with_map.replace(" https://maps.example.org", "") == plain
    assert with_map.count("https://maps.example.org") == 2


@pytest.mark.parametrize("basemap", ["ftp://a/{z}/{x}/{y}", "https://a/{z}/{x}", "https://a; script-src *//{z}{x}{y}"])
def test_a_base_map_that_is_none_is_refused(basemap: str) -> None:
    with pytest.raises(ValueError, match="basemap"):
        Settings(basemap=basemap)


def test_the_page_tells_its_settings(world: Settings) -> None:
    assert client_of(world).get("/page.json").json()["basemap"] is None
    chosen = world.model_copy(update={"basemap": "https://a.example/{z}/{x}/{y}.png", "basemap_attribution": "Maps"})
    client = client_of(chosen)
    assert client.get("/page.json").json()["basemap"] == {"url": chosen.basemap, "attribution": "Maps"}
    assert "https://a.example" in client.get("/").headers["content-security-policy"]


@pytest.mark.slow
@pytest.mark.parametrize("light", ["light", "dark"])
def test_nothing_keeps_anyone_out(browser: Any, server: str, light: str) -> None:
    page = Page(browser, server, color_scheme=light)
    page.open()
    faults = page.faults()
    page.click_map(RAPESEED)
    page.click_map(FOREST, "Alt")
    page.wait_for_selector("#hits li")
    page.settle()
    page.shot(f"17-{light}")
    faults += page.faults()
    page.check("#views input[value=change]")
    page.click_map(EMPTY)
    page.settle()
    page.keyboard.press("?")
    faults += page.faults()
    page.close()
    assert not faults, "\n".join(faults)


@pytest.mark.slow
def test_a_small_screen_keeps_the_map_usable(browser: Any, server: str) -> None:
    page = Page(browser, server, **SMALL)
    page.open()
    page.shot("18-small")
    assert page.locator("#panel").bounding_box()["y"] > 300
    faults = page.faults()
    page.touchscreen.tap(*page.at(RAPESEED))
    page.wait_for_selector("#hits li")
    page.settle()
    page.shot("19-small-likeness")
    panel = page.locator("#panel").bounding_box()
    assert page.locator("#hits li").first.bounding_box()["y"] < 800, "the hits are out of sight"
    faults += page.faults()
    small = page.evaluate(
        "[...document.querySelectorAll('#panel button, #panel select, .maplibregl-ctrl-group button')]"
        ".filter(e => e.offsetParent && e.getBoundingClientRect().height < 40).map(e => e.id || e.className)"
    )
    assert not small, f"too small for a finger: {small}"
    page.click("#draw")
    x, y = page.at(TOWN)
    for dx, dy in ((-40, -30), (40, -30), (0, 40)):
        page.touchscreen.tap(x + dx, y + dy)
        page.wait_for_timeout(350)  # two taps in a row are a double tap
    page.shot("20-small-drawing")
    page.click("text=Finish")
    page.wait_for_selector("#examples .chip.area")
    page.click("#fold")
    assert page.locator("#panel").bounding_box()["y"] > panel["y"] + 150
    assert page.is_visible("#legend")
    page.settle()
    page.shot("21-small-folded")
    page.close()
    assert not faults, "\n".join(faults)


@pytest.mark.slow
def test_an_empty_server_says_what_to_do(browser: Any, tmp_path: Path) -> None:
    with running(Settings(home=tmp_path, catalogue=Path("none.toml"))) as address:
        page = Page(browser, address)
        page.goto(address)
        page.wait_for_selector("#empty:not([hidden])")
        page.settle()
        page.wait_for_timeout(1500)
        page.shot("22-empty")
        assert "smalti ingest" in page.inner_text("#empty")
        assert page.is_hidden("#choices")
        page.keyboard.press("Enter")
        page.mouse.click(800, 400)
        assert not page.faults()
        page.close()


@pytest.mark.slow
def test_a_dataset_without_colours_offers_to_fit_them(browser: Any, own_world: Settings) -> None:
    datasets = own_world.home / "datasets"
    shutil.copytree(datasets / "demo.icechunk", datasets / "second.icechunk")
    with running(own_world) as address:
        page = Page(browser, address)
        page.open()
        assert "% of the variance" in page.inner_text("#legend")
        page.select_option("#dataset", "second")
        page.settle()
        page.shot("23-no-basis")
        assert "dataset=second" in page.url
        assert "smalti pca fit second" in page.inner_text("#legend")
        page.click("text=Fit the colours")
        eventually(lambda: "% of the variance" in page.inner_text("#legend"), "the colours are not fitted")
        page.settle()
        page.close()


@pytest.mark.slow
def test_trouble_is_told_where_one_looks(browser: Any, server: str) -> None:
    page = Page(browser, server)
    page.expected += ["status of 40", "ERR_FAILED", "Failed to fetch"]
    page.open("/?dataset=gone&window=1999")
    assert "There is no dataset gone here" in page.inner_text("#trouble")
    page.click("#trouble button[aria-label=Dismiss]")
    assert page.is_hidden("#trouble")

    refusal = '{"kind":"forbidden","detail":"not here","remedy":"Set SMALTI_API_KEYS and send one."}'
    page.route("**/queries", lambda route: route.fulfill(status=403, body=refusal, content_type="application/json"))
    page.click_map(somewhere("maize", 5))  # examples that nobody saved
    page.click_map(somewhere("town", 5), "Alt")
    eventually(lambda: "not here" in page.inner_text("#trouble"), "a refusal is not shown")
    assert page.is_visible("#trouble input[type=password]")
    assert page.locator("#hits li").count() == 10  # searching saves nothing, so it still works
    page.shot("24-refused")

    page.route("**/datasets", lambda route: route.abort())
    eventually(lambda: "cannot be reached" in page.inner_text("#trouble"), "a lost server is not told")
    page.unroute("**/datasets")
    eventually(lambda: "cannot be reached" not in page.inner_text("#trouble"), "nothing tells that it is back")
    page.close()


@pytest.mark.slow
def test_a_private_server_asks_for_a_key_and_takes_it(browser: Any, world: Settings) -> None:
    key = ApiKey(digest=sha256(b"open sesame").hexdigest(), scopes=frozenset({"read"}))
    with running(world.model_copy(update={"api_keys": (key,), "public_read": False})) as address:
        page = Page(browser, address)
        page.expected += ["status of 401"]
        page.goto(address)
        page.wait_for_selector("#trouble input[type=password]")
        page.shot("25-key")
        page.fill("#trouble input[type=password]", "open sesame")
        page.click("#trouble form button")
        page.wait_for_selector("#choices:not([hidden])")
        page.settle()
        assert page.is_hidden("#trouble")
        middle = tuple(
            page.request.get(f"{address}/datasets", headers={"X-API-Key": "open sesame"}).json()["datasets"][0][
                "center"
            ]
        )
        eventually(lambda: np.ptp(page.colour(middle)) > 30, "tiles do not carry the key")
        page.click_map(middle)
        page.wait_for_selector("#hits li")
        page.settle()
        page.close()


@contextmanager
def red_tiles(asked: list[str]) -> Iterator[str]:
    """The address of another server, whose map is red everywhere."""
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8)[:, None, None], (3, 256, 256))
    with warnings.catch_warnings(), MemoryFile() as file:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with file.open(driver="PNG", width=256, height=256, count=3, dtype="uint8") as made:
            made.write(red)
        picture = bytes(file.getbuffer())

    class Tiles(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(picture)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Tiles)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
def test_a_base_map_lies_under_the_data(browser: Any, demo_home: Settings) -> None:
    asked: list[str] = []
    with red_tiles(asked) as origin:
        chosen = {"basemap": f"{origin}/{{z}}/{{x}}/{{y}}.png", "basemap_attribution": "<b>Our</b> maps"}
        with running(demo_home.model_copy(update=chosen)) as address:
            page = Page(browser, address)
            page.expected += [f"asked {origin}"]
            page.open()
            eventually(lambda: asked, "the base map is not asked for")
            eventually(lambda: page.colour(GROUND).tolist() == [255, 0, 0], "the base map does not show")
            assert "<b>Our</b> maps" in page.inner_text(".maplibregl-ctrl-attrib")
            assert page.colour(FOREST).tolist() != [255, 0, 0]
            page.close()
