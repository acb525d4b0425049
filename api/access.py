"""One request from its first byte to its last: its id, its line in the log, its numbers in /metrics.

Stands outside everything else, so that what the Gate refuses and what breaks is seen too.
"""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from time import perf_counter
from typing import Final
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import logs
from api.problems import problem
from api.settings import Settings
from api.telemetry import PROBES
from api.watch import Watch

ID_HEADER: Final = "X-Request-Id"
CLIENT_GONE: Final = 499
"""Logged and counted where nobody was left to answer; never sent. nginx uses the same number."""
UNMATCHED: Final = "unmatched"
"""In place of the route where no route answered: refused by the Gate, preflights, addresses that are none."""

_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PATH_CHARACTERS: Final = 300
_EVENTS: Final = (b"content-type", b"text/event-stream")

log = logging.getLogger("smalti")


@dataclass
class _Answer:
    """What has been sent so far, and what is known of who shall have it."""

    started: float
    status: int | None = None
    bytes: int = 0
    whole: bool = False
    gone: bool = False
    broken: bool = False
    events_at: float | None = None

    def see(self, message: Message) -> None:
        """Take note of what is sent."""
        if message["type"] == "http.response.start":
            self.status = None if self.gone else message["status"]
            if any(name == _EVENTS[0] and value.startswith(_EVENTS[1]) for name, value in message["headers"]):
                self.events_at = perf_counter()  # how long somebody listens is no latency
        elif message["type"] == "http.response.body":
            self.bytes += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)

    @property
    def outcome(self) -> int:
        """The status as it is counted: what was sent, unless it broke off by our own fault."""
        return 500 if self.broken else self.status or CLIENT_GONE

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.events_at or perf_counter()) - self.started


class Access:
    """ASGI middleware.

    Args:
        app: Everything else.
        settings: The keys that are known.
        watch: Where requests are counted, and which trace they belong to.
    """

    def __init__(self, app: ASGIApp, settings: Settings, watch: Watch) -> None:
        self.app = app
        self._metrics, self._spans = watch.metrics, watch.spans
        self._keys = frozenset(key.digest for key in settings.api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with an id; log and count how it ended."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"")
        name = asked if _SANE_ID.fullmatch(asked) else secrets.token_hex(8).encode()
        answer = _Answer(perf_counter())

        async def listen() -> Message:
            message = await receive()
            answer.gone |= message["type"] == "http.disconnect"
            return message

        async def speak(message: Message) -> None:
            answer.see(message)
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-request-id", name)]}
            await send(message)

        self._metrics.under_way.inc()
        with logs.about(name.decode(), self._spans.trace_id()):
            try:
                await self._guarded(scope, listen, speak, answer)
            finally:
                self._metrics.under_way.dec()
                self._tell(scope, headers.get(b"x-api-key"), answer)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, answer: _Answer) -> None:
        """What nobody foresaw is logged under the request's id and answered as a problem; the traceback stays here."""
        try:
            await self.app(scope, receive, send)
        except Exception:
            if answer.gone and not answer.whole:
                return  # what fails because the client left is nobody's mistake
            answer.broken = True
            log.exception("%s %s failed", scope["method"], _path(scope))
            if answer.status is not None:
                raise  # too late for another answer: the server has to cut the connection
            response = problem(500, "internal", "The server made a mistake; its log tells which.")
            await response(scope, receive, send)

    def _tell(self, scope: Scope, key: bytes | None, answer: _Answer) -> None:
        route, method = template(scope), scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._metrics.requests.labels(method, route, answer.outcome).inc()
        self._metrics.request_seconds.labels(method, route).observe(seconds := answer.seconds)
        self._metrics.response_bytes.labels(method, route).inc(answer.bytes)
        fields = {
            "method": method,
            "route": route,
            "path": _path(scope),
            "status": answer.outcome,
            "ms": round(1000 * seconds, 2),
            "bytes": answer.bytes,
        }
        if key and (digest := sha256(key).hexdigest()) in self._keys:
            fields["key"] = digest[:8]
        if answer.gone and not answer.whole:
            fields["aborted"] = True
        logs.answered(fields, quietly=route in PROBES and answer.outcome < 400)


def template(scope: Scope) -> str:
    """The route that answered as the router spells it, `/datasets/{dataset}`, never the address that was asked for."""
    # FastAPI keeps the whole template of a route in an included router here, and only its last part in `route`.
    whole = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(whole or scope.get("route"), "path", None)
    if path is not None:
        return str(path)
    mounted = scope.get("root_path", "").removeprefix(scope.get("app_root_path", scope.get("root_path", "")))
    if mounted:
        return f"{mounted}/{{path}}"
    return scope["path"] if "endpoint" in scope and not scope.get("path_params") else UNMATCHED


def _path(scope: Scope) -> str:
    """The path without its query, encoded: nothing in it can pose as another line of the log."""
    return quote(scope["path"][:_PATH_CHARACTERS], safe="/:@,+=~")
