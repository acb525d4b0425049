"""A server on this machine that answers what a test wants: a STAC API of some items, files by ranges, and lies."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio.transform import from_origin

from service.scenes.value import MPC

SIDE = 256
BOX = [2.9, 54.0, 3.1, 54.2]


@dataclass
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Answer:
    """What it is answered with; pieces are sent one by one, without a length."""

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, held: Any) -> Answer:
        return cls(body=json.dumps(held).encode(), headers={"Content-Type": "application/json"})


@dataclass
class Liar:
    """Answers of each path; a prefix that ends in / holds for all below it."""

    address: str = ""
    paths: dict[str, Callable[[Asked], Answer] | Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    sent: int = 0

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        known = self.paths.get(asked.path)
        if known is None:
            below = [held for prefix, held in self.paths.items() if prefix[-1] == "/" and asked.path.startswith(prefix)]
            known = below[0] if below else Answer(404)
        return known(asked) if callable(known) else known

    def stac(self, items: list[dict[str, Any]], per_page: int = 100) -> str:
        """A STAC API of these items, at /stac; all of them match whatever is asked."""
        root = f"{self.address}/stac"
        links = [{"rel": rel, "href": root, "type": "application/json"} for rel in ("self", "root")]
        links.append({"rel": "search", "href": f"{root}/search", "method": "POST", "type": "application/geo+json"})
        self.paths["/stac"] = Answer.of(
            {"type": "Catalog", "id": "liar", "stac_version": "1.0.0", "description": "It lies.", "links": links,
             "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]}
        )  # fmt: skip

        def search(asked: Asked) -> Answer:
            start = int(asked.body.get("token", 0))
            page = {"type": "FeatureCollection", "features": items[start : start + per_page], "links": []}
            if start + per_page < len(items):
                body = {**asked.body, "token": start + per_page}
                page["links"] = [{"rel": "next", "href": f"{root}/search", "method": "POST", "body": body}]
            return Answer.of(page)

        self.paths["/stac/search"] = search
        return root

    def file(self, path: str, content: bytes, **headers: str) -> str:
        """A file that is answered by ranges; its address."""

        def part(asked: Asked) -> Answer:
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", ""))
            if not match:
                return Answer(body=content)
            start, end = int(match[1]), min(int(match[2]) + 1, len(content))
            told = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}", "ETag": '"1"', **headers}
            return Answer(206, content[start:end], told)

        self.paths[path] = part
        return f"{self.address}{path}"


@contextmanager
def liar() -> Iterator[Liar]:
    """A server of our own for as long as the block runs."""
    made = Liar()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(size)) if size else None
            told = {name.lower(): value for name, value in self.headers.items()}
            split = urlsplit(self.path)
            answer = made.answer(Asked(split.path, told | {"query": split.query}, body))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if isinstance(answer.body, bytes):
                self.send_header("Content-Length", str(len(answer.body)))
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            try:
                for piece in [answer.body] if isinstance(answer.body, bytes) else answer.body:
                    self.wfile.write(piece)
                    made.sent += len(piece)
            except OSError:
                self.close_connection = True

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass  # whoever asked has left

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def item(name: str = "honest", day: str = "2024-06-05", href: str = "https://example.org/x.tif", **more: Any) -> Any:
    """A Sentinel-2 item of mode mpc, as it should be; `properties` are added to its own, the rest replaces."""
    properties = {"datetime": f"{day}T10:56:21Z", "proj:code": "EPSG:32631", **more.pop("properties", {})}
    west, south, east, north = BOX
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-l2a", "bbox": BOX,
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties, "links": [],
        "assets": {key: {"href": href} for key in MPC.assets["s2"].values()}, **more,
    }  # fmt: skip


def tiff(folder: Path, **profile: Any) -> bytes:
    """A small GeoTIFF in tiles at BOX: values of B04, unless the profile says otherwise."""
    held = {
        "driver": "GTiff", "width": SIDE, "height": SIDE, "count": 1, "dtype": "uint16", "crs": "EPSG:32631",
        "transform": from_origin(500_000, 6_000_000, 10, 10), "tiled": True, "blockxsize": 64, "blockysize": 64,
        **profile,
    }  # fmt: skip
    path = folder / "made.tif"
    with rasterio.open(path, "w", **held) as raster:
        if "sparse_ok" not in held:
            values = np.arange(SIDE * SIDE).reshape(1, SIDE, SIDE) % 251
            raster.write(np.repeat(values, held["count"], axis=0).astype(held["dtype"]))
    return path.read_bytes()
