"""What both benchmarks of search share: rows of the table, taking turns, and the chart of recall against speed."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

Row = dict[str, Any]
ROOT: Final = Path(__file__).resolve().parents[2] / ".bench"
PAUSE_S: Final = 0.06
"""Between one way and the other: the threads of OpenBLAS and OpenMP keep a core busy for a while after their work."""
MORE: Final = {"rate", "recall"}
"""Metrics of which more is better."""

mpl.rcParams["svg.hashsalt"] = "smalti"


def row(case: str, metric: str, unit: str, ours: float, other: float, other_name: str, target: float | None) -> Row:
    """One line of the table; a ratio above 1 means that ours is better."""
    return {
        "case": case, "metric": metric, "unit": unit, "ours": _short(ours), "other": _short(other),
        "other_name": other_name, "ratio": _short(ours / other if metric in MORE else other / ours), "target": target,
    }  # fmt: skip


def _short(number: float) -> float:
    return float(f"{number:.5g}")


@dataclass
class Spent:
    """What the calls of one way took, in seconds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of the processor, all threads together."""

    @property
    def ms(self) -> float:
        """Median time, in milliseconds."""
        return 1e3 * statistics.median(self.wall)

    @property
    def cpu_ms(self) -> float:
        """Mean time of the processor, in milliseconds: other programs on the machine do not change it by much."""
        return 1e3 * statistics.fmean(self.cpu)


def taking_turns(
    ways: Mapping[str, Callable[[int], Any]], turns: int, calls: Mapping[str, int] | None = None, *, first: bool = True
) -> dict[str, Spent]:
    """What the calls of each way took, in turn.

    Args:
        ways: What each does, given the number of the call.
        turns: How many.
        calls: How often a way is called a turn, where not once.
        first: Whether each is called once before, uncounted.
    """
    spent = {name: Spent() for name in ways}
    for way in ways.values() if first else ():
        way(0)
    for _ in range(turns):
        for name, way in ways.items():
            time.sleep(PAUSE_S)
            for _ in range((calls or {}).get(name, 1)):
                start, busy = time.perf_counter(), time.process_time()
                way(len(spent[name].wall))
                spent[name].wall.append(time.perf_counter() - start)
                spent[name].cpu.append(time.process_time() - busy)
    return spent


def against(case: str, unit: str, ours: Spent, other: Spent, other_name: str, target: float | None) -> Row:
    """A row of two median times, with the ratio of what the processor spent beside it."""
    ratio = {"cpu_ratio": _short(other.cpu_ms / ours.cpu_ms)}
    return row(case, "latency", unit, ours.ms, other.ms, other_name, target) | ratio


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    titles = f"{'ours':>11}{'other':>11}  {'unit':<12}{'ratio':>8}{'target':>8}{'cpu':>8}"
    print(f"{'case':<24}{'metric':<10}{titles}  other")
    for r in rows:
        target = "-" if r["target"] is None else f"{r['target']:g}"
        cpu = f"{r['cpu_ratio']:.3g}" if "cpu_ratio" in r else ""
        numbers = f"{r['ours']:>11.4g}{r['other']:>11.4g}  {r['unit']:<12}{r['ratio']:>8.3g}{target:>8}{cpu:>8}"
        print(f"{r['case']:<24}{r['metric']:<10}{numbers}  {r['other_name']}")


def write(name: str, document: Mapping[str, Any]) -> None:
    """Write `.bench/NAME.json`."""
    ROOT.mkdir(exist_ok=True)
    (ROOT / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def index_bytes(folder: Path) -> int:
    """Bytes of the files of an index: quantiser, ids and padding in, norms and the rows for ranking out."""
    rows = ("codes", "norms", "scales", "rows")
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.name.startswith(rows))


def frontier(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Recall against queries a second: a line for each engine, through settings that no other one of it beats.

    What each needs per pixel is told in the legend.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for engine in dict.fromkeys(p["engine"] for p in points):
        mine = sorted((p for p in points if p["engine"] == engine), key=lambda p: p["recall"])
        best = [p for p in mine if not any(o["recall"] >= p["recall"] and o["qps"] > p["qps"] for o in mine)]
        size = f"{engine}, {mine[0]['bytes_per_pixel']:.0f} bytes a pixel"
        (line,) = axes.plot([p["recall"] for p in best], [p["qps"] for p in best], label=size)
        axes.plot([p["recall"] for p in mine], [p["qps"] for p in mine], "o", color=line.get_color())
    axes.set(xlabel="recall@10", ylabel="queries a second, batches of 128", yscale="log", title="One million pixels")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=110)


def growth(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What becomes of an index as it grows: a panel for each number."""
    panels = {
        "p50_ms": "one query, warm: p50, ms", "cold_ms": "one query, cold: p50, ms", "qps": "queries a second",
        "recall": "recall@10", "bytes_per_pixel": "bytes a pixel", "anonymous_mb": "a build: anonymous MB",
    }  # fmt: skip
    least = {"recall": 0.9}
    figure = Figure(figsize=(9, 5), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        axes.plot([p["pixels"] / 1e6 for p in points], [p[name] for p in points], "o-")
        axes.set(xlabel="million pixels", xscale="log", title=title, ylim=(least.get(name, 0), None))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
