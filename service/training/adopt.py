"""From a published checkpoint to a model that can be run: read, export, prove, register; whole or not at all."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.errors import Conflict, Corrupt
from service.families import Family, family
from service.parity import ParityRow, Plan, write_parity
from service.registry import RegisteredModel, read_model, register
from service.training.checkpoints import Checkpoint, read_checkpoint
from service.training.export import LIMIT, export
from service.training.hub import PUBLISHED
from service.training.verify import Note, remember, verify
from service.values import ModelIdentity

PUBLIC_DOMAIN: Final = "CC0-1.0"
"""Licence of the published weights."""
UNKNOWN: Final = "NOASSERTION"
"""SPDX for: nobody said."""
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

    Raises:
        NotFound, InvalidInput, Corrupt: As `read_checkpoint`.
        Corrupt: What was exported does not compute what the checkpoint does; nothing is registered.
        Conflict: Another model of that identity is there.
    """
    identity = identity_of(path, family(family_name), naming.identity)
    note(f"reading {path.name}")
    checkpoint = read_checkpoint(path, family_name)
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".") as temporary:
        note(f"exporting {identity}")
        folder = Path(temporary) / "model"
        made = write(checkpoint, folder, naming, half=half, limit=limit)
        rows = verify(made, plan, checkpoint, note)
        require_faithful(identity, rows)
        write_parity(folder, rows)
        model = register(models, folder, move=True)
    if model.manifest.checkpoint_sha256 != checkpoint.sha256:
        raise Conflict(f"another {identity} is registered.", remedy="Give it another name: --as NAME@VERSION.")
    if model.parity != rows:  # the same one was there already
        write_parity(model.path.parent, rows)
    return Adopted(read_model(model.path.parent), checkpoint, rows)


def require_faithful(identity: ModelIdentity, rows: Sequence[ParityRow]) -> None:
    """Refuse a model that an engine does not compute as it should.

    Raises:
        Corrupt: There is one; names the first.
    """
    for row in rows:
        if not row.ok:
            raise Corrupt(
                f"{identity} on {row.engine} {row.precision} differs from {row.against} by {row.max_abs:.1e}, "
                f"{row.step_error_max:.2f} steps of the stored int8, {row.codes_differ:.2%} of codes.",
                remedy="Leave that engine or precision out (--engine, --precision) if you do not need it.",
            )


def plan_for(checkpoint_bytes: int, plan: Plan) -> Plan:
    """Fewer pixels for a network that takes seconds for one."""
    if checkpoint_bytes <= 4 * LARGE:
        return plan
    return Plan(plan.engines, plan.precisions, min(plan.pixels, 8), plan.strict, plan.threads)
