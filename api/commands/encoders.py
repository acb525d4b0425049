"""The command that runs encoders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from api.answers import Pixels
from api.embedded import pixels_of
from api.state import State
from api.terminal import bar
from api.uploads import BodyForm, read_file
from service.dpixels import Declared, UploadLimits, scratch
from service.encoder import Encoder
from service.errors import InvalidInput, NotFound
from service.values import Window

Precision = Literal["fp32", "fp16"]


def embed(
    ctx: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="Time series as POST /embed takes them: .npz, .parquet or .arrow.", exists=True
        ),
    ],
    out: Annotated[Path, typer.Option(help="NPZ to write: codes and scales, status, counts, and names of pixels.")],
    model: Annotated[str, typer.Option(help="A model of `smalti models list`.")] = "smalti-mini",
    engine: Annotated[str, typer.Option(help="auto, cpu, openvino, cuda, tensorrt; the one asked for runs.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="fp32, or fp16 where the engine has it.")] = "fp32",
    float32: Annotated[bool, typer.Option("--float32", help="Write `vectors` instead of codes and scales.")] = False,
    min_s2: Annotated[int, typer.Option(help="Least number of valid Sentinel-2 dates.", min=0)] = 0,
    dims: Annotated[int | None, typer.Option(help="Length of the vectors: one of the model's depths.")] = None,
    window: Annotated[str | None, typer.Option(help="2024 or 2024-05-01..2024-09-30; tables need it.")] = None,
    s2_unit: Annotated[str | None, typer.Option(help="dn or reflectance; not for d-pixel folders.")] = None,
    s1_unit: Annotated[str | None, typer.Option(help="db, power or scaled; not for d-pixel folders.")] = None,
) -> None:
    """Embed the time series of a file."""
    state: State = ctx.obj
    encoder = Encoder.open(
        state.registry.get(model),
        engine=engine,
        precision=precision,
        threads=state.settings.encoder_threads or None,
    )
    if not out.parent.is_dir():
        raise NotFound(f"there is no folder {out.parent}.", field="out")
    declared = Declared(Window.parse(window) if window else None, s2_unit, s1_unit)
    with source.open("rb") as file:
        upload = read_file(file, _form(source), UploadLimits(sys.maxsize, sys.maxsize, rows=sys.maxsize), declared)
    with bar(f"Embedding on {encoder.device}, pixels") as tick:
        result = encoder.encode(upload.dpixels, min_s2=min_s2, dims=dims, on_progress=tick)
    arrays = Pixels(pixels_of(result, upload), upload.dpixels.shape, {}, {}, not float32).arrays()
    temporary = out.with_name(f".{out.name}.part")
    try:
        with scratch.on_disk(), temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _form(source: Path) -> BodyForm:
    forms: dict[str, BodyForm] = {".npz": "npz", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
    form = forms.get(source.suffix.lower())
    if form is None:
        raise InvalidInput(f"{source.name} is of no known form.", field="in", remedy=f"Known: {', '.join(forms)}.")
    return form
