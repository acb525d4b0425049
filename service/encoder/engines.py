"""What runs a graph, behind one small interface, and the choice among what there is.

The device that was asked for is the device that runs, or opening fails: nothing falls back in silence.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Final

import numpy.typing as npt

from service.errors import Corrupt, InvalidInput, Unavailable
from service.registry import RegisteredModel
from service.values import Float32Array

Feeds = Mapping[str, npt.NDArray[Any]]
"""The graph's inputs by name, `batch` pixels each."""
Run = Callable[[Feeds], Float32Array]
"""(B, d) vectors of one batch. To be called by one thread at a time."""

PRECISIONS: Final = ("fp32", "fp16")
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
    why: str = ""
    """What `auto` passed over, and why; empty where the engine was asked for by name."""


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
            engine: Engine = _room(device).opened(model, device, precision, threads or cores())
        except Unavailable as error:
            if asked != "auto":
                raise
            passed.append(f"{device}: {error.message}")
            continue
        return replace(engine, why=" ".join(["chosen by auto.", *passed])) if asked == "auto" else engine
    raise Unavailable(
        f"no engine here runs {model.manifest.identity} in {precision}: {' '.join(passed)}",
        field="engine",
        remedy="Use fp32." if precision != "fp32" else None,
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


def cores() -> int:
    """Processor cores that this process may use."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1


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
