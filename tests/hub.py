"""A model hub on loopback: one file, and a connection that can be made to break."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it serves, and what it was asked."""

    path: str
    """`owner/repository/resolve/{revision}/file`, with any revision."""
    body: bytes
    cut: int = 0
    """Bytes after which a download breaks off, and the hub has trouble from then on; 0: never."""
    ranges: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    sha256: str = ""
    url: str = ""
    broken: bool = False

    def __post_init__(self) -> None:
        self.sha256 = self.sha256 or hashlib.sha256(self.body).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _ends(self, status: int, **more: str) -> None:
            self.send_response(status)
            for name, value in {"Content_Length": "0", "X_Repo_Commit": COMMIT, **more}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def _known(self) -> bool:
            asked = re.fullmatch(r"/(\w+/[^/]+/resolve)/([^/]+)/(.+)", self.path)
            if not asked or f"{asked[1]}/{{revision}}/{asked[3]}" != hub.path:
                self._ends(404, X_Error_Code="EntryNotFound")
                return False
            hub.revisions.append(asked[2])
            return True

        def do_HEAD(self) -> None:
            if self._known():
                size = str(len(hub.body))
                self._ends(200, Content_Length=size, ETag=f'"{hub.sha256}"', X_Linked_Size=size)

        def do_GET(self) -> None:
            if not self._known():
                return
            if hub.broken:
                self._ends(500)
                return
            wanted = self.headers.get("Range", "")
            hub.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-") or 0)
            rest = hub.body[start:]
            span = f"bytes {start}-{len(hub.body) - 1}/{len(hub.body)}"
            self._ends(206 if start else 200, Content_Length=str(len(rest)), Content_Range=span)
            self.wfile.write(rest[: hub.cut or None])
            if hub.cut:
                hub.broken = True
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
