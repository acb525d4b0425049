"""How a job is told: what was ordered, the workflow that runs it, and those of its blocks, made into one document."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, Self

from api.schemas import JobBlock, JobInfo
from service.shelf import content_id

AREA: Final = "area"
"""The kind of job there is, and the name of its workflow."""
STATED_RATE: Final = 4000.0
"""Pixels a second that are expected of a worker before any were measured: the least the shipped encoder must do."""


class Run(Protocol):
    """A workflow as the jobs database knows it."""

    workflow_id: str
    """`<job>.<number of the run>`; of a block `<that>/<block>`."""
    status: Any
    """PENDING while somebody works on it, SUCCESS, ..."""
    input: Any
    output: Any
    error: Any
    created_at: int | None
    """Milliseconds since 1970."""
    updated_at: int | None


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


def order_of(run: Run) -> dict[str, Any]:
    """The order that a run was started with."""
    return dict(run.input["args"][0])


def speed_of(outcomes: Iterable[Mapping[str, Any]]) -> float | None:
    """Pixels a second over what some blocks came to; None where none was embedded."""
    made = [(outcome["pixels"], outcome["seconds"]) for outcome in outcomes if outcome.get("seconds")]
    return sum(pixels for pixels, _ in made) / sum(seconds for _, seconds in made) if made else None


def ended(run: Run) -> str:
    """The state of a run, or of a block, as the job tells it."""
    if run.status == "SUCCESS":
        outcome = run.output or {}
        return "failed" if outcome.get("failed") or outcome.get("error") else "done"
    states = {"ENQUEUED": "queued", "DELAYED": "queued", "PENDING": "running", "CANCELLED": "cancelled"}
    return states.get(run.status, "failed")


def _state_of(child: Run | None, job: str) -> str:
    """The state of a block."""
    if child is None or child.status in ("ENQUEUED", "DELAYED"):
        return job if job in ("cancelled", "failed") else "queued"
    return ended(child)


def _outcomes(run: Run, children: Sequence[Run], names: Iterable[str]) -> tuple[dict[str, str], Mapping[str, str]]:
    """The state of each block, and why some failed: told by the run once it has ended, else by its children."""
    if run.status == "SUCCESS":
        failed = (run.output or {}).get("failed", {})
        return {name: "failed" if name in failed else "done" for name in names}, failed
    state, of_block = ended(run), {child.workflow_id.partition("/")[2]: child for child in children}
    failed = {name: child.output["error"] for name, child in of_block.items() if (child.output or {}).get("error")}
    return {name: _state_of(of_block.get(name), state) for name in names}, failed


def _error(run: Run, failed: Mapping[str, str], total: int) -> str | None:
    if failed:
        first = "; ".join(f"{name}: {text}" for name, text in list(failed.items())[:5])
        return f"{len(failed)} of {total} blocks failed. {first}"
    if run.status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
        return "its workers died too often."
    return str(run.error) if run.error else None


def described(
    run: Run,
    children: Sequence[Run],
    workers: int,
    rate: float | None,
    begun: Mapping[str, int] | None = None,
    *,
    listed: bool = True,
) -> JobInfo:
    """A job as it is told, from its newest run and what became of its blocks."""
    order, state = Order.of(order_of(run)), ended(run)
    states, failed = _outcomes(run, children, order.pixels)
    pixels_done = sum(order.pixels[name] for name, block in states.items() if block == "done")
    pixels_done += sum((begun or {}).values())
    pixels = sum(order.pixels.values())
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
        error=_error(run, failed, len(states)),
        blocks=[JobBlock(block=name, state=block) for name, block in states.items()] if listed else None,
        created=_time(run.created_at),
        updated=_time(max(one.updated_at or 0 for one in (run, *children))),
    )


def _time(epoch_ms: int | None) -> dt.datetime:
    return dt.datetime.fromtimestamp((epoch_ms or 0) / 1000, dt.UTC)
