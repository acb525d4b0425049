"""The jobs of a database in numbers: what waits, what runs, how fast, and whether anybody works."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from api.jobs import Jobs

UNFINISHED: Final = ("queued", "running")
STATES: Final = (*UNFINISHED, "done", "failed", "cancelled")


@dataclass(frozen=True)
class Tally:
    """The newest jobs, those that GET /jobs lists."""

    states: Mapping[str, int]
    """How many are in each state; every state is there."""
    blocks_done: int
    """Blocks that are embedded, of jobs that have not ended."""
    blocks_left: int
    """Blocks that are not, of the same jobs."""
    waiting_s: float
    """Seconds since the oldest job that waits was asked for; 0 where none waits."""
    workers: int
    """Workers that were seen lately."""
    block_seconds: float | None
    """Seconds that a block was in hand, on average over those embedded last; None where there are none."""


def tally(jobs: Jobs) -> Tally:
    """Count.

    Raises:
        Unavailable: The database cannot be reached.
    """
    listed = jobs.all()
    open_ = [job for job in listed if job.state in UNFINISHED]
    queued = [job.created for job in open_ if job.state == "queued"]
    counted = Counter(job.state for job in listed)
    return Tally(
        states={state: counted[state] for state in STATES},
        blocks_done=sum(job.done for job in open_),
        blocks_left=sum(job.total - job.done for job in open_),
        waiting_s=(dt.datetime.now(dt.UTC) - min(queued)).total_seconds() if queued else 0.0,
        workers=len(jobs.workers()),
        block_seconds=jobs.block_seconds(),
    )
