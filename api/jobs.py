"""What a job is, and the side of the queue that asks, looks and cancels. Nothing runs here: see `api/worker.py`.

A job is a content-addressed order; each time it is asked for and something is missing, it gets a run: a workflow in
the jobs database, with one child workflow a block. What is embedded is decided by the store, never by these tables.
DBOS takes a second to import, so it is imported where it is first needed.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from api.progress import AREA, Hands, Order, described, ended, order_of, outcomes_of, speed_of
from api.schemas import JobInfo
from api.settings import Settings
from service.errors import Conflict, LimitExceeded, NotFound, Unavailable

if TYPE_CHECKING:
    from dbos import DBOSClient, EnqueueOptions, WorkflowStatus

    from api.roster import Roster

log = logging.getLogger("smalti.jobs")

APP: Final = "smalti"
VERSION: Final = "1"
"""Of the workflows: fixed, so that a worker of the next release goes on with the jobs of this one."""
BLOCK, OVERVIEWS = "block", "overviews"
"""Names of the workflows, beside AREA."""
JOBS, BLOCKS = "jobs", "blocks"
"""Names of the queues."""
_LATELY: Final = 20
"""Blocks whose time says how fast workers are."""
_LISTED: Final = 50
LOOK_S: Final = 0.5
"""Seconds between two looks at a job that is being listened to."""
_LOOKS_KEPT_S: Final = 10.0
KEPT: Final = dt.timedelta(days=30)
"""How long ended jobs are remembered."""
_FORGOTTEN: Final = 100
"""Most that are forgotten in one go."""
_RUNNING: Final = ["ENQUEUED", "DELAYED", "PENDING"]


class Jobs:
    """The jobs of one database, seen from outside. Safe to use from many threads; connects when first asked."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self.listeners = 0
        """Streams of events that are open in this process."""
        self._looks: dict[str, tuple[float, JobInfo | None]] = {}

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

    def ask(self, order: Order, *, missing: bool, by: str = "", alone: bool = False) -> JobInfo:
        """The job of an order, put on the queue unless it waits or runs already, or is done and nothing is missing.

        Args:
            order: What is wanted.
            missing: Whether any of its blocks is yet to be embedded.
            by: Whom it counts for; see `asker`.
            alone: Whether it is refused while another that counts for the same waits or runs, whichever server asked.

        Raises:
            Conflict: It shall be alone, and is not.
            LimitExceeded: It is more than one key may ever ask for.
            Unavailable: Too many jobs wait, or the database cannot be reached.
        """
        self.set_up()
        with self._lock, self.reaching():
            last = self._last_run(order.id)
            if last and (last.status in _RUNNING or (ended(last) == "done" and not missing)):
                return self._info(last)
            self._require_room(order, by)
            self._run(last, order.id, by, asdict(order), alone=alone)
        return self.read(order.id)

    def retry(self, key: str, by: str = "") -> JobInfo:
        """Run a job again, for those of its blocks that failed or were cancelled, and for the overviews above all.

        Raises:
            NotFound: No such job.
            Conflict: It has not ended, or is done.
            Unavailable: Too many jobs wait, or the database cannot be reached.
        """
        state = self.read(key).state
        with self._lock, self.reaching():
            last = self._last_run(key)
            if last is None or last.status in _RUNNING:
                raise Conflict(f"job {key} is {state}: there is nothing to retry yet.", field="id")
            if ended(last) == "done":
                raise Conflict(f"job {key} is done: there is nothing to retry.", field="id")
            order, found = order_of(last), outcomes_of(last, self._children(last))
            done = {name: found.pixels.get(name) for name, told in found.states.items() if told == "done"}
            left = {name: pixels for name, pixels in order["pixels"].items() if name not in done}
            self._require_room(Order.of({**order, "pixels": left}), by)
            self._run(last, key, by, order, done)
        return self.read(key)

    def _run(self, last: WorkflowStatus | None, key: str, by: str, *what: dict[str, Any], alone: bool = False) -> None:
        number = int(last.workflow_id.rpartition(".")[2]) + 1 if last else 1
        self._enqueue(AREA, f"{key}.{number}", *what, by=by, alone=alone)

    def _require_room(self, order: Order, by: str) -> None:
        limits, remedy = self._settings.limits, "Try again when one has ended, or cancel one."
        runs = self._runs(status=_RUNNING, load_output=False, limit=limits.jobs_waiting)
        if len(runs) >= limits.jobs_waiting:
            raise Unavailable(f"{limits.jobs_waiting} jobs wait or run (limit `jobs_waiting`).", remedy=remedy)
        if not by:
            return
        mine = [sum(order_of(run)["pixels"].values()) for run in runs if run.authenticated_user == by]
        own = sum(order.pixels.values())
        if len(mine) >= limits.key_jobs:
            raise Unavailable(f"{len(mine)} jobs of this API key wait or run (limit `key_jobs`).", remedy=remedy)
        if own > limits.key_pixels:
            raise LimitExceeded(
                f"{own:,} pixels are over the {limits.key_pixels:,} of one API key (limit `key_pixels`)."
            )
        if sum(mine) + own > limits.key_pixels:
            told = f"{sum(mine):,} pixels of this API key wait or run; with {own:,} more they are over the"
            raise Unavailable(f"{told} {limits.key_pixels:,} allowed (limit `key_pixels`).", remedy=remedy)

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

    def look(self, key: str) -> JobInfo:
        """The same, `LOOK_S` old at most: however many listen to a job, one of them asks for all."""
        now = time.monotonic()
        seen, known = self._looks.get(key, (now, None))
        if known is not None and now - seen < LOOK_S:
            return known
        held = {other: look for other, look in dict(self._looks).items() if now - look[0] < _LOOKS_KEPT_S}
        self._looks = {**held, key: (now, known)}  # others go on with what is known while this one asks
        job = self.read(key)
        self._looks[key] = now, job
        return job

    def all(self) -> list[JobInfo]:
        """The newest jobs, newest first; without their blocks."""
        if not self.roster.is_there():
            return []
        with self.reaching():
            newest: dict[str, WorkflowStatus] = {}
            for run in self._runs(limit=_LISTED):
                newest.setdefault(run.workflow_id.partition(".")[0], run)
            hands, speed = self.hands(), self.speed()
            return [described(run, self._children(run), hands, speed, listed=False) for run in newest.values()]

    def running(self) -> dict[str, Order]:
        """What was ordered by the jobs that wait or run, newest first; none where nobody ever asked for one.

        Raises:
            Unavailable: The database cannot be reached.
        """
        settings = self._settings
        if settings.jobs_database is None and not (settings.home / "jobs.sqlite").exists():
            return {}  # known without loading what talks to databases: most servers only show
        if not self.roster.is_there():
            return {}
        with self.reaching():
            runs = self._runs(status=_RUNNING, limit=settings.limits.jobs_waiting, load_output=False)
        return {run.workflow_id.partition(".")[0]: Order.of(order_of(run)) for run in runs}

    def asked_by(self, by: str, within: dt.timedelta) -> list[tuple[str, Order]]:
        """Jobs that were asked for in one name lately, and what was ordered each time.

        Raises:
            Unavailable: The database cannot be reached.
        """
        if not self.roster.is_there():
            return []
        since = (dt.datetime.now(dt.UTC) - within).isoformat()
        with self.reaching():
            runs = self._runs(user=by, start_time=since, load_output=False)
        return [(run.workflow_id.partition(".")[0], Order.of(order_of(run))) for run in runs]

    def cancel(self, key: str) -> JobInfo:
        """End a job. What is being encoded is finished, what is being read is dropped then, and nothing more is begun.

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
            if run.status == "PENDING":  # what it did make shall show at every zoom
                self._enqueue(OVERVIEWS, f"{run.workflow_id}:{OVERVIEWS}", order_of(run))
        return self.read(key)

    def forget(self, older_than: dt.timedelta = KEPT) -> int:
        """Delete what is known of jobs that ended, and of workers last seen, so long ago; how many jobs.

        What they embedded stays.
        """
        self.roster.forget(older_than.total_seconds())
        before = (dt.datetime.now(dt.UTC) - older_than).isoformat()
        with self.reaching():
            old = self._client.list_workflows(
                name=[AREA, OVERVIEWS], completed_before=before, limit=_FORGOTTEN, load_input=False, load_output=False
            )
            self._client.delete_workflows([run.workflow_id for run in old], delete_children=True)
        return len(old)

    def hands(self) -> Hands:
        """Who embeds now."""
        return Hands(len(self.workers()), self._settings.blocks_at_once)

    def speed(self, model: str | None = None) -> float | None:
        """Pixels a second of a block in hand, from those embedded last; None where there are none."""
        return speed_of(made for made in self._lately() if model in (None, made["model"]))

    def block_seconds(self) -> float | None:
        """Seconds that a block was in hand, on average over those embedded last; None where there are none."""
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

    def _enqueue(self, workflow: str, key: str, *what: dict[str, Any], by: str = "", alone: bool = False) -> None:
        from dbos import error as faults

        how: EnqueueOptions = {
            "workflow_name": workflow,
            "queue_name": JOBS,
            "workflow_id": key,
            "app_version": VERSION,
            "authenticated_user": by,
        }
        if alone:
            how["deduplication_id"] = by
        try:
            self._client.enqueue(how, *what)
        except faults.DBOSQueueDeduplicatedError:
            raise Conflict(f"another job of {by} waits or runs.") from None

    def _runs(self, **how: Any) -> list[WorkflowStatus]:
        return self._client.list_workflows(name=AREA, sort_desc=True, **how)

    def _last_run(self, key: str) -> WorkflowStatus | None:
        runs = self._runs(workflow_id_prefix=f"{key}.", limit=1)
        return runs[0] if runs else None

    def _children(self, run: WorkflowStatus) -> list[WorkflowStatus]:
        """What became of a run's blocks, as far as it did not say so itself when it ended."""
        if run.status == "SUCCESS":
            return []
        return self._client.list_workflows(parent_workflow_id=run.workflow_id, name=BLOCK, load_input=False)

    def _info(self, run: WorkflowStatus) -> JobInfo:
        children = self._children(run)
        begun = {
            child.workflow_id: self._client.get_event(child.workflow_id, "pixels", timeout_seconds=0) or 0
            for child in children
            if child.status == "PENDING"
        }
        own = speed_of(child.output for child in children if child.output)
        return described(run, children, self.hands(), own or self.speed(order_of(run)["model"]), begun)
