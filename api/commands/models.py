"""Commands that bring encoders here: listing, importing, pulling, exporting."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from api.commands.shared import AsJson, show
from api.state import State
from api.terminal import console
from service.errors import InvalidInput, NotFound
from service.families import FAMILIES
from service.parity import ENGINES, PRECISIONS, ParityRow, Plan
from service.registry import RegisteredModel, register

models_app = typer.Typer(no_args_is_help=True, help="What encoders there are, and how others get here.")

Family = Annotated[str, typer.Option(metavar="FAMILY", help=f"What the checkpoint is: {', '.join(FAMILIES)}.")]
Name = Annotated[
    str,
    typer.Option(
        "--as", metavar="NAME", help="name, name@version or name@version/variant; as it was published where absent."
    ),
]
Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine", help="cpu, openvino, cuda or tensorrt; may be given again. All that are here where absent."
    ),
]
Precisions = Annotated[
    list[str] | None,
    typer.Option("--precision", help="fp32 or fp16; may be given again. Both where absent. Import wants fp32."),
]
Half = Annotated[bool, typer.Option("--half/--no-half", help="Write a float16 file for GPUs too.")]
Licence = Annotated[
    str, typer.Option(help="SPDX name. CC0-1.0 for files named as the published ones, NOASSERTION for others.")
]
Origin = Annotated[str, typer.Option(help="Who made it, and from what.")]


def training(module: str) -> Any:
    """A module of service.training, which needs torch.

    Raises:
        NotFound: It is not installed.
    """
    try:
        return import_module(f"service.training.{module}")
    except ModuleNotFoundError as error:
        raise NotFound(f"{error.name} is not installed.", remedy="Run `make setup`, which installs torch.") from None


@models_app.command("list")
def models_list(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List every encoder that can be run, and on which engines it was proven here."""
    rows: list[dict[str, Any]] = []
    for m in ctx.obj.registry.list():
        row: dict[str, Any] = {
            "name": m.manifest.identity.name,
            "model": str(m.manifest.identity),
            "family": m.manifest.family,
            "dims": m.manifest.dims,
            "licence": m.manifest.licence,
            "path": str(m.path),
            "engines": sorted(_proven(m.parity)),
        }
        rows.append(row | ({"parity": [asdict(r) for r in m.parity]} if as_json else {}))
    show(rows, as_json, "No models.")
    for problem in ctx.obj.registry.problems():
        console.print(f"left out: {problem}", markup=False)


@models_app.command("import")
def models_import(
    ctx: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A published checkpoint, or a folder with manifest.json.", exists=True),
    ],
    family: Family = "",
    name: Name = "",
    engine: Engines = None,
    precision: Precisions = None,
    pixels: Annotated[int, typer.Option(help="Simulated pixels to compare.", min=1)] = 64,
    half: Half = True,
    licence: Licence = "",
    origin: Origin = "",
    as_json: AsJson = False,
) -> None:
    """Take an encoder into this home: a published checkpoint, or a folder as `smalti train` leaves it in RUN/model.

    A checkpoint is read without running anything in it, exported to ONNX, held against PyTorch on every engine that
    is here, and registered only if it agrees.
    """
    state: State = ctx.obj
    if source.is_dir():
        if family or name or licence or origin or engine or precision:
            remedy = "Leave out --family, --as, --licence, --origin, --engine and --precision; prove it with verify."
            raise InvalidInput("a folder says itself what it is.", field=str(source), remedy=remedy)
        model = register(state.settings.home / "models", source)
        told(model, as_json)
        return
    if not family:
        known = next((f.name for f in FAMILIES.values() if source.name in f.published), "FAMILY")
        raise InvalidInput("a checkpoint does not say what it is.", field="family", remedy=f"Add --family {known}.")
    naming = training("adopt").Naming(name, licence, origin)
    _adopted(state, source, family, naming, plan(state, engine, precision, pixels), half, as_json)


@models_app.command("pull")
def models_pull(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Such as tessera-v2-nano; a wrong one gets the list.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of the hub's repository.")] = "main",
    engine: Engines = None,
    precision: Precisions = None,
    pixels: Annotated[int, typer.Option(help="Simulated pixels to compare.", min=1)] = 64,
    half: Half = True,
    as_json: AsJson = False,
) -> None:
    """Download a published encoder from its model hub and import it. Goes on where an earlier download stopped."""
    state: State = ctx.obj
    hub = training("hub")
    one = hub.published(name)
    asked = plan(state, engine, precision, pixels)
    console.print(f"pulling {one.address}")
    fetched = hub.fetch(name, state.settings.home / "checkpoints" / name, revision)
    console.print(f"{fetched.path} has SHA-256 {fetched.sha256}, commit {fetched.commit}")
    origin = f"TESSERA, University of Cambridge; huggingface.co/{one.repo} {one.file} at {fetched.commit}"
    naming = training("adopt").Naming(str(one.identity), "", origin)
    _adopted(state, fetched.path, one.family, naming, asked, half, as_json)


@models_app.command("export")
def models_export(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A checkpoint, or a model that was made from one on this machine.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the ONNX file and its manifest; new or empty.")],
    family: Family = "",
    name: Name = "",
    half: Half = True,
    licence: Licence = "",
    origin: Origin = "",
    as_json: AsJson = False,
) -> None:
    """Write the ONNX file and the manifest of a checkpoint into a folder, to be carried elsewhere."""
    state: State = ctx.obj
    adopt, verify = training("adopt"), training("verify")
    if Path(source).is_file():
        if not family:
            raise InvalidInput("a checkpoint does not say what it is.", field="family", remedy="Add --family FAMILY.")
        checkpoint = training("checkpoints").read_checkpoint(Path(source), family)
        naming = adopt.Naming(name, licence, origin)
    else:
        model = state.registry.get(source)
        about = model.manifest
        checkpoint = verify.remembered(model)
        if checkpoint is None:
            raise NotFound(
                f"the checkpoint of {about.identity} is not at hand.",
                remedy=f"Name the file itself, or copy {model.path.parent}, which holds its ONNX file.",
            )
        naming = adopt.Naming(name or str(about.identity), licence or about.licence, origin or about.origin)
        half = half and model.half_path is not None  # where it is not, it was not good enough
    with stages() as note:
        note(f"exporting to {out}")
        made = adopt.write(checkpoint, out, naming, half=half)
    told(made, as_json)


def plan(state: State, engines: Sequence[str] | None, precisions: Sequence[str] | None, pixels: int) -> Plan:
    """What the options of a command ask to be compared; engines that are named must be here.

    Raises:
        InvalidInput: No such engine or precision.
    """
    for field, asked, known in (("engine", engines, ENGINES), ("precision", precisions, PRECISIONS)):
        if wrong := set(asked or ()) - set(known):
            raise InvalidInput(f"{min(wrong)[:40]!r} is none.", field=field, remedy=f"Use {', '.join(known)}.")
    return Plan(
        tuple(engines or ENGINES),
        tuple(precisions or PRECISIONS),
        pixels,
        strict=bool(engines),
        threads=state.settings.encoder_threads or None,
    )


def _adopted(state: State, source: Path, family: str, naming: Any, plan: Plan, half: bool, as_json: bool) -> None:
    adopt = training("adopt")
    plan = adopt.plan_for(source.stat().st_size, plan)
    with stages() as note:
        made = adopt.adopt(source, family, state.settings.home / "models", naming, plan, half=half, note=note)
    dropped = dict(made.checkpoint.dropped)
    heads = ", ".join(f"{count} of {head}" for head, count in dropped.items()) or "none"
    console.print(f"{made.checkpoint.tensors} tensors used, {heads} dropped", markup=False)
    told(made.model, as_json, {"tensors": made.checkpoint.tensors, "dropped": dropped})
    if not as_json:
        show_parity(made.rows, as_json=False)


def told(model: RegisteredModel, as_json: bool, more: dict[str, Any] | None = None) -> None:
    """Say which model is where."""
    if not as_json:
        console.print(f"{model.manifest.identity} is at {model.path.parent}", soft_wrap=True, markup=False)
        return
    about: dict[str, Any] = {
        "model": str(model.manifest.identity),
        "family": model.manifest.family,
        "dims": model.manifest.dims,
        "path": str(model.path),
        "sha256": model.manifest.sha256,
        "checkpoint_sha256": model.manifest.checkpoint_sha256,
        "parity": [asdict(row) for row in model.parity],
    }
    typer.echo(json.dumps(about | (more or {}), indent=2))


def _proven(rows: Sequence[ParityRow]) -> set[str]:
    """Engines and precisions of which every row is ok."""
    failed = {(row.engine, row.precision) for row in rows if not row.ok}
    found = {(row.engine, row.precision) for row in rows if row.engine in ENGINES} - failed
    return {f"{engine} {precision}" for engine, precision in found}


def show_parity(rows: Sequence[ParityRow], as_json: bool) -> None:
    """The table of parity, for people without what a script would want."""
    short = [
        {
            "engine": row.engine,
            "precision": row.precision,
            "against": row.against,
            "pixels": row.pixels,
            "error": f"{row.max_abs:.0e}",
            "int8 steps": f"{row.step_error_max:.3f}",
            "codes": f"{row.codes_differ:.2%}",
            "ok": "yes" if row.ok else "NO",
        }
        for row in rows
    ]
    show([asdict(row) for row in rows] if as_json else short, as_json, "Nothing was compared.")


@contextmanager
def stages() -> Iterator[Any]:
    """A line that says what goes on, on a terminal with how long it has been at it."""
    with console.status("...") as status:

        def note(text: str) -> None:
            status.update(text)
            if not console.is_terminal or " is left out" in text:
                console.print(text, markup=False)

        yield note
