"""Searches of others on the first million pixels, in an environment of their own, `.bench/peers`: they and numpy.

Reads `vectors.npy` (n, 128) and `directions.npy` (q, 128), float32 of length 1, and `truth.npy` (q, 10) positions of
the nearest, from a folder, and prints one line of JSON for each setting of each. None of them is given fewer threads
than it takes by itself; a single query runs on the calling thread.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

K = 10
LOOKS = 3
ONES = 100
THREADS = 2
"""Of LanceDB, which takes one query at a time."""

Search = Callable[[np.ndarray], np.ndarray]
"""(q, 128) directions to (q, 10) positions."""
Setting = tuple[str, Search, Search]
"""Its name, how many directions are searched at once, and how one is."""


def hnswlib(vectors: np.ndarray, folder: Path) -> Iterator[Any]:
    import hnswlib as package

    index = package.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), M=16, ef_construction=100)
    index.add_items(vectors)
    index.save_index(str(folder / "hnswlib"))
    yield size_of(folder / "hnswlib")
    for ef in (16, 32, 64, 128):
        index.set_ef(ef)
        yield (
            f"M 16, ef {ef}",
            lambda q: index.knn_query(q, K)[0],
            lambda q: index.knn_query(q, K, num_threads=1)[0],
        )


def usearch(vectors: np.ndarray, folder: Path) -> Iterator[Any]:
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="cos", dtype="i8", connectivity=16)
    index.add(np.arange(len(vectors)), vectors)
    index.save(str(folder / "usearch"))
    yield size_of(folder / "usearch")
    for ef in (16, 32, 64, 128):
        index.expansion_search = ef
        yield (
            f"int8, M 16, ef {ef}",
            lambda q: index.search(q, K).keys,
            lambda q: index.search(q[0], K, threads=1).keys[None],
        )


def lancedb(vectors: np.ndarray, folder: Path) -> Iterator[Any]:
    import lancedb as package
    import pyarrow as pa

    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    table = package.connect(folder / "lance").create_table(
        "pixels", pa.table({"vector": lists, "id": np.arange(len(vectors))})
    )
    table.create_index(metric="cosine", vector_column_name="vector", index_type="IVF_RQ", num_partitions=1024)
    yield size_of(folder / "lance")

    def one(query: np.ndarray, probes: int) -> np.ndarray:
        asked = table.search(query).distance_type("cosine").nprobes(probes).refine_factor(10).limit(K)
        return np.asarray(asked.select(["id", "_distance"]).to_arrow()["id"])

    def many(queries: np.ndarray, probes: int) -> np.ndarray:
        with ThreadPoolExecutor(THREADS) as pool:
            return np.stack(list(pool.map(lambda q: one(q, probes), queries)))

    for probes in (8, 16, 32):
        yield (
            f"IVF_RQ, nprobes {probes}, refine 10",
            lambda q, p=probes: many(q, p),
            lambda q, p=probes: one(q[0], p)[None],
        )


PEERS = {"hnswlib": hnswlib, "usearch": usearch, "LanceDB": lancedb}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(p.stat().st_size for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())


def measured(setting: Setting, directions: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Recall, queries a second and the median time of one."""
    name, many, one = setting
    found = many(directions)
    recall = np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)])
    batches, ones = [], []
    for _ in range(LOOKS):
        start = time.perf_counter()
        many(directions)
        batches.append(time.perf_counter() - start)
    for query in directions[:ONES]:
        start = time.perf_counter()
        one(query[None])
        ones.append(time.perf_counter() - start)
    return {
        "setting": name, "recall": float(recall), "qps": len(directions) / statistics.median(batches),
        "p50_ms": 1e3 * statistics.median(ones),
    }  # fmt: skip


def main() -> None:
    """Measure whatever is installed, and say what is not."""
    folder = Path(sys.argv[1])
    vectors, directions, truth = (np.load(folder / f"{name}.npy") for name in ("vectors", "directions", "truth"))
    for name, peer in PEERS.items():
        steps = peer(vectors, folder)
        start = time.perf_counter()
        try:
            size = next(steps)
        except ImportError as error:
            print(json.dumps({"engine": name, "skipped": str(error)}), flush=True)
            continue
        build = {"build_rate": len(vectors) / (time.perf_counter() - start), "bytes_per_pixel": size / len(vectors)}
        for setting in steps:
            print(json.dumps({"engine": name, **build, **measured(setting, directions, truth)}), flush=True)
