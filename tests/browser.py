"""A real browser for the tests of the page: what is on the screen, in words and in colours."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from api import demo
from service.grid import archive_grid
from service.simulate import CLASSES, Landscape
from tests.conftest import ROOT, program

SHOTS = ROOT / ".screenshots"
AXE = ROOT / "api" / "web" / "node_modules" / "axe-core" / "axe.min.js"
ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip
NOT_OURS = ("GPU stall", "GL Driver Message")
PATIENCE_S = 20.0


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's chromium, drawing with the processor."""
    from playwright.sync_api import sync_playwright

    if not (ROOT / "api" / "web" / "vendor" / "maplibre-gl.mjs").exists():
        raise AssertionError("the map library is missing: run `make setup`")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program("chromium"), headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


def somewhere(kind: str, nth: int = 0, year: int = 2024) -> tuple[float, float]:
    """(lon, lat) of a pixel of the demo amid pixels of one land cover, outside the empty quarter."""
    scene = demo.Scene.make()
    cover = Landscape(demo.SEED, demo.SIDE, demo.SIDE).land_cover(year) == CLASSES.index(kind)
    inner = cover[2:-2, 2:-2].copy()
    for down in range(5):
        for along in range(5):
            inner &= cover[down : down + inner.shape[0], along : along + inner.shape[1]]
    rows, cols = scene.placement.within(scene.empty)
    inside = np.argwhere(inner) + 2
    inside = inside[~((inside[:, 0] < rows.stop) & (inside[:, 1] >= cols.start))]
    row, col = inside[(nth * 997) % len(inside)]
    grid = archive_grid(scene.placement.zone)
    lon, lat = grid.to_lonlat(np.array([scene.placement.row + row + 0.5]), np.array([scene.placement.col + col + 0.5]))
    return float(lon[0]), float(lat[0])


def kind_at(lon: float, lat: float, year: int = 2024) -> str:
    """The true land cover at a place of the demo."""
    placement = demo.Scene.make().placement
    row, col = archive_grid(placement.zone).cell(lon, lat)
    cover = Landscape(demo.SEED, demo.SIDE, demo.SIDE).land_cover(year)
    return CLASSES[cover[int(row) - placement.row, int(col) - placement.col]]


EMPTY = (2.3285, 54.7135)
"""A place in the quarter that the demo leaves empty, off its middle, where a label says so."""
GROUND = (2.3352, 54.7035)
"""A place beside the demo, where nothing is drawn."""


class Page:
    """The page in a browser: says where things are on the screen, and collects what went wrong."""

    def __init__(self, browser: Any, server: str, *, size: tuple[int, int] = (1280, 800), **context: Any) -> None:
        self.server = server
        self.complaints: list[str] = []
        self.expected: list[str] = []
        """Texts of complaints that a test provokes."""
        context = {"permissions": ["clipboard-read", "clipboard-write"], **context}
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **context)
        self.page = self.context.new_page()
        note = self.complaints.append
        self.page.on("console", lambda m: note(m.text) if m.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda e: note(str(e)))
        self.context.on(
            "request", lambda r: None if r.url.startswith((server, "blob:", "data:")) else note(f"asked {r.url}")
        )

    def __getattr__(self, name: str) -> Any:
        """Everything that a Playwright page can do."""
        return getattr(self.page, name)

    def open(self, path: str = "/") -> None:
        """Go there, and wait until nothing loads any more."""
        self.page.goto(self.server + path)
        self.page.wait_for_selector("#choices:not([hidden])")
        self.settle()

    def settle(self) -> None:
        """Wait until the thin bar at the top has been gone for a moment."""
        quiet = time.monotonic()
        end = quiet + PATIENCE_S
        while time.monotonic() < end:
            if self.page.is_visible("#progress"):
                quiet = time.monotonic()
            if time.monotonic() - quiet > 0.4:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError("the page never came to rest")

    def at(self, place: tuple[float, float]) -> tuple[float, float]:
        """Where on the screen a (lon, lat) is, by the map's own address."""
        zoom, lat, lon = (float(part) for part in self.page.url.partition("#map=")[2].split("/")[:3])
        size = self.page.viewport_size
        world = 512 * 2**zoom
        y_of = lambda degrees: math.asinh(math.tan(math.radians(degrees))) / (2 * math.pi)  # noqa: E731
        x = size["width"] / 2 + (place[0] - lon) / 360 * world
        return x, size["height"] / 2 - (y_of(place[1]) - y_of(lat)) * world

    def click_map(self, place: tuple[float, float], *modifiers: str) -> None:
        """Click a (lon, lat), and wait for what it does."""
        for key in modifiers:
            self.page.keyboard.down(key)
        self.page.mouse.click(*self.at(place))
        for key in modifiers:
            self.page.keyboard.up(key)
        self.page.wait_for_timeout(100)
        self.settle()

    def colour(self, place: tuple[float, float]) -> np.ndarray[Any, Any]:
        """(3,) red, green, blue of the screen at a (lon, lat)."""
        x, y = self.at(place)
        png = self.page.screenshot(clip={"x": round(x), "y": round(y), "width": 1, "height": 1})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with MemoryFile(png) as file, file.open() as picture:
                return picture.read()[:3, 0, 0].astype(int)

    def shot(self, name: str) -> Path:
        """Save the screen for people to look at."""
        SHOTS.mkdir(exist_ok=True)
        path = SHOTS / f"{name}.png"
        self.page.screenshot(path=str(path))
        return path

    def texts(self, selector: str) -> list[str]:
        """The words of every match."""
        return list(self.page.locator(selector).all_inner_texts())

    def download(self, selector: str) -> Any:
        """Click, and read the JSON file that comes."""
        with self.page.expect_download() as coming:
            self.page.click(selector)
        return json.loads(Path(coming.value.path()).read_text())

    def faults(self) -> list[str]:
        """Serious and critical faults that axe-core finds on the page as it is."""
        # Through the debugger: the page's own policy would not let a test add a script.
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [v for v in found if v["impact"] in {"serious", "critical"}]
        return [f"{v['id']}: {v['help']}: {[n['target'] for n in v['nodes']][:6]}" for v in serious]

    def close(self) -> None:
        """Close, and fail if the console complained or a request left this machine."""
        self.context.close()
        known = (*NOT_OURS, *self.expected)
        ours = [text for text in self.complaints if not any(part in text for part in known)]
        assert not ours, ours


def eventually(truth: Callable[[], Any], what: str) -> Any:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := truth():
            return found
        time.sleep(0.1)
    raise AssertionError(what)
