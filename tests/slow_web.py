"""A static web server that is far away: with latency, a count of round trips, and every way of failing."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    span: str
    """The Range header, "" without one."""
    status: int
    sent: int
    """Bytes of the answer's body."""
    begun: float
    """Monotonic seconds."""
    ended: float


@dataclass
class SlowWeb:
    """Serves a folder at 127.0.0.1, each answer after `latency` seconds."""

    folder: Path
    latency: float = 0.05
    failing: str = ""
    """`error`: 500 for everything; `cut`: half of each body, then the connection is closed; `ignore-ranges`: 200."""
    validators: bool = True
    """Whether answers have ETag and Last-Modified."""
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None
    _open: set[Any] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, at the port it had before if it had one."""
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        """Stop listening and drop every connection, answers half sent included."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(2)

    def forget(self) -> None:
        """Count from here."""
        self.asked.clear()

    def chunks(self) -> list[Asked]:
        """Requests for what is no metadata."""
        return [one for one in self.asked if not one.path.endswith(".json")]

    def depth(self) -> int:
        """The longest chain of requests of which each began after the one before had ended: round trips in a row."""
        deep, free = 0, float("-inf")
        for one in sorted(self.asked, key=lambda one: one.ended):
            if one.begun >= free:
                deep, free = deep + 1, one.ended
        return deep


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client or we ourselves closed the connection: that is what is tried here."""


def _span(header: str, size: int) -> tuple[int, int] | None:
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if not found or not size:
        return None
    first, last = found.groups()
    if not first:
        return max(size - int(last), 0), size
    start, stop = int(first), min(int(last) + 1 if last else size, size)
    return (start, stop) if start < stop else None


def _handler(web: SlowWeb) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - one small class, made for one server
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            web._open.add(self.request)

        def finish(self) -> None:
            web._open.discard(self.request)
            super().finish()

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            begun = time.monotonic()
            time.sleep(web.latency)
            status, head, body = self._found()
            sent = body if with_body else b""
            self.send_response(status)
            for name, value in head.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut = web.failing == "cut" and len(sent) > 1
            self.wfile.write(sent[: len(sent) // 2] if cut else sent)
            span = self.headers.get("Range", "")
            web.asked.append(Asked(self.command, self.path, span, status, len(sent), begun, time.monotonic()))
            if cut:
                self.close_connection = True

        def _found(self) -> tuple[int, dict[str, str], bytes]:
            if web.failing == "error":
                return 500, {}, b"broken"
            path = web.folder / unquote(self.path.split("?")[0]).lstrip("/")
            if not path.is_file():
                return 404, {}, b"nothing here"
            body, stat = path.read_bytes(), path.stat()
            tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
            head = {"ETag": tag, "Last-Modified": formatdate(stat.st_mtime, usegmt=True)} if web.validators else {}
            if web.validators and self.headers.get("If-None-Match") == tag:
                return 304, head, b""
            if web.validators and self.headers.get("If-Match", tag) != tag:
                return 412, {}, b"changed"
            wanted = self.headers.get("Range")
            if not wanted or web.failing == "ignore-ranges":
                return 200, head, body
            span = _span(wanted, len(body))
            if span is None:
                return 416, {"Content-Range": f"bytes */{len(body)}"}, b""
            head["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{len(body)}"
            return 206, head, body[slice(*span)]

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    return Handler


@contextmanager
def slow_web(folder: Path, latency: float = 0.05) -> Iterator[SlowWeb]:
    """A running server of a folder."""
    web = SlowWeb(folder, latency)
    web.start()
    try:
        yield web
    finally:
        web.kill()
