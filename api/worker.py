"""The worker: takes jobs from the queue and embeds their blocks, a few in hand. Dies at any moment without harm.

A job is one parent workflow, a block a child of it. What was recorded is not done again; what was not is looked up by
fingerprint in the store, so a step that is repeated after a kill does nothing. A worker signs the roster every few
seconds; what a worker that stopped signing had in hand is put back on the queue by the others.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import socket
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from dbos import DBOS, DBOSPortableJSONSerializer, SetWorkflowID, WorkflowHandle
from dbos import error as faults
from filelock import FileLock, Timeout

from api.claims import Claims
from api.jobs import APP, BLOCK, BLOCKS, JOBS, OVERVIEWS, VERSION, Jobs
from api.progress import AREA, Order
from api.roster import shown
from api.state import State
from api.workbench import REINDEX, Bench
from service.errors import Conflict, InvalidInput, SmaltiError, Unavailable
from service.grid import Block

log = logging.getLogger("smalti.worker")

JOBS_AT_ONCE: Final = 4
"""Jobs whose blocks take turns in one worker."""
AHEAD: Final = 16
"""Blocks of one job on the queue, at least: so often it is looked how many all workers can take."""
POLL_S: Final = 0.25
"""Seconds between two looks at a queue."""
FORGET_EVERY: Final = 500
"""Beats between two looks for jobs that ended long ago."""
ATTEMPTS: Final = 8
"""Times that a block is tried where what is wrong may pass: for about two minutes, each pause twice the one before."""
MAX_DEATHS: Final = 20
"""Workers that one block may take with it before it is given up."""
_NAME: Final = re.compile(r"[\w-][\w.-]{0,63}", re.ASCII)


def _is_cancelled() -> bool:
    """Whether the block in hand belongs to a job that was cancelled meanwhile."""
    status = DBOS.get_workflow_status(DBOS.workflow_id or "")
    return status is not None and status.status == "CANCELLED"


_bench: Bench | None = None


def _here() -> Bench:
    assert _bench is not None  # noqa: S101  # workflows run only after `work` has made it
    return _bench


def _passes(error: BaseException) -> bool:
    """Whether an error may be gone when the block is tried again."""
    return isinstance(error, Unavailable | Conflict | OSError)


@DBOS.step(name="embed", retries_allowed=True, max_attempts=ATTEMPTS, interval_seconds=1.0, should_retry=_passes)
def _embed_step(order: dict[str, Any], name: str) -> dict[str, Any]:
    return _here().embed(Order.of(order), Block.parse(name))


@DBOS.step(name="renew", retries_allowed=True, max_attempts=ATTEMPTS, interval_seconds=1.0, should_retry=_passes)
def _renew_step(order: dict[str, Any]) -> int:
    return _here().renew_overviews(Order.of(order))


@DBOS.step(name="index")
def _index_step(order: dict[str, Any]) -> int | None:
    """An index is derived: where it cannot be made, /readyz tells, and the job is none the worse."""
    try:
        return _here().renew_index(Order.of(order))
    except Exception as error:
        log.warning("the index of %s %s was not renewed: %s", order["dataset"], order["window"], error)
        return None


@DBOS.step(name="ahead")
def _ahead_step() -> int:
    """Blocks of one job on the queue: enough for all workers, few enough that other jobs get their turn."""
    try:
        return max(AHEAD, 2 * _here().hands())
    except Unavailable:
        return AHEAD


@DBOS.workflow(name=BLOCK, max_recovery_attempts=MAX_DEATHS)
def _block(order: dict[str, Any], name: str) -> dict[str, Any]:
    """Embed one block. An error is an outcome: the other blocks go on."""
    try:
        return _embed_step(order, name)
    except Exception as error:
        return {"error": _told(f"block {name}", error)}


@DBOS.workflow(name=AREA, max_recovery_attempts=10_000)
def _area(order: dict[str, Any], done: dict[str, Any] | None = None) -> dict[str, Any]:
    """All blocks of a job, a few of them queued at a time; then the overviews above them. The index is kept near.

    Blocks that an earlier run has `done` are left out.
    """
    run, queued = DBOS.workflow_id, deque[tuple[str, WorkflowHandle[dict[str, Any]]]]()
    failed, pixels = dict[str, str](), dict[str, dict[str, int]]()
    names = deque(name for name in order["pixels"] if name not in (done or {}))
    ahead = AHEAD
    while names or queued:
        ended = len(order["pixels"]) - len(names) - len(queued)
        if not queued or ended % AHEAD == 0:
            ahead = _ahead_step()
        while names and len(queued) < ahead:
            name = names.popleft()
            part = {**order, "pixels": {name: order["pixels"][name]}}
            with SetWorkflowID(f"{run}/{name}"):
                queued.append((name, DBOS.enqueue_workflow(BLOCKS, _block, part, name)))
        name, handle = queued.popleft()
        try:
            outcome = handle.get_result(polling_interval_sec=POLL_S)
        except faults.DBOSAwaitedWorkflowMaxRecoveryAttemptsExceeded:
            outcome = {"error": f"{MAX_DEATHS} workers died over it."}
        if "error" in outcome:
            failed[name] = outcome["error"]
        if outcome.get("outcome"):
            pixels[name] = outcome["outcome"]
        if (len(order["pixels"]) - len(names) - len(queued)) % REINDEX == 0:
            _index_step(order)
    told: dict[str, Any] = {"failed": failed, "pixels": pixels}
    if len(failed) < len(order["pixels"]):
        try:
            _renew_step(order)
        except Exception as error:
            told["error"] = f"the overviews were not renewed: {_told(f'overviews of {run}', error)}"
        _index_step(order)
    return told


@DBOS.workflow(name=OVERVIEWS)
def _overviews(order: dict[str, Any]) -> dict[str, Any]:
    """The overviews of a job that was cancelled half-way."""
    return {"changed": _renew_step(order)}


def _told(what: str, error: Exception) -> str:
    """What a job says of an error; the log has the rest."""
    if isinstance(error, faults.DBOSMaxStepRetriesExceeded) and error.errors:
        error = error.errors[-1]
    if isinstance(error, SmaltiError):
        log.warning("%s failed: %s", what, error)
        return str(error)
    log.exception("%s failed", what, exc_info=error)
    return f"{type(error).__name__}: {error}"[:300]


def work(state: State, name: str | None = None, *, parent: int | None = None) -> None:
    """Take jobs until told to end (SIGTERM, SIGINT), then finish what is being encoded or written. Does not return.

    Args:
        state: Datasets, models, and the jobs database.
        name: The worker's stable name: what a worker of that name had in hand when it died, it goes on with. The
            host's name where absent, with a number where others of that name work in this home already.
        parent: The process that started this one: when it has ended, so does this one.

    Raises:
        Conflict: A worker of that name works in this home.
        InvalidInput: The name cannot be one.
        Unavailable: The jobs database cannot be reached.
    """
    global _bench
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with named(state.settings.home / "workers", name) as own:
        jobs, instance = state.jobs, uuid.uuid4().hex
        jobs.set_up()
        claims = Claims(jobs.roster, instance, state.settings.worker_lapse)
        claims.set_up()
        _bench = Bench(state, claims, _is_cancelled, lambda done: DBOS.set_event("pixels", done))
        jobs.roster.sign(own, instance, first=True)
        _launch(jobs, own, state.settings.blocks_at_once)
        log.info("worker %s takes jobs from %s", own, shown(jobs.roster.url))
        beat = min(5.0, state.settings.worker_lapse / 4)
        pulse = Pulse(jobs, claims, own, instance)
        while not stop.wait(beat) and parent in (None, os.getppid()) and pulse.beat():
            pass
        log.info("worker %s ends after the blocks in hand", own)
        while not _bench.pipeline.close(beat):
            with suppress(Unavailable):
                jobs.roster.sign(own, instance)  # else others would take the block as well
        _leave(jobs, own, instance)
    # Threads of waiting workflows cannot be told to end; all they know is in the database.
    logging.shutdown()
    os._exit(0)


def _launch(jobs: Jobs, name: str, blocks: int) -> None:
    logging.getLogger("dbos").addHandler(logging.NullHandler())  # else it prints by itself, in its own way
    DBOS(
        config={
            "name": APP,
            "system_database_url": jobs.url,
            "application_version": VERSION,
            "executor_id": name,
            "log_level": "WARNING",
            "serializer": DBOSPortableJSONSerializer(),
        }
    )
    with jobs.reaching():
        DBOS.launch()
        DBOS.register_queue(JOBS, worker_concurrency=JOBS_AT_ONCE, polling_interval_sec=POLL_S)
        DBOS.register_queue(BLOCKS, worker_concurrency=blocks, polling_interval_sec=POLL_S)


class Pulse:
    """What a worker does every few seconds: signs as alive, and takes over from the dead.

    Args:
        jobs: Where it signs.
        claims: Its notes of blocks in hand.
        name: The worker's.
        instance: Which process it is.
    """

    def __init__(self, jobs: Jobs, claims: Claims, name: str, instance: str) -> None:
        self._jobs, self._claims, self._name, self._instance = jobs, claims, name, instance
        self._beats = itertools.count()
        self._steady = False
        """Whether the database was there at the last beat, for the others to sign as well."""

    def beat(self) -> bool:
        """Sign as alive; False if another process goes by this name now."""
        steady, self._steady = self._steady, False
        try:
            if not self._jobs.roster.sign(self._name, self._instance):
                log.error("another worker is called %s now; give each its own --name", self._name)
                return False
            self._claims.tidy()
            if steady:  # else nobody could sign for a while: all would look dead
                self._take_over()
            if next(self._beats) % FORGET_EVERY == 0:
                self._jobs.forget()
            self._steady = True
        except SmaltiError as error:
            log.warning("%s", error)  # it may come back; blocks in hand wait for it
        return True

    def _take_over(self) -> None:
        with self._jobs.reaching():
            pending = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        dead = {run.executor_id for run in pending if run.executor_id} - set(self._jobs.workers()) - {self._name}
        if dead:
            log.warning("taking over from %s, not seen lately", ", ".join(sorted(dead)))
            # What DBOS's own recovery service calls. Moves only what still belongs to the dead: safe to call twice.
            DBOS._recover_pending_workflows(sorted(dead))


def _leave(jobs: Jobs, name: str, instance: str) -> None:
    try:
        jobs.roster.leave(name, instance)
    except SmaltiError as error:
        log.warning("%s", error)


@contextmanager
def named(folder: Path, name: str | None) -> Iterator[str]:
    """A name that no other living worker of this home has; free again as soon as the process is gone."""
    if name is not None and not _NAME.fullmatch(name):
        remedy = "Use 1 to 64 letters, digits, dots, dashes and underscores, no dot first."
        raise InvalidInput(f"{name[:80]!r} is no name for a worker.", field="name", remedy=remedy)
    folder.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname() or "worker"
    for own in [name] if name else [host, *(f"{host}-{number}" for number in range(2, 100))]:
        lock = FileLock(folder / f"{own}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        with lock:
            yield own
            return
    raise Conflict(f"a worker called {name or host} works here already.", field="name", remedy="Give another --name.")
