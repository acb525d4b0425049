"""The only door to prometheus_client: the numbers of one server, as Prometheus reads them.

Four questions for every part: how much is asked of it, how much of that fails, how long it takes, how full it is.
Labels take few values: route templates, ids of the catalogue, models, error kinds; never an address, place or id that
a caller made up. Counters grow where something happens; what simply stands is read when Prometheus asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from service import VERSION

MEDIA_TYPE: Final = CONTENT_TYPE_LATEST

ANSWER_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From a 304 (a millisecond) to a search that scans (seconds)."""
READ_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
WORK_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Encoding and commits: from one pixel to a whole upload."""


class Counted(Protocol):
    """What counts one thing."""

    def inc(self, amount: float = 1) -> None:
        """Add to it."""


@dataclass(frozen=True)
class Reading:
    """One number that is read when Prometheus asks, not counted as things happen."""

    name: str
    """Without `_total`, which a counter is given."""
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["gauge", "counter"] = "gauge"


class Metrics:
    """The counters of one app, in a registry of their own. Safe to use from many threads."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        Info("smalti_build", "Which smalti this is", registry=registry).info({"version": VERSION})

        route = ["method", "route"]
        self.requests = Counter(
            "smalti_http_requests_total", "Requests answered; 499: gone before the answer", [*route, "status"],
            registry=registry,
        )  # fmt: skip
        self.under_way = Gauge("smalti_http_requests_in_progress", "Requests being answered", registry=registry)
        self.request_seconds = Histogram(
            "smalti_http_request_seconds", "Seconds until a request was answered; of event streams until they began",
            route, buckets=ANSWER_SECONDS, registry=registry,
        )  # fmt: skip
        self.response_bytes = Counter(
            "smalti_http_response_bytes_total", "Bytes of response bodies", route, registry=registry
        )

        self.encodes = Counter(
            "smalti_encoder_requests_total", "Uploads encoded, by how that ended: ok, or the kind of error",
            ["model", "outcome"], registry=registry,
        )  # fmt: skip
        self.encoded_pixels = Counter(
            "smalti_encoder_pixels_total", "Pixels that went through an encoder", ["model", "device"], registry=registry
        )
        self.encode_seconds = Histogram(
            "smalti_encoder_seconds", "Seconds from when an upload went to an encoder until it had its vectors",
            ["model", "device"],
            buckets=WORK_SECONDS, registry=registry,
        )  # fmt: skip
        self.encode_wait = Histogram(
            "smalti_encoder_wait_seconds", "Seconds until the first pixels of an upload were run", buckets=WORK_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.refused = Counter(
            "smalti_encoder_refused_total", "Uploads refused because too many were here", registry=registry
        )

        self.searches = Counter(
            "smalti_search_requests_total",
            "Searches, by how they ended: exact, index, index+exact, count, or kind of error",
            ["dataset", "outcome"], registry=registry,
        )  # fmt: skip
        self.search_seconds = Histogram(
            "smalti_search_seconds", "Seconds a search took", ["dataset", "engine"], buckets=ANSWER_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.candidates = Counter(
            "smalti_search_candidates_total", "Candidates that indexes proposed", ["dataset"], registry=registry
        )
        self.scanned = Counter(
            "smalti_search_scanned_total", "Pixels that searches scored one by one", ["dataset"], registry=registry
        )

        self.picture_seconds = Histogram(
            "smalti_picture_seconds", "Seconds to read, colour and warp one picture, without packing it",
            ["dataset", "view"], buckets=ANSWER_SECONDS, registry=registry,
        )  # fmt: skip

        self.read_seconds = Histogram(
            "smalti_store_read_seconds", "Seconds of one read of stored pixels", ["dataset"], buckets=READ_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.read_bytes = Counter(
            "smalti_store_read_bytes_total", "Bytes read from stores, once decoded", ["dataset"], registry=registry
        )
        self.commit_seconds = Histogram(
            "smalti_store_commit_seconds", "Seconds of one commit of blocks", ["dataset"], buckets=WORK_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.store_errors = Counter(
            "smalti_store_errors_total", "Reads and commits that failed, by kind of error; conflict: somebody else won",
            ["dataset", "operation", "kind"], registry=registry,
        )  # fmt: skip

    def text(self, readings: Iterable[Reading] = ()) -> bytes:
        """Everything counted so far, and what was read just now, in Prometheus' text format."""
        return generate_latest(_Joined(self._registry, readings))


class _Joined(CollectorRegistry):
    """A registry, and readings beside it."""

    def __init__(self, registry: CollectorRegistry, readings: Iterable[Reading]) -> None:
        super().__init__()
        self._counted = registry
        self._read = readings

    def collect(self) -> Iterator[Metric]:
        """Metrics of both, without the time of creation that the library adds to each series: a third more of them."""
        for metric in self._counted.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
        yield from _families(self._read)


def _families(readings: Iterable[Reading]) -> Iterable[Metric]:
    """Readings of one name stand together, as the format wants it."""
    found: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for one in readings:
        if one.name not in found:
            made = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
            found[one.name] = made(one.name, one.help, labels=list(one.labels))
        found[one.name].add_metric(list(one.labels.values()), one.value)
    return found.values()
