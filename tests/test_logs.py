"""What a server says: one line a request, everything about a request under its id, and no secrets."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from api import logs
from api.settings import ApiKey, Settings
from service.errors import Corrupt
from tests.conftest import client_of

SMALTI = str(Path(sys.executable).with_name("smalti"))
SECRET = "a key that is long enough"
DIGEST = sha256(SECRET.encode()).hexdigest()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def said() -> Iterator[Any]:
    """Set logging up for a stream; put back afterwards what was there."""
    root, names = logging.getLogger(), ("smalti", "uvicorn")
    before = root.handlers[:], root.level, [logging.getLogger(name).level for name in names]

    def begin(stream: io.StringIO, **settings: Any) -> io.StringIO:
        logs.setup(Settings(**settings), stream)
        return stream

    yield begin
    logging.captureWarnings(False)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    for name, level in zip(names, before[2], strict=True):
        logging.getLogger(name).setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_request_is_one_line_of_json(world: Settings, said: Any) -> None:
    stream = said(io.StringIO())
    answer = client_of(world).get("/datasets/demo?token=hidden", headers={"X-Request-Id": "mine-1.a_b"})
    (line,) = lines(stream)
    assert answer.headers["X-Request-Id"] == "mine-1.a_b"
    assert line["event"] == "request"
    assert (line["method"], line["route"], line["path"]) == ("GET", "/datasets/{dataset}", "/datasets/demo")
    assert (line["status"], line["bytes"]) == (200, len(answer.content))
    assert 0 < line["ms"] < 30_000
    assert (line["request_id"], line["level"], line["logger"]) == ("mine-1.a_b", "info", "smalti.access")
    assert line["time"].endswith("Z")
    assert "hidden" not in stream.getvalue()


@pytest.mark.parametrize("sent", ["", "with space", "x" * 65, 'quo"te', "new\u0085line", "../up"])
def test_an_id_that_is_not_sane_is_replaced(world: Settings, sent: str) -> None:
    headers = {"X-Request-Id": sent.encode("latin-1")}
    client = client_of(world)
    first, second = (client.get("/livez", headers=headers).headers["X-Request-Id"] for _ in range(2))
    assert first != sent
    assert first != second
    assert len(first) == 16


@pytest.mark.parametrize("path", ["/livez", "/datasets/none", "/nothing", "/web/assets/none.js", "/metrics"])
def test_every_answer_has_an_id_and_problems_repeat_it(world: Settings, path: str) -> None:
    answer = client_of(world).get(path)
    assert answer.headers["X-Request-Id"]
    if "problem" in answer.headers["content-type"]:
        assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_what_the_gate_refuses_has_an_id_too(world: Settings, said: Any) -> None:
    stream = said(io.StringIO())
    answer = client_of(world, base_url="http://evil.example").get("/datasets")
    assert answer.status_code == 403
    (line,) = lines(stream)
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"] == line["request_id"]
    assert (line["status"], line["route"]) == (403, "unmatched")


def test_what_is_said_in_a_thread_is_about_its_request(
    world: Settings, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts(_: object) -> Iterator[tuple[str, str]]:
        logging.getLogger("smalti.some.part").warning("looking at %s", "parts")
        raise Corrupt("chunk 7 cannot be read.")
        yield

    monkeypatch.setattr("api.routes.health._parts", parts)
    stream = said(io.StringIO())
    answer = client_of(world).get("/readyz")
    told, failed, request = lines(stream)
    assert (told["event"], told["level"], told["logger"]) == ("looking at parts", "warning", "smalti.some.part")
    assert "chunk 7" in failed["event"]
    assert request["status"] == 500
    assert {line["request_id"] for line in (told, failed, request)} == {answer.headers["X-Request-Id"]}
    logging.getLogger("smalti").warning("later")
    assert "request_id" not in lines(stream)[-1], "over is over"


def test_a_bug_leaves_its_traceback_in_the_log_alone(
    world: Settings, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.health._parts", lambda _: 1 / 0)
    stream = said(io.StringIO())
    answer = client_of(world).get("/readyz")
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text
    bug, request = lines(stream)
    assert "ZeroDivisionError: division by zero" in bug["exception"]
    assert bug["level"] == "error"
    assert bug["request_id"] == request["request_id"] == answer.json()["request_id"]


def test_keys_show_by_the_beginning_of_their_digest_only(world: Settings, said: Any) -> None:
    stream = said(io.StringIO())
    client = client_of(world.model_copy(update={"api_keys": (ApiKey.parse(f"{DIGEST}:read"),)}))
    client.get("/datasets", headers={"X-API-Key": SECRET})
    client.get("/datasets", headers={"X-API-Key": "unknown key"})
    client.get("/datasets")
    assert [line.get("key") for line in lines(stream)] == [DIGEST[:8], None, None]
    assert SECRET not in stream.getvalue()
    assert "unknown key" not in stream.getvalue()
    assert DIGEST not in stream.getvalue()


def test_no_path_can_pose_as_a_line(world: Settings, said: Any) -> None:
    stream = said(Terminal(), log_level="info")
    client_of(world).get("/datasets/x%0A2026%20[error]%20forged%1b[31m")
    assert "%0A2026" in stream.getvalue()
    assert "\x1b[31m" not in stream.getvalue().split("path", 1)[1].split("route", 1)[0]
    assert len(stream.getvalue().splitlines()) == 1


def test_a_terminal_is_left_quiet_and_a_service_is_not(world: Settings, said: Any) -> None:
    quiet = said(Terminal())
    client_of(world).get("/datasets")
    logging.getLogger("uvicorn.error").info("started")
    assert quiet.getvalue() == ""
    logging.getLogger("smalti").warning("look here")
    assert "look here" in quiet.getvalue()
    assert not quiet.getvalue().startswith("{")
    plain = said(io.StringIO(), log_format="text", log_level="info")
    client_of(world).get("/datasets")
    assert "route=/datasets" in plain.getvalue()
    assert "\x1b" not in plain.getvalue(), "colours are for terminals"


def test_probes_are_quiet_until_they_fail(world: Settings, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = said(io.StringIO())
    client = client_of(world)
    for path in ("/livez", "/readyz", "/metrics"):
        client.get(path)
    assert lines(stream) == []
    monkeypatch.setattr("api.routes.health._parts", lambda _: [("dataset x", "cannot be read")])
    client.get("/readyz")
    assert [line["status"] for line in lines(stream)] == [503]


def test_warnings_of_python_come_in_the_same_form(said: Any) -> None:
    import warnings

    stream = said(io.StringIO())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)
    assert "old" in lines(stream)[0]["event"]


def test_serve_speaks_json_from_its_first_line_to_its_last(world: Settings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "SMALTI_HOME": str(world.home)}
    command = [SMALTI, "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=world.home) as server:
        for _ in range(150):
            assert server.poll() is None, server.stderr.read()  # type: ignore[union-attr]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/datasets", timeout=5) as answer:
                    name = answer.headers["X-Request-Id"]
                break
            except OSError:
                time.sleep(0.2)
        server.send_signal(signal.SIGINT)
        _, text = server.communicate(timeout=20)
    told = [json.loads(line) for line in text.splitlines()]
    assert any("running on" in line["event"] for line in told), "uvicorn's own"
    (request,) = [line for line in told if line["event"] == "request"]
    assert (request["request_id"], request["path"]) == (name, "/datasets")
