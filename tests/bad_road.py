"""A way to another server that goes bad for a while: a proxy that answers 500 by itself, or takes its time."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class BadRoad(ThreadingHTTPServer):
    """Passes every request on as it came, signature included, unless it is told otherwise.

    Args:
        endpoint: `http://name:port` of the other server.
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.other = urlsplit(endpoint).netloc
        self.failing = False
        """Whether everything is answered 500."""
        self.delay = 0.0
        """Seconds that each answer takes longer."""
        self.failed = self.delayed = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BadRoad

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.failing:
            self.server.failed += 1
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.server.delay:
            self.server.delayed += 1
            time.sleep(self.server.delay)
        connection = http.client.HTTPConnection(self.server.other, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            held = answer.read()
        finally:
            connection.close()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(held))
        self.send_header("Content-Length", size or "0")
        self.end_headers()
        self.wfile.write(held)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def bad_road(endpoint: str) -> Iterator[BadRoad]:
    """A proxy, good so far."""
    road = BadRoad(endpoint)
    threading.Thread(target=road.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield road
    finally:
        road.shutdown()
        road.server_close()
