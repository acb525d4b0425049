"""What a job is, and the side of the queue that asks, looks and cancels. Nothing runs here: see `api/worker.py`.

A job is a content-addressed order; each time it is asked for and something is missing, it gets a run: a workflow in
the jobs database, with one child workflow a block. What is embedded is decided by the store, never by these tables.
DBOS takes a second to import, so it is imported where it is first needed.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

from api.schemas import JobBlock, JobInfo
from api.settings import Settings
from service.errors import Conflict, NotFound, Unavailable
from service.shelf import content_id

if TYPE_CHECKING:
    from dbos import DBOSClient, WorkflowStatus

    from api.roster import Roster

log = logging.getLogger("smalti.jobs")

APP: Final = "smalti"
VERSION: Final = "1"
"""Of the workflows: fixed, so that a worker of the next release goes on with the jobs of this one."""
AREA, BLOCK, OVERVIEWS = "area", "block", "overviews"
"""Names of the workflows."""
JOBS, BLOCKS = "jobs", "blocks"
"""Names of the queues."""
STATED_RATE: Final = 4000.0
"""Pixels a second that are expected of a worker before any were measured: the least the shipped encoder must do."""
_LATELY: Final = 20
"""Blocks whose time says how fast workers are."""
_LISTED: Final = 50
KEPT: Final = dt.timedelta(days=30)
"""How long ended jobs are remembered."""
_FORGOTTEN: Final = 100
"""Most that are forgotten in one go."""
_RUNNING: Final = ["ENQUEUED", "DELAYED", "PENDING"]


@dataclass(frozen=True)
class Order:
    """What is asked for. Two orders that are equal are one job."""

    dataset: str
    window: str
    model: str
    """Identity of the encoder."""
    encoder: str
    """Digest of its file: a worker that has another one refuses."""
    min_s2: int
    pixels: Mapping[str, int]
    """Blocks, by name, and how many pixels of each the source has."""

    @property
    def id(self) -> str:
        """20 hex digits made from the content."""
        return content_id({"kind": AREA, **asdict(self)})

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Back from `asdict`."""
        return cls(**document)


class Jobs:
    """The jobs of one database, seen from outside. Safe to use from many threads; connects when first asked."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self.listeners = 0
        """Streams of events that are open in this process."""

    @cached_property
    def roster(self) -> Roster:
        """Who works on them."""
        from api.roster import Roster, database_url

        secret = self._settings.jobs_database
        return Roster(database_url(secret.get_secret_value() if secret else None, self._settings.home))

    @cached_property
    def _client(self) -> DBOSClient:
        from dbos import DBOSClient, DBOSPortableJSONSerializer

        return DBOSClient(
            system_database_url=self.url,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APP,
            lazy=True,
            retry_connection_errors=False,
        )

    @property
    def url(self) -> str:
        """The database's address, password included: not to be shown."""
        return self.roster.url.render_as_string(hide_password=False)

    def reaching(self) -> AbstractContextManager[None]:
        """See `roster.reaching`."""
        from api.roster import reaching

        return reaching(self.roster.url)

    def set_up(self) -> None:
        """Make the tables, unless they are there.

        Raises:
            Unavailable: The database cannot be reached.
        """
        if self.roster.is_there():
            return
        from dbos import DBOS

        self._settings.home.mkdir(parents=True, exist_ok=True)
        with self.reaching():
            DBOS.migrate(self.url)
        self.roster.set_up()

    def workers(self) -> tuple[str, ...]:
        """Names of the workers that were seen lately."""
        return self.roster.seen(self._settings.worker_lapse)

    def ask(self, order: Order, *, missing: bool) -> JobInfo:
        """The job of an order, put on the queue unless it waits or runs already, or is done and nothing is missing.

        Args:
            order: What is wanted.
            missing: Whether any of its blocks is yet to be embedded.

        Raises:
            Unavailable: Too many jobs wait, or the database cannot be reached.
        """
        self.set_up()
        with self._lock, self.reaching():
            last = self._last_run(order.id)
            if last and (last.status in _RUNNING or (_ended(last) == "done" and not missing)):
                return self._info(last)
            most = self._settings.limits.jobs_waiting
            if len(self._runs(status=_RUNNING, limit=most, load_input=False, load_output=False)) >= most:
                raise Unavailable(f"{most} jobs wait or run.", remedy="Try again when one has ended, or cancel one.")
            number = int(last.workflow_id.rpartition(".")[2]) + 1 if last else 1
            self._enqueue(AREA, f"{order.id}.{number}", asdict(order))
        return self.read(order.id)

    def read(self, key: str) -> JobInfo:
        """One job, with the state of each block.

        Raises:
            NotFound: No such job.
            Unavailable: The database cannot be reached.
        """
        last = None
        if self.roster.is_there():
            with self.reaching():
                last = self._last_run(key)
                if last:
                    return self._info(last)
        raise NotFound(f"no job {key[:40]!r}.", field="id", remedy="GET /jobs lists the newest.")

    def all(self) -> list[JobInfo]:
        """The newest jobs, newest first; without their blocks."""
        if not self.roster.is_there():
            return []
        with self.reaching():
            newest: dict[str, WorkflowStatus] = {}
            for run in self._runs(limit=_LISTED):
                newest.setdefault(run.workflow_id.partition(".")[0], run)
            workers, rate = len(self.workers()), self.rate()
            return [_described(run, self._children(run), workers, rate, listed=False) for run in newest.values()]

    def cancel(self, key: str) -> JobInfo:
        """End a job. A block that is being embedded is finished; those that wait are not begun.

        Raises:
            NotFound: No such job.
            Conflict: It has ended already.
        """
        job = self.read(key)
        if job.state == "cancelled":
            return job
        with self.reaching():
            run = self._last_run(key)
            if run is None or run.status not in _RUNNING:
                raise Conflict(f"job {key} is {job.state}: there is nothing left to cancel.", field="id")
            self._client.cancel_workflow(run.workflow_id, cancel_children=True)
            if job.done:  # what it did make shall show at every zoom
                self._enqueue(OVERVIEWS, f"{run.workflow_id}:{OVERVIEWS}", _order_of(run))
        return self.read(key)

    def forget(self, older_than: dt.timedelta = KEPT) -> int:
        """Delete what is known of jobs that ended so long ago; how many. What they embedded stays."""
        before = (dt.datetime.now(dt.UTC) - older_than).isoformat()
        with self.reaching():
            old = self._client.list_workflows(
                name=[AREA, OVERVIEWS], completed_before=before, limit=_FORGOTTEN, load_input=False, load_output=False
            )
            self._client.delete_workflows([run.workflow_id for run in old], delete_children=True)
        return len(old)

    def rate(self, model: str | None = None) -> float | None:
        """Pixels a second of one worker, from the blocks embedded last; None where there are none."""
        return _rate(made for made in self._lately() if model in (None, made["model"]))

    def block_seconds(self) -> float | None:
        """Seconds that a block took, on average over the blocks embedded last; None where there are none."""
        seconds = [float(made["seconds"]) for made in self._lately()]
        return sum(seconds) / len(seconds) if seconds else None

    def close(self) -> None:
        """Let go of connections."""
        for name in ("_client", "roster"):
            if name in vars(self):
                (self._client.destroy if name == "_client" else self.roster.close)()

    def _lately(self) -> list[Mapping[str, Any]]:
        """What the blocks embedded last came to."""
        if not self.roster.is_there():
            return []
        with self.reaching():
            lately = self._client.list_workflows(
                name=BLOCK, status="SUCCESS", limit=_LATELY, sort_desc=True, load_input=False
            )
        return [run.output for run in lately if run.output and run.output.get("seconds")]

    def _enqueue(self, workflow: str, key: str, document: dict[str, Any]) -> None:
        self._client.enqueue(
            {"workflow_name": workflow, "queue_name": JOBS, "workflow_id": key, "app_version": VERSION}, document
        )

    def _runs(self, **how: Any) -> list[WorkflowStatus]:
        return self._client.list_workflows(name=AREA, sort_desc=True, **how)

    def _last_run(self, key: str) -> WorkflowStatus | None:
        runs = self._runs(workflow_id_prefix=f"{key}.", limit=1)
        return runs[0] if runs else None

    def _children(self, run: WorkflowStatus) -> list[WorkflowStatus]:
        return self._client.list_workflows(parent_workflow_id=run.workflow_id, name=BLOCK, load_input=False)

    def _info(self, run: WorkflowStatus) -> JobInfo:
        children = self._children(run)
        begun = {
            child.workflow_id: self._client.get_event(child.workflow_id, "pixels", timeout_seconds=0) or 0
            for child in children
            if child.status == "PENDING"
        }
        own = _rate(child.output for child in children if child.output)
        return _described(run, children, len(self.workers()), own or self.rate(_order_of(run)["model"]), begun)


def _order_of(run: WorkflowStatus) -> dict[str, Any]:
    assert run.input is not None  # noqa: S101  # always loaded with it
    return dict(run.input["args"][0])


def _rate(outcomes: Iterable[Mapping[str, Any]]) -> float | None:
    made = [(outcome["pixels"], outcome["seconds"]) for outcome in outcomes if outcome.get("seconds")]
    return sum(pixels for pixels, _ in made) / sum(seconds for _, seconds in made) if made else None


def _ended(run: WorkflowStatus) -> str:
    """The state of a run as the job tells it."""
    if run.status == "SUCCESS":
        return str((run.output or {}).get("state", "failed"))
    states = {"ENQUEUED": "queued", "DELAYED": "queued", "PENDING": "running", "CANCELLED": "cancelled"}
    return states.get(run.status, "failed")


def _state_of(child: WorkflowStatus | None, job: str) -> str:
    """The state of a block."""
    if child is None or child.status in ("ENQUEUED", "DELAYED"):
        return job if job in ("cancelled", "failed") else "queued"
    return _ended(child)


def _error(run: WorkflowStatus, failed: Mapping[str, str]) -> str | None:
    if failed:
        first = "; ".join(f"{name}: {text}" for name, text in list(failed.items())[:5])
        return f"{len(failed)} blocks failed. {first}"
    if run.status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
        return "its workers died too often."
    return str(run.error) if run.error else None


def _described(
    run: WorkflowStatus,
    children: list[WorkflowStatus],
    workers: int,
    rate: float | None,
    begun: Mapping[str, int] | None = None,
    *,
    listed: bool = True,
) -> JobInfo:
    """A job as it is told, from its newest run and what became of its blocks."""
    order, state = Order.of(_order_of(run)), _ended(run)
    of_block = {child.workflow_id.partition("/")[2]: child for child in children}
    states = {name: _state_of(of_block.get(name), state) for name in order.pixels}
    pixels_done = sum(order.pixels[name] for name, block in states.items() if block == "done")
    pixels_done += sum((begun or {}).values())
    pixels = sum(order.pixels.values())
    outputs = {name: child.output or {} for name, child in of_block.items() if child.status == "SUCCESS"}
    failed = {name: made["error"] for name, made in outputs.items() if made.get("state") == "failed"}
    eta = None
    if state in ("queued", "running") and workers:
        eta = round((pixels - pixels_done) / ((rate or STATED_RATE) * min(workers, len(states))), 1)
    return JobInfo(
        id=run.workflow_id.partition(".")[0],
        kind=AREA,
        dataset=order.dataset,
        window=order.window,
        model=order.model,
        min_s2=order.min_s2,
        state=state,
        done=sum(block == "done" for block in states.values()),
        total=len(states),
        pixels_done=min(pixels_done, pixels),
        pixels=pixels,
        eta_s=eta,
        error=_error(run, failed),
        blocks=[JobBlock(block=name, state=block) for name, block in states.items()] if listed else None,
        created=_time(run.created_at),
        updated=_time(max(one.updated_at or 0 for one in (run, *children))),
    )


def _time(epoch_ms: int | None) -> dt.datetime:
    return dt.datetime.fromtimestamp((epoch_ms or 0) / 1000, dt.UTC)
