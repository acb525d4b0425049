"""The only door to OpenTelemetry: spans of requests and of the work within, sent where a collector listens."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Final

from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import NoOpTracer, Span, Tracer, TracerProvider, format_trace_id, get_current_span

from api.settings import Settings
from service import VERSION
from service.errors import Unavailable

PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds, and never interesting."""
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

Value = str | int | float | bool


class Spans:
    """Makes spans, or nothing at all where no traces are wanted.

    Args:
        provider: Where they go; None: nowhere.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self.provider = provider
        self._tracer: Tracer = provider.get_tracer("smalti", VERSION) if provider else NoOpTracer()

    def span(self, name: str, **attributes: Value) -> AbstractContextManager[Span]:
        """A span within the one that is open; its attributes are named `smalti.<attribute>`. Errors are recorded."""
        return self._tracer.start_as_current_span(f"smalti.{name}", attributes=named(attributes))

    def trace_id(self) -> str | None:
        """The trace that the request at hand belongs to, 32 hex digits; None where it is not traced."""
        context = get_current_span().get_span_context() if self.provider else None
        return format_trace_id(context.trace_id) if context and context.is_valid else None

    def config(self) -> TelemetryConfig:
        """What FastAPI is told: spans of requests; its own metrics and logs off, for /metrics and the log have them."""
        return {
            "tracer_provider": self.provider,
            "tracing": self.provider is not None,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": _is_probe,
        }


def named(attributes: Mapping[str, Value]) -> dict[str, Value]:
    """Attributes under our own prefix."""
    return {f"smalti.{name}": value for name, value in attributes.items()}


def spans(settings: Settings, environment: Mapping[str, str]) -> Spans:
    """Spans as the settings ask for them, sent by OTLP over HTTP in the background.

    Where to, how many and under which name is told by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`,
    `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, ...).

    Raises:
        Unavailable: They are wanted and the libraries are not installed.
    """
    asked = settings.otel
    wanted = any(environment.get(name) for name in _ENDPOINTS) if asked is None else asked
    return Spans(_provider()) if wanted else Spans()


def _provider() -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk import trace
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise Unavailable(
            "traces are asked for and the OpenTelemetry SDK is not installed.",
            field="SMALTI_OTEL",
            remedy="Install smalti[otel], or set SMALTI_OTEL=false.",
        ) from None
    ours = Resource({"service.name": "smalti", "service.version": VERSION})
    provider = trace.TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _is_probe(scope: MutableMapping[str, Any]) -> bool:
    return scope["path"] in PROBES
