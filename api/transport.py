"""How an answer travels: HEAD, validators of packed bodies, and what other origins' pages may read."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PACKED: Final = (
    *DEFAULT_EXCLUDED_CONTENT_TYPES,
    "image/*",
    "application/x-binary",  # .npy tiles: see docs/http.md for what gzip would save
    "application/x-npy",
    "application/x-npz",
    "application/vnd.apache.arrow.stream",
)
"""Media types that are not compressed again, because little would be saved."""


class Transport:
    """ASGI middleware: HEAD is GET without its body, and a packed body has a weak validator.

    RFC 9110 lets HEAD leave out nothing but the body. A strong validator names one sequence of bytes, and a packed
    body is another one (8.8.3.3); If-None-Match compares weakly, so the weak one still leads to a 304.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        else:
            await self.app(scope, receive, lambda message: send(_weakened(message)))

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As GET; once its headers are sent nobody listens any more, so that what streams for ever ends."""
        answered = False

        async def bodiless(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                await send(_weakened(message))
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        async def gone() -> Message:
            return {"type": "http.disconnect"} if answered else await receive()

        scope["method"] = "GET"  # in place: those outside read from it which route answered
        try:
            await self.app(scope, gone, bodiless)
        finally:
            scope["method"] = "HEAD"


def _weakened(message: Message) -> Message:
    if message["type"] == "http.response.start":
        headers = MutableHeaders(raw=message["headers"])
        tag = headers.get("etag", "")
        if "content-encoding" in headers and tag.startswith('"'):
            headers["ETag"] = f"W/{tag}"
    return message


class Origins(CORSMiddleware):
    """Starlette's varies by origin even where all are answered alike: shared caches would keep a copy for each."""

    async def send(self, message: Message, send: Send, request_headers: Headers) -> None:
        """Allow every origin, whoever asks; or the one that asks, if it is one of those named."""
        if not self.allow_all_origins:
            await super().send(message, send, request_headers)
            return
        if message["type"] == "http.response.start":
            message.setdefault("headers", [])
            MutableHeaders(scope=message).update(self.simple_headers)
        await send(message)
