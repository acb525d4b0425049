"""Two servers side by side: the same uvicorn, processes of their own, loopback, clients that keep their connection."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.conftest import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
STARTING_S: Final = 60.0
OPTIONS: Final = ("--host", "127.0.0.1", "--log-level", "warning", "--no-access-log")

QUIET: Final = {"PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker"}
"""Of workers that are told to end."""


@dataclass(frozen=True)
class Answer:
    """One answer, and how long it took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    ms: float


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask, and read the whole answer; once more where the server has closed a connection that lay idle."""
        try:
            return self._get(path, headers)
        except ConnectionError:
            self._connection.close()
            return self._get(path, headers)

    def _get(self, path: str, headers: Mapping[str, str] | None) -> Answer:
        start = time.perf_counter()
        self._connection.request("GET", path, headers=dict(headers or {}))
        answer = self._connection.getresponse()
        body = answer.read()
        ms = (time.perf_counter() - start) * 1000
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, body, ms)

    def tile(self, path: str) -> Answer:
        """Ask for what must be there."""
        answer = self.get(path)
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {answer.body[:500]!r}")
        return answer


def end_cleanly() -> None:
    """Let a run that is told to end take its servers with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


@contextmanager
def server(app: Sequence[str], environment: Mapping[str, str], *, workers: int = 1) -> Iterator[tuple[int, int]]:
    """(port, process id) of an application under uvicorn for as long as the block runs."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", *app, "--port", str(port), "--workers", str(workers), *OPTIONS]
    process = subprocess.Popen(command, env={**os.environ, **QUIET, **environment}, cwd=ROOT)
    try:
        _await_listening(port, process)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


def _await_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTING_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the server on port {port} did not start")


Asked = tuple[Client, str]


def taking_turns(ways: Mapping[str, Sequence[Asked]], before: Sequence[Asked] | None = None) -> dict[str, list[float]]:
    """Milliseconds of each request of each way: all make one request in turn, and each is first equally often.

    Args:
        ways: What each way asks for, turn by turn.
        before: What is asked before each turn, outside of the measurement.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(len(ways[names[0]])):
        if before:
            client, path = before[turn]
            client.tile(path)
        for index in range(len(names)):
            name = names[(turn + index) % len(names)]
            client, path = ways[name][turn]
            times[name].append(client.tile(path).ms)
    return times


async def _crowd(port: int, paths: Sequence[str], connections: int) -> tuple[list[float], float]:
    waiting, times = iter(paths), []

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for path in waiting:
            start = time.perf_counter()
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(f"{path}: {head!r}")
            await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
            times.append((time.perf_counter() - start) * 1000)
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    return times, time.perf_counter() - start


def crowd(port: int, paths: Sequence[str], connections: int) -> tuple[list[float], float]:
    """(milliseconds of each request, seconds in all) of many connections that share one list of paths."""
    return asyncio.run(_crowd(port, paths, connections))
