"""Recall, speed and memory of our search and of other programs, on the first million pixels, several settings each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from indexing.index.build import build_index
from indexing.question import Question
from indexing.search import Searcher
from tests.bench.scenes import DIMS, YEAR, Scene, Truth, directions_of, each_block, positions_of, queries_of
from tests.bench.search_rows import ROOT, Row, index_bytes, row, taking_turns

PEERS: Final = ROOT / "peers"
"""Where `make bench-search` puts the searches of others."""
QUERIES: Final = 256
DATASET: Final = "scene"


def frontiers(blocks: int) -> list[dict[str, Any]]:
    """Recall, speed and memory of ours and of other programs, at several settings each."""
    scene = Scene(blocks)
    directions = directions_of(scene, QUERIES)
    truth, parts = Truth.of(directions), []
    for block, unit in each_block(scene):
        truth.see(block, unit)
        parts.append(unit)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix="peers-") as name:
        folder = Path(name)
        points = _our_frontier(scene, truth, folder)
        saved = {"vectors": np.concatenate(parts), "directions": directions, "truth": positions_of(truth.ids)}
        for file, array in saved.items():
            np.save(folder / f"{file}.npy", array)
        return points + _their_frontiers(folder)


def _our_frontier(scene: Scene, truth: Truth, folder: Path) -> list[dict[str, Any]]:
    start = time.perf_counter()
    manifest = build_index(scene, DATASET, YEAR, folder / "ours")
    spent = time.perf_counter() - start - scene.making_s
    searcher, queries = Searcher(scene, DATASET, folder / "ours"), queries_of(truth.directions)
    same = {
        "engine": "smalti", "build_rate": manifest.count / spent,
        "bytes_per_pixel": index_bytes(folder / "ours") / manifest.count + DIMS + 4,
    }  # fmt: skip
    points = []
    for tuning in manifest.tunings:
        times = taking_turns(
            {
                "many": lambda _, r=tuning.recall: searcher.search_many(queries, YEAR, 10, recall=r),
                "one": lambda n, r=tuning.recall: searcher.search(Question(queries[n % QUERIES], YEAR, 10, recall=r)),
            },
            turns=5,
            calls={"one": 30},
        )
        found = searcher.search_many(queries, YEAR, 10, recall=tuning.recall)
        points.append(same | {
            "setting": f"{tuning.probes} lists, {tuning.candidates} candidates",
            "recall": truth.recall([top.ids for top in found]),
            "qps": len(queries) * 1e3 / times["many"].ms, "p50_ms": times["one"].ms,
        })  # fmt: skip
    return points


def _their_frontiers(folder: Path) -> list[dict[str, Any]]:
    """What the other programs measure of themselves; those that are not there are named and left out."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        print(f"no other programs are shown: {PEERS} is not there, make bench-search makes it")
        return []
    run = [str(python), "-c", "from tests.bench.search_peers import main; main()", str(folder)]
    quiet = {**os.environ, "LANCE_LOG": "error"}
    done = subprocess.run(run, cwd=ROOT.parent, env=quiet, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        raise SystemExit("the search of another program failed")
    points = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for point in points:
        if "skipped" in point:
            print(f"{point['engine']} is left out: {point['skipped']}")
    return [point for point in points if "skipped" not in point]


def beside(points: Sequence[Row]) -> list[Row]:
    """A row for each setting of another program: our queries a second where our recall is at least its own."""
    ours = [p for p in points if p["engine"] == "smalti"]
    rows = []
    for point in points:
        able = [p["qps"] for p in ours if p["recall"] >= point["recall"]]
        if point["engine"] != "smalti":
            fastest = max(able) if able else max(ours, key=lambda p: p["recall"])["qps"]
            name = f"{point['engine']}, {point['setting']}, recall {point['recall']:.3f}"
            rows.append(row("peers-1m", "rate", "queries/s", fastest, point["qps"], name, None))
    return rows


def tell(points: Sequence[Row]) -> None:
    """Print recall, speed and memory."""
    titles = f"{'recall@10':>10}{'queries/s':>11}{'p50 ms':>9}{'B/pixel':>9}{'built px/s':>12}"
    print(f"\n{'engine':<10}{'setting':<32}{titles}")
    for p in points:
        numbers = f"{p['recall']:>10.4f}{p['qps']:>11.0f}{p['p50_ms']:>9.3f}{p['bytes_per_pixel']:>9.1f}"
        print(f"{p['engine']:<10}{p['setting']:<32}{numbers}{p['build_rate']:>12.0f}")
