"""The server's memory after 12,000 mixed tiles beside that after 3,000: run by `make soak-tiles`.

    python -m tests.soak_tiles [TILES]      12000 where absent; writes .bench/soak-tiles.json; fails where it grew

A small world in a `smalti serve` of its own, asked by a few clients at once for what a map asks for and what it should
not: every view, zooms 0 to 18, sizes and formats, places without data, tiles that have not changed (304), and mistakes.
Each answer's status is checked. Caches as shipped, but small enough to be full long before the first look at memory.
What glibc holds free swings by a tenth from look to look, so the medians of five looks each are compared.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import morecantile
import numpy as np

from api.settings import Settings
from api.state import State
from service.colour import fit_basis
from service.grid import Zone, archive_grid, blocks_of
from service.store import BlockData, create_store
from service.values import BLOCK, NOT_EMBEDDED, WATER, Counts, ModelIdentity, Window
from tests.bench.clients import resident, server
from tests.bench.landscape import Landscape
from tests.bench.serving import Client, end_cleanly

OUT: Final = Path(__file__).resolve().parents[1] / ".bench" / "soak-tiles.json"
MODEL: Final = ModelIdentity("bench", "1")
TMS: Final = morecantile.tms.get("WebMercatorQuad")
CLIENTS, LOOKS, NEAR = 4, 24, 5
BORDER: Final = (6.0, 52.0)
"""Where two zones meet."""
GROWTH: Final = 1.10
CACHES: Final = {"SMALTI_CACHES__CHUNK_BYTES": "20000000", "SMALTI_CACHES__TILE_BYTES": "5000000"}
WRONG: Final = (
    ("pca:nobody", 404), ("rainbow", 422), ("similarity:nobody", 404), ("bands:0,1,900", 422), ("change:1999", 404),
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One request, and the statuses that are right."""

    path: str
    right: tuple[int, ...]


def requests(box: tuple[float, float, float, float], seed: int) -> Iterator[Asked]:
    """Requests without end."""
    rng = random.Random(seed)
    west, south, east, north = box
    views = ["pca", "bands:0,1,2", "bands:5,9,3", "observations:s2", "change:2023", "vector"]
    while True:
        zoom, kind = rng.randint(0, 18), rng.random()
        lon, lat = rng.uniform(west, east), rng.uniform(south, north)
        if kind < 0.1:
            lon, lat = rng.uniform(-179, 179), rng.uniform(-80, 80)  # nearly always nothing is there
        view = rng.choice(
            [*views, f"similarity:{rng.choice((west, east)) / 2 + lon / 2:.3f},{(south + north) / 2:.3f}"]
        )
        form = rng.choice(("npy", "tif")) if view == "vector" else rng.choice(("png", "png", "png", "webp", "jpg"))
        right = (200, 204, 404)
        if rng.random() < 0.05:
            view, status = rng.choice(WRONG)
            right = (status,)
        tile, size = TMS.tile(lon, lat, zoom), 256 if view == "vector" else rng.choice((256, 512))
        name = f"{tile.z}/{tile.x}/{tile.y}.{form}"
        yield Asked(f"/datasets/soak/2024/tiles/WebMercatorQuad/{name}?view={view}&tilesize={size}", right)


def ask(client: Client, asked: Iterator[Asked], many: int) -> Counter[int]:
    """Send so many requests, some of them again with the ETag of the answer; what was met."""
    met, index = Counter[int](), 0
    while met.total() < many:
        one, index = next(asked), index + 1
        answer = client.get(one.path)
        if answer.status not in one.right:
            raise SystemExit(f"{one.path}: {answer.status} and not {one.right}: {answer.body[:300]!r}")
        met[answer.status] += 1
        if index % 5 == 0 and "etag" in answer.headers and answer.status == 200:
            again = client.get(one.path, {"If-None-Match": answer.headers["etag"]})
            if again.status != 304 or again.body:
                raise SystemExit(f"{one.path}: {again.status} where nothing had changed")
            met[304] += 1
    return met


def make(home: Path) -> tuple[float, float, float, float]:
    """A dataset of two years on both sides of a zone border, with holes; returns its box, degrees."""
    store, landscape = create_store(home / "datasets" / "soak.icechunk", MODEL), Landscape()
    lon, lat = BORDER
    counts, blocks = Counts(*(np.full((BLOCK, BLOCK), n, np.uint16) for n in (40, 30, 20))), []
    for zone, west in (("31N", lon - 0.03), ("32N", lon + 0.03)):
        row, col = archive_grid(Zone.parse(zone)).cell(west, lat)
        for block in blocks_of(zone, slice(row - BLOCK, row + BLOCK), slice(col - BLOCK, col + BLOCK)):
            for window in (Window.year(2023), Window.year(2024)):
                vectors = landscape.block(block, window.start.year)
                vectors.status[40:90, 30:200] = WATER
                vectors.status[100:120] = NOT_EMBEDDED
                blocks.append(BlockData(block, window, vectors, counts, "ab" * 32))
    store.write(blocks, "soak")
    for window in store.windows():
        store.write_overviews(window)
    basis = fit_basis(store, store.windows())
    State(Settings(home=home, catalogue=home / "none.toml")).bases("soak").put(basis.to_document(), "default")
    return lon - 0.1, lat - 0.05, lon + 0.1, lat + 0.05


def run(home: Path, tiles: int) -> tuple[list[tuple[int, float]], Counter[int]]:
    """((tiles so far, MB resident) as it goes, answers by status)."""
    box, step = make(home), tiles // LOOKS
    environment = {"SMALTI_CATALOGUE": str(home / "none.toml"), **CACHES}
    met, memory = Counter[int](), []
    with server(home, environment) as (port, pid), ThreadPoolExecutor(CLIENTS) as pool:
        crowd = [(Client(port), requests(box, seed)) for seed in range(CLIENTS)]
        for look in range(1, LOOKS + 1):
            for counted in pool.map(lambda c: ask(*c, step // CLIENTS), crowd):
                met += counted
            memory.append((look * step, resident(pid)))
            print(f"{look * step:>6} tiles {memory[-1][1]:>8.0f} MB", flush=True)
    return memory, met


def main() -> None:
    """Soak, print, write."""
    tiles = int(sys.argv[1]) if len(sys.argv) > 1 else 12_000
    end_cleanly()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        memory, met = run(Path(folder), tiles)
    resident_mb = [mb for _, mb in memory]
    early, late = median(resident_mb[LOOKS // 4 - NEAR : LOOKS // 4]), median(resident_mb[-NEAR:])
    line = {"case": "soak-tiles", "metric": f"resident memory after {tiles} tiles", "unit": "MB",
            "ours": round(late, 1), "other": round(early, 1), "other_name": f"after {tiles // 4}",
            "ratio": round(early / late, 3),
            "target": round(1 / GROWTH, 3)}  # fmt: skip
    told = {"memory": memory, "answers": dict(met), "seconds": round(time.monotonic() - start)}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": [line], **told}, indent=1) + "\n")
    print(f"{early:.0f} MB after {tiles // 4} tiles, {late:.0f} MB after {tiles}; {told['answers']}")
    if late > early * GROWTH:
        raise SystemExit("the server's memory grew")


if __name__ == "__main__":
    main()
