"""Commands that judge encoders: how faithful, how fast, how good."""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from api.commands.models import Engines, Precisions, plan, show_parity, stages, training
from api.commands.shared import AsJson, show
from api.state import State
from api.terminal import console
from service.dpixels import from_arrays
from service.encoder import Encoder
from service.errors import InvalidInput, NotFound, Unavailable
from service.simulate import Landscape
from service.training.evaluate import evaluate as evaluated

Model = Annotated[str, typer.Argument(metavar="NAME", help="A model of `smalti models list`.")]


def verify(
    ctx: typer.Context,
    name: Model,
    checkpoint: Annotated[
        Path | None, typer.Option(help="What it was made from, where that lies elsewhere now.", exists=True)
    ] = None,
    engine: Engines = None,
    precision: Precisions = None,
    pixels: Annotated[int, typer.Option(help="Simulated pixels to compare.", min=1)] = 64,
    as_json: AsJson = False,
) -> None:
    """Measure how faithful an encoder is on every engine here, and keep the table that GET /models shows.

    Against PyTorch where its checkpoint is at hand, else against ONNX Runtime on the CPU; and against the golden
    numbers of its family. Ends with exit code 1 where an engine fails.
    """
    state: State = ctx.obj
    model = state.registry.get(name)
    judging = training("verify")
    with stages() as note:
        note("looking for the checkpoint")
        if checkpoint:
            judge = training("checkpoints").read_checkpoint(checkpoint, model.manifest.family)
            if judge.sha256 != model.manifest.checkpoint_sha256:
                raise InvalidInput(f"{checkpoint} is not what {name} was made from.", field="checkpoint")
        else:
            judge = judging.remembered(model)
        asked = training("adopt").plan_for(model.path.stat().st_size, plan(state, engine, precision, pixels))
        rows = judging.verify(model, asked, judge, note)
    state.registry.keep_parity(model, rows)
    show_parity(rows, as_json)
    if not all(row.ok for row in rows):
        console.print("[bold red]not faithful[/]: see the rows that are not ok")
        raise typer.Exit(1)


def bench(
    ctx: typer.Context,
    name: Model,
    engine: Engines = None,
    precision: Precisions = None,
    pixels: Annotated[int, typer.Option(help="Simulated pixels a run.", min=1)] = 256,
    repeat: Annotated[int, typer.Option(help="Runs; the median counts.", min=1)] = 3,
    as_json: AsJson = False,
) -> None:
    """Measure how many pixels a second an encoder makes here, from observations to vectors, by engine and precision."""
    state: State = ctx.obj
    model = state.registry.get(name)
    asked = plan(state, engine, precision, pixels)
    side = max(1, round(pixels**0.5))
    dpixels = from_arrays(Landscape(1, side, side).dpixels(2023))
    rows: list[dict[str, Any]] = []
    with stages() as note:
        for kind, half in ((e, p) for e in asked.engines for p in asked.precisions):
            try:
                encoder = Encoder.open(model, kind, threads=asked.threads, precision=half)
            except (Unavailable, InvalidInput) as error:
                if asked.demands(error):
                    raise
                note(f"{kind} {half} is left out: {error}")
                continue
            note(f"{kind} {half} is measured")
            with closing(encoder):
                encoder.encode(dpixels)  # the first run builds what the others reuse
                rate = len(dpixels) / statistics.median(_timed(encoder, dpixels) for _ in range(repeat))
            rows.append(
                {"engine": kind, "precision": half, "pixels": len(dpixels), "pixels_per_second": round(rate, 1)}
            )
    if not rows:
        raise NotFound("none of the engines is here.", field="engine")
    show(rows, as_json, "")


def _timed(encoder: Encoder, dpixels: Any) -> float:
    began = time.perf_counter()
    encoder.encode(dpixels)
    return time.perf_counter() - began


def evaluate(
    ctx: typer.Context,
    data: Annotated[Path, typer.Argument(help="Folder with worldcereal/*.geoparquet.", exists=True, file_okay=False)],
    model: Annotated[str, typer.Option(help="A model of `smalti models list`.")] = "smalti-mini",
    as_json: AsJson = False,
) -> None:
    """Score an encoder on real French crop parcels: 5 nearest neighbours, leave one out. Needs pyarrow."""
    state: State = ctx.obj
    scores = evaluated(data, {model: Encoder.open(state.registry.get(model), engine="cpu")})
    rows = [{"what": name, "accuracy": s.accuracy, "low": s.low, "high": s.high} for name, s in scores.items()]
    show(
        [{k: v if isinstance(v, str) else f"{v:.3f}" for k, v in row.items()} for row in rows] if not as_json else rows,
        as_json,
        "",
    )
    console.print("The parcels have no B8A: for this evaluation alone B8A := B08. Intervals are Wilson's, 95 %.")
