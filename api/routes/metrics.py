"""What Prometheus asks for."""

from __future__ import annotations

from anyio import CapacityLimiterStatistics
from anyio.to_thread import current_default_thread_limiter, run_sync
from fastapi import APIRouter, Depends, Request, Response

from api.metrics import MEDIA_TYPE
from api.problems import documented
from api.readings import readings
from api.security import require_metrics
from api.state import State, get_state

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={**documented(401, 403), 200: {"content": {"text/plain": {}}}},
    dependencies=[Depends(require_metrics)],
)
async def metrics(request: Request) -> Response:
    """How much is asked of every part, how much fails, how long it takes and how full it is, as Prometheus text.

    Answers to this machine, or to a key with `admin`, unless SMALTI_PUBLIC_METRICS is set. Counts this process alone:
    scale by replicas, each of which is asked.
    """
    state, pool = get_state(request), current_default_thread_limiter().statistics()
    # One thread beside the pool: when all of those are busy is when this answer matters.
    text = await run_sync(_text, state, pool, limiter=state.scrapes)
    return Response(text, media_type=MEDIA_TYPE)


def _text(state: State, pool: CapacityLimiterStatistics) -> bytes:
    return state.watch.metrics.text(readings(state, pool))
