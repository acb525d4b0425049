"""How fast a window is read through the store, against plain zarr arrays of the same pixels.

Run by `make bench-store`: prints a table and writes `.bench/store.json`. Codes are noise, which no codec compresses;
local disk, warm page cache, the lowest quarter of interleaved repetitions. The layouts that others publish are those
of the tile benchmark, kept under `.bench/`, each read through our store and through zarr with either codec pipeline.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from service.grid import Block, Zone
from service.store import BlockData, create_store, open_store
from service.store.chunks import ChunkCache, chunk_cache
from service.values import BLOCK, VALID, Counts, ModelIdentity, Vectors, Window
from tests.bench import published, world

PIPELINES = ("zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs.ZarrsCodecPipeline")
SIDE, DIMS, REPEATS = 4 * BLOCK, 128, 31
WINDOW = 305
"""Pixels along a side of what a web map tile at zoom 13 and 52 N needs."""
Reader = Callable[[slice, slice], Any]
YEAR = Window.year(2024)
ROOT = Path(__file__).resolve().parents[2]


def plain(folder: Path, name: str, codes: np.ndarray, scales: np.ndarray, compressors: Any) -> Reader:
    """A reader of plain zarr arrays with the chunks of the writable layout."""
    group = zarr.open_group(folder / name, mode="w")
    arrays = {}
    for key, values, chunks in (("codes", codes, (128, 128, DIMS)), ("scales", scales, (BLOCK, BLOCK))):
        arrays[key] = group.create_array(
            key, shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=compressors, filters=None
        )
        arrays[key][:] = values
    return lambda rows, cols: (arrays["codes"][rows, cols], arrays["scales"][rows, cols])


def quartiles(
    readers: dict[str, Reader], seed: int = 0, *, side: int = SIDE, repeats: int = REPEATS
) -> dict[str, float]:
    """Milliseconds to read one window with each reader: all read the same windows in turn, so noise hits all alike."""
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for repeat in range(repeats + 2):
        row, col = rng.integers(0, side - WINDOW, 2)
        for name, read in readers.items():
            start = time.perf_counter()
            read(slice(row, row + WINDOW), slice(col, col + WINDOW))
            if repeat >= 2:
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: float(np.quantile(values, 0.25)) for name, values in times.items()}


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        rows = measure(folder)
    finally:
        shutil.rmtree(folder)
    rows += kept()
    for path, repeats in ((published.chunk32(), 9), (published.chunk4(), 4)):
        rows += layout(path, repeats)
    target = ROOT / ".bench" / "store.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"rows": rows}, indent=1))
    print(f"{'case':<42}{'unit':<6}{'ours':>9}{'other':>9}{'ratio':>7}{'target':>8}  other")
    for row in rows:
        ratio, target_text = (f"{row['ratio']:.2f}" if row["ratio"] else "-"), str(row["target"] or "-")
        other = f"{row['other']:.1f}" if row["other"] else "-"
        line = f"{row['case']:<42}{row['unit']:<6}{row['ours']:>9.1f}{other:>9}{ratio:>7}{target_text:>8}"
        print(f"{line}  {row['other_name'] or ''}")


def measure(folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (SIDE, SIDE, DIMS), dtype=np.int8)
    scales = rng.uniform(0.01, 0.1, (SIDE, SIDE)).astype(np.float32)
    store = create_store(folder / "bench.icechunk", ModelIdentity("bench", "1"), zones=[Zone(31)])
    first = Block("31N", 1400, 130)
    started, written = time.perf_counter(), 0
    for i in range(0, SIDE, BLOCK):
        for j in range(0, SIDE, BLOCK):
            at = np.s_[i : i + BLOCK, j : j + BLOCK]
            vectors = Vectors(codes[at], scales[at], np.full((BLOCK, BLOCK), VALID, np.uint8))
            block = Block("31N", first.row + i // BLOCK, first.col + j // BLOCK)
            store.write([BlockData(block, YEAR, vectors, Counts.zeros((BLOCK, BLOCK)), "ab" * 32)], "bench")
            written += 1
    write_ms = (time.perf_counter() - started) * 1000 / written

    def ours(rows: slice, cols: slice) -> Vectors:
        top, left = first.rows.start, first.cols.start
        return store.read(
            Zone(31), YEAR, slice(rows.start + top, rows.stop + top), slice(cols.start + left, cols.stop + left)
        )

    readers = {
        "ours": ours,
        "zarr, uncompressed": plain(folder, "raw", codes, scales, None),
        "zarr, blosc-zstd3": plain(folder, "blosc", codes, scales, BloscCodec(cname="zstd", clevel=3)),
    }
    found = quartiles(readers)
    case = "read 305 x 305"
    rows = [
        row(case, "ms", found["ours"], found["zarr, uncompressed"], "plain zarr, same chunks, uncompressed"),
        row(case, "ms", found["ours"], found["zarr, blosc-zstd3"], "plain zarr, same chunks, blosc-zstd3"),
        row("write and commit one block", "ms", write_ms, None, None),
    ]
    points = rng.integers(0, SIDE, (2, 200))
    start = time.perf_counter()
    store.sample(Zone(31), YEAR, points[0] + first.rows.start, points[1] + first.cols.start)
    rows.append(row("sample 200 points of 1 square", "ms", (time.perf_counter() - start) * 1000, None, None))
    start = time.perf_counter()
    parents = store.write_overviews(YEAR)
    rows.append(row("rebuild one overview block", "ms", (time.perf_counter() - start) * 1000 / parents, None, None))
    return rows


def through(location: Path, cache: ChunkCache | None = None) -> Reader:
    """A reader of the benchmark's square through our store."""
    store, place = open_store(location, identity=world.MODEL, chunks=cache), world.SQUARE
    (grid,) = (grid for grid in store.zones() if grid.zone == world.MAIN)
    top = round((grid.y0 - place.grid.y0) / 10) + place.rows.start
    left = round((place.grid.x0 - grid.x0) / 10) + place.cols.start
    return lambda rows, cols: store.read(
        world.MAIN, world.YEAR, slice(rows.start + top, rows.stop + top), slice(cols.start + left, cols.stop + left)
    )


def kept() -> list[dict[str, Any]]:
    """Our own layout, when its squares are decoded already."""
    world.own()
    cached = through(world.home() / "datasets" / "own.icechunk", chunk_cache(10**9))

    def again(rows: slice, cols: slice) -> Any:
        return cached(slice(0, WINDOW), slice(0, WINDOW))

    found = quartiles({"ours": again, "disk": through(world.home() / "datasets" / "own.icechunk")}, side=world.SIDE)
    return [row("read 305 x 305 of 4096 x 4096, again", "ms", found["ours"], found["disk"], "ours, not kept in memory")]


def layout(path: Path, repeats: int) -> list[dict[str, Any]]:
    """A layout that others publish, through our store and through zarr alone."""
    readers = {"ours": through(path)}
    for pipeline in PIPELINES:
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            root = zarr.open_group(next(p for p in (path / f"{world.YEAR}.zarr", path) if p.exists()), mode="r")
            arrays: list[Any] = [root[f"{published.GROUP}/{name}"] for name in ("embeddings", "scales")]
        readers[pipeline] = partial(window_of, arrays)
    found = quartiles(readers, side=world.SIDE, repeats=repeats)
    case = f"read 305 x 305, {path.name}"
    return [row(case, "ms", found["ours"], found[name], f"zarr, {name.split('.')[0]} pipeline") for name in PIPELINES]


def window_of(arrays: list[Any], rows: slice, cols: slice) -> list[Any]:
    """A window of every array, bands first or last."""
    return [a[0, ..., rows, cols] if a.metadata.dimension_names[0] == "time" else a[rows, cols] for a in arrays]


def row(case: str, unit: str, ours: float, other: float | None, other_name: str | None) -> dict[str, Any]:
    """One line of the table; a ratio above 1 means that ours is better."""
    return {
        "case": case,
        "metric": "time",
        "unit": unit,
        "ours": ours,
        "other": other,
        "other_name": other_name,
        "ratio": other / ours if other else None,
        "target": None,
    }


if __name__ == "__main__":
    main()
