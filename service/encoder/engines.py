"""What runs a graph, behind one small interface, and the choice among what there is.

The device that was asked for is the device that runs, or opening fails: nothing falls back in silence.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.errors import Corrupt, InvalidInput, Unavailable
from service.parity import unfit
from service.registry import RegisteredModel
from service.sampling import LENGTHS
from service.values import Float32Array

Feeds = Mapping[str, npt.NDArray[Any]]
"""The graph's inputs by name, `batch` pixels each."""
Run = Callable[[Feeds], Float32Array]
"""(B, d) vectors of one batch. To be called by one thread at a time."""

PRECISIONS: Final = ("fp32", "fp16")
CHUNK: Final = 1024
ROOMS: Final = {
    "cuda": "service.encoder.ort",
    "openvino": "service.encoder.vino",
    "cpu": "service.encoder.ort",
    "tensorrt": "service.encoder.ort",
}
"""Which module opens an engine."""
AUTO: Final = ("cuda", "cpu", "openvino")
"""What `auto` tries, in this order. In float32 OpenVINO gave 1.0 to 1.2 times the pixels a second of ONNX Runtime on an
idle processor and as little as 0.6 times on a busy one, so it comes after; in float16, which ONNX Runtime has not on a
processor, it is the one. TensorRT only where it is asked for: it builds its engines for minutes at the first start."""


@dataclass(frozen=True)
class Engine:
    """A graph that is opened on a device."""

    device: str
    """`cpu`, `cuda`, `tensorrt` or `openvino`: what really runs."""
    precision: str
    """`fp32` or `fp16`, as verified once it was opened."""
    batch: int
    """Pixels a run, always: so a pixel's vector does not depend on how many came."""
    lanes: int
    """Runs that go on at the same time."""
    lane: Callable[[], Run]
    """Makes what one thread runs batches with."""
    close: Callable[[], None]
    """Lets go of the graph; no lane runs afterwards."""
    chunk: int = CHUNK
    """Pixels that are prepared together: bounds memory, and fills batches of every pair of lengths."""
    calls: int = 1
    """Blocks that keep it busy at the same time: more than one where preparing pixels is slower than running them."""
    why: str = ""
    """What is to be known of it: what `auto` passed over and why, what does not run on the device; mostly empty."""


def open_engine(model: RegisteredModel, asked: str, precision: str, threads: int | None) -> Engine:
    """Open a model's graph on the engine asked for, or on the first of AUTO that is here and has the precision.

    Args:
        model: Its files were held against its manifest.
        asked: `auto`, `cpu`, `cuda`, `tensorrt` or `openvino`.
        precision: `fp32` or `fp16`.
        threads: Runs at the same time on a processor; one a core where absent.

    Raises:
        InvalidInput: No such engine or precision.
        Unavailable: The engine is not here, or cannot do that precision here.
        Corrupt: The file is no graph that can be opened.
    """
    if asked not in (*ROOMS, "auto"):
        raise InvalidInput(f"{asked[:40]!r} is no engine.", field="engine", remedy=f"Use auto, {', '.join(ROOMS)}.")
    if precision not in PRECISIONS:
        raise InvalidInput(f"{precision[:40]!r} is no precision.", field="precision", remedy="Use fp32 or fp16.")
    if asked != "openvino" and len(both := builds()) > 1:
        raise Unavailable(
            f"{' and '.join(both)} are both installed, and one has overwritten the other.",
            remedy="Uninstall both, then install smalti[cpu] or smalti[gpu].",
        )
    passed: list[str] = []
    for device in AUTO if asked == "auto" else (asked,):
        try:
            require_fit(model, device, precision)
            engine: Engine = _room(device).opened(model, device, precision, threads or cores())
        except Unavailable as error:
            if asked != "auto":
                raise
            passed.append(f"{device}: {error.message}")
            continue
        told = [engine.why] if engine.why else []
        return replace(engine, why=" ".join(["chosen by auto.", *told, *passed])) if asked == "auto" else engine
    raise Unavailable(
        f"no engine here runs {model.manifest.identity} in {precision}: {' '.join(passed)}",
        field="engine",
        remedy="Use fp32." if precision != "fp32" else None,
    )


def require_fit(model: RegisteredModel, device: str, precision: str) -> None:
    """Refuse half precision that was measured to lose too much.

    Raises:
        Unavailable: It was.
    """
    if row := unfit(model.parity, device, precision):
        raise Unavailable(
            f"{model.manifest.identity} in {precision} was off by {row.step_error_max:.2f} steps of the stored int8 "
            f"({row.engine}, {row.checked}), which is too much.",
            field="precision",
            remedy="Use fp32.",
        )


def _room(device: str) -> Any:
    try:
        return importlib.import_module(ROOMS[device])
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        remedy = "Install smalti[cpu] or smalti[gpu]."
        raise Unavailable("ONNX Runtime is not installed.", field="engine", remedy=remedy) from None


def builds() -> list[str]:
    """The distributions of ONNX Runtime that are installed: they share a folder, so there can be one."""
    names = {(dist.metadata["Name"] or "").lower() for dist in metadata.distributions()}
    return sorted(names & {"onnxruntime", "onnxruntime-gpu"})


def cores(system: Path = Path("/")) -> int:
    """Processor cores that this process may use: those it may run on, and no more than the quota that a container has.

    Args:
        system: Where `proc` and `sys` lie.
    """
    here = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1
    return max(1, min([here, *(ceil(quota) for quota in _quotas(system))]))


def _quotas(system: Path) -> Iterator[float]:
    """Cores that each control group of Linux around this process leaves it, of version 2 and of version 1."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = system / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # A container may see its path outside, and only the end of the way here: what is not there says nothing.
        folder = top / group.lstrip("/")
        for place in (folder, *folder.parents[: len(folder.parts) - len(top.parts)]):
            with suppress(OSError, ValueError):  # `max` is no number, and no quota
                yield _quota(place, controllers)


def _quota(place: Path, controllers: str) -> float:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
    quota, period = " ".join((place / name).read_text() for name in names).split()
    if int(quota) < 0:
        raise ValueError(quota)
    return int(quota) / int(period)


def inputs_of(model: RegisteredModel) -> frozenset[str]:
    """Names of the inputs that a model's graph must have: those with a recurrent pooling take the order as well."""
    parts = ("", "_doy", "_logm") if model.manifest.sampling == "v2" else ("", "_doy", "_logm", "_order", "_steps")
    return frozenset(f"{sensor}{part}" for sensor in ("s2", "s1") for part in parts)


def check_graph(model: RegisteredModel, inputs: set[str], dims: object) -> None:
    """Hold an opened graph against its manifest.

    Raises:
        Corrupt: It takes or gives something else.
    """
    if inputs != inputs_of(model) or dims != model.manifest.dims:
        raise Corrupt(
            f"{model.path} takes {sorted(inputs)} and gives {dims} numbers; its manifest says otherwise.",
            remedy="Fetch or import the model again.",
        )


def trial(model: RegisteredModel, engine: Engine) -> None:
    """Run one batch of nothing: a driver or a library may be there, and still not fit the device.

    Raises:
        Unavailable: It does not run.
    """
    sides = engine.batch, LENGTHS[0]
    channels = {"s2": (10,), "s1": (2,)}
    feeds = {
        name: np.zeros(sides + channels.get(name, ()), np.int64 if name.endswith(("_doy", "_order")) else np.float32)
        for name in inputs_of(model)
    }
    try:
        vectors = engine.lane()(feeds)
    except Exception as error:  # of the engine's own making
        raise Unavailable(f"{engine.device} does not run here: {str(error)[:200]}", field="engine") from None
    if vectors.shape != (engine.batch, model.manifest.dims) or not np.isfinite(vectors).all():
        raise Unavailable(f"{engine.device} gives no vectors in {engine.precision}.", field="engine")
