"""What minutes of training on two CPU cores are worth: the linear probe, from untrained to the end, from a fixed seed.

    python -m tests.bench.training [MINUTES]     20 where absent; writes .bench/training.json

The preset `cpu`; how many steps fit into the time is measured first, so that the learning rate ends with it. Each
row holds the mean of the probe over a quarter of the time against that of the quarter before, and the first against the
untrained network: above 1 is better than before. Under `curve` is every probe; .bench/training/ holds the run.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from service.training.recipes import PRESETS
from service.training.runs import CURVES, read_curves
from service.training.train import run

SEED, TRIED = 0, 24
OUT = Path(__file__).resolve().parents[2] / ".bench" / "training.json"


def fitting(minutes: float, folder: Path) -> int:
    """Steps that take so many minutes here and now."""
    run("cpu", folder, seed=SEED, steps=TRIED, pixels=8192, probe_every=0, log_every=TRIED // 3)
    pixels = read_curves(folder / CURVES)[-1]["pixels_per_second"]
    shutil.rmtree(folder)
    return max(int(minutes * 60 * pixels / PRESETS["cpu"].batch), 40)


def curve_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The logged steps that were probed."""
    names = ("step", "seconds", "probe", "loss", "twins", "rank_me", "rank_entropy")
    return [{name: row[name] for name in names} for row in rows if "probe" in row]


def main() -> None:
    """Train, print, write."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    folder = OUT.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    steps = fitting(minutes, folder)
    print(f"{steps} steps in about {minutes:g} minutes", flush=True)
    run("cpu", folder, seed=SEED, steps=steps, probe_every=max(steps // 20, 1))
    curve = curve_of(read_curves(folder / CURVES))
    for p in curve:
        print(f"step {p['step']:6d}  {p['seconds']:7.1f} s  probe {p['probe']:.4f}  loss {p['loss']:.4f}")
    rows, before, name = [], curve[0]["probe"], "untrained"
    for quarter in range(4):
        inside = [p["probe"] for p in curve[1:] if quarter < 4 * p["step"] / (steps - 1) <= quarter + 1]
        ours = sum(inside) / len(inside)
        case = f"probe-quarter-{quarter + 1}"
        took = f"accuracy in quarter {quarter + 1} of {curve[-1]['seconds'] / 60:.1f} min"
        rows.append({"case": case, "metric": took, "unit": "share", "ours": round(ours, 4), "other": round(before, 4),
                     "other_name": name, "ratio": round(ours / before, 4), "target": 1.0})  # fmt: skip
        print(f"{case}: {ours:.4f}, before {before:.4f}")
        before, name = ours, f"quarter {quarter + 1}"
    OUT.write_text(json.dumps({"rows": rows, "steps": steps, "curve": curve}, indent=1) + "\n")


if __name__ == "__main__":
    main()
