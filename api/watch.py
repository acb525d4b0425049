"""What looks on while routes work: each thing done is counted for /metrics, and is a span where traces are wanted.

The floors below know nothing of it. They return values (`EncodeResult`, `SearchResult`, `Vectors`), and those are
measured here: around the call, at the door.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar, cast

from api.metrics import Counted, Metrics
from api.telemetry import Spans, named
from api.turns import Turn
from indexing.question import RangeResult, SearchResult
from service.encoder import Encoder, EncodeResult
from service.errors import SmaltiError, Unavailable
from service.grid import Zone
from service.store.contract import BlockData, Store
from service.values import Int64Array, Vectors, Window

T = TypeVar("T")


class Watch:
    """Counts and spans of one app. Safe to use from many threads.

    Args:
        spans: Where spans go; nowhere where absent.
    """

    def __init__(self, spans: Spans | None = None) -> None:
        self.metrics = Metrics()
        self.spans = spans or Spans()

    def encode(self, encoder: Encoder, pixels: int, turn: Turn, call: Callable[[], EncodeResult]) -> EncodeResult:
        """`call()`, which puts the `pixels` pixels of an upload through `encoder`."""
        model, device, metrics, started = str(encoder.identity), encoder.device, self.metrics, perf_counter()
        with (
            _counting_errors(lambda kind: metrics.encodes.labels(model, kind)),
            self.spans.span("encode", model=model, device=device, pixels=pixels),
        ):
            try:
                result = call()
            except Unavailable:
                if not turn.gone():
                    metrics.refused.inc()
                raise
        metrics.encodes.labels(model, "ok").inc()
        metrics.encode_wait.observe(turn.waited + result.waited)
        metrics.encoded_pixels.labels(model, device).inc(pixels)
        metrics.encode_seconds.labels(model, device).observe(perf_counter() - started)
        return result

    def search(self, dataset: str, window: Window, k: int, call: Callable[[], SearchResult]) -> SearchResult:
        """`call()`, which looks for the k pixels of a window most like a query."""
        metrics, started = self.metrics, perf_counter()
        with (
            _counting_errors(lambda kind: metrics.searches.labels(dataset, kind)),
            self.spans.span("search", dataset=dataset, window=str(window), k=k) as span,
        ):
            result = call()
            told = {"engine": result.engine, "candidates": result.candidates, "scanned": result.scanned}
            span.set_attributes(named(told))
        self._searched(dataset, result.engine, perf_counter() - started, result.scanned)
        metrics.candidates.labels(dataset).inc(result.candidates)
        return result

    def count(self, dataset: str, window: Window, call: Callable[[], RangeResult]) -> RangeResult:
        """`call()`, which counts the pixels of a window that are like a query."""
        started = perf_counter()
        with (
            _counting_errors(lambda kind: self.metrics.searches.labels(dataset, kind)),
            self.spans.span("count", dataset=dataset, window=str(window)) as span,
        ):
            result = call()
            span.set_attributes(named({"scanned": result.scanned}))
        self._searched(dataset, "count", perf_counter() - started, result.scanned)
        return result

    def _searched(self, dataset: str, how: str, seconds: float, scanned: int) -> None:
        metrics = self.metrics
        metrics.searches.labels(dataset, how).inc()
        metrics.search_seconds.labels(dataset, how).observe(seconds)
        metrics.scanned.labels(dataset).inc(scanned)

    def picture(self, dataset: str, window: Window, view: str, pixels: int, call: Callable[[], T]) -> T:
        """`call()`, which reads, colours and warps one picture of `pixels` pixels."""
        started = perf_counter()
        with self.spans.span("picture", dataset=dataset, window=str(window), view=view, pixels=pixels):
            result = call()
        self.metrics.picture_seconds.labels(dataset, view).observe(perf_counter() - started)
        return result

    def read(self, dataset: str, window: Window, zone: Zone, level: int, call: Callable[[], Vectors]) -> Vectors:
        """`call()`, which reads stored pixels."""
        metrics, started = self.metrics, perf_counter()
        with (
            _counting_errors(lambda kind: metrics.store_errors.labels(dataset, "read", kind)),
            self.spans.span("store.read", dataset=dataset, window=str(window), zone=zone.name, level=level) as span,
        ):
            vectors = call()
            size = vectors.codes.nbytes + vectors.scales.nbytes + vectors.status.nbytes
            span.set_attributes(named({"pixels": vectors.status.size, "bytes": size}))
        metrics.read_seconds.labels(dataset).observe(perf_counter() - started)
        metrics.read_bytes.labels(dataset).inc(size)
        return vectors

    def commit(self, dataset: str, blocks: int, call: Callable[[], str]) -> str:
        """`call()`, which commits blocks."""
        metrics, started = self.metrics, perf_counter()
        with (
            _counting_errors(lambda kind: metrics.store_errors.labels(dataset, "commit", kind)),
            self.spans.span("store.commit", dataset=dataset, blocks=blocks),
        ):
            revision = call()
        metrics.commit_seconds.labels(dataset).observe(perf_counter() - started)
        return revision

    def store(self, store: Store, dataset: str) -> Store:
        """The same store, with its reads and commits watched under the id of its dataset."""
        return cast(Store, WatchedStore(store, dataset, self))


class WatchedStore:
    """A store whose reads and commits are counted; in everything else the store it is made from."""

    def __init__(self, store: Store, dataset: str, watch: Watch) -> None:
        self._store: Any = store
        self._dataset = dataset
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, zone: Zone, window: Window, rows: slice, cols: slice, *, level: int = 1, **more: Any) -> Vectors:
        """As the store does."""
        return self._watch.read(
            self._dataset, window, zone, level, lambda: self._store.read(zone, window, rows, cols, level=level, **more)
        )

    def sample(self, zone: Zone, window: Window, rows: Int64Array, cols: Int64Array, **more: Any) -> Vectors:
        """As the store does."""
        return self._watch.read(
            self._dataset, window, zone, 1, lambda: self._store.sample(zone, window, rows, cols, **more)
        )

    def write(self, blocks: Sequence[BlockData], message: str) -> str:
        """As the store does."""
        return self._watch.commit(self._dataset, len(blocks), lambda: self._store.write(blocks, message))


@contextmanager
def _counting_errors(counter: Callable[[str], Counted]) -> Iterator[None]:
    """Count what goes wrong within under its kind, and let it go on."""
    try:
        yield
    except SmaltiError as error:
        counter(error.kind).inc()
        raise
    except Exception:
        counter(SmaltiError.kind).inc()
        raise
