"""The demo as people meet it: `smalti demo` with its scenes over HTTP, and one click on the square it leaves empty."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from api.demo import ID, Scene
from api.settings import Settings
from service.grid import archive_grid
from tests.browser import EMPTY, Page, eventually
from tests.test_demo import demo

pytestmark = pytest.mark.slow

SCENE = Scene.make()
UNDER_S = 120
"""Seconds that it may take on two cores; half of that where nothing else runs."""


def in_the_square(lon: float, lat: float) -> bool:
    ground = SCENE.ground
    row, col = archive_grid(ground.zone).cell(lon, lat)
    return ground.rows.start <= row < ground.rows.stop and ground.cols.start <= col < ground.cols.stop


@pytest.mark.timeout(300)
def test_one_click_fills_the_empty_square_from_scenes_over_http(
    browser: Any, demo_home: Settings, tmp_path: Path
) -> None:
    shutil.copytree(demo_home.home, tmp_path / "home", ignore=shutil.ignore_patterns("jobs.sqlite*"))
    with demo(tmp_path / "home") as (address, _, process):
        page = Page(browser, address)
        page.expected += ["status of 404"]  # tiles beyond what the catalogue reaches
        page.open()
        assert page.request.get(f"{address}/datasets/{ID}").json()["source"] == "scenes"

        page.select_option("#window", "2023")
        page.click_map(EMPTY)
        eventually(lambda: "no scenes of this place in 2023" in page.inner_text("#pixel"), "an offer of nothing")
        assert page.query_selector("#pixel .offer button") is None
        page.select_option("#window", "2024")
        page.settle()

        before = page.colour(EMPTY)
        page.click_map(EMPTY)
        page.wait_for_selector("#pixel .offer button")
        assert "1 block, 65,536 pixels, 132 scenes" in page.inner_text("#pixel")
        start = time.monotonic()
        page.click("text=Embed here")
        page.wait_for_selector("#job progress")
        page.wait_for_selector("#pixel .badge.valid", timeout=1000 * UNDER_S)
        eventually(lambda: abs(page.colour(EMPTY) - before).max() > 30, "the new pixels do not show")
        assert time.monotonic() - start < UNDER_S
        page.wait_for_selector("#job button:has-text('Close')", timeout=30_000)
        assert page.request.get(f"{address}/jobs").json()["jobs"][0]["outcome"]["valid"] > 65_000
        page.settle()
        page.shot("24-filled-from-scenes")

        page.click_map(EMPTY)
        page.wait_for_selector("#hits li")
        page.settle()
        found = [feature["geometry"]["coordinates"] for feature in page.download("#download")["features"]]
        assert any(in_the_square(*place) for place in found), f"nothing of the new square is found: {found}"
        page.shot("25-found-in-it")
        page.close()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
