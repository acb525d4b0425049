"""The worker: takes jobs from the queue and embeds their blocks, a few in hand. Dies at any moment without harm.

A job is one parent workflow, a block a child of it. What was recorded is not done again; what was not is looked up by
fingerprint in the store, so a step that is repeated after a kill does nothing. A worker signs the roster every few
seconds; what a worker that stopped signing had in hand is put back on the queue by the others.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from dbos import DBOS, DBOSPortableJSONSerializer, SetWorkflowID, WorkflowHandle
from dbos import error as faults
from filelock import FileLock, Timeout

from api.jobs import APP, BLOCK, BLOCKS, JOBS, OVERVIEWS, VERSION, Jobs
from api.progress import AREA, Order
from api.roster import shown
from api.state import State
from indexing.search import EXACT_BLOCKS
from service.embed import embed_block, missing_blocks
from service.encoder import Encoder
from service.errors import Conflict, IdentityMismatch, SmaltiError, Unavailable
from service.grid import Block, Zone
from service.pipeline import Pipeline
from service.sources import Source
from service.store.contract import WritableStore
from service.values import Window

log = logging.getLogger("smalti.worker")

JOBS_AT_ONCE: Final = 4
"""Jobs whose blocks take turns in one worker."""
REINDEX: Final = EXACT_BLOCKS // 8
"""Blocks behind the index after which it is built anew: well before there are more than a search may scan."""
AHEAD: Final = 16
"""Blocks of one job on the queue: enough for all workers, few enough that other jobs get their turn."""
POLL_S: Final = 0.25
"""Seconds between two looks at a queue."""
TOLD_S: Final = 1.0
"""Seconds between two notes of how far a block is."""
FORGET_EVERY: Final = 500
"""Beats between two looks for jobs that ended long ago."""
MAX_DEATHS: Final = 20
"""Workers that one block may take with it before it is given up."""


class Bench:
    """What this process works with. There is one: DBOS is one to a process as well."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.pipeline = Pipeline(state.settings.blocks_at_once)
        """Closed once this worker ends."""

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """Once this worker ends, whatever was not begun waits until the process is gone: it has not failed."""
        try:
            yield
        except Unavailable:
            if not self.pipeline.closed:
                raise
            threading.Event().wait()

    def of(self, order: Order, block: Block) -> tuple[Source, Encoder, WritableStore]:
        """What a block of an order needs, checked.

        Raises:
            IdentityMismatch: The encoder's file is another one than the job was asked with.
            InvalidInput: The dataset has no source any more.
        """
        encoder = self.state.encoder(order.model)
        if encoder.digest != order.encoder:
            raise IdentityMismatch(f"the file of {order.model} here is not the one this job was asked with.")
        window = Window.parse(order.window)
        return self.state.source_in(order.dataset, window, Zone.parse(block.zone)), encoder, self.store(order)

    def store(self, order: Order) -> WritableStore:
        """Where an order's blocks go."""
        return self.state.datasets.writable(order.dataset, Window.parse(order.window))

    def embed(self, order: Order, block: Block) -> dict[str, Any]:
        """Embed one block; how fast that went, or nothing where it was embedded already."""
        source, encoder, store = self.of(order, block)
        store.refresh()
        if not missing_blocks(source, encoder, store, [block], min_s2=order.min_s2):
            return {}
        how: dict[str, Any] = {"pipeline": self.pipeline, "min_s2": order.min_s2, "on_progress": _Told()}
        with self.lasting():
            made = embed_block(source, encoder, store, block, wanted=lambda: not _is_cancelled(), **how)
            if made is None:
                return {}
            if _is_cancelled():  # the overviews of its job may have been renewed before it was stored
                with self.pipeline.unbroken():
                    store.write_overviews(source.window, [block])
        return {"model": order.model, "pixels": order.pixels[block.name], "seconds": made.seconds}

    def renew_overviews(self, order: Order) -> int:
        """Renew the overviews above all blocks of a job; how many changed."""
        store = self.store(order)
        with self.lasting(), self.pipeline.unbroken():
            store.refresh()
            window = Window.parse(order.window)
            return store.write_overviews(window, [Block.parse(name) for name in order.pixels])

    def renew_index(self, order: Order) -> int:
        """Index the window anew where searches have many blocks to scan beside it; how many those were.

        A worker that ends does not wait for it, and what served goes on serving.
        """
        window = Window.parse(order.window)
        self.state.datasets.look_now()
        dataset = self.state.datasets[order.dataset].at(window)
        behind = self.state.searcher(dataset).behind(window)
        if behind > REINDEX:
            self.state.build_index(dataset, window)
        return behind


class _Told:
    """Notes now and then how many pixels of a block are done."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if done < total and time.monotonic() - self._last > TOLD_S:
            self._last = time.monotonic()
            DBOS.set_event("pixels", done)


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


@DBOS.step(name="embed", retries_allowed=True, max_attempts=4, interval_seconds=1.0, should_retry=_passes)
def _embed_step(order: dict[str, Any], name: str) -> dict[str, Any]:
    return _here().embed(Order.of(order), Block.parse(name))


@DBOS.step(name="renew", retries_allowed=True, max_attempts=4, interval_seconds=1.0, should_retry=_passes)
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


@DBOS.workflow(name=BLOCK, max_recovery_attempts=MAX_DEATHS)
def _block(order: dict[str, Any], name: str) -> dict[str, Any]:
    """Embed one block. An error is an outcome: the other blocks go on."""
    try:
        return _embed_step(order, name)
    except Exception as error:
        return {"error": _told(name, error)}


@DBOS.workflow(name=AREA, max_recovery_attempts=10_000)
def _area(order: dict[str, Any]) -> dict[str, Any]:
    """All blocks of a job, a few of them queued at a time; then the overviews above them. The index is kept near."""
    run, queued, failed = DBOS.workflow_id, deque[tuple[str, WorkflowHandle[dict[str, Any]]]](), {}
    names = deque(order["pixels"])
    while names or queued:
        while names and len(queued) < AHEAD:
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
        if (len(order["pixels"]) - len(names) - len(queued)) % REINDEX == 0:
            _index_step(order)
    if len(failed) < len(order["pixels"]):
        _renew_step(order)
        _index_step(order)
    return {"failed": failed}


@DBOS.workflow(name=OVERVIEWS)
def _overviews(order: dict[str, Any]) -> dict[str, Any]:
    """The overviews of a job that was cancelled half-way."""
    return {"changed": _renew_step(order)}


def _told(name: str, error: Exception) -> str:
    """What a job says of an error; the log has the rest."""
    if isinstance(error, faults.DBOSMaxStepRetriesExceeded) and error.errors:
        error = error.errors[-1]
    if isinstance(error, SmaltiError):
        log.warning("block %s failed: %s", name, error)
        return str(error)
    log.exception("block %s failed", name, exc_info=error)
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
        Unavailable: The jobs database cannot be reached.
    """
    global _bench
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with named(state.settings.home / "workers", name) as own:
        jobs, instance = state.jobs, uuid.uuid4().hex
        jobs.set_up()
        _bench = Bench(state)
        jobs.roster.sign(own, instance, first=True)
        _launch(jobs, own, state.settings.blocks_at_once)
        log.info("worker %s takes jobs from %s", own, shown(jobs.roster.url))
        beat = min(5.0, state.settings.worker_lapse / 4)
        beats = itertools.count()
        while not stop.wait(beat) and parent in (None, os.getppid()) and _beat(jobs, own, instance, next(beats)):
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


def _beat(jobs: Jobs, name: str, instance: str, number: int) -> bool:
    """Sign as alive, and take over from the dead; False if another process goes by this name now."""
    try:
        if not jobs.roster.sign(name, instance):
            log.error("another worker is called %s now; give each its own --name", name)
            return False
        with jobs.reaching():
            pending = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        dead = {run.executor_id for run in pending if run.executor_id} - set(jobs.workers()) - {name}
        if dead:
            log.warning("taking over from %s, not seen lately", ", ".join(sorted(dead)))
            # What DBOS's own recovery service calls. Moves only what still belongs to the dead: safe to call twice.
            DBOS._recover_pending_workflows(sorted(dead))
        if number % FORGET_EVERY == 0:
            jobs.forget()
    except SmaltiError as error:
        log.warning("%s", error)  # it may come back; blocks in hand wait for it
    return True


def _leave(jobs: Jobs, name: str, instance: str) -> None:
    try:
        jobs.roster.leave(name, instance)
    except SmaltiError as error:
        log.warning("%s", error)


@contextmanager
def named(folder: Path, name: str | None) -> Iterator[str]:
    """A name that no other living worker of this home has; free again as soon as the process is gone."""
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
