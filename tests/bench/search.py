"""Search beside what one would do otherwise: FAISS IndexFlatIP over dequantised vectors, and the direct heat map.

    python -m tests.bench.search        prints a table and writes .bench/search.json

A million synthetic pixels of 128 dimensions with fields, gradients and noise, warm in memory. Both sides answer one
query at a time on the threads they take by themselves; runs of both alternate, and medians are compared.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexing.build import build_index
from indexing.pixels import BlockCache
from indexing.question import Question
from indexing.search import Searcher
from service.grid import Block, Zone
from service.quant import dequantise, quantise
from service.queries import Query
from service.values import BLOCK, Float32Array, Vectors, Window
from tests.fakes import MemoryStore

SIDE, DIMS = 1024, 128
YEAR = Window.year(2024)
ROW0, COL0 = 1400 * BLOCK, 120 * BLOCK
FLAT = "faiss IndexFlatIP"
OUT = Path(__file__).resolve().parents[2] / ".bench" / "search.json"


class Scene(MemoryStore):
    """A store of whole blocks that never changes, so nothing is hashed while the clock runs."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__(vectors.codes, vectors.scales, Zone(31), YEAR, ROW0, COL0)

    def revision(self) -> tuple[str, bool]:
        return "scene", True

    def blocks(self, window: Window, *, level: int = 1) -> tuple[Block, ...]:
        return tuple(
            Block("31N", ROW0 // BLOCK + i, COL0 // BLOCK + j)
            for i in range(SIDE // BLOCK)
            for j in range(SIDE // BLOCK)
        )

    def versions(self, window: Window, blocks: Iterable[Block]) -> Mapping[Block, str]:
        return dict.fromkeys(blocks, "1")


def scene(seed: int = 0) -> Vectors:
    """Parcels of 400 kinds, each with its own gradient, in a subspace of 24 dimensions; noise in all of them."""
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((24, DIMS)).astype(np.float32) * np.geomspace(1, 0.1, 24, dtype=np.float32)[:, None]
    kinds = rng.standard_normal((400, 24)).astype(np.float32)
    parcels = np.kron(rng.integers(0, 400, (SIDE // 16, SIDE // 16)), np.ones((16, 16), int))
    slope = rng.standard_normal((2, 24)).astype(np.float32)
    out = Vectors.empty((SIDE, SIDE), DIMS, 1)
    for top in range(0, SIDE, 128):
        rows = slice(top, top + 128)
        y, x = np.mgrid[rows, 0:SIDE].astype(np.float32) / SIDE
        latent = kinds[parcels[rows]] + 0.5 * (y[..., None] * slope[0] + x[..., None] * slope[1])
        latent += 0.25 * rng.standard_normal(latent.shape, dtype=np.float32)
        values = latent @ basis + 0.15 * rng.standard_normal((*y.shape, DIMS), dtype=np.float32)
        values = (values - values.mean(axis=-1, keepdims=True)) / values.std(axis=-1, keepdims=True)
        out.codes[rows], out.scales[rows] = quantise(values)
    return out


def alternate(ours: Callable[[int], Any], other: Callable[[int], Any], turns: int) -> tuple[float, float]:
    """Median seconds of one call of each, turn by turn, four calls a turn."""
    ours(0), other(0)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns):
        for call, spent in zip((ours, other), times, strict=True):
            for number in range(4 * turn, 4 * turn + 4):
                start = time.perf_counter()
                call(number)
                spent.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def row(case: str, metric: str, unit: str, ours: float, other: float, other_name: str = FLAT) -> dict[str, Any]:
    """One row; a rate or a share is better when it is larger, anything else when it is smaller."""
    ratio = ours / other if metric in {"rate", "recall@10"} else other / ours
    return {
        "case": case, "metric": metric, "unit": unit, "ours": round(ours, 4), "other": round(other, 4),
        "other_name": other_name, "ratio": round(ratio, 3), "target": None,
    }  # fmt: skip


def unit_vectors(vectors: Vectors) -> Float32Array:
    flat = dequantise(vectors.codes, vectors.scales).reshape(-1, DIMS)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    return flat


def run(folder: Path) -> list[dict[str, Any]]:
    vectors = scene()
    store = Scene(vectors)
    flat = faiss.IndexFlatIP(DIMS)
    flat.add(unit_vectors(vectors))
    rng = np.random.default_rng(9)
    picks = rng.integers(0, SIDE, (128, 2))
    noise = 0.2 * rng.standard_normal((128, DIMS)).astype(np.float32)
    examples = vectors.dequantised()[picks[:, 0], picks[:, 1]] + noise
    queries = [Query.of(store.identity, example) for example in examples]
    directions = [query.direction.astype(np.float32)[None] for query in queries]
    many = len(queries)

    exact = Searcher(store, "bench", folder / "none", cache=BlockCache(10**9))
    scan = alternate(
        lambda n: exact.search(Question(queries[n], YEAR, 100)), lambda n: flat.search(directions[n], 100), turns=4
    )
    manifest = build_index(store, "bench", YEAR, folder)
    size = sum(record.bytes for record in manifest.files) / manifest.count
    indexed = Searcher(store, "bench", folder, cache=BlockCache(10**9))
    ann = alternate(
        lambda n: indexed.search(Question(queries[n % many], YEAR, 10)),
        lambda n: flat.search(directions[n % many], 10),
        turns=10,
    )
    tile, scales = vectors.codes[:BLOCK, :BLOCK], vectors.scales[:BLOCK, :BLOCK]
    heat = alternate(
        lambda n: queries[n % many].scores(tile),
        lambda n: direct_heat_map(tile, scales, directions[n % many][0]),
        turns=10,
    )
    found = recall(indexed, queries, flat, directions)
    return [
        row("exact top-100, 1 M pixels", "latency", "ms", scan[0] * 1e3, scan[1] * 1e3),
        row("exact top-100, 1 M pixels", "memory", "bytes/pixel", DIMS + 4 + 4 + 1, 4 * DIMS),
        row("index top-10, 1 M pixels", "rate", "queries/s", 1 / ann[0], 1 / ann[1]),
        row("index top-10, 1 M pixels", "recall@10", "share", found, 1),
        row("index top-10, 1 M pixels", "size", "bytes/pixel", size, 4 * DIMS),
        row("heat map, 65,536 pixels", "latency", "ms", heat[0] * 1e3, heat[1] * 1e3, "dequantise, normalise, dot"),
    ]


def recall(searcher: Searcher, queries: list[Query], flat: Any, directions: list[Float32Array]) -> float:
    """Share of the 10 best, by position in the scene, that the index finds."""
    found = []
    for query, direction in zip(queries, directions, strict=True):
        truth = set(flat.search(direction, 10)[1][0].tolist())
        hits = {(hit.row - ROW0) * SIDE + hit.col - COL0 for hit in searcher.search(Question(query, YEAR, 10)).hits}
        found.append(len(truth & hits) / 10)
    return float(np.mean(found))


def direct_heat_map(codes: np.ndarray, scales: np.ndarray, direction: Float32Array) -> Float32Array:
    vectors = dequantise(codes, scales)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) @ direction


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = run(Path(folder))
    print(f"{'case':<40}{'metric':<12}{'ours':>12}{'other':>12}  {'unit':<12}{'ratio':>8}  beside")
    for r in rows:
        print(
            f"{r['case']:<40}{r['metric']:<12}{r['ours']:>12.4g}{r['other']:>12.4g}  {r['unit']:<12}{r['ratio']:>8.3g}"
            f"  {r['other_name']}"
        )
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
