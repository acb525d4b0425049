"""Many clients at once beside one: 64 of them post NPZ bodies of 1 to 1,000 pixels to a v2 small encoder over HTTP.

    python -m tests.bench.clients [SECONDS]      60 where absent; writes .bench/clients.json

A server of its own on 127.0.0.1, a model of random weights. What a single client reaches with 1,000 pixels a request is
measured by the same generator before and after; the rate of the crowd counts every pixel answered from the first
request to the last answer. A 503 is honest if it names Retry-After; the client waits as told and comes again.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from service.training.export import export
from service.training.networks import build
from service.values import ModelIdentity
from tests.bench.encoder import typical
from tests.conftest import free_port

OUT = Path(__file__).resolve().parents[2] / ".bench" / "clients.json"
CLIENTS, LARGEST, ALONE = 64, 1000, 4
PATH, HEADERS = "/embed?model=bench-small", {"Content-Type": "application/x-npz"}


def body_of(pixels: int) -> bytes:
    """An NPZ of a d-pixel folder, one row of pixels."""
    d, out = typical(pixels, pixels), io.BytesIO()
    lay = {name: np.moveaxis(getattr(d, name), 1, 0)[:, None] for name in ("s2", "s2_valid", "s1_asc", "s1_desc")}
    np.savez(
        out, bands=lay["s2"], masks=lay["s2_valid"].astype(np.uint8), doys=d.s2_doy[0],
        sar_ascending=lay["s1_asc"].astype(np.int16), sar_ascending_doy=d.s1_asc_doy[0],
        sar_descending=lay["s1_desc"].astype(np.int16), sar_descending_doy=d.s1_desc_doy[0],
    )  # fmt: skip
    return out.getvalue()


@contextmanager
def server(home: Path, environment: Mapping[str, str] | None = None) -> Iterator[tuple[int, int]]:
    """(port, process id) of `smalti serve`, whose state lies in `home`."""
    port = free_port()
    env = {**os.environ, "SMALTI_HOME": str(home), "SMALTI_PORT": str(port), "SMALTI_LOG_LEVEL": "error"}
    env |= environment or {}
    command = [str(Path(sys.executable).parent / "smalti"), "serve"]
    process = subprocess.Popen(command, env=env, cwd=home, stderr=subprocess.DEVNULL)  # each 503 is a line
    try:
        for _ in range(300):
            try:
                if asked(port, "GET", "/livez")[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


def asked(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, float, bytes]:
    """(status, Retry-After, body) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request(method, path, body, HEADERS if body else {})
        answer = connection.getresponse()
        return answer.status, float(answer.headers.get("Retry-After") or 0), answer.read()
    finally:
        connection.close()


class Crowd:
    """What clients met."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pixels, self.met, self.waits = 0, Counter[str](), []
        self.memory: list[tuple[float, float]] = []

    def see(self, outcome: str, pixels: int, waited: float) -> None:
        with self.lock:
            self.met[outcome] += 1
            self.pixels += pixels
            if pixels:
                self.waits.append((pixels, waited))


def client(port: int, bodies: dict[int, bytes], until: float, crowd: Crowd, seed: int) -> None:
    """Post one body after another until the time is over; an answer must hold every pixel."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        pixels = rng.choice(list(bodies))
        began = time.monotonic()
        try:
            status, after, answer = asked(port, "POST", PATH, bodies[pixels])
        except OSError as error:
            crowd.see(type(error).__name__, 0, 0)
            continue
        if status == 200:
            with np.load(io.BytesIO(answer)) as held:
                whole = held["codes"].reshape(-1, 128).any(axis=1).sum() == pixels
            crowd.see("ok" if whole else "pixels are missing", pixels if whole else 0, time.monotonic() - began)
        else:
            crowd.see("503" if status == 503 and after > 0 else f"status {status}", 0, 0)
            time.sleep(min(after, max(until - time.monotonic(), 0)))


def alone(port: int, body: bytes) -> float:
    """Pixels a second of one client."""
    began = time.monotonic()
    for _ in range(ALONE):
        assert asked(port, "POST", PATH, body)[0] == 200
    return ALONE * LARGEST / (time.monotonic() - began)


def resident(pid: int) -> float:
    """MB of memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000


def together(port: int, pid: int, seconds: float) -> tuple[Crowd, float]:
    """What all clients met, and the seconds until the last had its answer."""
    sizes = np.random.default_rng(1).integers(1, LARGEST + 1, 40)
    bodies, crowd = {int(size): body_of(int(size)) for size in sizes}, Crowd()
    began = time.monotonic()
    threads = [
        threading.Thread(target=client, args=(port, bodies, began + seconds, crowd, seed)) for seed in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        crowd.memory.append((time.monotonic() - began, resident(pid)))
        time.sleep(0.5)
    return crowd, time.monotonic() - began


def main() -> None:
    """Measure, print, write."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    torch.manual_seed(0)
    whole = body_of(LARGEST)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        export(build("tessera-v2"), home / "models" / "bench-small", ModelIdentity("bench-small", "1"))
        with server(home) as (port, pid):
            asked(port, "POST", PATH, body_of(64))  # opens the encoder
            before = alone(port, whole)
            crowd, took = together(port, pid, seconds)
            after = alone(port, whole)
    one, many = (before + after) / 2, crowd.pixels / took
    spans = [[mb for at, mb in crowd.memory if a * took <= at <= b * took] for a, b in ((0.25, 0.5), (0.75, 1.0))]
    early, late = (statistics.median(span) for span in spans)
    wrong = sum(count for what, count in crowd.met.items() if what not in ("ok", "503"))
    rows = [
        {"case": "clients-64", "metric": "throughput", "unit": "pixels/s", "ours": many, "other": one,
         "other_name": "one client, 1,000 pixels a request", "ratio": many / one, "target": 0.85},
        {"case": "clients-64", "metric": "wrong answers", "unit": "", "ours": wrong, "other": 0,
         "other_name": "allowed", "ratio": 1.0 if not wrong else 0.0, "target": 1.0},
        {"case": "clients-64", "metric": "memory, last quarter", "unit": "MB", "ours": late, "other": early,
         "other_name": "second quarter", "ratio": early / late, "target": 0.9},
    ]  # fmt: skip
    small = [waited for pixels, waited in crowd.waits if pixels <= 100]
    large = [waited for pixels, waited in crowd.waits if pixels > 500]
    medians = {name: statistics.median(w) if w else None for name, w in (("to 100", small), ("above 500", large))}
    told = {"answers": dict(crowd.met), "seconds": took, "before": before, "after": after, "median_seconds": medians}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": rows, **told}, indent=1) + "\n")
    for row in rows:
        print(f"{row['case']:12} {row['metric']:22} {row['ours']:>9.4g} {row['other']:>9.4g} x{row['ratio']:.2f}")
    print(told)


if __name__ == "__main__":
    main()
