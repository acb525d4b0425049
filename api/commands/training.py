"""The command that trains encoders. Needs torch, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.terminal import bar, console
from service.errors import NotFound
from service.values import ModelIdentity


def train(
    out: Annotated[Path, typer.Option(help="Folder for the run: checkpoints, curves, the ONNX model.")],
    preset: Annotated[str, typer.Option(help="Which model and recipe; `mini` is the shipped one.")] = "mini",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps, instead of the preset's.", min=1)] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call it, name@version/variant; smalti-PRESET@0.1.0 where absent.")
    ] = None,
) -> None:
    """Train an encoder on simulated series and export it to ONNX. Needs torch."""
    try:
        from service.training.train import run  # torch is an extra
    except ModuleNotFoundError as error:
        raise NotFound(f"{error.name} is not installed.", remedy="Run `make setup`, which installs torch.") from None
    identity = ModelIdentity.parse(name) if name else None
    with bar("Training, steps") as tick:
        run(preset, out, seed=seed, steps=steps, identity=identity, on_progress=tick)
    console.print(f"wrote {out}; `smalti models import {out}/model` makes it one of the encoders")
