"""D-pixels in, vectors out.

A pixel's vector depends on that pixel alone: it is padded to a length chosen from its own observations and runs in a
batch of fixed size, so neither its neighbours nor the number of pixels asked for change a bit of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

import numpy as np
import onnxruntime

from service.dpixels import DPixels, counts
from service.errors import Corrupt, InvalidInput, Unavailable
from service.quant import quantise
from service.registry import ModelManifest, RegisteredModel
from service.sampling import Sequences, prepare
from service.values import NOT_EMBEDDED, REJECTED, VALID, Counts, Float32Array, Int64Array, ModelIdentity, Vectors

BATCH: Final = {"cpu": 16, "cuda": 512}
"""Pixels a run, by device: fixed, and small enough that one lone pixel does not wait for a crowd of padding."""
CHUNK: Final = 4096
"""Pixels that are prepared together: bounds memory, and fills batches."""

SLOW_FUSIONS: Final = ["SkipLayerNormFusion"]
"""Graph rewritings left out: on a CPU this fused kernel takes 1.4 times as long as its two parts."""

PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

Progress = Callable[[int, int], None]
"""Called with (pixels done, pixels in all)."""


@dataclass(frozen=True)
class EncodeResult:
    """What came out, for n pixels in the order they came in."""

    vectors: Vectors
    """(n,) pixels, quantised with the model's own variant."""
    floats: Float32Array
    """(n, d) float32 before quantisation; NaN where status is not VALID."""
    counts: Counts
    """(n,) valid observations."""


class Encoder:
    """An opened model. Safe to use from many threads.

    Args:
        model: Where it came from.
        session: An onnxruntime session on the device that was asked for.
        device: `cpu` or `cuda`.
        threads: Batches that run at the same time.
    """

    precision: Final = "fp32"

    def __init__(self, model: RegisteredModel, session: Any, device: str, threads: int) -> None:
        self.model = model
        self.device = device
        self.threads = threads
        self._session = session

    @classmethod
    def open(
        cls, model: RegisteredModel, engine: str = "auto", *, threads: int | None = None, precision: str = "fp32"
    ) -> Encoder:
        """Load a model onto a device, and make sure that it is that device.

        Args:
            model: From the registry; its file is held against its manifest.
            engine: `cpu`, `cuda`, or `auto` for the best there is.
            threads: Batches that run at the same time on the CPU; one a core where absent.
            precision: `fp32`.

        Raises:
            Unavailable: The file, the device or the precision is not there.
            Corrupt: The file is not the one its manifest names, or is no encoder.
        """
        device = _device(engine)
        if precision != "fp32":
            raise Unavailable(f"precision {precision!r} is not built in.", remedy="Use fp32.")
        model.verify()
        if device == "cuda":
            onnxruntime.preload_dlls()  # CUDA that came as wheels lies where the loader does not look
        options = onnxruntime.SessionOptions()
        # One thread a run and several runs at once: no thread ever spins at a barrier, which on a shared machine
        # costs several times the work itself, and results cannot depend on the number of threads.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                str(model.path), options, providers=[PROVIDERS[device]], disabled_optimizers=SLOW_FUSIONS
            )
        except Exception as error:  # onnxruntime raises bare classes of its own
            raise Corrupt(f"model file {model.path} cannot be opened: {str(error)[:200]}") from None
        if session.get_providers()[0] != PROVIDERS[device]:  # a build with CUDA, and no GPU or driver here
            if engine != "auto":
                raise Unavailable(f"{device} was asked for, {session.get_providers()[0]} came.", field="engine")
            device = "cpu"
        _check_graph(model, session)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return cls(model, session, device, 1 if device == "cuda" else threads or cores or 1)

    @property
    def manifest(self) -> ModelManifest:
        """What the model is."""
        return self.model.manifest

    @property
    def identity(self) -> ModelIdentity:
        """Which model's vectors these are."""
        return self.manifest.identity

    @property
    def digest(self) -> str:
        """SHA-256 of the model file, hex."""
        return self.manifest.sha256

    @property
    def dims(self) -> int:
        """Length of a whole vector."""
        return self.manifest.dims

    def encode(
        self, dpixels: DPixels, *, min_s2: int = 0, dims: int | None = None, on_progress: Progress | None = None
    ) -> EncodeResult:
        """Embed every pixel that has at least one valid observation of either sensor.

        Args:
            dpixels: n pixels.
            min_s2: Least number of valid Sentinel-2 dates; pixels with fewer get status REJECTED.
            dims: A prefix length among the manifest's `depths`; the whole vector where absent.
            on_progress: Told of pixels done.

        Raises:
            InvalidInput: `dims` is not a depth of this model.
        """
        depth = self._depth(dims)
        seen = counts(dpixels)
        total = len(dpixels)
        status = np.full(total, VALID, np.uint8)
        status[seen.s2 < min_s2] = REJECTED
        status[(seen.s2 == 0) & (seen.s1_asc == 0) & (seen.s1_desc == 0)] = NOT_EMBEDDED
        floats = np.full((total, depth), np.nan, np.float32)
        with ThreadPoolExecutor(self.threads) as pool:
            pending: list[Future[None]] = []
            for start in range(0, total, CHUNK):
                rows = slice(start, min(start + CHUNK, total))
                submitted = self._submit(pool, dpixels[rows], status[rows] == VALID, floats[rows])
                _finish(pending)  # the chunk before: this one was prepared meanwhile
                pending = submitted
                if on_progress and start:
                    on_progress(start, total)
            _finish(pending)
        if on_progress:
            on_progress(total, total)
        return EncodeResult(self._quantised(floats, status), floats, seen)

    def _depth(self, dims: int | None) -> int:
        allowed = (*self.manifest.depths, self.dims)
        if dims is not None and dims not in allowed:
            raise InvalidInput(
                f"{dims} is no depth of {self.identity}.", field="dims", remedy=f"Use one of {sorted(set(allowed))}."
            )
        return dims or self.dims

    def _quantised(self, floats: Float32Array, status: Any) -> Vectors:
        vectors = Vectors.empty(status.shape, floats.shape[1])
        vectors.status[:] = status
        good = status == VALID
        vectors.codes[good], vectors.scales[good] = quantise(floats[good], self.manifest.quantiser)
        return vectors

    def _submit(self, pool: ThreadPoolExecutor, dpixels: DPixels, wanted: Any, out: Float32Array) -> list[Future[None]]:
        """Prepare some pixels and hand them to the threads, which write their rows of `out`."""
        m = self.manifest
        ready = prepare(dpixels, m.statistics, m.sampling, m.bands, m.max_observations)
        s2, s1 = ready.s2, ready.s1
        batch = BATCH[self.device]

        def run(pixels: Int64Array) -> None:
            feeds = _feeds("s2", s2, pixels, batch) | _feeds("s1", s1, pixels, batch)
            vectors = self._session.run(None, feeds)[0]
            out[pixels] = vectors[: len(pixels), : out.shape[1]]

        return [pool.submit(run, part) for part in _batches(s2.bucket, s1.bucket, np.flatnonzero(wanted), batch)]


def _finish(pending: list[Future[None]]) -> None:
    for future in pending:
        future.result()


def _batches(bucket2: Int64Array, bucket1: Int64Array, wanted: Int64Array, batch: int) -> Iterator[Int64Array]:
    """Up to `batch` pixels at a time that share both lengths."""
    if not len(wanted):
        return
    shape = bucket2[wanted] * 1000 + bucket1[wanted]
    order = np.argsort(shape, kind="stable")
    edges = np.flatnonzero(np.diff(shape[order])) + 1
    for group in np.split(wanted[order], edges):
        for start in range(0, len(group), batch):
            yield group[start : start + batch]


def _feeds(sensor: str, held: Sequences, pixels: Int64Array, batch: int) -> dict[str, Any]:
    """The graph's inputs for some pixels of one length; the batch is filled up by repeating the first pixel."""
    full = np.concatenate((pixels, np.repeat(pixels[:1], batch - len(pixels))))
    length = int(held.bucket[pixels[0]])
    return {
        sensor: held.values[full, :length],
        f"{sensor}_doy": held.doy[full, :length],
        f"{sensor}_logm": held.logm[full, :length],
    }


def _device(engine: str) -> str:
    """The device an engine name stands for here.

    Raises:
        InvalidInput: No such engine.
        Unavailable: It cannot run here, or both builds of onnxruntime lie in one folder.
    """
    if engine not in (*PROVIDERS, "auto", "openvino"):
        raise InvalidInput(f"{engine[:40]!r} is no engine.", field="engine", remedy="Use auto, cpu or cuda.")
    if engine == "openvino":
        raise Unavailable("the openvino engine is not built in.", field="engine", remedy="Use auto, cpu or cuda.")
    if len(builds := _builds()) > 1:
        raise Unavailable(
            f"{' and '.join(builds)} are both installed, and one has overwritten the other.",
            remedy="Uninstall both, then install smalti[cpu] or smalti[gpu].",
        )
    cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    if engine == "cuda" and not cuda:
        raise Unavailable(
            "engine cuda was asked for and this onnxruntime has no CUDA.", field="engine", remedy="Install smalti[gpu]."
        )
    return "cuda" if cuda and engine in ("auto", "cuda") else "cpu"


def _builds() -> list[str]:
    names = {(dist.metadata["Name"] or "").lower() for dist in metadata.distributions()}
    return sorted(names & {"onnxruntime", "onnxruntime-gpu"})


def _check_graph(model: RegisteredModel, session: Any) -> None:
    found = {one.name for one in session.get_inputs()}
    wanted = {f"{sensor}{part}" for sensor in ("s2", "s1") for part in ("", "_doy", "_logm")}
    dims = session.get_outputs()[0].shape[-1]
    if found != wanted or dims != model.manifest.dims:
        raise Corrupt(
            f"{model.path} takes {sorted(found)} and gives {dims} numbers; its manifest says otherwise.",
            remedy="Fetch or import the model again.",
        )
