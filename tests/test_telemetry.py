"""Traces: off unless asked for, sent as OTLP where a collector listens, and telling what work was done."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from api.settings import Settings
from api.telemetry import Spans, spans
from service.errors import Unavailable
from tests.conftest import client_of
from tests.test_logs import lines, said  # noqa: F401  # a fixture
from tests.test_metrics import place, series, tile_path

TILE = "GET /datasets/{dataset}/{window}/tiles/{tileMatrixSetId}/{z}/{x}/{y}.{format}"


class Traced:
    """A client, and the spans that its app has made."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.memory))
        monkeypatch.setattr("api.telemetry._provider", lambda: provider)
        self.client = client_of(settings.model_copy(update={"otel": True}))

    def spans(self) -> dict[str, ReadableSpan]:
        """The spans of what was asked last, by name."""
        found = {span.name: span for span in self.memory.get_finished_spans()}
        self.memory.clear()
        return found


@pytest.fixture
def traced(own_world: Settings, monkeypatch: pytest.MonkeyPatch) -> Traced:
    return Traced(own_world, monkeypatch)


def told(span: ReadableSpan) -> dict[str, Any]:
    return {name.removeprefix("smalti."): value for name, value in (span.attributes or {}).items()}


def is_within(inner: ReadableSpan, outer: ReadableSpan) -> bool:
    return inner.parent is not None and outer.context is not None and inner.parent.span_id == outer.context.span_id


def test_a_tile_is_a_picture_of_what_was_read(traced: Traced) -> None:
    path = tile_path(traced.client)
    traced.spans()
    assert traced.client.get(path).status_code == 200
    found = traced.spans()
    request, picture, read = found[TILE], found["smalti.picture"], found["smalti.store.read"]
    assert is_within(picture, request)
    assert is_within(read, picture)
    assert told(picture) == {"dataset": "demo", "window": "2024", "view": "pca", "pixels": 512 * 512}
    seen = told(read)
    assert (seen["dataset"], seen["window"], seen["level"]) == ("demo", "2024", 1)
    assert seen["bytes"] == seen["pixels"] * (128 + 4 + 1)


def test_a_search_tells_its_engine(traced: Traced) -> None:
    lon, lat = place(traced.client)
    traced.spans()
    traced.client.get(f"/datasets/demo/2024/search?lon={lon}&lat={lat}&k=7")
    found = traced.spans()
    assert is_within(found["smalti.search"], found["GET /datasets/{dataset}/{window}/search"])
    seen = told(found["smalti.search"])
    assert (seen["dataset"], seen["k"], seen["engine"]) == ("demo", 7, "index")
    assert seen["candidates"] > 0


def test_an_upload_is_encoded_and_committed(traced: Traced) -> None:
    at = place(traced.client)
    traced.spans()
    assert traced.client.post("/embed", json=series(at, dataset="demo")).status_code == 200
    found = traced.spans()
    seen = told(found["smalti.encode"])
    assert (seen["pixels"], seen["device"]) == (1, "cpu")
    assert told(found["smalti.store.commit"]) == {"dataset": "demo", "blocks": 1}
    assert is_within(found["smalti.encode"], found["POST /embed"])
    assert is_within(found["smalti.store.commit"], found["POST /embed"])


def test_what_fails_is_marked(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.datasets._info", lambda *_: 1 / 0)
    assert traced.client.get("/datasets").status_code == 500
    (span,) = traced.spans().values()
    assert span.status.status_code is StatusCode.ERROR
    assert told(span)["http.response.status_code"] == 500


def test_probes_leave_no_spans_and_requests_join_the_trace_of_their_caller(traced: Traced) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        traced.client.get(path)
    assert not {name for name in traced.spans() if name.startswith("GET")}
    trace = "0af7651916cd43dd8448eb211c80319c"
    traced.client.get("/models", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    (span,) = traced.spans().values()
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == trace


def test_lines_of_the_log_name_the_trace(traced: Traced, said: Any) -> None:  # noqa: F811  # that fixture
    log = said(io.StringIO())
    traced.client.get("/models")
    (span,) = traced.spans().values()
    (line,) = lines(log)
    assert span.context is not None
    assert line["trace_id"] == f"{span.context.trace_id:032x}"


def test_what_asks_for_traces(world: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider()
    monkeypatch.setattr("api.telemetry._provider", lambda: provider)
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    on, off, unset = (world.model_copy(update={"otel": value}) for value in (True, False, None))
    assert spans(on, {}).provider is provider
    assert spans(unset, collector).provider is provider
    assert spans(unset, {}).provider is None
    assert spans(off, collector).provider is None


def test_without_the_libraries_it_says_what_to_install(world: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(Unavailable, match=r"smalti\[otel\]"):
        client_of(world.model_copy(update={"otel": True}))
    assert client_of(world).get("/livez").status_code == 200, "who does not ask needs nothing"


def test_off_costs_no_span(world: Settings) -> None:
    with Spans().span("anything", dataset="demo") as span:
        assert not span.is_recording()
    assert not Spans().config()["tracing"]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bytes]]]:
    """What a collector on this machine was sent: paths and bodies."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    yield got
    server.shutdown()
    server.server_close()


def test_a_collector_gets_them_by_the_standard_variable(world: Settings, collector: list[tuple[str, bytes]]) -> None:
    client: TestClient = client_of(world)
    assert client.get("/models").status_code == 200
    client.app.state.smalti.watch.spans.provider.force_flush()  # type: ignore[attr-defined]
    (path, body) = collector[0]
    assert path == "/v1/traces"
    sent = ExportTraceServiceRequest.FromString(body).resource_spans[0]
    resource = {one.key: one.value.string_value for one in sent.resource.attributes}
    assert (resource["service.name"], resource["deployment.environment"]) == ("smalti", "test")
    assert [span.name for scope in sent.scope_spans for span in scope.spans] == ["GET /models"]
