"""Search among 50 million pixels: building in bounded memory, asking warm and cold, and growth from 1 million on.

    python -m tests.bench.search_large      prints a table, writes .bench/search-large.json and .bench/search-large.png

The pixels are made block by block when they are read; only the index is stored. It is built, and asked, in processes
of their own: what they hold in memory is theirs alone. Cold means that the system has forgotten every page of every
file of the index, and that a process that has only opened it asks its first question.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.progress import track

from indexing.index.build import build_index
from indexing.question import Question
from indexing.search import Searcher
from tests.bench.scenes import PIXELS, YEAR, Scene, Truth, directions_of, each_block, queries_of
from tests.bench.search_rows import ROOT, Row, growth, index_bytes, row, show, taking_turns, write
from tests.bench.serving import end_cleanly

BLOCKS: Final = (16, 64, 256, 763)
"""1, 4, 17 and 50 million pixels."""
FOLDER: Final = ROOT / "search-large"
DATASET: Final = "scene"
ASKED, COLD = 256, 16
BATCH: Final = 128
BYTES_A_PIXEL: Final = 200
"""Of disk that a build may need: rows, lists, and the lists once more while they are put in order."""
SPARE: Final = 2 << 30
ANONYMOUS: Final = 1000
"""MB a build may hold."""
WARM_MS, COLD_MS = 1.0, 25.0


# In processes of their own


@contextmanager
def watched(seen: dict[str, float]) -> Iterator[None]:
    """Keep the most anonymous memory this process ever holds while the block runs, in MB: pages of no file."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            held = next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line)
            seen["anonymous_mb"] = max(seen.get("anonymous_mb", 0.0), int(held.split()[1]) / 1024)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def build(blocks: int) -> dict[str, Any]:
    """Build the index of so many blocks."""
    scene, seen = Scene(blocks), {}
    scene.vectors(scene.every[0])  # what a scene keeps of its own is there before
    seen["before_mb"] = _anonymous()
    start = time.perf_counter()
    with watched(seen):
        manifest = build_index(scene, DATASET, YEAR, FOLDER)
    spent = time.perf_counter() - start
    return seen | {
        "pixels": manifest.count, "build_s": spent, "making_s": scene.making_s,
        "bytes_per_pixel": index_bytes(FOLDER) / manifest.count, "lists": manifest.parameters.lists,
        "promised": max(t.recall for t in manifest.tunings),
    }  # fmt: skip


def ask(blocks: int) -> dict[str, Any]:
    """Ask what is warm: one by one, and many at once."""
    searcher, truth = _searcher(blocks), _truth(blocks)
    queries = queries_of(truth.directions)
    halves = [queries[:BATCH], queries[BATCH:]]
    ways = {
        "one": lambda n: searcher.search(Question(queries[n % ASKED], YEAR, 10)),
        "many": lambda n: searcher.search_many(halves[n % 2], YEAR, 10),
    }
    for _ in range(2):
        found = searcher.search_many(queries, YEAR, 10)
    spent = taking_turns(ways, turns=4, calls={"one": ASKED, "many": 8})
    return {
        "recall": truth.recall([top.ids for top in found]), "p50_ms": spent["one"].ms,
        "qps": BATCH * 1e3 / spent["many"].ms, "ask_anonymous_mb": _anonymous(),
    }  # fmt: skip


def ask_cold(blocks: int, number: int) -> dict[str, Any]:
    """Ask one question of an index that was opened, but of whose files no page is in memory."""
    searcher, query = _searcher(blocks), queries_of(_truth(blocks).directions)[number]
    searcher.describe(YEAR)
    forget(FOLDER)
    before = _read_bytes()
    start = time.perf_counter()
    searcher.search(Question(query, YEAR, 10))
    return {"ms": 1e3 * (time.perf_counter() - start), "kb": (_read_bytes() - before) / 1024}


def _searcher(blocks: int) -> Searcher:
    return Searcher(Scene(blocks), DATASET, FOLDER)


def _truth(blocks: int) -> Truth:
    held = np.load(FOLDER.with_suffix(".npz"))
    return Truth(held["directions"], 10, held[f"ids-{blocks}"], held[f"scores-{blocks}"])


def forget(folder: Path) -> None:
    """Have the system drop the pages of every file of a folder that no process has mapped and looked at."""
    os.sync()  # what is not on disk yet cannot be dropped
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _anonymous() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if "RssAnon" in line).split()[1]) / 1024


def _read_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


# Of the whole


def find_truth(sizes: Sequence[int]) -> None:
    """The true neighbours among the pixels of each size, found in one pass over the largest.

    What is looked for are pixels of the smallest, so that all sizes hold them.
    """
    scene = Scene(max(sizes))
    truth = Truth.of(directions_of(Scene(min(sizes)), ASKED))
    saved = {"directions": truth.directions}
    for number, (block, unit) in enumerate(track(each_block(scene), "Looking at every pixel", total=max(sizes)), 1):
        truth.see(block, unit)
        if number in sizes:
            saved |= {f"ids-{number}": truth.ids.copy(), f"scores-{number}": truth.scores.copy()}
    np.savez(FOLDER.with_suffix(".npz"), **saved)


def elsewhere(*what: object) -> dict[str, Any]:
    """What another process of this module finds out."""
    run = [sys.executable, "-m", "tests.bench.search_large", "--do", *map(str, what)]
    done = subprocess.run(run, stdout=subprocess.PIPE, text=True, cwd=ROOT.parent)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, what))} failed")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(blocks: int) -> dict[str, Any]:
    """Everything about one size. The folder is empty before and afterwards."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        found = elsewhere("build", blocks) | elsewhere("ask", blocks)
        cold = [elsewhere("cold", blocks, n) for n in range(COLD)]
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    found["build_rate"] = found["pixels"] / found["build_s"]
    found["cold_ms"] = statistics.median(each["ms"] for each in cold)
    found["cold_most_ms"] = max(each["ms"] for each in cold)
    return found | {"cold_kb": statistics.median(each["kb"] for each in cold)}


def rows_of(point: dict[str, Any]) -> list[Row]:
    """The rows of the largest size."""
    size = f"{point['pixels'] / 1e6:.0f}m"
    return [
        row(f"{size}-memory", "memory", "MB", point["anonymous_mb"], ANONYMOUS, "anonymous, most ever, of a build", 1),
        row(f"{size}-p50-warm", "latency", "ms", point["p50_ms"], WARM_MS, "what is allowed", 1),
        row(f"{size}-p50-cold", "latency", "ms", point["cold_ms"], COLD_MS, "what is allowed", 1),
        row(f"{size}-recall10", "recall", "share", point["recall"], 0.985, "what an index is built for", None),
        row(f"{size}-qps", "rate", "queries/s", point["qps"], 1e3 / point["p50_ms"], "one at a time", None),
        row(f"{size}-bytes", "size", "bytes/pixel", point["bytes_per_pixel"], 34, "what 4 million may take", None),
        row(f"{size}-build", "rate", "pixels/s", point["build_rate"], point["pixels"] / point["making_s"],
            "making the pixels alone, which is within ours", None),
    ]  # fmt: skip


def require_room(blocks: int) -> None:
    """End here where the disk is too small."""
    free, needed = shutil.disk_usage(ROOT).free, blocks * PIXELS * BYTES_A_PIXEL + SPARE
    if free < needed:
        raise SystemExit(f"{ROOT} has {free / 1e9:.1f} GB free; {blocks} blocks need {needed / 1e9:.1f}: give --blocks")


def asked() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.search_large", description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=BLOCKS, help="sizes, ascending; nothing is written")
    parser.add_argument("--do", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    end_cleanly()
    wanted = asked()
    if wanted.do:
        name, *numbers = wanted.do
        print(json.dumps({"build": build, "ask": ask, "cold": ask_cold}[name](*map(int, numbers))))
        return
    ROOT.mkdir(exist_ok=True)
    require_room(max(wanted.blocks))
    points = []
    try:
        find_truth(wanted.blocks)
        for blocks in wanted.blocks:
            points.append(measured(blocks))
            print(json.dumps(points[-1]), flush=True)
    finally:
        FOLDER.with_suffix(".npz").unlink(missing_ok=True)
    rows = rows_of(points[-1])
    show(rows)
    if tuple(wanted.blocks) == BLOCKS:
        write("search-large", {"rows": rows, "growth": points})
        growth(points, ROOT / "search-large.png")


if __name__ == "__main__":
    main()
