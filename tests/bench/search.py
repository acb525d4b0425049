"""Search beside what one would do otherwise: FAISS over dequantised vectors, and the direct heat map.

    python -m tests.bench.search        prints tables, writes .bench/search.json and .bench/search.png

4 million synthetic pixels of 128 dimensions with spatial structure, in a store of ours on the local disk, warm. Both
sides are called as functions in one process, in turn, on the threads they take by themselves; medians are compared.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import faiss
import numkong
import numpy as np
from rich.progress import track

from api.heap import steady
from api.settings import Settings
from api.state import State
from indexing.exact import Top, scan
from indexing.ids import first_id, ids_at, pixel_ids
from indexing.index.build import build_index
from indexing.index.manifest import IndexManifest
from indexing.pixels import BlockCache, Pixels
from indexing.question import Question, SearchResult
from indexing.search import Searcher
from service.colour.scored import SimilarityView
from service.grid import Zone
from service.quant import dequantise
from service.queries import Query
from service.store import BlockData, Store, create_store, open_store
from service.store.chunks import chunk_cache
from service.values import BLOCK, Counts, Float32Array, Int64Array
from tests.bench.scenes import (
    DIMS,
    MODEL,
    PIXELS,
    YEAR,
    Scene,
    directions_of,
    each_block,
    queries_of,
)  # fmt: skip
from tests.bench.search_frontier import DATASET, beside, frontiers, tell
from tests.bench.search_rows import ROOT, Row, against, frontier, index_bytes, row, show, taking_turns, write
from tests.bench.serving import Client, end_cleanly, server

BLOCKS, SMALL = 64, 16
BATCH: Final = 128
FLAT: Final = "faiss IndexFlatIP"
BOTH: Final = f"{FLAT}, batches of {BATCH} on both sides"
LISTS: Final = 4096
_BATCHES: Final = 20
"""Of ours for one of the other's."""


@dataclass(frozen=True)
class Bench:
    """One scene, and both sides of it."""

    scene: Scene
    store: Store
    home: Path
    flat: Any
    """IndexFlatIP of every pixel."""
    ids: Int64Array
    """(n,) pixel id of each position in it."""
    directions: Float32Array
    """(256, d) unit vectors to look for."""
    queries: list[Query]
    """The same as ours."""

    @property
    def indexes(self) -> Path:
        return State(self.settings).indexes(DATASET)

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, catalogue=self.home / "none.toml")

    def flat_search(self, directions: Float32Array, k: int) -> Int64Array:
        """(q, k) ids, on as many threads as there are: ours asks FAISS for one on the thread it is called from."""
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        return self.ids[self.flat.search(directions, k)[1]]


@contextmanager
def prepared(blocks: int) -> Iterator[Bench]:
    """The scene in a store of ours, and in FAISS; gone afterwards."""
    ROOT.mkdir(exist_ok=True)
    scene = Scene(blocks)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix="search-") as folder:
        store = create_store(Path(folder) / "datasets" / f"{DATASET}.icechunk", MODEL)
        flat = faiss.IndexFlatIP(DIMS)
        for block, unit in track(each_block(scene), "Making the scene", total=blocks):
            flat.add(unit)
            counts = Counts.zeros((BLOCK, BLOCK))
            store.write([BlockData(block, YEAR, scene.vectors(block), counts, "ab" * 32)], "bench")
        firsts = np.repeat(np.array([first_id(block) for block in scene.every], np.int64), PIXELS)
        ids = ids_at(firsts, np.tile(np.arange(PIXELS), blocks))
        directions = directions_of(scene, 2 * BATCH)
        yield Bench(scene, store, Path(folder), flat, ids, directions, queries_of(directions))


def exact(bench: Bench) -> list[Row]:
    """Every pixel scored, with nothing built."""
    cache = BlockCache(2 * 134 * len(bench.ids))
    searcher = Searcher(bench.store, DATASET, bench.home / "none", cache=cache)

    def ours(n: int) -> SearchResult:
        return searcher.search(Question(bench.queries[n], YEAR, 100, exact=True))

    def other(n: int) -> Int64Array:
        return bench.flat_search(bench.directions[n : n + 1], 100)

    pixels = {block: Pixels.of(bench.scene.vectors(block)) for block in bench.scene.every}

    def plain(n: int) -> Top:
        return scan(bench.queries[n], pixels, pixels.__getitem__, 100)[0]

    ours(0), ours(0)  # patches are made when blocks are looked at again
    ways = {"ours": ours, "plain": plain, "other": other}
    times = taking_turns(ways, turns=8, calls={"ours": 4, "plain": 4, "other": 2})
    recall = np.mean([np.isin(other(n), ids_of(ours(n))).mean() for n in range(8)])
    held = searcher.cache_use().bytes / len(bench.ids)
    can = numkong.get_capabilities()
    return [
        against("exact-top100", "ms", times["ours"], times["other"], FLAT, 5 if can["icelake"] or can["alder"] else 3),
        against("exact-top100-each-pixel", "ms", times["plain"], times["other"], FLAT, None),
        row("exact-recall100", "recall", "share", float(recall), 1, FLAT, None),
        row("exact-memory", "memory", "bytes/pixel", held, float(bench.flat.sa_code_size()), FLAT, 3.8),
    ]  # fmt: skip


def ids_of(result: SearchResult) -> Int64Array:
    """(k,) ids of the hits."""
    each = [pixel_ids(hit.zone, np.array([hit.row]), np.array([hit.col])) for hit in result.hits]
    return np.concatenate(each) if each else np.empty(0, np.int64)


def build(bench: Bench) -> list[Row]:
    """Training included: our whole build, from the store to an index that serves, against FAISS's from its memory."""
    vectors = faiss.rev_swig_ptr(bench.flat.get_xb(), bench.flat.ntotal * DIMS).reshape(-1, DIMS)
    lists = min(LISTS, len(vectors) // 1024)

    def other(_: int) -> None:
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        quantiser = faiss.IndexFlatL2(DIMS)
        index = faiss.IndexIVFRaBitQFastScan(quantiser, DIMS, lists, faiss.METRIC_L2)
        index.train(vectors)
        index.add(vectors)

    times = taking_turns({"ours": lambda _: _built(bench), "other": other}, turns=1, first=False)
    rate, faiss_rate = (len(vectors) * 1e3 / times[name].ms for name in ("ours", "other"))
    cpu = {"cpu_ratio": times["other"].cpu_ms / times["ours"].cpu_ms}
    name = f"faiss IVF-RaBitQ fast-scan, exact quantiser, {lists} lists"
    return [row("build-rate", "rate", "pixels/s", rate, faiss_rate, name, 2) | cpu]


def _built(bench: Bench) -> IndexManifest:
    shutil.rmtree(bench.indexes, ignore_errors=True)
    return build_index(bench.store, DATASET, YEAR, bench.indexes)


def index(bench: Bench) -> list[Row]:
    """Ten best through the index."""
    searcher = Searcher(bench.store, DATASET, bench.indexes)
    batches = [slice(0, BATCH), slice(BATCH, 2 * BATCH)]

    def ours(n: int) -> list[Int64Array]:
        return [top.ids for top in searcher.search_many(bench.queries[batches[n % 2]], YEAR, 10)]

    def other(n: int) -> Int64Array:
        return bench.flat_search(bench.directions[batches[n % 2]], 10)

    def single(n: int) -> SearchResult:
        return searcher.search(Question(bench.queries[n % len(bench.queries)], YEAR, 10))

    ways = {"ours": ours, "other": other, "single": single}
    times = taking_turns(ways, turns=4, calls={"ours": _BATCHES, "single": 2 * BATCH})
    found = [np.isin(t, o).mean() for n in (0, 1) for t, o in zip(other(n), ours(n), strict=True)]
    rate, flat_rate = (BATCH * 1e3 / times[name].ms for name in ("ours", "other"))
    cpu = {"cpu_ratio": times["other"].cpu_ms / times["ours"].cpu_ms}
    size = index_bytes(bench.indexes) / len(bench.ids)
    return [
        row("ann-top10-qps", "rate", "queries/s", rate, flat_rate, BOTH, 400) | cpu,
        row("ann-recall10", "recall", "share", float(np.mean(found)), 0.985, "what is asked for", 1),
        row("index-bytes", "size", "bytes/pixel", size, 34, "what is allowed", 1),
        row("p50-one-query", "latency", "ms", times["single"].ms, 0.6, "what is expected", None),
    ]


def heat_map(bench: Bench) -> list[Row]:
    """The scores of a tile, as the similarity view has them: of pixels seen before, and of those seen first."""
    views = [SimilarityView(query) for query in bench.queries]
    store, block = open_store(bench.store.location, chunks=chunk_cache(64_000_000)), bench.scene.every[0]
    vectors = store.read(Zone.parse(block.zone), YEAR, block.rows, block.cols)
    new = replace(vectors, norms=None)

    def direct(n: int) -> Float32Array:
        values = dequantise(vectors.codes, vectors.scales)
        return values / np.linalg.norm(values, axis=-1, keepdims=True) @ bench.directions[n]

    assert np.allclose(views[0].values(vectors)[..., 0], direct(0), rtol=0, atol=1e-6)
    ways = {"ours": lambda n: views[n].values(vectors), "new": lambda n: views[n].values(new), "other": direct}
    times = taking_turns(ways, turns=10, calls=dict.fromkeys(ways, 4))
    name = "numpy: dequantise, normalise, dot"
    return [
        against("heatmap", "ms", times["ours"], times["other"], name, 20),
        against("heatmap-first-look", "ms", times["new"], times["other"], name, None),
    ]


def over_http(bench: Bench) -> list[Row]:
    """The same single query through a server, on a connection that stays open."""
    shelf = State(bench.settings).queries
    paths = [
        f"/datasets/{DATASET}/{YEAR}/search?query={shelf.put(query.to_document())}&k=10" for query in bench.queries
    ]
    searcher = Searcher(bench.store, DATASET, bench.indexes)
    told = {"SMALTI_HOME": str(bench.home), "SMALTI_CATALOGUE": str(bench.home / "none.toml")}
    with server(("--factory", "api.app:create_app"), told) as (port, _):
        client = Client(port)
        ways = {
            "http": lambda n: client.tile(paths[n % len(paths)]),
            "call": lambda n: searcher.search(Question(bench.queries[n % len(paths)], YEAR, 10)),
        }
        times = taking_turns(ways, turns=6, calls={"http": 50, "call": 50})
    return [row("p50-one-query-http", "latency", "ms", times["http"].ms, times["call"].ms, "a function call", None)]


CASES: Final = {"heat": heat_map, "exact": exact, "build": build, "index": index, "http": over_http}
"""The heat map first: what the other cases leave free would spare numpy the new pages that it takes in a process of its
own (20 ms become 12; ours takes none)."""


def asked() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.search", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="of 65,536 pixels; nothing is written unless 64")
    parser.add_argument("--only", nargs="+", choices=[*CASES, "peers"], help="these cases; nothing is written")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    end_cleanly()
    steady(os.environ)  # as the server does
    wanted = asked()
    rows: list[Row] = []
    points: list[dict[str, Any]] = []
    cases = [CASES[name] for name in CASES if not wanted.only or name in wanted.only]
    if cases:
        with prepared(wanted.blocks) as bench:
            for case in cases:
                found = case(bench)
                show(found)
                rows += found
    if not wanted.only or "peers" in wanted.only:
        points = frontiers(min(SMALL, wanted.blocks))
        tell(points)
        rows += beside(points)
    show(rows)
    if not wanted.only and wanted.blocks == BLOCKS:
        write("search", {"rows": rows, "recall_qps_memory": points})
        frontier(points, ROOT / "search.png")


if __name__ == "__main__":
    main()
