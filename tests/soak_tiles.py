"""The server's memory after 12,000 mixed tiles beside that after 3,000: run by `make soak-tiles`.

    python -m tests.soak_tiles [TILES]      12000 where absent; writes .bench/soak-tiles.json; fails where it grew

A small world in a server process of its own, asked by a few clients at once for what a map asks for and what it should
not: every view, zooms 0 to 18, sizes and formats, places without data, tiles that have not changed (304), and mistakes.
Each answer's status is checked. Caches as shipped, but small enough to be full long before the first look at memory.
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
from typing import Final

import morecantile

from api import demo
from api.settings import Settings
from api.state import State
from tests.bench.clients import resident
from tests.bench.serving import Client, server

OUT: Final = Path(__file__).resolve().parents[1] / ".bench" / "soak-tiles.json"
TMS: Final = morecantile.tms.get("WebMercatorQuad")
SIDE, CLIENTS, STEP = 320, 4, 500
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
        yield Asked(f"/datasets/demo/2024/tiles/WebMercatorQuad/{name}?view={view}&tilesize={size}", right)


def ask(client: Client, asked: Iterator[Asked], many: int, met: Counter[int]) -> None:
    """Send so many requests; one in five that succeed is asked for again with its ETag."""
    for index, one in zip(range(many), asked, strict=False):
        answer = client.get(one.path)
        if answer.status not in one.right:
            raise SystemExit(f"{one.path}: {answer.status} and not {one.right}: {answer.body[:300]!r}")
        met[answer.status] += 1
        if index % 5 == 0 and "etag" in answer.headers:
            again = client.get(one.path, {"If-None-Match": answer.headers["etag"]})
            if again.status != 304 or again.body:
                raise SystemExit(f"{one.path}: {again.status} where nothing had changed")
            met[304] += 1


def run(home: Path, tiles: int) -> tuple[list[tuple[int, float]], Counter[int]]:
    """((tiles so far, MB resident) as it goes, answers by status)."""
    state = State(Settings(home=home, catalogue=Path("none.toml")))
    demo.prepare(state, SIDE)
    box = state.extent(state.datasets["demo"])
    assert box is not None
    environment = {"SMALTI_HOME": str(home), "SMALTI_CATALOGUE": str(home / "none.toml"), **CACHES}
    met, memory = Counter[int](), []
    with server(("--factory", "api.app:create_app"), environment) as (port, pid), ThreadPoolExecutor(CLIENTS) as pool:
        crowd = [(Client(port), requests(box.bounds, seed)) for seed in range(CLIENTS)]
        for done in range(STEP, tiles + 1, STEP):
            for _ in pool.map(lambda c: ask(*c, STEP // CLIENTS, met), crowd):
                pass
            memory.append((done, resident(pid)))
            print(f"{done:>6} tiles {memory[-1][1]:>8.0f} MB", flush=True)
    return memory, met


def main() -> None:
    """Soak, print, write."""
    tiles = int(sys.argv[1]) if len(sys.argv) > 1 else 12_000
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        memory, met = run(Path(folder), tiles)
    at = dict(memory)
    early, late = at[tiles // 4], at[tiles]
    line = {"case": "soak-tiles", "metric": f"resident memory after {tiles} tiles", "unit": "MB",
            "ours": round(late, 1), "other": round(early, 1), "other_name": f"after {tiles // 4}", "ratio": round(early / late, 3),
            "target": round(1 / GROWTH, 3)}  # fmt: skip
    told = {"memory": memory, "answers": dict(met), "seconds": round(time.monotonic() - start)}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": [line], **told}, indent=1) + "\n")
    print(f"{early:.0f} MB after {tiles // 4} tiles, {late:.0f} MB after {tiles}; {told['answers']}")
    if late > early * GROWTH:
        raise SystemExit("the server's memory grew")


if __name__ == "__main__":
    main()
