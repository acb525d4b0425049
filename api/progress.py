"""How a job is told: what was ordered, the workflow that runs it, and those of its blocks, made into one document."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, Self

from api.schemas import JobBlock, JobInfo, Outcome
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
    precision: str = "fp32"
    """That the encoder computes in: a worker that computes in another refuses."""

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


def earlier_of(run: Run) -> dict[str, Any]:
    """Blocks that were done before this run and are not looked at again, each with what it came to: of a retry."""
    args = run.input["args"]
    return dict(args[1]) if len(args) > 1 else {}


def speed_of(outcomes: Iterable[Mapping[str, Any]]) -> float | None:
    """Pixels a second of a block in hand, over what some came to; None where none was embedded."""
    made = [(outcome["pixels"], outcome["seconds"]) for outcome in outcomes if outcome.get("seconds")]
    return sum(pixels for pixels, _ in made) / sum(seconds for _, seconds in made) if made else None


@dataclass(frozen=True)
class Hands:
    """Who embeds."""

    workers: int
    """That were seen lately."""
    at_once: int
    """Blocks that each has in hand, if it is set up like this server."""

    def seconds(self, pixels: int, blocks: int, speed: float | None) -> float:
        """What so many pixels of so many blocks take; one worker is reckoned with where there is none.

        Args:
            pixels: How many.
            blocks: How many; no two work on one.
            speed: See `speed_of`; None where nothing was measured.
        """
        workers = max(1, self.workers)
        each = speed * min(workers * self.at_once, blocks) if speed else STATED_RATE * min(workers, blocks)
        return round(pixels / each, 1) if blocks else 0.0


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


@dataclass(frozen=True)
class Outcomes:
    """What became of the blocks of a run."""

    states: dict[str, str]
    """Of each block, by name."""
    pixels: Mapping[str, Mapping[str, int]]
    """What the pixels became of blocks that are done, where it was noted."""
    failed: Mapping[str, str]
    """Why some failed."""


def outcomes_of(run: Run, children: Sequence[Run]) -> Outcomes:
    """Told by the run once it has ended, else by its children."""
    names, earlier = order_of(run)["pixels"], earlier_of(run)
    if run.status == "SUCCESS":
        failed, pixels = ((run.output or {}).get(part, {}) for part in ("failed", "pixels"))
        states = {name: "failed" if name in failed else "done" for name in names}
    else:
        state, of_block = ended(run), {child.workflow_id.partition("/")[2]: child for child in children}
        told = {name: child.output or {} for name, child in of_block.items()}
        failed = {name: out["error"] for name, out in told.items() if "error" in out}
        pixels = {name: out["outcome"] for name, out in told.items() if out.get("outcome")}
        states = {name: "done" if name in earlier else _state_of(of_block.get(name), state) for name in names}
    return Outcomes(states, {**{name: held for name, held in earlier.items() if held}, **pixels}, failed)


def _error(run: Run, failed: Mapping[str, str], total: int) -> str | None:
    told = (run.output or {}).get("error")
    if failed:
        first = "; ".join(f"{name}: {text}" for name, text in list(failed.items())[:5])
        return f"{len(failed)} of {total} blocks failed. {first}" + (f"; {told}" if told else "")
    if run.status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
        return "its workers died too often."
    return told or (str(run.error) if run.error else None)


def described(
    run: Run,
    children: Sequence[Run],
    hands: Hands,
    speed: float | None,
    begun: Mapping[str, int] | None = None,
    *,
    listed: bool = True,
) -> JobInfo:
    """A job as it is told, from its newest run and what became of its blocks."""
    order, state = Order.of(order_of(run)), ended(run)
    found, within = outcomes_of(run, children), {key.partition("/")[2]: at for key, at in (begun or {}).items()}
    done = {name: order.pixels[name] if told == "done" else within.get(name, 0) for name, told in found.states.items()}
    pixels, pixels_done = sum(order.pixels.values()), sum(done.values())
    eta = None
    if state in ("queued", "running") and hands.workers:
        left = sum(found.states[name] != "done" for name in done)
        eta = hands.seconds(pixels - pixels_done, left, speed)
    return JobInfo(
        id=run.workflow_id.partition(".")[0],
        kind=AREA,
        dataset=order.dataset,
        window=order.window,
        model=order.model,
        min_s2=order.min_s2,
        state=state,
        done=sum(told == "done" for told in found.states.values()),
        total=len(found.states),
        pixels_done=min(pixels_done, pixels),
        pixels=pixels,
        eta_s=eta,
        outcome=Outcome(**{n: sum(held.get(n, 0) for held in found.pixels.values()) for n in Outcome.model_fields}),
        error=_error(run, found.failed, len(found.states)),
        blocks=[_block(name, order, found, done[name]) for name in found.states] if listed else None,
        created=_time(run.created_at),
        updated=_time(max(one.updated_at or 0 for one in (run, *children))),
    )


def _block(name: str, order: Order, found: Outcomes, done: int) -> JobBlock:
    held = found.pixels.get(name)
    outcome = Outcome(**held) if held else None
    size = order.pixels[name]
    return JobBlock(block=name, state=found.states[name], pixels=size, pixels_done=min(done, size), outcome=outcome)


def _time(epoch_ms: int | None) -> dt.datetime:
    return dt.datetime.fromtimestamp((epoch_ms or 0) / 1000, dt.UTC)
