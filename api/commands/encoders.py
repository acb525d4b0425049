"""The command that runs encoders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from api.state import State
from api.terminal import bar
from service.dpixels import UploadLimits, from_arrays, load_npz
from service.encoder import Encoder
from service.errors import NotFound

Precision = Literal["fp32", "fp16"]


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
