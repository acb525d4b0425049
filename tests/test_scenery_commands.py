"""`smalti scenes`, and the server of scenes that lives and ends with another process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pystac
import pytest
from typer.testing import CliRunner

from api import scenery
from api.cli import app
from service.errors import InvalidInput, NotFound, Unavailable
from tests.conftest import ROOT


def test_scenes_are_made_and_found_by_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALTI_HOME", str(tmp_path / "home"))
    folder = tmp_path / "scenes"
    command = ["scenes", "make", str(folder), "--window", "2024-06-01..2024-06-12", "--side", "8"]
    where = ["--lon", "-71.5", "--lat", "-33", "--mode", "aws"]
    done = CliRunner().invoke(app, [*command, *where])
    assert done.exit_code == 0, done.output
    items = list(pystac.Catalog.from_file(str(folder / "catalog.json")).get_items(recursive=True))
    assert {item.collection_id for item in items} == {"sentinel-2-l2a", "OPERA_L2_RTC-S1_V1_1"}
    for item in items:
        assert item.bbox is not None
        assert item.bbox[0] == pytest.approx(-71.5, abs=0.01)
        assert item.bbox[1] == pytest.approx(-33, abs=0.01)
    for wrong in (["--mode", "gee"], ["--window", "summer"], ["--side", "20000"]):
        assert CliRunner().invoke(app, [*command, *wrong]).exit_code != 0
    with pytest.raises(InvalidInput, match="mpc or aws"):
        CliRunner().invoke(app, [*command, "--mode", "gee"], catch_exceptions=False)


def test_no_folder_and_no_free_port_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="scenes make"):
        scenery.create_scenery(tmp_path)
    with scenery.listening() as taken, pytest.raises(Unavailable, match="--port"):
        scenery.listening(taken.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_with_the_process_it_stands_beside(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "none"}))
    script = (
        "import sys, time, pathlib; from api.scenery import beside\nwith beside(pathlib.Path(sys.argv[1])) as at:\n"
    )
    script += "    print(at, flush=True)\n    time.sleep(60)"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{address}/", timeout=30) as answer:
            assert json.load(answer)["id"] == "none"
        process.send_signal(how)
        process.wait(20)
    port, until = int(address.rpartition(":")[2]), time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            break
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.1)
