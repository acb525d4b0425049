"""Areas made from scenes on a local disk: how near the whole way comes to the bare encoder, and what memory it takes.

    python -m tests.bench.areas        prints a table and writes .bench/areas.json; half an hour, 3 GB of disk

`area-pipeline`: two blocks, June to August, read from a catalogue of cloud-optimised GeoTIFFs, preprocessed,
encoded, quantised, committed, with their overviews; beside the encoder alone on pixels of the same blocks that lie in
memory, measured before and after each run. The encoder is the architecture of v2 small with fresh weights, in fp32.

`area-memory`: a whole year of dates over areas of 512, 1024 and 2048 pixels square, each in a process of its own; the
last with an encoder that copies numbers and computes nothing. One month is simulated, and stands in the catalogue under
twelve times as many dates: what is read is as much as of a year, what is written to the disk is less.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from api.heap import steady
from service.area import bounds_of
from service.dpixels import DPixels
from service.embed import embed_source
from service.encoder import Encoder
from service.encoder.engines import Engine, Feeds
from service.grid import Zone
from service.registry import SHIPPED, RegisteredModel, Registry
from service.scenes.access import Access
from service.scenes.hosts import Hosts
from service.scenes.source import SCENES, scenes_of
from service.simulate import Landscape
from service.simulate.passes import Tiling
from service.simulate.scenes import publish
from service.sources import Placement, Source
from service.store import create_store
from service.store.writable import repository_name
from service.training.export import export
from service.training.networks import build
from service.training.recipes import SIZES
from service.values import BLOCK, Area, Float32Array, ModelIdentity, Window

OUT = Path(__file__).resolve().parents[2] / ".bench" / "areas.json"
THREADS: Final = 2
ZONE: Final = Zone.parse("31N")
CORNER: Final = 1280 * BLOCK, 114 * BLOCK
SEASON: Final = Window.parse("2024-06-01..2024-08-31")
YEAR: Final = Window.year(2024)
BARE: Final = 8192
"""Pixels that the encoder alone is measured on."""
LAPS: Final = {"small": 3, "mini": 5}
SIDES: Final = (512, 1024, 2048)
MOST_GB: Final = 3.0
PASSES: Final = Window.parse("2024-06-01..2024-06-30"), range(-5, 7), 30
"""Days that are simulated for a whole year, with few clouds; where else they stand in it, in steps of so many days."""

Row = dict[str, Any]


def place(rows: int, cols: int) -> Placement:
    """So many pixels, from a block's corner on."""
    return Placement(ZONE, *CORNER, rows, cols)


def source(folder: Path, window: Window, where: Placement) -> Source:
    """What a catalogue on this disk has there."""
    address = str(folder / "catalog.json")
    access = Access(hosts=Hosts(()), folders=(folder,))
    document = {"type": SCENES, "mode": "mpc", "s2": address, "s1": address}
    (found,) = (s for s in scenes_of(document, window, access, Area(*bounds_of(where))) if s.placement.zone == ZONE)
    return replace(found, placement=where)


def series(held: Source, pixels: int) -> DPixels:
    """Pixels of the first block, as many of each row, in memory."""
    block = next(held.placement.blocks())
    rows, cols = held.placement.within(block)
    step = (rows.stop - rows.start) * (cols.stop - cols.start) // pixels
    return held.read(rows, cols)[slice(None, None, step)]


def bare(encoder: Encoder, pixels: DPixels) -> float:
    """Pixels a second of the encoder alone."""
    start = time.perf_counter()
    encoder.encode(pixels)
    return len(pixels) / (time.perf_counter() - start)


def whole(encoder: Encoder, held: Source, folder: Path) -> float:
    """Pixels a second from scenes to the store."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        window = None if held.window.is_year else held.window
        at = Path(home) / repository_name("area", held.window)
        store = create_store(at, encoder.identity, dims=encoder.dims, window=window)
        start = time.perf_counter()
        report = embed_source(held, encoder, store)
        seconds = time.perf_counter() - start
        assert len(report.written) == len(list(held.placement.blocks()))
        assert report.pixels == held.placement.height * held.placement.width
    return report.pixels / seconds


def pipeline(name: str, model: RegisteredModel, held: Source, folder: Path, target: float | None) -> Row:
    """The whole way beside the encoder alone, in turns."""
    encoder = Encoder.open(model, "cpu", threads=THREADS)
    pixels = series(held, BARE)
    bare(encoder, pixels[: BARE // 8])
    alone, rates = [bare(encoder, pixels)], []
    for _ in range(LAPS[name]):
        rates.append(whole(encoder, held, folder))
        alone.append(bare(encoder, pixels))
    encoder.close()
    around = [(before + after) / 2 for before, after in pairwise(alone)]
    ratio = statistics.median(rate / near for rate, near in zip(rates, around, strict=True))
    return {
        "case": "area-pipeline" if target else f"area-pipeline-{name}", "metric": f"throughput, {name}, fp32",
        "unit": "pixels/s", "ours": statistics.median(rates), "other": statistics.median(alone),
        "other_name": "the encoder alone", "ratio": ratio, "target": target,
    }  # fmt: skip


def pipelines(folder: Path, sides: tuple[int, int] = (BLOCK, 2 * BLOCK), window: Window = SEASON) -> Iterator[Row]:
    """Rows of `area-pipeline`."""
    scenes = folder / "season"
    publish(Landscape(3, *sides), place(*sides), scenes, "mpc", window)
    held = source(scenes, window, place(*sides))
    torch.manual_seed(0)
    fresh = export(
        build("tessera-v2", vars(SIZES["small"])), folder / "small", ModelIdentity("bench-small", "1"),
        family="tessera-v2",
    )  # fmt: skip
    yield pipeline("small", fresh, held, folder, 0.85)
    yield pipeline("mini", Registry((SHIPPED,)).get("smalti-mini"), held, folder, None)


def year(folder: Path, side: int) -> None:
    """A catalogue whose items fill a year: those of a few days stand in it again and again, with other dates."""
    days, elsewhere, apart = PASSES
    publish(Landscape(3, side, side), place(side, side), folder, "mpc", days, tiling=Tiling(side, 0, 0))
    for collection in sorted(folder.glob("*/collection.json")):
        told = json.loads(collection.read_text())
        items = [link for link in told["links"] if link["rel"] == "item"]
        for number in elsewhere:
            if number:
                told["links"] += [_again(collection.parent, link, number * apart) for link in items]
        for span in told["extent"]["temporal"]["interval"]:
            span[:] = ["2024-01-01T00:00:00Z", "2024-12-31T23:59:59Z"]
        collection.write_text(json.dumps(told))


def _again(folder: Path, link: dict[str, Any], days: int) -> dict[str, Any]:
    """A link to an item that differs from another by its date alone."""
    first = folder / link["href"]
    item = json.loads(first.read_text())
    moment = dt.datetime.fromisoformat(item["properties"]["datetime"]) + dt.timedelta(days)
    item["id"] += f"_{days}"
    item["properties"]["datetime"] = moment.isoformat()
    path = first.with_name(f"{item['id']}.json")
    path.write_text(json.dumps(item))
    return {**link, "href": str(path.relative_to(folder))}


@contextmanager
def copying(model: RegisteredModel) -> Iterator[Encoder]:
    """An encoder of a model's form that gives back what it is given."""
    dims = model.manifest.dims

    def run(feeds: Feeds) -> Float32Array:
        flat = feeds["s2"].reshape(len(feeds["s2"]), -1)
        return np.resize(flat, (len(flat), dims)).astype(np.float32)

    encoder = Encoder(model, Engine("copy", "fp32", 256, THREADS, lambda: run, lambda: None))
    yield encoder
    encoder.close()


def peak(side: int, scenes: Path, folder: Path) -> float:
    """Highest resident memory of this process in GB, once it has made such an area."""
    steady(os.environ)  # as every command of ours does
    model, held = Registry((SHIPPED,)).get("smalti-mini"), source(scenes, YEAR, place(side, side))
    if side == SIDES[-1]:
        with copying(model) as encoder:
            whole(encoder, held, folder)
    else:
        whole(Encoder.open(model, "cpu", threads=THREADS), held, folder)
    # `getrusage` would tell the peak of the process that started this one, where that was higher.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e9


def memory(folder: Path, sides: tuple[int, ...] = SIDES) -> Iterator[Row]:
    """Rows of `area-memory`."""
    scenes = folder / "year"
    year(scenes, sides[-1])
    held: dict[int, float] = {}
    for side in sides:
        command = [sys.executable, "-m", "tests.bench.areas", str(side), str(scenes), str(folder)]
        held[side] = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        yield {"case": f"area-memory-{side}", "metric": "peak resident memory", "unit": "GB", "ours": held[side],
               "other": MOST_GB, "other_name": "allowed", "ratio": MOST_GB / held[side], "target": 1.0}  # fmt: skip
    *_, middle, largest = sides
    yield {"case": "area-memory", "metric": f"peak resident memory, {largest} beside {middle}", "unit": "GB",
           "ours": held[largest], "other": held[middle], "other_name": f"{middle} pixels square",
           "ratio": 1.1 * held[middle] / held[largest], "target": 1.0}  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in (pipelines, memory):
            for row in part(Path(folder)):
                rows.append(row)
                target = f"(target {row['target']:g})" if row["target"] else ""
                print(f"{row['case']:20} {row['metric']:44} {row['ours']:8.4g} {row['other']:8.4g} "
                      f"x{row['ratio']:.2f} {target}", flush=True)  # fmt: skip
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(peak(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
    else:
        main()
