"""Fixtures every test may use."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import uvicorn
from fastapi.testclient import TestClient

from api import demo
from api.app import create_app
from api.settings import Settings
from api.state import State
from tests.services import S3, Postgres, moto_python, postgres_programs, postgres_server, s3_server

ROOT = Path(__file__).resolve().parents[1]


def missing(what: str) -> NoReturn:
    """Skip, saying so; fail where nothing may be skipped, as in CI."""
    (pytest.fail if os.environ.get("SMALTI_REQUIRE_ALL") else pytest.skip)(what)
    raise AssertionError


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, which lies outside the repository; skips, saying so, where it is absent."""
    folder = Path(os.environ.get("SMALTI_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").exists():
        missing(f"no real data at {folder}: set SMALTI_TEST_DATA")
    return folder


def program(name: str) -> str:
    """The path of another program; see `missing` where it is absent."""
    return shutil.which(name) or missing(f"{name} is not installed")


SIDE = 64
"""Pixels along a side of the small world: the demo's landscape, smaller."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a home that holds the demo's dataset, small, with its basis and indexes. Not to be written to."""
    settings = Settings(home=tmp_path_factory.mktemp("world"), catalogue=Path("none.toml"))
    demo.prepare(State(settings), SIDE)
    return settings


@pytest.fixture
def own_world(world: Settings, tmp_path: Path) -> Settings:
    """A copy of the small world that a test may write to."""
    shutil.copytree(world.home, tmp_path / "home")
    return world.model_copy(update={"home": tmp_path / "home"})


def client_of(settings: Settings, **kwargs: Any) -> TestClient:
    """A client on this machine, as a browser here would be."""
    kwargs = {"base_url": "http://127.0.0.1:8000", "client": ("127.0.0.1", 50000), **kwargs}
    return TestClient(create_app(settings), raise_server_exceptions=False, **kwargs)


@pytest.fixture(scope="session")
def client(world: Settings) -> TestClient:
    """A client of the small world."""
    return client_of(world)


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a home that holds the whole demo, for slow tests."""
    settings = Settings(home=tmp_path_factory.mktemp("demo"), catalogue=Path("none.toml"))
    demo.prepare(State(settings))
    return settings


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """The address of a real server for as long as the block runs."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def server(demo_home: Settings) -> Iterator[str]:
    """The address of a real server of the whole demo."""
    with running(demo_home) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser."""
    from tests.browser import chromium  # which takes its paths from here

    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    """A page of the whole demo; fails at the end if the console complained or a request left this machine."""
    from tests.browser import Page

    opened = Page(browser, server)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def shared() -> Any:
    """A landscape with observation counts, that no test changes."""
    from tests.landscapes import Counted, landscape

    return Counted.of(landscape())


@pytest.fixture(scope="session")
def built(shared: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its index, which no test changes either."""
    from indexing.index.build import build_index

    folder = tmp_path_factory.mktemp("index")
    build_index(shared, "demo", shared.windows()[0], folder)
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres server of our own, below /tmp because its user may enter no other folder of ours."""
    programs = postgres_programs() or missing("Postgres is not installed")
    with tempfile.TemporaryDirectory(prefix="smalti-postgres-") as folder:
        Path(folder).chmod(0o755)
        with postgres_server(programs, Path(folder) / "server") as server:
            yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3-compatible server, to which the AWS_* variables lead while it runs."""
    python = moto_python()
    if not python.exists():
        missing(f"no Python with moto at {python}: set SMALTI_MOTO_PYTHON")
    with s3_server(python) as server, pytest.MonkeyPatch.context() as patched:
        for name, value in server.variables().items():
            patched.setenv(name, value)
        yield server
