"""Is it alive, and can it serve?"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from api.state import State, get_state
from service.errors import SmaltiError

router = APIRouter(tags=["health"])


class Ready(BaseModel):
    """What can serve and what cannot."""

    ready: bool
    parts: dict[str, str] = Field(description="'ok', or what is wrong, for every part")


@router.get("/livez")
def livez() -> dict[str, bool]:
    """The process answers."""
    return {"alive": True}


@router.get("/readyz", responses={503: {"model": Ready, "description": "Something cannot serve; `parts` names it"}})
def readyz(state: Annotated[State, Depends(get_state)], response: Response) -> Ready:
    """200 once stores, bases, indexes and encoders can serve; 503 otherwise, each named."""
    parts = dict(_parts(state))
    ready = all(text.startswith("ok") for text in parts.values())
    response.status_code = 200 if ready else 503
    response.headers["Cache-Control"] = "no-store"
    return Ready(ready=ready, parts=parts)


def _parts(state: State) -> Any:
    for name, dataset in state.datasets.items():
        yield f"dataset {name}", _said(lambda d=dataset: f"ok, revision {d.store.revision()[0]}")
        for window in dataset.windows():
            yield f"basis {name}", _said(lambda n=name: f"ok, {state.bases(n).get('default')[0]}")
            yield f"index {name} {window}", _said(lambda d=dataset.at(window), w=window: state.searcher(d).describe(w))
    for name, error in state.datasets.broken.items():
        yield f"dataset {name}", str(error)
    for model in state.registry.list():
        yield (
            f"model {model.manifest.identity}",
            _said(lambda m=model: f"ok, on {state.encoder(m.manifest.identity.name).device}"),
        )


def _said(check: Any) -> str:
    try:
        return str(check())
    except SmaltiError as error:
        return str(error)
