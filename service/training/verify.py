"""How faithful an exported model is: engines against PyTorch, and both against published numbers."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from service.dpixels import DPixels, from_arrays
from service.encoder import Encoder
from service.errors import Corrupt, InvalidInput, SmaltiError, Unavailable
from service.families import FAMILIES
from service.parity import HALF_FILE, ParityRow, Plan
from service.quant import quantise
from service.registry import ORIGIN, RegisteredModel, sha256_of
from service.simulate import Landscape
from service.training import golden
from service.training.checkpoints import Checkpoint, read_checkpoint
from service.training.export import export, rounded
from service.training.reference import reference_vectors
from service.values import Float32Array, ModelIdentity

LIBRARIES: Final = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch")

ABSOLUTE: Final = golden.TOLERANCE
"""Most that a number may be off in float32."""
RELATIVE: Final = golden.RELATIVE
"""Or as a share of the largest number, where vectors are not of unit size."""
TIES: Final = 0.005
"""Share of int8 codes that may differ in float32, by one level: those that lay on the edge between two."""
HALF_STEP: Final = 0.5
"""Most that half precision may be off, in steps of the stored int8."""

Note = Callable[[str], None]
"""Told in a few words of what begins."""


def verify(
    model: RegisteredModel, plan: Plan, checkpoint: Checkpoint | None = None, note: Note = lambda _: None
) -> tuple[ParityRow, ...]:
    """Measure a model on every engine and precision of the plan that is here.

    Engines at float32 run the family's golden networks too. The model itself is held against its checkpoint, run by
    the published procedure in PyTorch; without one, against ONNX Runtime on the CPU in float32.

    Args:
        model: Of the registry.
        plan: What to compare.
        checkpoint: That the model was made from.
        note: Told of what begins.

    Raises:
        Unavailable: An engine is not here, and the plan is strict; or none is.
        Corrupt: In float32, vectors are not finite.
    """
    model = replace(model, parity=())  # an engine that failed before may be measured again
    dpixels = realistic(plan.pixels)
    against = "torch" if checkpoint else "cpu fp32"
    note(f"{len(dpixels)} simulated pixels, {against}")
    judge = _judge(model, dpixels, checkpoint, plan, note)
    rows: list[ParityRow] = []
    absent: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        goldens = _goldens(model.manifest.family, Path(folder)) if "fp32" in plan.precisions else []
        for engine, precision in _runs(model, plan):
            if engine in absent:
                continue
            try:
                found = _vectors(model, dpixels, engine, precision, plan, note)
            except (Unavailable, InvalidInput) as error:
                if plan.demands(error):
                    raise
                note(f"{engine} {precision} is left out: {error}")
                absent |= {engine} if error.field == "engine" else set()
                continue
            note(f"{engine} {precision} is compared")
            rows.append(_row(engine, precision, against, judge, found, model.manifest.quantiser))
            if precision == "fp32":
                rows += [_golden_row(engine, case, made) for case, made in goldens]
    if not rows:
        raise Unavailable("none of the engines is here.", field="engine")
    return tuple(rows)


def _runs(model: RegisteredModel, plan: Plan) -> list[tuple[str, str]]:
    """Engines and precisions in turn; the float16 file on a processor too, for it stands for GPUs that are not here."""
    runs = [(engine, precision) for engine in plan.engines for precision in plan.precisions]
    half = model.half_path and "fp16" in plan.precisions and "cpu" in plan.engines
    return [*runs, (HALF_FILE, "fp16")] if half else runs


def _vectors(
    model: RegisteredModel, dpixels: DPixels, engine: str, precision: str, plan: Plan, note: Note
) -> Float32Array:
    """(n, d); NaN where half precision gives nothing that could be stored."""
    try:
        if engine == HALF_FILE:
            with _as_half(model) as half:
                return _encoded(half, dpixels, "cpu", "fp32", plan)
        return _encoded(model, dpixels, engine, precision, plan)
    except Corrupt as error:
        if precision == "fp32":
            raise
        note(f"{engine} {precision}: {error.message}")
        return np.full((len(dpixels), model.manifest.dims), np.nan, np.float32)


def _encoded(model: RegisteredModel, dpixels: DPixels, engine: str, precision: str, plan: Plan) -> Float32Array:
    with closing(Encoder.open(model, engine, threads=plan.threads, precision=precision)) as encoder:
        return encoder.encode(dpixels).floats


@contextmanager
def _as_half(model: RegisteredModel) -> Iterator[RegisteredModel]:
    """A model whose only file is that of half precision, rounding on a processor too; in the folder of its weights."""
    old = model.manifest
    with tempfile.NamedTemporaryFile(dir=model.path.parent, prefix=".rounded-", suffix=".onnx") as file:
        file.write(rounded(model.path.with_name(old.half_file)))
        file.flush()
        path = Path(file.name)
        manifest = replace(
            old, file=path.name, sha256=sha256_of(path), data_file=old.half_data_file, data_sha256=old.half_data_sha256,
            half_file="", half_sha256="", half_data_file="", half_data_sha256="",
        )  # fmt: skip
        yield RegisteredModel(manifest, path)


def _judge(
    model: RegisteredModel, dpixels: DPixels, checkpoint: Checkpoint | None, plan: Plan, note: Note
) -> Float32Array:
    if checkpoint is None:
        return _vectors(model, dpixels, "cpu", "fp32", plan, note)
    manifest = model.manifest
    vectors = reference_vectors(checkpoint.network, dpixels, manifest.statistics, sampling=manifest.sampling)
    return vectors[:, : manifest.dims]


def realistic(pixels: int) -> DPixels:
    """Simulated pixels of a whole year, every eighth without one of the sensors."""
    side = max(2, int(np.ceil(pixels**0.5)))
    arrays = Landscape(1, 16 * side, 16 * side).dpixels(2023, slice(0, None, 16), slice(0, None, 16))
    flat = {name: a.reshape(len(a), 1, -1, *a.shape[3:])[:, :, :pixels] for name, a in arrays.items() if a.ndim > 2}
    flat["masks"][:, :, 1::16] = 0
    for orbit in ("sar_ascending", "sar_descending"):
        flat[orbit][:, :, 9::16] = 0
    return from_arrays(arrays | flat)


def _row(
    engine: str, precision: str, against: str, judge: Float32Array, found: Float32Array, quantiser: Any
) -> ParityRow:
    made = np.isfinite(judge).all(axis=1)
    if not made.any():
        raise Corrupt(f"{against} gives no finite vector.", remedy="The weights are damaged: get them again.")
    same_status = bool((made == np.isfinite(found).all(axis=1)).all())
    a, b = judge[made], np.nan_to_num(found[made])
    (codes_a, scales), (codes_b, _) = quantise(a, quantiser), quantise(b, quantiser)
    off = np.abs(a - b)
    levels = np.abs(codes_a.astype(np.int16) - codes_b)
    steps = off / scales[:, None]
    largest, relative = float(off.max()), float(off.max() / max(np.abs(a).max(), np.finfo(np.float32).tiny))
    if precision == "fp32":
        ok = (largest <= ABSOLUTE or relative <= RELATIVE) and levels.max() <= 1 and (levels > 0).mean() <= TIES
    else:
        ok = steps.max() <= HALF_STEP
    return ParityRow(
        engine=engine,
        precision=precision,
        against=against,
        pixels=len(a),
        max_abs=_short(largest),
        max_relative=_short(relative),
        step_error_mean=_short(float(steps.mean())),
        step_error_max=_short(float(steps.max())),
        codes_differ=_short(float((levels > 0).mean())),
        ok=bool(ok) and same_status,
        checked=_today(),
        versions=versions(),
    )


def _goldens(family: str, folder: Path) -> list[tuple[golden.Golden, RegisteredModel]]:
    """The golden networks of a family, exported as every model is."""
    return [
        (case, export(case.network(), folder / str(i), ModelIdentity("golden", str(i)), family=family))
        for i, case in enumerate(golden.golden(family) if family in FAMILIES else ())
    ]


def _golden_row(engine: str, case: golden.Golden, made: RegisteredModel) -> ParityRow:
    with closing(Encoder.open(made, engine)) as encoder:
        vectors = np.asarray(encoder.run(golden.feeds(case)), np.float32)
    error, largest = case.error(vectors), float(np.abs(vectors).max())
    relative = error * (case.relative or ABSOLUTE / largest)
    return ParityRow(
        engine=engine,
        precision="fp32",
        against=f"golden {case.case}",
        pixels=len(vectors),
        max_abs=_short(relative * largest),
        max_relative=_short(relative),
        step_error_mean=0.0,
        step_error_max=0.0,
        codes_differ=0.0,
        ok=error <= 1,
        checked=_today(),
        versions=versions(),
    )


def remember(folder: Path, checkpoint: Checkpoint) -> None:
    """Note beside a model where its checkpoint lies, so that it can be held against it later."""
    about = {"path": str(checkpoint.path), "sha256": checkpoint.sha256, "family": checkpoint.family.name}
    (folder / ORIGIN).write_text(json.dumps(about, indent=1) + "\n")


def remembered(model: RegisteredModel) -> Checkpoint | None:
    """The checkpoint that a model was made from, if it is still where it was and what it was."""
    try:
        about = json.loads((model.path.parent / ORIGIN).read_bytes())
        path = Path(about["path"])
        if not path.is_file() or sha256_of(path) != about["sha256"]:
            return None
        return read_checkpoint(path, about["family"])
    except (OSError, ValueError, KeyError, TypeError, SmaltiError):
        return None


def versions() -> dict[str, str]:
    """Of the libraries that compute, as installed."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()
