"""What servers of one fleet ask each other: not part of the public interface, and nobody else's."""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response

from api.security import require_peer
from api.state import State, get_state
from indexing.fleet.wire import MEDIA_TYPE

router = APIRouter(dependencies=[Depends(require_peer)], include_in_schema=False)


@router.post("/shards/candidates")
async def candidates(request: Request, state: Annotated[State, Depends(get_state)]) -> Response:
    """Which pixels of the shards that this server holds are estimated nearest to some directions."""
    message = await request.body()
    # Threads of its own: those of the pool may all be waiting for a peer, whose threads wait for this one.
    return Response(await run_sync(state.candidates, message, limiter=state.asked), media_type=MEDIA_TYPE)


@router.post("/shards/best")
async def best(request: Request, state: Annotated[State, Depends(get_state)]) -> Response:
    """The best of some pixels of the shards that this server holds, all of them scored."""
    message = await request.body()
    return Response(await run_sync(state.best, message, limiter=state.asked), media_type=MEDIA_TYPE)
