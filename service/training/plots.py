"""The curves of a run as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from service.training.runs import CURVES, read_curves, whole

PICTURE: Final = "curves.png"
_PANELS: Final = (
    ("losses", ("loss", "twins", "mix", "monthly", "prefix_")),
    ("effective rank of the vector", ("rank_me", "rank_entropy")),
    ("accuracy of the linear probe", ("probe",)),
    ("learning rate", ("learning_rate",)),
)


def plot(folder: Path) -> Path | None:
    """Draw what `curves.jsonl` holds into `curves.png`, replaced as a whole; None where nothing is logged yet."""
    rows = read_curves(folder / CURVES)
    if not rows:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to load, and most runs begin without it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for name in dict.fromkeys(name for row in rows for name in row):
            if name.startswith(names):
                _line(axes, rows, name)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.axes[0].set_yscale("log")
    with whole(folder / PICTURE) as file:
        figure.savefig(file, format="png", dpi=110)
    return folder / PICTURE


def _line(axes: Any, rows: list[dict[str, Any]], name: str) -> None:
    points = [(row["step"], row[name]) for row in rows if name in row]
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=name, marker="." if len(points) < 60 else "")
