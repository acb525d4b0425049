"""Jobs: how far they are, as a document or as a stream of events; how to end one, and to retry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Final

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import StreamingResponse

from api.jobs import LOOK_S
from api.problems import documented
from api.schemas import JobInfo, JobList
from api.security import asker, require
from api.state import State, get_state
from service.errors import SmaltiError, Unavailable

router = APIRouter(tags=["areas"])

JobKey = Annotated[str, Path(pattern=r"^[0-9a-f]{20}$", description="id of a job, as POST /areas gives it")]
EVENTS: Final = "text/event-stream"
QUIET_S: Final = 15.0
"""Seconds of silence after which a comment keeps the line open."""
ENDED: Final = frozenset({"done", "failed", "cancelled"})


@router.get("/jobs", responses=documented(401, 403, 503), dependencies=[Depends(require("read"))])
def jobs(state: Annotated[State, Depends(get_state)]) -> JobList:
    """The newest jobs, newest first."""
    return JobList(jobs=[_told(state, one) for one in state.jobs.all()], workers=list(state.jobs.workers()))


@router.get("/jobs/{id}", responses=documented(401, 403, 404, 422, 503), dependencies=[Depends(require("read"))])
def job(state: Annotated[State, Depends(get_state)], id: JobKey) -> JobInfo:
    """One job: how far it is, block by block."""
    return _told(state, state.jobs.read(id))


@router.delete(
    "/jobs/{id}", responses=documented(401, 403, 404, 409, 422, 503), dependencies=[Depends(require("embed"))]
)
def cancel(state: Annotated[State, Depends(get_state)], id: JobKey) -> JobInfo:
    """End a job. The block that is being encoded is finished, no other is begun; what was embedded stays."""
    job = state.jobs.cancel(id)
    state.lookout.look_soon()
    return _told(state, job)


@router.post(
    "/jobs/{id}/retry",
    status_code=202,
    responses=documented(401, 403, 404, 409, 413, 422, 503),
    dependencies=[Depends(require("embed"))],
)
def retry(state: Annotated[State, Depends(get_state)], request: Request, id: JobKey) -> JobInfo:
    """Run a job again that failed or was cancelled: only the blocks that are not done."""
    job = state.jobs.retry(id, by=asker(request))
    state.lookout.look_soon()
    return _told(state, job)


@router.get(
    "/jobs/{id}/events",
    response_class=StreamingResponse,
    responses={
        **documented(401, 403, 404, 422, 503),
        200: {
            "description": "Server-sent events: `progress` with the job as JSON whenever it changes, at last `end`",
            "content": {EVENTS: {"schema": {"type": "string"}}},
        },
    },
    dependencies=[Depends(require("read"))],
)
def events(state: Annotated[State, Depends(get_state)], id: JobKey) -> StreamingResponse:
    """Listen to a job until it has ended."""
    if state.jobs.listeners >= state.settings.limits.job_listeners:
        raise Unavailable("too many listen to jobs.", remedy=f"Ask for GET /jobs/{id} now and then.")
    first = _told(state, state.jobs.read(id))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_listened(state, first), media_type=EVENTS, headers=headers)


async def _listened(state: State, job: JobInfo) -> AsyncIterator[str]:
    """The job each time it changes. Ends when it has, or cannot be read any more; the browser then asks again."""
    state.jobs.listeners += 1  # on the event loop alone, so it needs no lock
    try:
        yield _event("progress", job)
        spoken = time.monotonic()
        while job.state not in ENDED:
            await asyncio.sleep(LOOK_S)
            try:
                now = await run_sync(_looked, state, job.id, limiter=state.listening)
            except SmaltiError:
                return
            if now != job:
                yield _event("progress", now)
                job, spoken = now, time.monotonic()
            elif time.monotonic() - spoken > QUIET_S:
                yield ": still here\n\n"
                spoken = time.monotonic()
        yield _event("end", job)
    finally:
        state.jobs.listeners -= 1


def _looked(state: State, id: str) -> JobInfo:
    return _told(state, state.jobs.look(id))


def _told(state: State, job: JobInfo) -> JobInfo:
    """A job as whoever may read is told it: its error names the dataset, and not where that or its source lies."""
    if job.error is None:
        return job
    with suppress(SmaltiError):
        state.source(job.dataset)  # from now on its places are known
    return job.model_copy(update={"error": state.datasets.named(job.error)})


def _event(name: str, job: JobInfo) -> str:
    return f"event: {name}\ndata: {job.model_dump_json()}\n\n"
