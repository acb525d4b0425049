"""D-pixels in, vectors out.

A pixel's vector depends on that pixel alone: it is padded to a length chosen from its own observations and runs in a
batch of fixed size, so neither its neighbours nor the number of pixels asked for change a bit of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.dpixels import DPixels, counts
from service.encoder.engines import Engine, Feeds, open_engine
from service.encoder.lanes import PARTS, Lanes, Use
from service.encoder.parts import Part, bytes_of
from service.errors import Corrupt, InvalidInput
from service.quant import quantise
from service.registry import ModelManifest, RegisteredModel
from service.sampling import prepare
from service.values import NOT_EMBEDDED, REJECTED, VALID, Counts, Float32Array, ModelIdentity, UInt8Array, Vectors

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
    waited: float
    """Seconds until the first of its pixels were run: what others, and the preparation of them, kept it waiting."""


class Encoder:
    """An opened model. Safe to use from many threads, whose pixels share batches.

    Args:
        model: Where it came from.
        engine: The model's graph on a device.
    """

    def __init__(self, model: RegisteredModel, engine: Engine) -> None:
        self.model = model
        self.engine = engine
        self._lanes = Lanes(engine)
        self.close = weakref.finalize(self, _closed, self._lanes, engine)
        """End its threads and let go of the graph; whoever still waits for vectors gets Unavailable."""

    @classmethod
    def open(
        cls, model: RegisteredModel, engine: str = "auto", *, threads: int | None = None, precision: str = "fp32"
    ) -> Encoder:
        """Load a model onto a device, and make sure that it is that device.

        Args:
            model: From the registry; its files are held against its manifest.
            engine: `cpu`, `cuda`, `tensorrt`, `openvino`, or `auto` for the first of `cuda`, `cpu` and `openvino` that
                is here and has the precision.
            threads: Batches that run at the same time on a processor; one a core where absent.
            precision: `fp32`, or `fp16` where the engine has it.

        Raises:
            Unavailable: A file, the device or the precision is not there.
            Corrupt: A file is not the one its manifest names, or is no encoder.
        """
        model.verify()
        return cls(model, open_engine(model, engine, precision, threads))

    @property
    def device(self) -> str:
        """What it runs on: `cpu`, `cuda`, `tensorrt` or `openvino`."""
        return self.engine.device

    @property
    def precision(self) -> str:
        """What it computes in: `fp32` or `fp16`."""
        return self.engine.precision

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

    def use(self) -> Use:
        """What waits for it, and how full its batches were."""
        return self._lanes.use()

    def run(self, feeds: Feeds) -> Float32Array:
        """(B, d) vectors for the graph's own inputs, past the queue: for checks against known numbers.

        A batch is filled up as any other: an engine may have been built for that one size.
        """
        count = len(feeds["s2"])
        rows = np.minimum(np.arange(max(count, self.engine.batch)), count - 1)
        return self.engine.lane()({name: array[rows] for name, array in feeds.items()})[:count]

    def encode(
        self,
        dpixels: DPixels,
        *,
        min_s2: int = 0,
        dims: int | None = None,
        on_progress: Progress | None = None,
        patience: float | None = None,
        given_up: Callable[[], bool] | None = None,
        alone: bool = False,
    ) -> EncodeResult:
        """Embed every pixel that the model's own rule embeds, and that has a valid observation of either sensor.

        Args:
            dpixels: n pixels.
            min_s2: Least number of valid Sentinel-2 dates; pixels with fewer get status REJECTED.
            dims: A prefix length among the manifest's `depths`; the whole vector where absent.
            on_progress: Told of pixels done.
            patience: Seconds that others may keep it waiting; None for as long as it takes.
            given_up: Asked now and then, and quick to answer; true once nobody wants the result.
            alone: Whether its batches hold no pixels of others: a block of a store is always made by itself.

        Raises:
            InvalidInput: `dims` is not a depth of this model.
            Unavailable: It would have to wait longer, somebody closed the encoder, or the caller gave up.
            Corrupt: The model gives numbers that are not finite: its weights are damaged, or float16 is too small.
        """
        depth, total = self._depth(dims), len(dpixels)
        floats = np.full((total, depth), np.nan, np.float32)
        status, seen = np.full(total, VALID, np.uint8), Counts.zeros((total,))
        chunk = self.engine.chunk
        held = min(PARTS * chunk, total) * self._bytes_of(dpixels)
        with self._lanes.call(total, held, patience=patience, given_up=given_up, alone=alone) as call:
            for start in range(0, total, chunk):
                rows = slice(start, min(start + chunk, total))
                part = self._part(dpixels[rows], min_s2, floats[rows], status[rows], seen, start)
                self._lanes.put(call, part, rows.stop - start)
                if on_progress and total > call.left > 0:
                    on_progress(total - call.left, total)
            call.wait()
        if on_progress:
            on_progress(total, total)
        return EncodeResult(self._quantised(floats, status), floats, seen, call.waited)

    def _depth(self, dims: int | None) -> int:
        allowed = (*self.manifest.depths, self.dims)
        if dims is not None and dims not in allowed:
            raise InvalidInput(
                f"{dims} is no depth of {self.identity}.", field="dims", remedy=f"Use one of {sorted(set(allowed))}."
            )
        return dims or self.dims

    def _bytes_of(self, dpixels: DPixels) -> int:
        radar = dpixels.s1_asc.shape[1] + dpixels.s1_desc.shape[1]
        return bytes_of(dpixels.s2.shape[1], radar, recurrent=self.manifest.sampling != "v2")

    def _part(
        self, dpixels: DPixels, min_s2: int, floats: Float32Array, status: UInt8Array, seen: Counts, start: int
    ) -> Part:
        """Prepare some pixels; tell their status, and their counts from place `start` on."""
        here = counts(dpixels)
        for name in ("s2", "s1_asc", "s1_desc"):
            getattr(seen, name)[start : start + len(dpixels)] = getattr(here, name)
        m = self.manifest
        ready = prepare(dpixels, m.statistics, m.sampling, m.bands, m.max_observations)
        status[here.s2 < min_s2] = REJECTED
        status[~ready.wanted] = NOT_EMBEDDED
        return Part(ready, status == VALID, floats)

    def _quantised(self, floats: Float32Array, status: UInt8Array) -> Vectors:
        vectors = Vectors.empty(status.shape, floats.shape[1])
        vectors.status[:] = status
        good = status == VALID
        if bad := int((~np.isfinite(floats[good])).any(axis=1).sum()):
            raise Corrupt(
                f"{self.identity} gives numbers that are not finite for {bad} of {good.sum()} pixels in "
                f"{self.precision} on {self.device}.",
                remedy="Use fp32." if self.precision != "fp32" else "Run smalti models verify.",
            )
        vectors.codes[good], vectors.scales[good] = quantise(floats[good], self.manifest.quantiser)
        return vectors


def _closed(lanes: Lanes, engine: Engine) -> None:
    lanes.close()
    engine.close()
