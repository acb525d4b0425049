"""The encoder beside the plain procedure: repeat to a multiple of 8, group by length, run torch in float32.

    python -m tests.bench.encoder        prints a table and writes .bench/encoder.json

About 40 optical and 60 radar observations a pixel. Both sides take what a user hands over, raw d-pixels, and give
vectors; both have as many threads; runs alternate, and the median of their ratios is told.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.dpixels import DPixels
from service.encoder import Encoder
from service.families import Statistics
from service.registry import SHIPPED, Registry
from service.training.export import export
from service.training.networks import Student, StudentConfig
from service.training.recipes import MINI
from service.training.reference import reference_vectors
from service.values import ModelIdentity

OUT = Path(__file__).resolve().parents[2] / ".bench" / "encoder.json"
THREADS = min(2, os.cpu_count() or 1)
PLAIN = "torch fp32, per bin"


def typical(n: int, seed: int = 0) -> DPixels:
    """n pixels with 32 to 48 of 73 optical dates, and 26 to 31 of 31 radar dates of either orbit."""
    rng = np.random.default_rng(seed)

    def some(least: int, most: int, t: int) -> Any:
        counts = rng.integers(least, most + 1, (n, 1))
        return rng.random((n, t)).argsort(axis=1).argsort(axis=1) < counts

    radar = [rng.integers(2500, 7000, (n, 31, 2)) * some(26, 31, 31)[..., None] for _ in range(2)]
    days = np.broadcast_to(np.arange(2, 366, 5), (n, 73)), np.broadcast_to(np.arange(3, 366, 12), (n, 31))
    s2 = rng.integers(200, 6000, (n, 73, 10)).astype(np.uint16)
    return DPixels(s2, days[0], some(32, 48, 73), radar[0], days[1], radar[1], days[1], shape=(n,))


def measured(encoder: Encoder, student: Student, dpixels: DPixels, rounds: int) -> tuple[float, float, float, float]:
    """(ours, theirs) pixels a second, the median ratio of rounds, and the largest difference of a number."""
    stats: Statistics = encoder.manifest.statistics
    difference = float(abs(encoder.encode(dpixels).floats - reference_vectors(student, dpixels, stats)).max())
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        encoder.encode(dpixels)
        middle = time.perf_counter()
        reference_vectors(student, dpixels, stats)
        ours.append(len(dpixels) / (middle - start))
        theirs.append(len(dpixels) / (time.perf_counter() - middle))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return statistics.median(ours), statistics.median(theirs), ratio, difference


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    shipped = Registry((SHIPPED,)).get("smalti-mini")
    with tempfile.TemporaryDirectory() as folder:
        cases = (
            ("mini-ort-fp32", MINI, 1024, 5, None),
            ("small-ort-fp32", StudentConfig(), 128, 5, 0.9),
        )
        for case, config, pixels, rounds, target in cases:
            student = Student(config).eval()
            model = export(student, Path(folder) / case, ModelIdentity(case, "1"))
            encoder = Encoder.open(model, engine="cpu", threads=THREADS)
            ours, theirs, ratio, difference = measured(encoder, student, typical(pixels), rounds)
            row = {"case": case, "metric": "throughput", "unit": "pixels/s", "ours": ours, "other": theirs}
            rows.append({**row, "other_name": PLAIN, "ratio": ratio, "target": target})
            row = {"case": case, "metric": "largest difference", "unit": "", "ours": difference, "other": 2e-5}
            rows.append({**row, "other_name": "allowed", "ratio": 2e-5 / difference, "target": 1.0})
    encoder, dpixels = Encoder.open(shipped, engine="cpu", threads=THREADS), typical(2048)
    encoder.encode(dpixels)
    start = time.perf_counter()
    encoder.encode(dpixels)
    speed = len(dpixels) / (time.perf_counter() - start)
    row = {"case": "mini-shipped", "metric": "throughput", "unit": "pixels/s", "ours": speed, "other": 4000.0}
    rows.append({**row, "other_name": "the bar, 2 cores", "ratio": speed / 4000, "target": 1.0})
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": rows}, indent=1))
    for row in rows:
        print(f"{row['case']:16} {row['metric']:20} {row['ours']:>10.4g} {row['other']:>10.4g} x{row['ratio']:.2f}")


if __name__ == "__main__":
    main()
