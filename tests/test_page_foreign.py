"""Another site's page shows our tiles: MapLibre, another origin, and nothing of ours but one TileJSON document."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import morecantile
import numpy as np
import pytest
from PIL import Image

from tests.browser import SHOTS
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
TMS = morecantile.tms.get("WebMercatorQuad")
LIBRARY = ROOT / "api" / "web" / "vendor"
ZOOM, SIDE, WIDTH, HEIGHT = 14, 256, 1024, 768
"""Of tiles. The map counts zooms by tiles of 512 pixels, so its own is one less."""
HTML = """<!doctype html><meta charset="utf-8"><title>Somebody's map</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/maplibre-gl.css">
<style>html, body, #map { height: 100%; margin: 0 }</style><div id="map"></div>
<script type="module">
import * as maplibre from "/maplibre-gl.mjs";
maplibre.setWorkerUrl("/maplibre-gl-worker.mjs");
const asked = new URLSearchParams(location.search);
const map = new maplibre.Map({
  container: "map",
  zoom: Number(asked.get("zoom")),
  center: [Number(asked.get("lon")), Number(asked.get("lat"))],
  attributionControl: { compact: false },
  style: {
    version: 8,
    sources: { embeddings: { type: "raster", url: asked.get("tiles"), tileSize: 256 } },
    layers: [
      { id: "ground", type: "background", paint: { "background-color": "#808080" } },
      { id: "embeddings", type: "raster", source: "embeddings",
        paint: { "raster-fade-duration": 0, "raster-resampling": "nearest" } },
    ],
  },
});
map.on("error", event => console.error(String(event.error)));
map.once("idle", () => { document.title = "shown"; });
</script>"""


class Site(SimpleHTTPRequestHandler):
    """Somebody's site: a page, and the map library."""

    def do_GET(self) -> None:
        """The page, or a file of the library."""
        if not self.path.startswith("/?"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(HTML.encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


Site.extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}


@contextmanager
def site() -> Iterator[str]:
    """The address of the other origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(LIBRARY))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def own(template: str, left: int, top: int) -> np.ndarray[Any, Any]:
    """(HEIGHT, WIDTH, 4) the tiles put together by hand, from a pixel of the world on."""
    cols = range(left // SIDE, (left + WIDTH - 1) // SIDE + 1)
    rows = range(top // SIDE, (top + HEIGHT - 1) // SIDE + 1)
    whole = np.zeros((len(rows) * SIDE, len(cols) * SIDE, 4), np.uint8)
    for i, y in enumerate(rows):
        for j, x in enumerate(cols):
            with suppress(HTTPError), urlopen(template.format(z=ZOOM, x=x, y=y)) as answer:  # beyond the dataset: 404
                tile = Image.open(io.BytesIO(answer.read())).convert("RGBA")
                whole[i * SIDE : (i + 1) * SIDE, j * SIDE : (j + 1) * SIDE] = np.array(tile)
    return whole[top % SIDE :, left % SIDE :][:HEIGHT, :WIDTH]


def test_a_page_of_another_origin_shows_our_tiles(browser: Any, server: str) -> None:
    document = f"{server}/datasets/demo/2024/WebMercatorQuad/tilejson.json?view=pca&tilesize={SIDE}"
    with urlopen(document) as answer:
        described = json.load(answer)
    lon, lat, _ = described["center"]
    world = SIDE * 2**ZOOM
    extent = TMS.xy_bbox
    x, y = TMS.xy(lon, lat)
    # The middle of the screen is a corner of pixels, so that each pixel of a tile is one of the screen.
    col, row = (round((along - extent.left) / (extent.right - extent.left) * world) for along in (x, -y))
    lon, lat = TMS.lnglat(
        *(sign * (extent.left + at / world * (extent.right - extent.left)) for sign, at in ((1, col), (-1, row)))
    )
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    page.on("request", lambda r: asked.append(r.url) if r.url.startswith(server) else None)
    with site() as origin:
        page.goto(f"{origin}/?{urlencode({'tiles': document, 'zoom': ZOOM - 1, 'lon': lon, 'lat': lat})}")
        page.wait_for_function("document.title === 'shown'")
        SHOTS.mkdir(exist_ok=True)
        shot = page.screenshot(path=str(SHOTS / "foreign.png"))
        attribution = page.inner_text(".maplibregl-ctrl-attrib")
        context.close()
    assert complaints == []
    assert asked[0] == document
    prefix = described["tiles"][0].partition("{z}")[0]
    assert len(asked) > 12
    assert all(url.startswith(prefix) for url in asked[1:]), "tiles, and nothing else"
    assert described["attribution"] in attribution
    tiles = own(described["tiles"][0], col - WIDTH // 2, row - HEIGHT // 2)
    there = tiles[..., 3:] > 0
    expected = np.where(there, tiles[..., :3], 0x80)
    screen = np.array(Image.open(io.BytesIO(shot)).convert("RGB"))
    assert there.mean() > 0.15
    assert len(np.unique(screen[:-40].reshape(-1, 3), axis=0)) > 100
    same = np.abs(screen.astype(int) - expected)[:-40].max(axis=-1) <= 1  # the attribution lies over the last rows
    assert same.mean() > 0.999
