"""The picture in the README: the page itself, photographed. `make docs/map.webp` keeps it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from tests.browser import SHOTS, Page, chromium, somewhere

pytestmark = pytest.mark.slow

SIZE = (1320, 800)


def to_webp(png: Path, webp: Path) -> None:
    """Encode anew, small enough for a README."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(png) as picture:
            bands, profile = picture.read()[:3], picture.profile
        profile.update(driver="WEBP", count=3, quality=88)
        with rasterio.open(webp, "w", **profile) as made:
            made.write(bands)
    Path(f"{webp}.aux.xml").unlink(missing_ok=True)


def test_a_picture_for_the_readme(server: str) -> None:
    with chromium() as browser:
        page = Page(browser, server, size=SIZE)
        page.open()
        page.click_map(somewhere("rapeseed", 3))
        page.wait_for_selector("#hits li")
        page.settle()
        page.hover("#hits li:nth-child(2) .go")
        page.wait_for_timeout(500)
        shot = page.shot("map")
        assert page.locator("#hits li").count() == 10
        page.close()
    to_webp(shot, SHOTS / "map.webp")
    assert 20_000 < (SHOTS / "map.webp").stat().st_size < 400_000
