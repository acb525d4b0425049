"""An area through the queue beside the same area embedded by a plain loop in one process.

    python -m tests.bench.jobs        prints a table and writes .bench/jobs.json

Three whole blocks of the simulated landscape. The worker is a process of its own, as in service, started and warm
before the clock runs; the clock stops when the job says that it is done.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from api.catalogue import open_or_make
from api.settings import Settings
from api.state import State
from service.area import MIN_S2
from service.embed import embed_source
from service.grid import Zone
from service.simulate import Landscape
from service.sources import Placement, Simulated
from service.store import create_store
from service.values import BLOCK, Window
from tests.conftest import client_of
from tests.services import worker

OUT = Path(__file__).resolve().parents[2] / ".bench" / "jobs.json"
SIDES = BLOCK, 3 * BLOCK
PLAIN = "embed_source in one process"


def source(year: int) -> Simulated:
    """Three blocks in a row."""
    return Simulated(
        Placement(Zone.parse("31N"), 1280 * BLOCK, 114 * BLOCK, *SIDES), Landscape(3, *SIDES), Window.year(year)
    )


def asked(client: Any, year: int, bounds: list[float]) -> float:
    """Seconds from asking for an area to its end."""
    start = time.perf_counter()
    answer = client.post("/areas", json={"dataset": "bench", "window": str(year), "bbox": bounds})
    assert answer.status_code == 202, answer.text
    while (told := client.get(f"/jobs/{answer.json()['id']}").json())["state"] in {"queued", "running"}:
        time.sleep(0.05)
    assert told["state"] == "done", told["error"]
    return time.perf_counter() - start


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home", catalogue=Path("none.toml"))
        state = State(settings)
        encoder = state.encoder("smalti-mini")
        open_or_make(state.storage, "bench", encoder.identity, encoder.manifest.dims, Window.year(2024))
        state.sources.put(source(2024).to_document(), "bench")
        client = client_of(settings)
        bounds = client.get("/datasets/bench").json()["source_bounds"]
        lon, lat = (bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2
        middle = [lon, lat, lon + 1e-4, lat + 1e-4]
        pixels = SIDES[0] * SIDES[1]
        with worker(settings):
            asked(client, 2023, middle)  # loads the model
            job = asked(client, 2024, bounds)
            nothing = asked(client, 2025, middle), asked(client, 2025, middle)
        plain = create_store(Path(folder) / "plain.icechunk", encoder.identity, dims=encoder.manifest.dims)
        start = time.perf_counter()
        embed_source(source(2024), encoder, plain, min_s2=MIN_S2)
        direct = time.perf_counter() - start
    rows = [
        {
            "case": "job-overhead", "metric": "speed", "unit": "pixels/s", "ours": round(pixels / job),
            "other": round(pixels / direct), "other_name": PLAIN, "ratio": round(direct / job, 3), "target": None,
        },
        {
            "case": "job-again", "metric": "time", "unit": "s", "ours": round(nothing[1], 3),
            "other": round(nothing[0], 3), "other_name": "the first time, one block", "ratio": None, "target": None,
        },
    ]  # fmt: skip
    for row in rows:
        print(row)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": rows}, indent=2))


if __name__ == "__main__":
    main()
