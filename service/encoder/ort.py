"""ONNX Runtime: the engines `cpu`, `cuda` and `tensorrt`. The only door to onnxruntime."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import redirect_stdout, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from service.encoder.engines import Engine, Feeds, Run, check_graph, inputs_of, trial
from service.errors import Corrupt, Unavailable
from service.registry import RegisteredModel
from service.sampling import LENGTHS
from service.values import Float32Array

PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
BATCH: Final = {"cpu": 8, "cuda": 256, "tensorrt": 256}
"""Pixels a run. On a processor 8 are as fast as 16 or 32, and one lone pixel waits for less padding."""
GPU_LANES: Final = 2
"""One thread packs the next batch while the other's runs."""
GPU_CHUNK: Final = 8192
"""Pixels prepared together. In 32 batches of 256, seven to nine places of ten hold a pixel; in 4, two to five did."""
GPU_CALLS: Final = 3
"""Blocks that are prepared at the same time. One thread prepares tens of thousands of pixels a second, as numpy does
it; small models on a GPU run more."""
HEAVY: Final = frozenset({"MatMul", "Gemm", "GRU", "Scan", "Softmax", "LayerNormalization"})
"""Operators that take the time of a run; what else onnxruntime leaves to the processor are sides of shapes."""
SLOW_FUSIONS: Final = ["SkipLayerNormFusion"]
"""Graph rewritings left out on a processor: there this fused kernel takes 1.4 times as long as its two parts."""


def opened(model: RegisteredModel, device: str, precision: str, threads: int) -> Engine:
    """Open a model's graph, and make sure that it is on the device asked for.

    Raises:
        Unavailable: The device is not there, it cannot do that precision, or the model has no half-precision file.
        Corrupt: The file is no encoder.
    """
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise Unavailable(f"this onnxruntime has no {device}.", field="engine", remedy="Install smalti[gpu].")
    path = model.path
    if precision == "fp16":
        if device == "cpu":
            raise Unavailable(
                "the cpu engine has no fp16.", field="precision", remedy="Use openvino, cuda, or precision fp32."
            )
        if model.half_path is None:
            raise Unavailable(
                f"{model.manifest.identity} has no half-precision file.",
                field="precision",
                remedy="Export the model again, or use fp32.",
            )
        path = model.half_path
    session = _session(model, path, device, precision, threads)
    check_graph(model, {one.name for one in session.get_inputs()}, session.get_outputs()[0].shape[-1])
    if device == "cpu":
        return Engine(device, precision, BATCH[device], threads, partial(_plain, session), lambda: None)
    lane, beside = partial(bound, session, "cuda"), left(session, device)
    engine = Engine(device, precision, BATCH[device], GPU_LANES, lane, lambda: None, GPU_CHUNK, GPU_CALLS, beside)
    trial(model, engine)
    return engine


def _session(model: RegisteredModel, path: Path, device: str, precision: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    # One thread a run and several runs at once: no thread ever spins at a barrier, which on a shared machine costs
    # several times the work itself, and results cannot depend on the number of threads.
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    providers = [(PROVIDERS[device], _options(model, device, precision))]
    if device != "cpu":
        _ready_gpu(options, threads)
    if device == "tensorrt":
        with suppress(ImportError, OSError):
            importlib.import_module("tensorrt")  # where it came as a wheel, this loads its libraries
        # Nothing else keeps TensorRT from products rounded to ten bits. The process has it from here on.
        os.putenv("NVIDIA_TF32_OVERRIDE", "0")
        providers.append((PROVIDERS["cuda"], _options(model, "cuda", precision)))
    left_out = SLOW_FUSIONS if device == "cpu" else []
    try:  # without fallback: to open it on another device is not what was asked for
        session = onnxruntime.InferenceSession(
            str(path), options, providers=providers, disabled_optimizers=left_out, enable_fallback=0
        )
    except Exception as error:  # onnxruntime raises bare classes of its own
        if device == "cpu":
            raise Corrupt(f"model file {path} cannot be opened: {str(error)[:200]}") from None
        raise Unavailable(f"{device} cannot open model file {path}: {str(error)[:200]}", field="engine") from None
    if session.get_providers()[0] != PROVIDERS[device]:  # a build with CUDA, and no GPU or driver here
        raise Unavailable(f"{device} was asked for, {session.get_providers()[0]} came.", field="engine")
    return session


def _ready_gpu(options: Any, threads: int) -> None:
    with redirect_stdout(sys.stderr):  # it prints what it does not find
        onnxruntime.preload_dlls()  # CUDA that came as wheels lies where the loader does not look
    options.intra_op_num_threads = threads  # for what is left to the processor
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")


def left(session: Any, device: str) -> str:
    """What onnxruntime left to the processor though another device was asked for, in words; empty where nothing heavy.

    cuDNN has no GRU that resets before its product, which v1.0 QAT and v1.1 have: that alone is let pass, and said.

    Raises:
        Unavailable: More than that.
    """
    assigned = session.get_provider_graph_assignment_info()
    on_cpu = {node.op_type for part in assigned if part.ep_name == PROVIDERS["cpu"] for node in part.get_nodes()}
    heavy = sorted(on_cpu & HEAVY)
    if heavy and heavy != ["GRU"]:
        raise Unavailable(f"{device} was asked for, but {', '.join(heavy)} would run on the processor.", field="engine")
    return "The recurrent cell runs on the processor; in fp16 it does not." if heavy else ""


def _options(model: RegisteredModel, device: str, precision: str) -> dict[str, str]:
    """Settings of a provider. Float32 means float32: products rounded to ten bits (TF32) are not taken for it."""
    if device == "cuda":
        return {"use_tf32": "0"}
    if device == "cpu":
        return {}
    half = precision == "fp16"
    profiles = {name: _profile(model, length) for name, length in (("min", 1), ("opt", 64), ("max", LENGTHS[-1]))}
    # An engine is known again by names in the graph, not by weights: those of other weights have another folder.
    weights = sha256("".join(model.manifest.files.values()).encode()).hexdigest()
    cache = model.path.parent / "tensorrt" / weights[:16]
    kept = os.access(model.path.parent, os.W_OK)
    return {
        "trt_fp16_enable": str(half),
        "trt_layer_norm_fp32_fallback": "True",
        "trt_builder_optimization_level": "3",
        "trt_engine_cache_enable": str(kept),
        "trt_timing_cache_enable": str(kept),
        **({"trt_engine_cache_path": str(cache), "trt_timing_cache_path": str(cache)} if kept else {}),
        **{f"trt_profile_{name}_shapes": shapes for name, shapes in profiles.items()},
    }


def _profile(model: RegisteredModel, length: int) -> str:
    """`s2:512x64x10,s2_doy:512x64,...`: one engine for every length, where TensorRT would build one a length."""
    channels = {"s2": "x10", "s1": "x2"}
    sides = f"{BATCH['tensorrt']}x{length}"
    return ",".join(f"{name}:{sides}{channels.get(name, '')}" for name in sorted(inputs_of(model)))


def _plain(session: Any) -> Run:
    return lambda feeds: np.asarray(session.run(None, dict(feeds))[0])


def bound(session: Any, device: str) -> Run:
    """Runs with inputs and outputs that stay in the device's memory, one place for each shape, filled anew each time.

    Graphs of CUDA calls are left out: onnxruntime captures one a session for fixed addresses, and two lanes that
    share a session, with a dozen lengths each, would need a session a shape.
    """
    held: dict[tuple[str, tuple[int, ...]], Any] = {}
    binding = session.io_binding()
    output = session.get_outputs()[0].name

    def place(name: str, array: Any) -> Any:
        key = name, array.shape
        if key not in held:
            held[key] = onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
        else:
            held[key].update_inplace(array)
        return held[key]

    def run(feeds: Feeds) -> Float32Array:
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, place(name, np.ascontiguousarray(array)))
        binding.bind_output(output, device, 0)
        binding.synchronize_inputs()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return np.asarray(binding.copy_outputs_to_cpu()[0])

    return run
