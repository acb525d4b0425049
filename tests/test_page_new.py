"""New pixels by way of the page: an uploaded series finds its place, a job fills the empty quarter."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from api.settings import Settings
from tests.browser import EMPTY, Page, eventually, kind_at
from tests.conftest import ROOT, running
from tests.services import worker

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "api" / "web" / "assets" / "example.json"


DROP = """([name, type, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type }));
  for (const event of ["dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(event, { dataTransfer: data, bubbles: true, cancelable: true }));
    if (event === "dragover") window.saw = !document.getElementById("drop").hidden;
  }
}"""


def drop(page: Page, name: str, content: bytes) -> None:
    """Drag a file over the page and let it go there."""
    page.evaluate(DROP, [name, "application/json", base64.b64encode(content).decode()])
    assert page.evaluate("window.saw"), "nothing tells that a file may be dropped here"


def test_the_example_series_shows_where_it_belongs(page: Page) -> None:
    page.open()
    page.click("#try-example")
    page.wait_for_selector("#hits li")
    page.settle()
    page.shot("13-upload")
    assert "behaves like these places" in page.inner_text("#uploading")
    assert "your series" in page.inner_text("#examples")
    found = page.download("#download")["features"]
    assert {kind_at(*feature["geometry"]["coordinates"]) for feature in found} == {"rapeseed"}
    assert all("," in text for text in page.texts("#hits .far"))  # places, since an upload lies nowhere
    hits = page.texts("#hits li")
    page.reload()
    page.wait_for_selector("#hits li")
    assert page.texts("#hits li") == hits


def test_files_dropped_on_the_page_are_embedded(page: Page, demo_home: Settings) -> None:
    page.open()
    drop(page, "mine.json", EXAMPLE.read_bytes())
    page.wait_for_selector("#hits li")
    assert "mine.json behaves like" in page.inner_text("#uploading")
    with page.expect_file_chooser() as asked:
        page.click("#choose-file")
    asked.value.set_files(demo_home.home / "examples" / "quarter.npz")
    eventually(lambda: "quarter.npz behaves like" in page.inner_text("#uploading"), "the NPZ is not embedded")
    assert "2,304 pixels" in page.inner_text("#uploading")
    assert "average" in page.inner_text("#uploading")
    page.settle()


def test_a_wrong_file_is_told_what_is_wrong_with_it(page: Page) -> None:
    page.expected += ["status of 4"]
    page.open()
    drop(page, "notes.txt", b"hello")
    eventually(lambda: "notes.txt is neither NPZ nor JSON" in page.inner_text("#uploading"), "no word on a text file")
    body = json.loads(EXAMPLE.read_text())
    body["pixels"][0]["s2"]["bands"][0] = "B99"
    drop(page, "bands.json", json.dumps(body).encode())
    eventually(lambda: "B99" in page.inner_text("#uploading"), "the band at fault is not named")
    assert "bands" in page.inner_text("#uploading .notice")
    page.shot("14-upload-refused")
    page.click("#uploading button[aria-label=Dismiss]")
    assert page.is_hidden("#uploading")


def test_the_empty_quarter_is_embedded_from_the_page(browser: Any, demo_home: Settings, tmp_path: Path) -> None:
    shutil.copytree(demo_home.home, tmp_path / "home", ignore=shutil.ignore_patterns("jobs.sqlite*"))
    settings = demo_home.model_copy(update={"home": tmp_path / "home"})
    with running(settings) as address:
        page = Page(browser, address)
        page.open()
        before = page.colour(EMPTY)
        page.click_map(EMPTY)
        eventually(lambda: "No worker runs" in page.inner_text("#pixel"), "nobody says that no worker runs")
        with worker(settings):
            eventually(lambda: page.request.get(f"{address}/jobs").json()["workers"], "the worker does not sign in")
            page.click_map(EMPTY)
            assert "1 block, 16,384 pixels, about" in page.inner_text("#pixel")
            page.click("text=Embed here")
            page.wait_for_selector("#job progress")
            assert page.locator("#job").inner_text().count("of 1 block") == 1
            page.shot("15-embedding")
            page.wait_for_selector("#pixel .badge.valid", timeout=100_000)
            eventually(lambda: "on the map and in the search" in page.inner_text("#toast"), "no word that it is done")
        page.settle()
        page.shot("16-embedded")
        eventually(lambda: abs(page.colour(EMPTY) - before).max() > 30, "the new pixels do not show")
        page.click_map(EMPTY)
        eventually(lambda: page.texts("#hits li"), "the new pixels cannot be asked about")
        page.close()
