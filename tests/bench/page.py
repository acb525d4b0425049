"""Seconds from navigation until a pixel of data is drawn, the browser's cache empty: our page, and the least page.

The other is a page of nothing but the map library and the same tiles. Both are asked for in turn.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

from api import demo
from api.settings import Settings
from api.state import State
from tests.browser import Page, chromium
from tests.conftest import ROOT, running

OUT: Final = ROOT / ".bench" / "page.json"
ROUNDS: Final = 7
BAR_S: Final = 2.0

FIRST_COLOUR = """
const real = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, options) {
  const context = real.call(this, kind, { ...options, preserveDrawingBuffer: true });
  const look = () => {
    const [pixel, at] = [new Uint8Array(4), [context.drawingBufferWidth * 0.45, context.drawingBufferHeight * 0.4]];
    context.readPixels(...at.map(Math.round), 1, 1, context.RGBA, context.UNSIGNED_BYTE, pixel);
    const spread = Math.max(...pixel.slice(0, 3)) - Math.min(...pixel.slice(0, 3));
    if (spread > 40) document.documentElement.dataset.coloured = performance.now(); else setTimeout(look, 30);
  };
  setTimeout(look, 30);
  return context;
};
"""


BARE = """
<!doctype html><link rel="stylesheet" href="/web/vendor/maplibre-gl.css">
<div id="map" style="position: absolute; inset: 0"></div>
<script type="module">
  import * as maplibre from "/web/vendor/maplibre-gl.mjs";
  maplibre.setWorkerUrl("/web/vendor/maplibre-gl-worker.mjs");
  const tiles = [location.origin + "/datasets/demo/2024/tiles/WebMercatorQuad/{z}/{x}/{y}.png?tilesize=256&view=pca"];
  new maplibre.Map({ container: "map", center: [2.31, 54.704], zoom: 13.6, style: { version: 8,
    sources: { data: { type: "raster", tileSize: 256, tiles } },
    layers: [{ id: "data", type: "raster", source: "data" }] } });
</script>
"""


def first_colour(browser: Any, server: str, path: str) -> float:
    """Seconds."""
    page = Page(browser, server)
    page.route(f"{server}/bare", lambda route: route.fulfill(body=BARE, content_type="text/html"))
    page.add_init_script(FIRST_COLOUR)
    page.goto(server + path)
    page.wait_for_selector("html[data-coloured]", state="attached")
    took = float(page.get_attribute("html", "data-coloured")) / 1000
    page.close()
    return took


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        settings = Settings(home=Path(folder), catalogue=Path("none.toml"))
        demo.prepare(State(settings))
        with running(settings) as server:
            for path in ("/", "/bare"):  # the server's caches are warm for both
                first_colour(browser, server, path)
            pairs = [[first_colour(browser, server, path) for path in ("/", "/bare")] for _ in range(ROUNDS)]
    ours, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
    about = {"case": "first-coloured-tile", "metric": "median from navigation", "unit": "s", "ours": round(ours, 3)}
    rows = [
        {**about, "other": BAR_S, "other_name": "the bar", "ratio": round(BAR_S / ours, 2), "target": 1.0},
        {**about, "other": round(bare, 3), "other_name": "a bare map", "ratio": round(bare / ours, 2), "target": None},
    ]
    for row in rows:
        print(f"{row['case']} {row['ours']} s, {row['other_name']} {row['other']} s, ratio {row['ratio']}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
