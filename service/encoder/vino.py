"""OpenVINO: the engine `openvino`, on a processor, from the same ONNX file. The only door to openvino.

It reads the file as it is; nothing is converted. What the graph is computed in is said to it in words and asked back,
for left to itself it takes bfloat16 on processors that have it, whose rounding is above half a step of stored int8.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from service.encoder.engines import Engine, Feeds, Run, check_graph
from service.errors import Corrupt, Unavailable
from service.registry import RegisteredModel
from service.values import Float32Array

DEVICE: Final = "CPU"
BATCH: Final = 16
"""Pixels a run: a tenth faster than 8, and no slower than 32."""
HINTS: Final = {"fp32": "f32", "fp16": "f16"}
TYPES: Final = {"fp32": "float32", "fp16": "float16"}
"""How OpenVINO spells a precision once it took it."""


def opened(model: RegisteredModel, device: str, precision: str, threads: int) -> Engine:
    """Compile a model's graph for this processor, and make sure that it computes in the precision asked for.

    Lengths stay free: the kernels of every shape seen are kept, and runs of many shapes in turn are as fast as runs
    of one.

    Raises:
        Unavailable: OpenVINO is not installed, or this processor has no arithmetic of that precision.
        Corrupt: The file is no encoder.
    """
    core, type_ = _core()
    if precision == "fp16" and "FP16" not in capabilities():
        raise Unavailable(
            "this processor has no fp16 arithmetic, so fp16 would be no faster.",
            field="precision",
            remedy="Use fp32.",
        )
    compiled = _compiled(core, model.path, HINTS[precision], threads)
    took = compiled.get_property("INFERENCE_PRECISION_HINT")
    if took != type_(getattr(np, TYPES[precision])):
        raise Unavailable(f"{precision} was asked for, OpenVINO took {took}.", field="precision", remedy="Use fp32.")
    dims = compiled.output(0).partial_shape[-1]
    names = {one.any_name for one in compiled.inputs}
    check_graph(model, names, dims.get_length() if dims.is_static else None)
    return Engine(device, precision, BATCH, threads, lambda: _lane(compiled), lambda: None)


def capabilities() -> tuple[str, ...]:
    """What this processor computes in, as OpenVINO names it: FP32, FP16, BF16, INT8, ...

    Raises:
        Unavailable: OpenVINO is not installed.
    """
    return tuple(_core()[0].get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))


@cache
def _core() -> tuple[Any, Any]:
    """OpenVINO's core and its class of number types.

    Raises:
        Unavailable: It is not installed.
    """
    try:
        openvino = importlib.import_module("openvino")
    except ImportError:
        raise Unavailable("OpenVINO is not installed.", field="engine", remedy="Install smalti[openvino].") from None
    return openvino.Core(), openvino.Type


def _compiled(core: Any, path: Path, hint: str, threads: int) -> Any:
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        # As many streams as threads: one thread a run and several runs at once, as on the cpu engine.
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # the machine may be shared, and several models may be open
    }
    try:
        return core.compile_model(core.read_model(path), DEVICE, settings)
    except RuntimeError as error:
        raise Corrupt(f"model file {path} cannot be opened: {str(error)[:200]}") from None


def _lane(compiled: Any) -> Run:
    request = compiled.create_infer_request()

    def run(feeds: Feeds) -> Float32Array:
        whole = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        # Without copies of what goes in; what comes out lies in memory of the next run.
        return np.array(request.infer(whole, share_inputs=True, share_outputs=True)[0])

    return run
