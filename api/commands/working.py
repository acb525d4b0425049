"""The worker as a command, and as a process that a server keeps beside it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer

from api import logs
from api.state import State

log = logging.getLogger("smalti.worker")

COMMAND: Final = (sys.executable, "-P", "-m", "api.cli", "worker", "--parent")
PATIENCE_S: Final = 5.0
"""Seconds that a worker beside a server has to finish its block; what it does not finish, it does next time."""
STEADY_S: Final = 60.0
"""A worker that lived so long is started again without delay."""
LONGEST_WAIT_S: Final = 60.0


def worker(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Option(
            help="Stable name of this worker: started again under it, it goes on where it was. "
            "The host's name where absent.",
        ),
    ] = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="End when this process has.")] = None,
) -> None:
    """Run jobs: embed the areas that were asked for with POST /areas. Ends after the block in hand."""
    from api.worker import work  # brings DBOS, which only workers need

    state: State = ctx.obj
    logs.setup(state.settings)
    state.require_device()
    work(state, name, parent=parent)


@contextmanager
def beside() -> Iterator[None]:
    """Keep one worker process running beside this one: told of when it dies, started again, ended with it."""
    ending = threading.Event()
    running: list[subprocess.Popen[bytes]] = []
    # The server ends by the signal it got; as an exception that is noticed here.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    keeper = threading.Thread(target=_keep, args=(ending, running), name="worker-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ending.set()
        for process in running[-1:]:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        keeper.join(1)


def _keep(ending: threading.Event, running: list[subprocess.Popen[bytes]]) -> None:
    wait = 1.0
    while not ending.is_set():
        started = time.monotonic()
        running[:] = [subprocess.Popen((*COMMAND, str(os.getpid())))]  # noqa: S603  # our own command
        code = running[0].wait()
        if ending.is_set():
            return
        wait = 1.0 if time.monotonic() - started > STEADY_S else min(2 * wait, LONGEST_WAIT_S)
        log.error("the worker beside this server ended with code %s; it starts again in %.0f s", code, wait)
        ending.wait(wait)
