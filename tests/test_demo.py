"""`smalti demo`: started as a user starts it, asked over HTTP, ended with Ctrl-C, started again."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from api.demo import MODEL, Scene, prepare
from api.settings import Settings
from api.state import State
from service.embed import embed_source
from service.values import Window
from tests.conftest import SIDE

SMALTI = str(Path(sys.executable).with_name("smalti"))


@contextmanager
def demo(home: Path) -> Iterator[tuple[str, float, subprocess.Popen[str]]]:
    """A running demo: its address, seconds until ready, and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "SMALTI_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    start = time.monotonic()
    command = [SMALTI, "demo", "--port", str(port)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, text=True, env=environment, cwd=home.parent, **streams)
    base = f"http://127.0.0.1:{port}"
    try:
        while time.monotonic() - start < 280:
            assert process.poll() is None, process.stdout.read()  # type: ignore[union-attr]
            try:
                with urllib.request.urlopen(f"{base}/readyz", timeout=5) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(0.3)
        yield base, time.monotonic() - start, process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for(job: str, state: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        with urllib.request.urlopen(job) as answer:
            told = json.load(answer)
        if told["state"] == state:
            return
        assert told["state"] in {"queued", "running"}, told
        assert time.monotonic() < until, told
        time.sleep(0.5)


def require_found(base: str, bounds: list[float]) -> None:
    """What was filled from scenes is found, with the vector that its own time series gives."""
    lon, lat = (bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2
    until = time.monotonic() + 60  # the index follows the blocks
    while True:
        try:
            with urllib.request.urlopen(f"{base}/datasets/demo/2024/search?lon={lon}&lat={lat}&k=3") as answer:
                first = json.load(answer)["features"][0]
                break
        except OSError:
            assert time.monotonic() < until
            time.sleep(1)
    found = first["geometry"]["coordinates"]
    assert max(abs(found[0] - lon), abs(found[1] - lat)) < 2e-4, "the query's own pixel is the best hit"
    assert first["properties"]["score"] == pytest.approx(1, abs=1e-3)


def test_a_window_of_which_all_was_rejected_does_not_keep_the_demo_from_starting(own_world: Settings) -> None:
    state, summer = State(own_world), Window.parse("2024-06-01..2024-07-31")
    source = replace(Scene.make(SIDE).source(2024), window=summer)
    embed_source(source, state.encoder(MODEL), state.datasets.writable("demo", summer), min_s2=366)
    again = prepare(State(own_world), SIDE)
    assert summer in again.windows()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_serves_and_its_curl_lines_work(tmp_path: Path) -> None:
    home = tmp_path / "smalti-data"
    with demo(home) as (base, _, process):
        with urllib.request.urlopen(f"{base}/datasets") as answer:
            (dataset,) = json.load(answer)["datasets"]
        assert len(dataset["windows"]) == 2
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=20)
        assert process.returncode in {0, 130}, printed
        assert "Traceback" not in printed
        curls = re.findall(r"curl .*", printed)
        assert len(curls) == 4
    with demo(home) as (base, seconds, process):
        assert seconds < 15, f"a second start took {seconds:.1f} s"
        for line in curls:
            line = re.sub(r"http://127\.0\.0\.1:\d+", base, line)
            done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            if "/search" in line:
                assert json.loads(done.stdout)["features"]
            if "/areas" in line:
                asked = json.loads(done.stdout)
                assert (asked["blocks"], asked["blocks_left"]) == (1, 1), "the empty block and no more"
                assert (asked["pixels"], asked["scenes"]) == (256 * 256, 132), "2.56 km squared, from scenes"
                wait_for(f"{base}/jobs/{asked['id']}", "done", 400)
                require_found(base, asked["bounds"])
        assert (tmp_path / "tile.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads((tmp_path / "embedded.json").read_text())["stored"]["pixels"] == 48 * 48
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
