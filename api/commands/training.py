"""The command that trains encoders. Needs torch, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from api.state import State
from api.terminal import bar, console
from service.errors import InvalidInput, NotFound
from service.registry import MANIFEST, RegisteredModel, read_model
from service.values import ModelIdentity

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16"]


def train(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the run: checkpoints, curves, the ONNX model.")],
    preset: Annotated[
        str,
        typer.Option(
            help="mini (the shipped one), smoke, cpu, v1 (the published recipe of TESSERA v1.0), v2-nano, v2-small, "
            "v2-medium, v2-large, distil; or the recipe.json of an earlier run."
        ),
    ] = "mini",
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of d-pixel tiles, or of folders of them; may be given again. Without: simulated pixels.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Distil from this: a model of `smalti models list`, or a folder with one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    device: Annotated[Device, typer.Option(help="What is asked for is what trains, or it fails.")] = "auto",
    precision: Annotated[Precision | None, typer.Option(help="bf16 and fp16 are mixed; fp16 needs a GPU.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps, instead of the preset's.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="Pixels of a step.", min=2)] = None,
    pixels: Annotated[int | None, typer.Option(help="Simulated pixels.", min=2)] = None,
    projector: Annotated[
        int | None,
        typer.Option(
            help="Width of the projector; 16384 takes 22 GB of memory, and 16 GB a checkpoint.", min=1, max=65536
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Base learning rate.")] = None,
    qat: Annotated[bool | None, typer.Option("--qat/--no-qat", help="Round vectors to int8 while training.")] = None,
    min_s2: Annotated[int | None, typer.Option(help="Least valid Sentinel-2 dates of a pixel.", min=0)] = None,
    min_s1: Annotated[int | None, typer.Option(help="Least valid Sentinel-1 dates of a pixel.", min=0)] = None,
    spacing: Annotated[int | None, typer.Option(help="Take every so many-th row and column.", min=1)] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the CPU.", min=1)] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between two checkpoints.", min=1)] = None,
    probe_every: Annotated[int | None, typer.Option(help="Steps between two linear probes; 0: none.", min=0)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Fail unless there is a checkpoint to go on from.")] = False,
    name: Annotated[
        str | None, typer.Option(help="What to call it, name@version/variant; smalti-PRESET@0.1.0 where absent.")
    ] = None,
    licence: Annotated[
        str, typer.Option(help="SPDX name; MIT where absent, the pixels are simulated and nobody taught.")
    ] = "",
) -> None:
    """Train an encoder and export it to ONNX. The same again goes on where a killed run was. Needs torch."""
    try:
        from service.training.train import run  # torch is an extra
    except ModuleNotFoundError as error:
        raise NotFound(f"{error.name} is not installed.", remedy="Run `make setup`, which installs torch.") from None
    with bar("Training") as tick:
        run(
            preset,
            out,
            seed=seed,
            device=device,
            data=tuple(data or ()),
            teacher=_teacher(ctx.obj, teacher) if teacher else None,
            resume=resume,
            identity=ModelIdentity.parse(name) if name else None,
            licence=licence,
            on_progress=tick,
            precision=precision,
            steps=steps,
            batch=batch,
            pixels=pixels,
            projector=projector,
            base_rate=rate,
            qat=qat,
            min_s2=min_s2,
            min_s1=min_s1,
            spacing=spacing,
            threads=threads,
            save_every=save_every,
            probe_every=probe_every,
        )
    console.print(f"wrote {out}; `smalti models import {out}/model` makes it one of the encoders")


def _teacher(state: State, text: str) -> RegisteredModel:
    path = Path(text)
    if (path / MANIFEST).is_file():
        return read_model(path)
    if path.is_file():
        raise InvalidInput(
            f"{path} is a file, not a model.",
            field="teacher",
            remedy="Take it in first: `smalti models import FILE --family FAMILY`, then name it here.",
        )
    return state.registry.get(text)
