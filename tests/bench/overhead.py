"""What it costs to watch: requests a second with ids, log lines and numbers, and without.

    python -m tests.bench.overhead     prints a table and writes .bench/overhead.json

Two apps over one small world, asked in turn through ASGI, with no socket between: a real server adds its own time to
both. The log goes as JSON lines to /dev/null. The best of interleaved rounds; all rows are informative.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from api import demo, logs
from api.access import Access
from api.app import create_app
from api.settings import Settings
from api.state import State
from tests.conftest import client_of
from tests.test_metrics import tile_path

ROUNDS, REQUESTS = 40, 50
OUT = Path(__file__).resolve().parents[2] / ".bench" / "overhead.json"
WITHOUT = "the same app without the middleware"


def unwatched(settings: Settings) -> FastAPI:
    """The app as it would be without `Access`."""
    app = create_app(settings)
    app.user_middleware = [one for one in app.user_middleware if one.cls is not Access]
    return app


async def seconds(app: FastAPI, path: str, headers: list[tuple[bytes, bytes]], status: int) -> float:
    """Seconds of one request, on average."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", status) == status

    start = time.perf_counter()
    for _ in range(REQUESTS):
        name, _, query = path.partition("?")
        scope = {
            "type": "http", "method": "GET", "path": name, "raw_path": name.encode(), "query_string": query.encode(),
            "root_path": "", "headers": [(b"host", b"127.0.0.1:8000"), *headers], "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000), "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"},
        }  # fmt: skip
        await app(scope, receive, send)  # type: ignore[arg-type]
    return (time.perf_counter() - start) / REQUESTS


async def compared(apps: tuple[FastAPI, FastAPI], *request: Any) -> tuple[float, float]:
    """Seconds of a request in each app, asked in turn: the best round, disturbed least by others on the machine."""
    for app in apps:
        await seconds(app, *request)
    pairs = [[await seconds(app, *request) for app in apps] for _ in range(ROUNDS)]
    ours, without = (min(times) for times in zip(*pairs, strict=True))
    return ours, without


def row(case: str, metric: str, unit: str, ours: float, other: float, ratio: float) -> dict[str, Any]:
    return {"case": case, "metric": metric, "unit": unit, "ours": round(ours, 1), "other": round(other, 1),
            "other_name": WITHOUT, "ratio": round(ratio, 3), "target": None}  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, Path("/dev/null").open("w") as nowhere:
        settings = Settings(home=Path(folder), catalogue=Path("none.toml"))
        demo.prepare(State(settings), 64)
        logs.setup(settings.model_copy(update={"log_format": "json", "log_level": "info"}), nowhere)
        client = client_of(settings)
        path = tile_path(client)
        tag = client.get(path).headers["ETag"].encode()
        apps = create_app(settings), unwatched(settings)
        cases = (("livez", "/livez", [], 200), ("tile-304", path, [(b"if-none-match", tag)], 304))
        for case, *request in cases:
            ours, without = asyncio.run(compared(apps, *request))
            rows.append(row(case, "requests a second", "1/s", 1 / ours, 1 / without, without / ours))
            rows.append(row(case, "microseconds a request", "us", 1e6 * ours, 1e6 * without, without / ours))
        logging.shutdown()
    for one in rows:
        print(f"{one['case']:10} {one['metric']:24} {one['ours']:10} without: {one['other']:10} ratio {one['ratio']}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
