"""Commands about encoders: listing, running."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from api.commands.shared import AsJson, show
from api.state import State
from api.terminal import bar, console
from service.dpixels import UploadLimits, from_arrays, load_npz
from service.encoder import Encoder
from service.errors import NotFound
from service.registry import register
from service.training.evaluate import evaluate

models_app = typer.Typer(no_args_is_help=True, help="What encoders there are.")
Precision = Literal["fp32", "fp16"]


@models_app.command("list")
def models_list(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List every encoder that can be run."""
    rows = [
        {
            "name": m.manifest.identity.name,
            "model": str(m.manifest.identity),
            "family": m.manifest.family,
            "dims": m.manifest.dims,
            "licence": m.manifest.licence,
            "path": str(m.path),
        }
        for m in ctx.obj.registry.list()
    ]
    show(rows, as_json, "No models.")


@models_app.command("import")
def models_import(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(help="Folder with manifest.json and the ONNX file it names.", exists=True, file_okay=False)
    ],
) -> None:
    """Take an encoder into this home, as `smalti train` leaves it in RUN/model. The same one twice is one."""
    model = register(ctx.obj.settings.home / "models", folder)
    console.print(f"{model.manifest.identity} is at {model.path.parent}")


@models_app.command("evaluate")
def models_evaluate(
    ctx: typer.Context,
    data: Annotated[Path, typer.Argument(help="Folder with worldcereal/*.geoparquet.", exists=True, file_okay=False)],
    model: Annotated[str, typer.Option(help="A model of `smalti models list`.")] = "smalti-mini",
    as_json: AsJson = False,
) -> None:
    """Score an encoder on real French crop parcels: 5 nearest neighbours, leave one out. Needs pyarrow."""
    state: State = ctx.obj
    scores = evaluate(data, {model: Encoder.open(state.registry.get(model), engine="cpu")})
    rows = [{"what": name, "accuracy": s.accuracy, "low": s.low, "high": s.high} for name, s in scores.items()]
    show(
        [{k: v if isinstance(v, str) else f"{v:.3f}" for k, v in row.items()} for row in rows] if not as_json else rows,
        as_json,
        "",
    )
    console.print("The parcels have no B8A: for this evaluation alone B8A := B08. Intervals are Wilson's, 95 %.")


def embed(
    ctx: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="IN.npz", help="Arrays of a published d-pixel tile folder.", exists=True)
    ],
    out: Annotated[Path, typer.Option(help="Where to write codes, scales and status.")],
    model: Annotated[str, typer.Option(help="A model of `smalti models list`.")] = "smalti-mini",
    engine: Annotated[str, typer.Option(help="auto, cpu or cuda; what is asked for is what runs.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="fp32, or fp16 where the engine has it.")] = "fp32",
    float32: Annotated[bool, typer.Option("--float32", help="Write `vectors` instead of codes and scales.")] = False,
    min_s2: Annotated[int, typer.Option(help="Least number of valid Sentinel-2 dates.", min=0)] = 0,
) -> None:
    """Embed the time series of an NPZ."""
    state: State = ctx.obj
    encoder = Encoder.open(
        state.registry.get(model),
        engine=engine,
        precision=precision,
        threads=state.settings.encoder_threads or None,
    )
    if not out.parent.is_dir():
        raise NotFound(f"there is no folder {out.parent}.", field="out")
    series = load_npz(source, UploadLimits(sys.maxsize, sys.maxsize))
    shape = series["bands"].shape[1:3]
    with bar(f"Embedding on {encoder.device}, pixels") as tick:
        result = encoder.encode(from_arrays(series), min_s2=min_s2, on_progress=tick)
    arrays: dict[str, np.ndarray[Any, Any]] = {"status": result.vectors.status}
    if float32:
        arrays["vectors"] = result.floats
    else:
        arrays |= {"codes": result.vectors.codes, "scales": result.vectors.scales}
    temporary = out.with_name(f".{out.name}.part")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{k: v.reshape(*shape, *v.shape[1:]) for k, v in arrays.items()})
    temporary.replace(out)
