"""A training run from preset to model: pixels, weights, graph, and proof that the graph computes what torch does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from service.dpixels import from_arrays
from service.encoder import Encoder
from service.errors import Corrupt, InvalidInput
from service.registry import RegisteredModel
from service.simulate import Landscape
from service.training.data import training_series
from service.training.export import export
from service.training.loop import Progress, objective_of, train
from service.training.networks import Network, Student
from service.training.optimise import Device, take_device
from service.training.recipes import Recipe
from service.training.recipes import recipe as named
from service.training.reference import reference_vectors
from service.training.runs import Run, held, require_checkpoint
from service.training.sources import Pooled, Source, Streamed, shuffled
from service.training.teacher import Taught, name_of, teach
from service.training.views import Pool
from service.values import ModelIdentity

PARITY: Final = 2e-5
"""Most that the exported graph may differ from torch on any number of a vector."""
SIMULATED: Final = "simulated series (service/training/data.py); no real data"


def run(
    preset: str,
    out: Path,
    *,
    seed: int = 0,
    device: Device = "auto",
    data: Sequence[Path] = (),
    teacher: RegisteredModel | None = None,
    resume: bool = False,
    identity: ModelIdentity | None = None,
    licence: str = "",
    on_progress: Progress | None = None,
    **changes: Any,
) -> RegisteredModel:
    """Train by a preset, export, and hold the exported graph against torch.

    A run that was killed goes on from its last checkpoint when it is asked for again.

    Args:
        preset: One of PRESETS, or the path of a run's recipe.json.
        out: Folder for recipe, curves, checkpoints, shuffled pixels, and `model/` with ONNX file and manifest.
        seed: Of everything random.
        device: What to train on; `auto` takes the GPU where there is one.
        data: Tile folders of d-pixels, and folders of them; none: simulated pixels.
        teacher: What to distil from, if the recipe does.
        resume: There must be a checkpoint to go on from.
        identity: What to call the result; `smalti-<preset>@0.1.0` where absent.
        licence: SPDX name; MIT where absent, the pixels are simulated and nobody taught.
        on_progress: Told of steps done.
        changes: Values of the recipe, instead of the preset's; None leaves the preset's.

    Returns:
        The exported model.

    Raises:
        NotFound: No such preset or folder, or nothing to go on from.
        InvalidInput: The recipe, the data or the teacher cannot be used so.
        Conflict: The folder holds another run, or another process trains in it.
        Unavailable: The device is not there, or no room is.
        Corrupt: The exported graph does not compute what torch does.
    """
    recipe = _taught(named(preset).changed(**changes), teacher)
    where = take_device(device, recipe.precision)
    if resume:
        require_checkpoint(out)  # pixels may take an hour
    with held(out):
        origin, source, taught = _source(recipe, data, teacher, out, seed, on_progress)
        made = Run(out, recipe, seed, origin)
        objective = objective_of(recipe, seed, taught)
        student, last = train(made, objective, source, where, resume=resume, on_progress=on_progress)
        summary = {
            "data": f"{origin['tiles']} d-pixel tile folders" if data else SIMULATED,
            "preset": preset if "/" not in preset else "recipe.json",
            **{name: value for name, value in made.body.items() if name != "recipe"},
            **recipe.to_dict(),
            "device": where.type,
            "parameters": sum(p.numel() for p in student.parameters()),
            "last": last,
        }
        name = identity or ModelIdentity(f"smalti-{Path(preset).stem}", "0.1.0")
        return export_checked(student, out / "model", name, recipe, summary, licence)


def _taught(recipe: Recipe, teacher: RegisteredModel | None) -> Recipe:
    """The recipe with its teacher's name in it.

    Raises:
        InvalidInput: A teacher is missing, or nobody asked for one.
    """
    if (recipe.kind == "distil") != (teacher is not None):
        remedy = "Give --teacher MODEL." if teacher is None else "Use --preset distil."
        raise InvalidInput("a teacher and distillation go together.", field="teacher", remedy=remedy)
    return recipe.changed(teacher=name_of(teacher)) if teacher else recipe


def _source(
    recipe: Recipe,
    data: Sequence[Path],
    teacher: RegisteredModel | None,
    out: Path,
    seed: int,
    on_progress: Progress | None,
) -> tuple[dict[str, Any], Source, Taught | None]:
    """What the pixels were made of, where batches come from, and what there is of the teacher."""
    if recipe.pool:
        if data:
            raise InvalidInput("this recipe keeps simulated pixels in memory.", field="data", remedy="Use v1 or v2-*.")
        series = training_series(recipe.pixels, seed, recipe.published.statistics)
        return {"simulated": recipe.pixels, "seed": seed}, Pooled(Pool(series), recipe, seed), None

    found = shuffled(recipe, data, out / "pixels", seed, _told(on_progress, "reading pixels"))
    taught = teach(teacher, found, _told(on_progress, "asking the teacher")) if teacher else None
    return found.source, Streamed(found, recipe, seed), taught


def _told(on_progress: Progress | None, word: str) -> Callable[[int, int], None]:
    def tick(done: int, total: int) -> None:
        if on_progress:
            on_progress(done, total, word)

    return tick


def export_checked(
    student: Network, folder: Path, identity: ModelIdentity, recipe: Recipe, summary: dict[str, Any], licence: str = ""
) -> RegisteredModel:
    """Export, and refuse the result where it differs from the published procedure run in torch.

    Raises:
        Corrupt: It differs by more than PARITY on a simulated landscape; of the largest number, where a family's
            vectors are not of unit size.
    """
    simulated = summary["data"] == SIMULATED
    after = f", after {recipe.teacher.partition(' ')[0]}" if recipe.teacher else ""
    about: dict[str, Any] = {
        "licence": licence or ("MIT" if simulated and not recipe.teacher else "NOASSERTION"),
        "origin": "trained by smalti on "
        + ("simulated Sentinel-1 and Sentinel-2 series" if simulated else summary["data"])
        + after,
        "family": recipe.family,
        "title": _title(recipe),
        "depths": recipe.depths,
    }
    model = export(student, folder, identity, training=summary, **about)
    dpixels = from_arrays(Landscape(1, 16, 16).dpixels(2023))
    ours = Encoder.open(model, engine="cpu").encode(dpixels).floats
    theirs = reference_vectors(student, dpixels, model.manifest.statistics, sampling=model.manifest.sampling)
    size = 1.0 if isinstance(student, Student) else max(float(abs(theirs).max()), 1.0)  # a student's are of unit size
    difference = float(abs(ours - theirs).max()) / size
    if not difference <= PARITY:
        raise Corrupt(f"the exported {identity} differs from torch by {difference:.1e}.")
    return export(student, folder, identity, training={**summary, "parity": difference}, **about)


def _title(recipe: Recipe) -> str:
    if recipe.pool:
        return "A small encoder of the TESSERA v2 student architecture. It is not TESSERA."
    architecture = "v2 student" if recipe.family == "tessera-v2" else "v1.0"
    return f"An encoder of the TESSERA {architecture} architecture, trained by smalti. It is not TESSERA."
