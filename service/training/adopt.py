"""From a published checkpoint to a model that can be run: read, export, prove, register; whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from service.errors import Conflict, Corrupt, InvalidInput
from service.families import Family, family
from service.parity import ParityRow, Plan, joined, write_parity
from service.registry import MANIFEST, RegisteredModel, read_model, register
from service.training.checkpoints import Checkpoint, read_checkpoint
from service.training.export import LIMIT, export
from service.training.hub import PUBLISHED
from service.training.verify import HALF_STEP, Note, remember, verify
from service.unfinished import making
from service.values import ModelIdentity

PUBLIC_DOMAIN: Final = "CC0-1.0"
"""Licence of the published weights."""
UNKNOWN: Final = "NOASSERTION"
"""SPDX for: nobody said."""
MOST: Final = float(np.finfo(np.float16).max)
"""Largest number of half precision."""
LARGE: Final = 500_000_000
"""Parameters from which few pixels are compared: one takes seconds."""


@dataclass(frozen=True)
class Naming:
    """What a person says of a checkpoint; what is empty follows from the file."""

    identity: str = ""
    licence: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Adopted:
    """A model made from a checkpoint, and how faithful it is."""

    model: RegisteredModel
    checkpoint: Checkpoint
    rows: tuple[ParityRow, ...]


def identity_of(path: Path, kind: Family, text: str = "") -> ModelIdentity:
    """The name that was asked for, with the family's version where it names none; else that of the published file.

    Args:
        path: The checkpoint.
        kind: Its family.
        text: `name[@version[/variant]]`; empty: nobody asked.

    Raises:
        InvalidInput: That is no name.
    """
    said = next((one.identity for one in PUBLISHED.values() if _is(one.file, path) and one.family == kind.name), None)
    if not text and said:
        return said
    name = text or (kind.name if path.name in kind.published else re.sub(r"[^a-z0-9.]+", "-", path.stem.lower()))
    return ModelIdentity.parse(name if "@" in name else f"{name.strip('-.')}@{_version(kind)}")


def _version(kind: Family) -> str:
    """The release that a family is of: tessera-v1.1-aws is of 1.1, tessera-v2 of 2.0."""
    number = kind.name.split("-")[1].removeprefix("v")
    return number if "." in number else f"{number}.0"


def _is(file: str, path: Path) -> bool:
    return Path(file).name == path.name


def write(
    checkpoint: Checkpoint, folder: Path, naming: Naming, *, half: bool = True, limit: int = LIMIT
) -> RegisteredModel:
    """Export a checkpoint into a folder: ONNX files, manifest, and where the checkpoint lies.

    Args:
        checkpoint: As read.
        folder: New, or empty.
        naming: What a person says of it.
        half: Whether to write the file of half precision too.
        limit: Bytes of weights that an ONNX file itself may hold.

    Raises:
        Conflict: There is something in the folder.
    """
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty.", field="out", remedy="Name a new folder.")
    kind, path = checkpoint.family, checkpoint.path
    known = path.name in kind.published
    model = export(
        checkpoint.network,
        folder,
        identity_of(path, kind, naming.identity),
        family=kind.name,
        licence=naming.licence or (PUBLIC_DOMAIN if known else UNKNOWN),
        origin=naming.origin or (f"TESSERA, University of Cambridge; {path.name}" if known else path.name),
        title=f"{kind.name}, {checkpoint.parameters:,} parameters",
        depths=checkpoint.depths,
        training={"sizes": dict(checkpoint.sizes), "parameters": checkpoint.parameters},
        half=half,
        checkpoint_sha256=checkpoint.sha256,
        limit=limit,
    )
    remember(folder, checkpoint)
    return model


def adopt(
    path: Path,
    family_name: str,
    models: Path,
    naming: Naming,
    plan: Plan,
    *,
    half: bool = True,
    limit: int = LIMIT,
    note: Note = lambda _: None,
) -> Adopted:
    """Make a checkpoint a model of a registry folder.

    Args:
        path: The checkpoint.
        family_name: One of service.families.
        models: Folder of the registry.
        naming: What a person says of it.
        plan: On which engines to prove it.
        half: Whether to write the file of half precision too.
        limit: Bytes of weights that an ONNX file itself may hold.
        note: Told of what begins.

    Half precision that misses what is asked of it keeps nothing from being registered: its file is left out, the table
    says why, and whoever asks for it is refused.

    Raises:
        NotFound, InvalidInput, Corrupt: As `read_checkpoint`.
        InvalidInput: The plan leaves out float32.
        Corrupt: What was exported does not compute in float32 what the checkpoint does; nothing is registered.
        Conflict: Another model of that identity is there, or the checkpoint changed meanwhile.
    """
    if "fp32" not in plan.precisions:
        raise InvalidInput("a model is proven in fp32 at least.", field="precision", remedy="Add --precision fp32.")
    identity = identity_of(path, family(family_name), naming.identity)
    note(f"reading {path.name}")
    checkpoint = read_checkpoint(path, family_name)
    if half and (why := against_half(checkpoint, plan)):
        note(f"half.onnx is left out: {why}")
        half = False
    with making(models) as temporary:
        note(f"exporting {identity}")
        folder = temporary / "model"
        made = write(checkpoint, folder, naming, half=half, limit=limit)
        rows = verify(made, plan, checkpoint, note)
        require_faithful(identity, rows)
        without_unproven_half(made, rows, note)
        write_parity(folder, rows)
        checkpoint.require_same()
        model = register(models, folder, move=True)
    if model.parity != rows:  # the same one was there already
        write_parity(model.path.parent, joined(model.parity, rows))
    return Adopted(read_model(model.path.parent), checkpoint, rows)


def against_half(checkpoint: Checkpoint, plan: Plan) -> str:
    """Why no file of half precision can be made, or proven; empty where it can."""
    largest = max(float(p.abs().max()) for p in checkpoint.network.parameters())
    if largest > MOST:
        return f"a weight of {largest:.3g} is beyond float16."
    return "" if "fp16" in plan.precisions else "it is not to be compared (--precision)."


def require_faithful(identity: ModelIdentity, rows: Sequence[ParityRow]) -> None:
    """Refuse a model that an engine does not compute as it should in float32.

    Raises:
        Corrupt: There is one; names the first.
    """
    for row in rows:
        if not row.ok and row.precision == "fp32":
            raise Corrupt(
                f"{identity} on {row.engine} fp32 {_differs(row)}.",
                remedy="Leave that engine out (name the others with --engine) if you do not need it.",
            )


def without_unproven_half(model: RegisteredModel, rows: Sequence[ParityRow], note: Note) -> None:
    """Say which half precision is not good enough, and remove the file of it where it is not, or nobody looked."""
    halves = [row for row in rows if row.precision == "fp16"]
    for row in halves:
        if not row.ok:
            note(f"{row.engine} fp16 is left out: it {_differs(row)}; at most {HALF_STEP} steps are allowed.")
    ran = [row for row in halves if row.engine != "openvino"]  # which takes the float32 file
    if model.half_path is None or (ran and all(row.ok for row in ran)):
        return
    if not ran:
        note("half.onnx is left out: no engine here could be asked to run it.")
    manifest, folder = model.manifest, model.path.parent
    for name in filter(None, (manifest.half_file, manifest.half_data_file)):
        (folder / name).unlink()
    bare = replace(manifest, half_file="", half_sha256="", half_data_file="", half_data_sha256="")
    (folder / MANIFEST).write_text(bare.to_json())


def _differs(row: ParityRow) -> str:
    return (
        f"differs from {row.against} by {row.max_abs:.1e}, {row.step_error_max:.2f} steps of the stored int8, "
        f"{row.codes_differ:.2%} of codes"
    )


def plan_for(checkpoint_bytes: int, plan: Plan) -> Plan:
    """Fewer pixels for a network that takes seconds for one."""
    if checkpoint_bytes <= 4 * LARGE:
        return plan
    return Plan(plan.engines, plan.precisions, min(plan.pixels, 8), plan.strict, plan.threads)
